"""Turn per-episode measurements into estimates: per task, macro mean over tasks, pooled, with intervals.

Every metric is computed per task and averaged over tasks (macro), so that a task with many episodes does not speak
for the others; `pooled` treats all episodes as one set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vidreward.evaluate import metrics
from vidreward.evaluate.bootstrap import Resamples, interval, mean_over_tasks
from vidreward.evaluate.definitions import METRICS, Metric

MODEL = "model"
"""Name of the measured predictor among the predictors of an episode."""
NO_TASK = "(no task)"


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """All that was measured on one episode."""

    id: str
    num_frames: int
    fps: float
    task: str | None = None
    success: bool | None = None
    failure: str | None = None
    """What kind of failure, from the metadata."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Group of this episode under each way of grouping."""
    scores: Mapping[str, Float[ndarray, " T"]]
    """Predictor -> score of each frame; the measured model is "model", the others are controls."""
    values: Mapping[str, Mapping[str, float | None]]
    """Predictor -> metric of one episode -> value; None is undefined, absent is not measured."""
    progress: Float[ndarray, " T"] | None = None
    """True progress of each frame in [0, 1]."""

    @property
    def group_task(self) -> str:
        """Task name for grouping; episodes without one share a group."""
        return NO_TASK if self.task is None else self.task


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its bootstrap interval."""

    value: float | None
    """None: undefined."""
    low: float | None = None
    high: float | None = None
    num: int = 0
    """Episodes (or tasks, for a metric of sets) with a defined value."""
    num_undefined: int = 0
    """Those without: constant scores, or outcomes of one kind only."""
    replicates: Float[ndarray, " R"] | None = field(default=None, repr=False, compare=False)
    """Value in every resample; row 0 is the sample itself. Not written to disk."""


def estimate(
    metric: Metric,
    results: Sequence[EpisodeResult],
    resamples: Resamples,
    *,
    predictor: str = MODEL,
    confidence: float = 0.95,
    pooled: bool = False,
) -> Estimate | None:
    """Estimate one metric of one predictor on a set of episodes.

    Args:
        metric: What to compute.
        results: The episodes.
        resamples: Draws of these episodes, in the same order.
        predictor: Model or control.
        confidence: Coverage of the interval.
        pooled: One set instead of the macro mean over tasks.

    Returns:
        The estimate, or None when none of the episodes carries what the metric needs.
    """
    chosen = [number for number, result in enumerate(results) if _counts(metric, result, predictor)]
    if not chosen or (metric.needs == "outcomes" and len({results[number].success for number in chosen}) < 2):
        return None
    groups: dict[str, list[int]] = {}
    for number in chosen:
        groups.setdefault("" if pooled else results[number].group_task, []).append(number)
    columns, num, undefined = [], 0, 0
    for members in groups.values():
        members_results = [results[number] for number in members]
        weights = resamples.episode_weights[:, members]
        if resamples.unit == "tasks" and not pooled:  # a task drawn twice has the same value twice
            weights = np.ones((1, len(members)))
        replicates = _replicates(metric, members_results, predictor, weights)
        columns.append(np.broadcast_to(replicates, len(resamples.episode_weights)))
        if metric.of == "episode":
            defined = sum(result.values[predictor][metric.name] is not None for result in members_results)
            num, undefined = num + defined, undefined + len(members) - defined
        else:
            num, undefined = num + int(np.isfinite(replicates[0])), undefined + int(not np.isfinite(replicates[0]))
    values = np.stack(columns, axis=1)
    index = [resamples.tasks.index(task) for task in groups] if not pooled else None
    weights = np.ones_like(values) if index is None else resamples.task_weights[:, index]
    return from_replicates(mean_over_tasks(values, weights), confidence, num=num, num_undefined=undefined)


def from_replicates(replicates: Float[ndarray, " R"], confidence: float, *, num: int, num_undefined: int) -> Estimate:
    """Read value (row 0) and interval (the other rows) off resampled values; undefined has no interval."""
    if not np.isfinite(replicates[0]):
        return Estimate(value=None, num=num, num_undefined=num_undefined, replicates=replicates)
    low, high = interval(replicates[1:], confidence)
    value = float(replicates[0])
    return Estimate(value=value, low=low, high=high, num=num, num_undefined=num_undefined, replicates=replicates)


def estimates(
    results: Sequence[EpisodeResult],
    resamples: Resamples,
    *,
    predictor: str = MODEL,
    confidence: float = 0.95,
    pooled: bool = False,
) -> dict[str, Estimate]:
    """Estimate every metric that the episodes allow; the others are absent."""
    found = {
        metric.name: estimate(metric, results, resamples, predictor=predictor, confidence=confidence, pooled=pooled)
        for metric in METRICS
    }
    return {name: value for name, value in found.items() if value is not None}


def omitted(results: Sequence[EpisodeResult], present: Mapping[str, Estimate]) -> dict[str, str]:
    """Say of each metric that could not be estimated what was missing."""
    reasons = {}
    for metric in METRICS:
        if metric.name not in present:
            reasons[metric.name] = _missing(metric, results)
    return reasons


def _missing(metric: Metric, results: Sequence[EpisodeResult]) -> str:
    outcomes = {result.success for result in results}
    known = [outcome for outcome in outcomes if outcome is not None]
    if metric.needs == "outcomes":
        kinds = {True: "no failed episode", False: "no successful episode"}
        return kinds[known[0]] if known else "no episode has a recorded outcome"
    if metric.needs == "progress":
        return "no episode has a column of true progress"
    if metric.needs == "time":
        return "the model does not predict time"
    if metric.subset == "failures":
        return "no failed episode"
    if outcomes == {False}:
        return "every episode failed"
    if metric.needs == "goals":
        return "no other episode offers a goal that fits this view (same size, other content)"
    return "this view was not run"


def _counts(metric: Metric, result: EpisodeResult, predictor: str) -> bool:
    """Whether an episode carries what the metric needs."""
    if metric.of == "episode":
        return metric.name in result.values[predictor] and (
            metric.subset == "all" or (result.success is False) == (metric.subset == "failures")
        )
    return result.progress is not None if metric.needs == "progress" else result.success is not None


def _replicates(
    metric: Metric, results: Sequence[EpisodeResult], predictor: str, weights: Float[ndarray, "R N"]
) -> Float[ndarray, " R"]:
    """Value of a metric on one set of episodes, in every resample."""
    if metric.of == "episode":
        values = [result.values[predictor][metric.name] for result in results]
        return metrics.weighted_mean(np.array([np.nan if v is None else v for v in values]), weights)
    scores = [result.scores[predictor] for result in results]
    if metric.needs == "progress":
        progress = [result.progress for result in results if result.progress is not None]
        return metrics.pooled_correlation(
            np.concatenate(scores),
            np.concatenate(progress),
            np.repeat(np.arange(len(results)), [len(row) for row in scores]),
            weights,
            ranked=metric.name == "progress_spearman_pooled",
        )
    success = np.array([bool(result.success) for result in results])
    if metric.name == "success_prevalence":
        return metrics.prevalence(success, weights)
    last = np.array([row[-1] for row in scores])
    if metric.name == "success_auroc":
        return metrics.auroc(last, success, weights)
    if metric.name == "success_auroc_gain":
        return metrics.auroc(last - np.array([row[0] for row in scores]), success, weights)
    if metric.name == "success_auroc_best":
        return metrics.auroc(np.array([row.max() for row in scores]), success, weights)
    if metric.name == "success_auprc":
        return metrics.auprc(last, success, weights)
    if metric.name == "success_gap":
        low, high = np.quantile(np.concatenate(scores), [0.05, 0.95])
        return metrics.outcome_gap(last, success, weights, scale=float(high - low))
    assert metric.name == "success_dprime", metric.name
    return metrics.outcome_gap(last, success, weights)
