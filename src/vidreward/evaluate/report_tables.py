"""Lay an evaluation out as HTML: headline tiles, the metrics beside their controls, small tables by group."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from vidreward.evaluate.controls import CONTROLS
from vidreward.evaluate.definitions import BY_NAME, METRICS, Metric
from vidreward.evaluate.result import FAILURE_METRICS, TASK_METRICS, Evaluation, Summary, format_estimate
from vidreward.evaluate.summary import Estimate

_QUESTIONS = {
    "frames": "Does the score rise as a demonstration goes on?",
    "views": "Does it look at the content, or count frames?",
    "goals": "Does it read the goal?",
    "outcomes": "Does it tell success from failure?",
    "progress": "Does it follow true progress?",
    "time": "Does it predict the time that remains?",
}
_TILES = (
    ("success_auroc", "success vs failure (AUROC)"),
    ("progress_spearman_pooled", "Spearman with true progress"),
    ("spearman", "value-order correlation"),
    ("reversed_spearman", "the same, played backwards"),
    ("goal_preference_layout", "prefers its own goal"),
)
_PLOT = (200, 24, 8)
"""Width, height and side margin of the small interval plots, in their own units."""


def escaped(text: str) -> str:
    """Escape a string for HTML text and quoted attributes."""
    return html.escape(str(text), quote=True)


def evaluation_section(evaluation: Evaluation) -> str:
    """Lay everything out that was measured."""
    overall = evaluation.overall
    parts = [
        f'<p class="soft">{overall.num_episodes} episodes, {len(evaluation.tasks)} task(s), {overall.num_successes} '
        f"successes, {overall.num_failures} failures. Values are means over tasks; intervals: "
        f"{evaluation.config['confidence']:.0%}, {escaped(overall.bootstrap)}.</p>",
        _tiles(evaluation),
        *(
            f'<p class="card note bad"><b>{escaped(name)}</b> {escaped(flag)}</p>'
            for name, flag in evaluation.flags.items()
            if BY_NAME[name].clock != "wins by definition"
        ),
        *(f'<p class="card note">{escaped(note)}</p>' for note in evaluation.notes),
        '<h2 id="metrics">Metrics and controls</h2>',
        '<p class="soft">Clock, constant and random see no content: what they reach is given away for free. In the '
        "plots the dot is the model with its interval; circle: clock, square: constant, triangle: random.</p>",
        _metric_table(evaluation),
    ]
    parts.append('<div id="groups"></div>')
    if len(evaluation.tasks) > 1:
        parts.append(_small_table("By task", "task", evaluation.tasks, TASK_METRICS))
    for column, groups in evaluation.groups.items():
        parts.append(_small_table(f"By {column}", column, groups, TASK_METRICS))
    if evaluation.failures:
        text = "By failure type (beside all successes of the same tasks)"
        parts.append(_small_table(text, "failure", evaluation.failures, FAILURE_METRICS))
    if evaluation.omitted:
        reasons: dict[str, list[str]] = {}
        for name, reason in evaluation.omitted.items():
            reasons.setdefault(reason, []).append(name)
        lines = "".join(f"<li>{escaped(', '.join(names))}: {escaped(why)}</li>" for why, names in reasons.items())
        parts.append(f'<details class="soft"><summary>Left out</summary><ul>{lines}</ul></details>')
    return "\n".join(parts)


def _tiles(evaluation: Evaluation) -> str:
    tiles = []
    for name, words in _TILES:
        estimate = evaluation.overall.macro.get(name)
        if estimate is None:
            continue
        value = "undefined" if estimate.value is None else f"{estimate.value + 0.0:.2f}"
        between = "" if estimate.low is None else f"{estimate.low:.2f} to {estimate.high:.2f}"
        tiles.append(
            f'<div class="card tile"><small>{escaped(words)}</small><b>{value}</b>'
            f"<small>{between or '&nbsp;'}</small>{_interval_plot(evaluation, BY_NAME[name])}</div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _metric_table(evaluation: Evaluation) -> str:
    head = "".join(
        f'<th scope="col"{" class=number" if name in ("model", *CONTROLS) else ""}>{name}</th>'
        for name in ("metric", "model", *CONTROLS, "", "beats controls")
    )
    rows = []
    for needs, question in _QUESTIONS.items():
        members = [metric for metric in METRICS if metric.needs == needs and metric.name in evaluation.overall.macro]
        if members:
            rows.append(f'<tr class="group"><th colspan="{len(CONTROLS) + 4}">{question}</th></tr>')
            rows.extend(_metric_row(evaluation, metric) for metric in members)
    return f'<div class="card wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _metric_row(evaluation: Evaluation, metric: Metric) -> str:
    model = evaluation.overall.macro[metric.name]
    controls = "".join(
        f'<td class="number soft">{_number(evaluation.controls[name].macro.get(metric.name))}</td>' for name in CONTROLS
    )
    unit = f" ({escaped(metric.unit)})" if metric.unit else ""
    undefined = f"<br><small>{model.num_undefined} undefined</small>" if model.num_undefined and model.value else ""
    seeds = evaluation.seeds.get(metric.name, ())
    each = ", ".join("undefined" if value is None else f"{value:.3f}" for value in seeds)
    better = "" if metric.better == "neither" else f"{metric.better.capitalize()} is better."
    return (
        f"<tr><td><b>{escaped(metric.name)}</b>{unit}<br><small>{escaped(metric.description)} "
        f"{better}{f' Seeds: {each}.' if each else ''}</small></td>"
        f'<td class="number"><b>{_number(model)}</b><br><small>{_interval(model)}</small>{undefined}</td>{controls}'
        f'<td class="plot">{_interval_plot(evaluation, metric)}</td><td>{_verdict(evaluation, metric)}</td></tr>'
    )


def _verdict(evaluation: Evaluation, metric: Metric) -> str:
    comparison = evaluation.comparisons.get(metric.name)
    if comparison is None:
        return ""
    if metric.clock == "wins by definition":
        return '<span class="chip">clock wins by definition</span>'
    if comparison.beats:
        by = "" if comparison.difference is None else f" by {abs(comparison.difference):.2f}"
        return f'<span class="chip good">yes{by}</span>'
    return f'<span class="chip bad">no</span><br><small>{escaped(evaluation.flags.get(metric.name, ""))}</small>'


def _small_table(title: str, label: str, summaries: Mapping[str, Summary], names: Sequence[str]) -> str:
    present = [name for name in names if any(name in summary.macro for summary in summaries.values())]
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in (label, "episodes", *present))
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{summary.num_episodes}</td>'
        + "".join(
            f"<td>{_number(summary.macro.get(metric))}<br><small>{_interval(summary.macro.get(metric))}</small></td>"
            for metric in present
        )
        + "</tr>"
        for name, summary in summaries.items()
    )
    return (
        f'<h3>{escaped(title)}</h3><div class="card wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _number(estimate: Estimate | None) -> str:
    return escaped(format_estimate(estimate, with_interval=False))


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low + 0.0:.3f} to {estimate.high + 0.0:.3f}"


def _interval_plot(evaluation: Evaluation, metric: Metric) -> str:
    """Draw the model's value and interval on a line, with a mark for each control."""
    model = evaluation.overall.macro[metric.name]
    rivals = [evaluation.controls[name].macro.get(metric.name) for name in CONTROLS]
    known = [estimate.value for estimate in (model, *rivals) if estimate is not None and estimate.value is not None]
    if not known:
        return ""
    low, high = _range(metric, [*known, *(edge for edge in (model.low, model.high) if edge is not None)])
    width, height, margin = _PLOT
    middle = height / 2

    def place(value: float) -> float:
        return margin + (width - 2 * margin) * (min(max(value, low), high) - low) / (high - low)

    shapes = [f'<line class="axis" x1="{margin}" x2="{width - margin}" y1="{middle}" y2="{middle}"/>']
    if low < 0 < high:
        shapes.append(f'<line class="axis" x1="{place(0):.1f}" x2="{place(0):.1f}" y1="4" y2="{height - 4}"/>')
    if model.low is not None and model.high is not None:
        ends = f'x1="{place(model.low):.1f}" x2="{place(model.high):.1f}"'
        shapes.append(f'<line class="span" {ends} y1="{middle}" y2="{middle}"/>')
    marks = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.5-3.5h7v7h-7z", "M0-4.5L4.2 3.5H-4.2z")
    for mark, rival in zip(marks, rivals, strict=True):
        if rival is not None and rival.value is not None:
            shapes.append(f'<path class="rival" d="{mark}" transform="translate({place(rival.value):.1f} {middle})"/>')
    if model.value is not None:
        shapes.append(f'<circle class="model" cx="{place(model.value):.1f}" cy="{middle}" r="4.5"/>')
    label = f"{metric.name} from {low:g} to {high:g}"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escaped(label)}">{"".join(shapes)}</svg>'


def _range(metric: Metric, values: Sequence[float]) -> tuple[float, float]:
    """Choose the ends of a plot: the metric's natural ones where it has them."""
    if any(word in metric.name for word in ("spearman", "pearson", "kendall")):
        return -1.0, 1.0
    if any(word in metric.name for word in ("auroc", "auprc", "preference", "prevalence", "misclassification")):
        return 0.0, 1.0
    low, high = min(0.0, *values), max(0.0, *values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
