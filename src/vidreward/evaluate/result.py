"""Hold what an evaluation found: write and read it as strict JSON, print it as tables.

The JSON carries the scores of every frame, so that a report, another grouping or a combination of several training
seeds can be made from the file alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vidreward.evaluate.controls import CONTROLS
from vidreward.evaluate.definitions import BY_NAME, METRICS
from vidreward.evaluate.summary import Estimate
from vidreward.files import write_text_atomic

FORMAT = "vidreward-evaluation-1"
MIN_WIDTH = 132
"""Columns of text that the tables need."""
TASK_METRICS = (
    "spearman",
    "reversed_spearman",
    "shuffled_spearman",
    "success_auroc",
    "success_auroc_gain",
    "success_dprime",
    "progress_spearman_pooled",
)
"""Columns of the small tables (per task, per group)."""
FAILURE_METRICS = (
    "success_auroc",
    "success_auroc_gain",
    "success_gap",
    "success_dprime",
    "spearman_failures",
    "progress_spearman_pooled",
)
"""Columns of the table by failure type."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Estimates of one predictor on one set of episodes."""

    num_episodes: int
    num_successes: int
    num_failures: int
    bootstrap: str
    """What was resampled, in words."""
    macro: Mapping[str, Estimate]
    """Metric -> mean over tasks."""
    pooled: Mapping[str, Estimate] = field(default_factory=dict)
    """Metric -> all episodes as one set."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of the model beside the best control that sees no content."""

    control: str | None
    """The best control; None when every control is undefined."""
    difference: float | None
    """How much better the model is, positive whichever way is better; None when nothing compares."""
    low: float | None
    high: float | None
    """Interval of the difference, both measured on the same resamples."""
    beats: bool
    """Whether the model is better than every control by the margin."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything an evaluation found."""

    name: str
    """What was evaluated."""
    config: Mapping[str, Any]
    """Settings, as written to disk."""
    overall: Summary
    controls: Mapping[str, Summary]
    """Control that sees no content -> its macro estimates."""
    comparisons: Mapping[str, Comparison]
    tasks: Mapping[str, Summary]
    failures: Mapping[str, Summary]
    """Failure type -> all successes beside the failures of this type."""
    groups: Mapping[str, Mapping[str, Summary]]
    """Way of grouping -> group -> its episodes."""
    omitted: Mapping[str, str]
    """Metric -> why it is absent."""
    flags: Mapping[str, str]
    """Metric -> warning that belongs beside its value."""
    notes: tuple[str, ...]
    """Warnings about the data."""
    episodes: tuple[Mapping[str, Any], ...]
    """One row an episode: id, task, success, failure, num_frames, fps, groups, values, scores, progress."""
    seeds: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Metric -> value of each training seed, where several were combined."""

    def value(self, metric: str) -> float | None:
        """Return the macro mean of a metric; None when it is undefined.

        Raises:
            ValueError: The metric does not exist or was left out.
        """
        if metric in self.overall.macro:
            return self.overall.macro[metric].value
        if metric in self.omitted:
            raise ValueError(f"metric {metric!r} was left out: {self.omitted[metric]}")
        raise ValueError(f"there is no metric {metric!r}; choose one of {', '.join(BY_NAME)}")

    def write(self, path: Path | str) -> Path:
        """Write strict JSON (undefined is null); the file appears whole or not at all."""
        text = json.dumps({"format": FORMAT, **to_plain(self)}, allow_nan=False, separators=(",", ":"))
        write_text_atomic(Path(path), text + "\n")
        return Path(path)

    def table(self) -> Group:
        """Lay everything out for a terminal."""
        parts: list[Any] = [_metric_table(self)]
        if len(self.tasks) > 1:
            parts.append(_small_table("By task", self.tasks))
        parts.extend(_small_table(f"By {column}", groups) for column, groups in self.groups.items())
        if self.failures:
            parts.append(
                _small_table("By failure type (with all successes of the same tasks)", self.failures, FAILURE_METRICS)
            )
        parts.extend(
            Text(f"* {metric} {flag}", style="red")
            for metric, flag in self.flags.items()
            if BY_NAME[metric].clock != "wins by definition"
        )
        parts.extend(Text(f"note: {note}", style="yellow") for note in self.notes)
        if self.omitted:
            reasons: dict[str, list[str]] = {}
            for metric, reason in self.omitted.items():
                reasons.setdefault(reason, []).append(metric)
            parts.extend(Text(f"left out ({reason}): {', '.join(names)}") for reason, names in reasons.items())
        parts.append(Text(f"intervals: {self.config['confidence']:.0%}, {self.overall.bootstrap}", style="dim"))
        return Group(*parts)

    def print(self, console: Console | None = None) -> None:
        """Print the tables, at least as wide as they are readable: a narrow terminal wraps lines, not columns."""
        console = console or Console()
        console.width = max(console.width, MIN_WIDTH)
        console.print(self.table())


def to_plain(value: Any) -> Any:
    """Turn dataclasses and arrays into what JSON can hold; resamples stay out."""
    if isinstance(value, Estimate):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value) if f.name != "replicates"}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [float(f"{item:.9g}") for item in value.tolist()]  # 9 digits hold any float32 exactly
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def read_evaluation(path: Path | str) -> Evaluation:
    """Read an evaluation written by `Evaluation.write`.

    Raises:
        ValueError: The file is not one of these.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); give a file written by `vidreward evaluate`") from error
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not an evaluation of format {FORMAT}; write it again with `vidreward evaluate`")
    missing = {f.name for f in fields(Evaluation)} ^ set(data)
    if missing:
        raise ValueError(f"{path}: fields {sorted(missing)} are missing or unknown; write it again")
    summaries: dict[str, Any] = {
        name: {key: _read_summary(item) for key, item in data[name].items()}
        for name in ("controls", "tasks", "failures")
    }
    groups = {
        column: {key: _read_summary(item) for key, item in members.items()}
        for column, members in data["groups"].items()
    }
    return Evaluation(
        **{name: data[name] for name in ("name", "config", "omitted", "flags")},
        seeds={key: tuple(values) for key, values in data["seeds"].items()},
        **summaries,
        groups=groups,
        overall=_read_summary(data["overall"]),
        comparisons={key: Comparison(**item) for key, item in data["comparisons"].items()},
        notes=tuple(data["notes"]),
        episodes=tuple(data["episodes"]),
    )


