"""List every metric of `evaluate`: what it says, which way is better, which episodes it speaks of.

Value-order metrics are averaged over episodes that did not fail, because a failure need not progress; a clock wins
them by definition, so they are read beside the metrics that a clock cannot win.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Subset = Literal["demonstrations", "failures", "all"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of the results."""

    name: str
    description: str
    """One sentence for tables and tooltips."""
    better: Literal["higher", "lower", "neither"]
    of: Literal["episode", "set"] = "episode"
    """Whether one episode has a value (averaged), or only a set of episodes has."""
    subset: Subset = "demonstrations"
    """Episodes that count: those that did not fail, those that failed, or all."""
    needs: Literal["frames", "views", "goals", "outcomes", "progress", "time"] = "frames"
    """What must be known or run besides plain scores."""
    clock: Literal["may lose", "wins by definition", "not compared"] = "may lose"
    """Whether controls that see no content can be compared with."""
    unit: str = ""
    """Unit of the value; empty for a pure number."""


def _time_metrics() -> tuple[Metric, ...]:
    result = []
    for suffix, against in (
        ("", "true time to the goal"),
        ("_reversed_targets", "time passed (what HOLD's published code compares with)"),
    ):
        for kind, words, power in (("mae", "Mean absolute", ""), ("mse", "Mean squared", "^2")):
            for unit in ("steps", "seconds"):
                result.append(
                    Metric(
                        name=f"{kind}_{unit}{suffix}",
                        description=f"{words} error of the predicted time, against the {against}.",
                        better="lower",
                        needs="time",
                        clock="not compared" if suffix else "may lose",
                        unit=("frames" if unit == "steps" else "s") + power,
                    )
                )
    return tuple(result)


_DEFINITION: Literal["wins by definition"] = "wins by definition"

METRICS: tuple[Metric, ...] = (
    Metric(
        name="spearman",
        description="Value-order correlation: Spearman of score and frame number, ties at mid-rank.",
        better="higher",
        clock=_DEFINITION,
    ),
    Metric(
        name="kendall_tau_b",
        description="Kendall's tau-b of score and frame number.",
        better="higher",
        clock=_DEFINITION,
    ),
    Metric(
        name="pearson",
        description="Linear correlation of score and frame number.",
        better="higher",
        clock=_DEFINITION,
    ),
    Metric(
        name="misclassification_adjacent",
        description="Share of neighbouring frames whose score falls; ties are no error.",
        better="lower",
        clock=_DEFINITION,
    ),
    Metric(
        name="misclassification_all_pairs",
        description="Share of all frame pairs in the wrong order; ties are half an error.",
        better="lower",
        clock=_DEFINITION,
    ),
    Metric(
        name="hinge",
        description="Mean fall of the score between neighbours, in standard deviations of the episode's scores.",
        better="lower",
        clock=_DEFINITION,
    ),
    Metric(
        name="reversed_spearman",
        description="Video played backwards, scores put back in content order: a clock gets -1.",
        better="higher",
        needs="views",
    ),
    Metric(
        name="reversed_gap",
        description="spearman - reversed_spearman: 0 reads content only, 2 counts frames.",
        better="lower",
        needs="views",
        clock="not compared",
    ),
    Metric(
        name="shuffled_spearman",
        description="Frames shuffled, scores put back in content order: a clock gets about 0.",
        better="higher",
        needs="views",
    ),
    Metric(
        name="frozen_spearman",
        description="First frame held for the whole video: undefined (constant) is right, 1 counts frames.",
        better="lower",
        needs="views",
        clock="not compared",
    ),
    Metric(
        name="goal_preference_layout",
        description="Share of episodes whose last frame scores higher with its own goal than with that of the same "
        "task in another layout; ties half.",
        better="higher",
        needs="goals",
    ),
    Metric(
        name="goal_preference_task",
        description="The same against the goal of another task.",
        better="higher",
        needs="goals",
    ),
    Metric(
        name="wrong_goal_spearman_layout",
        description="Value-order correlation when shown the goal of another layout: should drop.",
        better="lower",
        needs="goals",
        clock="not compared",
    ),
    Metric(
        name="wrong_goal_spearman_task",
        description="Value-order correlation when shown the goal of another task: should drop.",
        better="lower",
        needs="goals",
        clock="not compared",
    ),
    Metric(
        name="spearman_failures",
        description="Value-order correlation of failed episodes, for comparison: a clock gets 1 here too.",
        better="lower",
        subset="failures",
        clock="not compared",
    ),
    Metric(
        name="success_auroc",
        description="Chance that a success ends with a higher score than a failure (last frame).",
        better="higher",
        needs="outcomes",
        of="set",
        subset="all",
    ),
    Metric(
        name="success_auroc_gain",
        description="The same for the score gained over the episode (last - first).",
        better="higher",
        needs="outcomes",
        of="set",
        subset="all",
    ),
    Metric(
        name="success_auroc_best",
        description="The same for the best score of the episode.",
        better="higher",
        needs="outcomes",
        of="set",
        subset="all",
    ),
    Metric(
        name="success_auprc",
        description="Average precision of the last-frame score; knowing nothing gets success_prevalence.",
        better="higher",
        needs="outcomes",
        of="set",
        subset="all",
    ),
    Metric(
        name="success_prevalence",
        description="Share of successes: the average precision of knowing nothing.",
        better="neither",
        needs="outcomes",
        of="set",
        subset="all",
        clock="not compared",
    ),
    Metric(
        name="success_gap",
        description="Mean last-frame score of successes minus failures, as a share of the task's 5-95 % score range.",
        better="higher",
        needs="outcomes",
        of="set",
        subset="all",
    ),
    Metric(
        name="success_dprime",
        description="The same difference in standard deviations within successes and within failures (d-prime).",
        better="higher",
        needs="outcomes",
        of="set",
        subset="all",
    ),
    Metric(
        name="progress_spearman",
        description="Spearman of score and true progress, within each episode.",
        better="higher",
        needs="progress",
        subset="all",
    ),
    Metric(
        name="progress_pearson",
        description="Pearson of score and true progress, within each episode.",
        better="higher",
        needs="progress",
        subset="all",
    ),
    Metric(
        name="progress_spearman_pooled",
        description="Spearman of score and true progress over the frames of successes and failures together.",
        better="higher",
        needs="progress",
        of="set",
        subset="all",
    ),
    Metric(
        name="progress_pearson_pooled",
        description="Pearson of score and true progress over the frames of successes and failures together.",
        better="higher",
        needs="progress",
        of="set",
        subset="all",
    ),
    *_time_metrics(),
    Metric(
        name="hinge_seconds",
        description="Mean rise of the predicted time between neighbours.",
        better="lower",
        needs="time",
        clock=_DEFINITION,
        unit="s",
    ),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
