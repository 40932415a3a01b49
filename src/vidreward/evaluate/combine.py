"""Summarise measured episodes, of one training run or of several seeds together.

With several seeds every value is the mean over seeds. The interval is a two-level bootstrap: seeds are drawn with
replacement, and within each the same draw of episodes (or tasks), since all seeds were measured on one test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from vidreward.evaluate.bootstrap import draw, interval
from vidreward.evaluate.config import EvaluateConfig
from vidreward.evaluate.controls import CONTROLS, BlindPredictors, as_stored
from vidreward.evaluate.definitions import METRICS, Metric
from vidreward.evaluate.result import Comparison, Evaluation, Summary, to_plain
from vidreward.evaluate.summary import MODEL, EpisodeResult, Estimate, estimates, from_replicates, omitted

Runs = Sequence[Sequence[EpisodeResult]]
"""Seed -> results of the same episodes in the same order."""


def combine(evaluations: Sequence[Evaluation], *, name: str | None = None) -> Evaluation:
    """Combine evaluations of one method trained with several seeds, on the same episodes.

    Args:
        evaluations: One a seed, in memory or read from disk.
        name: Title; None is the first one's with the number of seeds.

    Returns:
        An evaluation whose values are means over seeds, with intervals over seeds and episodes; `seeds` holds the
        value of each. Its episode rows are the first seed's.

    Raises:
        ValueError: There is none, or they measured other episodes or with other settings.
    """
    if not evaluations:
        raise ValueError("there is no evaluation to combine; give at least one")
    first = evaluations[0]
    settings = {key: value for key, value in first.config.items() if key != "mean_fps"}  # rate of the training data
    for other in evaluations[1:]:
        if [row["id"] for row in other.episodes] != [row["id"] for row in first.episodes]:
            raise ValueError(
                f"{other.name!r} measured other episodes than {first.name!r}; combine seeds of one test set"
            )
        if {key: value for key, value in other.config.items() if key != "mean_fps"} != settings:
            raise ValueError(f"{other.name!r} was evaluated with other settings than {first.name!r}")
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in first.config.items()
    }
    config = EvaluateConfig(**fields)
    name = name or (first.name if len(evaluations) == 1 else f"{first.name} ({len(evaluations)} seeds)")
    return summarise([results_of(evaluation) for evaluation in evaluations], config, name=name, notes=first.notes)


def results_of(evaluation: Evaluation) -> list[EpisodeResult]:
    """Rebuild the measured episodes of an evaluation; scores of the controls are computed anew."""
    rows = evaluation.episodes
    config = evaluation.config
    blind = BlindPredictors.of(
        [row["num_frames"] for row in rows],
        [row["fps"] for row in rows],
        mean_fps=config["mean_fps"] if config["predicts_time"] else None,
        seed=config["seed"],
    )
    results = []
    for row in rows:
        scores = {MODEL: as_stored(row["scores"]), **blind.scores(row["num_frames"], row["fps"], row["id"])}
        progress = None if row["progress"] is None else as_stored(row["progress"])
        results.append(EpisodeResult(**{**row, "scores": scores, "progress": progress}))
    return results


def summarise(runs: Runs, config: EvaluateConfig, *, name: str = MODEL, notes: Sequence[str] = ()) -> Evaluation:
    """Turn measured episodes into estimates, comparisons with the controls, flags and groups.

    Args:
        runs: Results of each training seed; one list for a single model.
        config: How to evaluate.
        name: Title.
        notes: Warnings about the data to carry along.
    """
    results = runs[0]
    overall = _summary(runs, config, pooled=True)
    controls = {control: _summary(runs[:1], config, predictor=control) for control in CONTROLS}
    comparisons, flags = {}, {}
    for metric in METRICS:
        if metric.name in overall.macro and metric.clock != "not compared":
            rivals = {key: value.macro[metric.name] for key, value in controls.items() if metric.name in value.macro}
            comparison = compare(metric, overall.macro[metric.name], rivals, config)
            comparisons[metric.name] = comparison
            if flag := _flag(metric, overall.macro[metric.name], comparison, config.margin):
                flags[metric.name] = flag
    return Evaluation(
        name=name,
        config=to_plain(config),
        overall=overall,
        controls=controls,
        comparisons=comparisons,
        tasks=_by(runs, [result.group_task for result in results], config),
        failures=_by_failure(runs, config),
        groups={
            column: _by(runs, [result.groups[column] for result in results], config) for column in results[0].groups
        },
        omitted=omitted(results, overall.macro),
        flags=flags,
        notes=tuple(notes),
        episodes=tuple(_row(result) for result in results),
        seeds=_values_of_seeds(runs, config),
    )


def compare(metric: Metric, model: Estimate, controls: Mapping[str, Estimate], config: EvaluateConfig) -> Comparison:
    """Compare the model with the best control, on the same resamples."""
    sign = 1.0 if metric.better == "higher" else -1.0
    defined = {name: control.value for name, control in controls.items() if control.value is not None}
    if model.value is None or not defined:
        beats = model.value is not None
        return Comparison(control=None, difference=None, low=None, high=None, beats=beats)
    best = max(defined, key=lambda name: sign * defined[name])
    difference = sign * (model.value - defined[best])
    rival = controls[best]
    assert model.replicates is not None
    assert rival.replicates is not None
    low, high = interval(sign * (model.replicates - rival.replicates)[1:], config.confidence)
    margin = config.margin * (abs(defined[best]) if metric.unit else 1.0)
    return Comparison(control=best, difference=difference, low=low, high=high, beats=difference >= margin)


def _flag(metric: Metric, estimate: Estimate, comparison: Comparison, margin: float) -> str | None:
    if estimate.value is None:
        return f"undefined for all {estimate.num_undefined}: the scores are constant or outcomes are of one kind"
    if comparison.beats:
        return None
    if metric.clock == "wins by definition":
        return (
            f"the {comparison.control} wins this by definition; read it with reversed_spearman, shuffled_spearman "
            "and success_auroc"
        )
    relative = f"{margin:.0%}" if metric.unit else f"{margin:g}"
    return f"does not beat the {comparison.control} by {relative} (difference {comparison.difference:+.3f})"


def _summary(runs: Runs, config: EvaluateConfig, *, predictor: str = MODEL, pooled: bool = False) -> Summary:
    results = runs[0]
    rng = np.random.default_rng(config.seed)  # the same draws for the model and every control
    resamples = draw([result.group_task for result in results], config.num_resamples, rng)
    seeds = rng.integers(len(runs), size=(config.num_resamples, len(runs)))

    def of_all_seeds(whole: bool) -> dict[str, Estimate]:
        found = [
            estimates(run, resamples, predictor=predictor, confidence=config.confidence, pooled=whole) for run in runs
        ]
        return {key: _over_seeds([each[key] for each in found], seeds, config.confidence) for key in found[0]}

    macro = of_all_seeds(False)
    text = f"two-level bootstrap over {len(runs)} seeds and, within each, " if len(runs) > 1 else ""
    return Summary(
        num_episodes=len(results),
        num_successes=sum(result.success is True for result in results),
        num_failures=sum(result.success is False for result in results),
        bootstrap=text + resamples.description,
        macro=macro,
        pooled={} if not pooled else macro if len(resamples.tasks) == 1 else of_all_seeds(True),
    )


def _over_seeds(found: Sequence[Estimate], seeds: Int[ndarray, "R S"], confidence: float) -> Estimate:
    """Mean over seeds of one metric; seeds where it is undefined are left out and counted."""
    if len(found) == 1:
        return found[0]
    replicates = np.stack([estimate.replicates for estimate in found if estimate.replicates is not None])  # (S, R+1)
    drawn = np.concatenate([np.arange(len(found))[None], seeds])  # (R+1, S)
    values = replicates[drawn, np.arange(replicates.shape[1])[:, None]]
    defined = np.isfinite(values)
    total = defined.sum(1)
    means = np.full(len(values), np.nan)
    np.divide(np.nan_to_num(values).sum(1), total, out=means, where=total > 0)
    num, num_undefined = sum(each.num for each in found), sum(each.num_undefined for each in found)
    return from_replicates(means, confidence, num=num, num_undefined=num_undefined)


def _values_of_seeds(runs: Runs, config: EvaluateConfig) -> dict[str, tuple[float | None, ...]]:
    if len(runs) == 1:
        return {}
    single = replace(config, num_resamples=2)
    summaries = [_summary([run], single) for run in runs]
    return {key: tuple(summary.macro[key].value for summary in summaries) for key in summaries[0].macro}


def _subset(runs: Runs, keep: Sequence[bool]) -> list[list[EpisodeResult]]:
    return [[result for result, kept in zip(run, keep, strict=True) if kept] for run in runs]


def _by(runs: Runs, labels: Sequence[str], config: EvaluateConfig) -> dict[str, Summary]:
    return {
        label: _summary(_subset(runs, [other == label for other in labels]), config) for label in sorted(set(labels))
    }


def _by_failure(runs: Runs, config: EvaluateConfig) -> dict[str, Summary]:
    """Set the failures of each type beside the successes of the tasks where they occur."""
    summaries = {}
    for kind in sorted({result.failure for result in runs[0] if result.failure is not None}):
        tasks = {result.group_task for result in runs[0] if result.failure == kind}
        keep = [r.failure == kind or (r.success is True and r.group_task in tasks) for r in runs[0]]
        summaries[kind] = _summary(_subset(runs, keep), config)
    return summaries


def _row(result: EpisodeResult) -> dict[str, Any]:
    row = to_plain(result)
    row["scores"] = row["scores"][MODEL]
    return row