def format_estimate(estimate: Estimate | None, *, with_interval: bool = True) -> str:
    """Write a value and its interval for a table.

    Example:
        >>> format_estimate(Estimate(value=0.9137, low=0.88, high=0.94))
        '0.914 [0.880, 0.940]'
        >>> format_estimate(Estimate(value=None, num_undefined=3))
        'undefined (3)'
    """
    if estimate is None:
        return "-"
    if estimate.value is None:
        return f"undefined ({estimate.num_undefined})"
    text = f"{estimate.value:.3f}"
    if with_interval and estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return text + (f" ({estimate.num_undefined} undefined)" if with_interval and estimate.num_undefined else "")


def _read_summary(data: Mapping[str, Any]) -> Summary:
    parts: dict[str, Any] = {
        name: {metric: Estimate(**item) for metric, item in data[name].items()} for name in ("macro", "pooled")
    }
    return Summary(**{key: value for key, value in data.items() if key not in parts}, **parts)


def _metric_table(evaluation: Evaluation) -> Table:
    overall = evaluation.overall
    title = (
        f"{evaluation.name}: {overall.num_episodes} episodes, {len(evaluation.tasks)} task(s), "
        f"{overall.num_successes} successes, {overall.num_failures} failures"
    )
    table = Table(
        title=Text(title),
        caption="^ higher is better, v lower; macro mean over tasks; a clock wins value-order metrics by definition",
        title_justify="left",
    )
    table.add_column("metric", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for name in CONTROLS:
        table.add_column(name, justify="right")
    table.add_column("beats them")
    for metric in METRICS:
        if metric.name not in overall.macro:
            continue
        comparison = evaluation.comparisons.get(metric.name)
        verdict = "" if comparison is None else "yes" if comparison.beats else "NO *"
        if comparison is not None and metric.clock == "wins by definition":
            verdict = "clock wins"
        unit = f" ({metric.unit})" if metric.unit else ""
        arrow = {"higher": " ^", "lower": " v", "neither": ""}[metric.better]
        table.add_row(
            metric.name + unit + arrow,
            Text(format_estimate(overall.macro[metric.name])),
            *(
                format_estimate(evaluation.controls[name].macro.get(metric.name), with_interval=False).split(" ")[0]
                for name in CONTROLS
            ),
            Text(verdict, style={"NO *": "bold red", "clock wins": "dim"}.get(verdict, "")),
        )
    return table


def _small_table(title: str, summaries: Mapping[str, Summary], columns: Sequence[str] = TASK_METRICS) -> Table:
    present = [name for name in columns if any(name in summary.macro for summary in summaries.values())]
    table = Table(title=Text(title), title_justify="left")
    for heading in (title.split(" (")[0].removeprefix("By "), "episodes", *present):
        table.add_column(Text(heading.replace("_", " ")))
    for name, summary in summaries.items():
        cells = [format_estimate(summary.macro.get(metric), with_interval=False) for metric in present]
        table.add_row(Text(name), str(summary.num_episodes), *map(Text, cells))
    return table
