"""Write what policies learned as one self-contained HTML page: curves, steps to a threshold, time, videos."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from vidreward.evaluate.report_tables import escaped
from vidreward.files import write_text_atomic
from vidreward.rl.curve_plots import Bands, plot_learning_curves
from vidreward.rl.curves import Band, Estimate, aggregate, estimate, steps_to
from vidreward.rl.results import Metric, RunResult, group_by_task, list_methods, read_results
from vidreward.rl.rl_config import ENV_REWARD

METRICS: tuple[Metric, ...] = ("success_any", "success_last", "env_return")
ALL_TASKS = "all tasks"
MAX_VIDEO_BYTES = 24_000_000
"""Of all embedded videos together."""

Groups = Mapping[str, Mapping[str, Sequence[RunResult]]]


def write_rl_report(
    path: Path, runs: Sequence[Path], *, metric: Metric = "success_any", threshold: float = 0.8, seed: int = 0
) -> tuple[Path, Path]:
    """Write the report of some runs.

    Args:
        path: The page, ending in .html; a picture of the curves goes beside it, ending in .png.
        runs: Folders of runs, or folders of such.
        metric: What the steps are counted for.
        threshold: Of that metric.
        seed: Of the resamples.

    Returns:
        The paths of page and picture.

    Raises:
        ValueError: A folder holds no result, or runs that are called alike differ.
    """
    groups = group_by_task(read_results(runs))
    methods = list_methods(groups)
    picture = plot_learning_curves(
        make_bands(groups, seed), methods, path.with_suffix(".png"), metric=metric, threshold=threshold
    )
    results = [run for by_method in groups.values() for runs_of in by_method.values() for run in runs_of]
    parts = [
        _intro(results, methods),
        *(f'<p class="card note bad">{escaped(note)}</p>' for note in find_notes(groups)),
        f'<p class="card"><img alt="learning curves" src="{_data_url(picture, "image/png")}"></p>',
        f'<h2 id="steps">Steps to {escaped(metric)} of {threshold:g}</h2>',
        _steps_table(groups, metric, threshold, seed),
        '<h2 id="end">At the end</h2>',
        _final_table(groups, seed),
        '<h2 id="time">Where the time went</h2>',
        _time_table(groups),
        _videos(groups),
        '<h2 id="runs">Runs</h2>',
        _runs_table(results),
    ]
    write_text_atomic(path, _page("Policies", parts))
    return path, picture


def make_bands(groups: Groups, seed: int) -> dict[str, Bands]:
    """Summarise the curves of each task and method, and the success of methods over all tasks where they did all."""
    bands: dict[str, Bands] = {
        task: {method: _bands([runs], METRICS, seed) for method, runs in methods.items()}
        for task, methods in groups.items()
    }
    if len(groups) > 1:
        everywhere = [name for name in list_methods(groups) if all(name in methods for methods in groups.values())]
        per_task = {name: [methods[name] for methods in groups.values()] for name in everywhere}
        together = {name: _bands(tasks, METRICS[:2], seed) for name, tasks in per_task.items() if _share_steps(tasks)}
        if together:
            bands[ALL_TASKS] = together
    return bands


def find_notes(groups: Groups) -> list[str]:
    """Say what a reader of the curves must know: runs that are not finished, and different numbers of seeds."""
    notes = []
    for task, methods in groups.items():
        for method, runs in methods.items():
            going = [str(run.seed) for run in runs if not run.finished]
            if going:
                notes.append(f"{task}, {method}: not finished yet: seed {', '.join(going)}; curves end where it is.")
        counts = {method: len(runs) for method, runs in methods.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{method} {count}" for method, count in counts.items())
            notes.append(f"{task}: the methods have different numbers of seeds ({said}).")
    return notes


def _bands(tasks: Sequence[Sequence[RunResult]], metrics: Sequence[Metric], seed: int) -> dict[str, Band]:
    return {
        metric: aggregate([[run.values(metric) for run in runs] for runs in tasks], np.random.default_rng(seed))
        for metric in metrics
    }


def _share_steps(tasks: Sequence[Sequence[RunResult]]) -> bool:
    steps = [{score.step for score in run.curve} for runs in tasks for run in runs]
    return bool(set.intersection(*steps))


@dataclass(frozen=True)
class StepsNeeded:
    """Environment steps that a method needs to reach a threshold; runs that never do count as their budget."""

    steps: Estimate
    num_reached: int
    num_runs: int


def steps_needed(runs: Sequence[RunResult], metric: Metric, threshold: float, seed: int) -> StepsNeeded:
    """Count the steps of a method's runs: their interquartile mean, and how many got there."""
    counted = [steps_to(run.values(metric), threshold, run.budget) for run in runs]
    steps = estimate([np.array([float(each.steps) for each in counted])], np.random.default_rng(seed))
    return StepsNeeded(steps, sum(each.reached for each in counted), len(runs))


def compare_steps(need: StepsNeeded, baseline: StepsNeeded) -> str:
    """Say how many times fewer steps a method needs, and where that is only a bound because runs never got there.

    Example:
        >>> one, ten = Estimate(1e3, 1e3, 1e3), Estimate(1e4, 1e4, 1e4)
        >>> compare_steps(StepsNeeded(one, 5, 5), StepsNeeded(ten, 0, 5))
        'at least 10'
    """
    if not need.num_reached:
        return "never reached"
    at_least, at_most = baseline.num_reached < baseline.num_runs, need.num_reached < need.num_runs
    bound = "about " if at_least and at_most else "at least " if at_least else "at most " if at_most else ""
    return f"{bound}{baseline.steps.value / need.steps.value:.3g}"


# -- the page -------------------------------------------------------------------------------------------------------


def _intro(results: Sequence[RunResult], methods: Sequence[str]) -> str:
    tasks = list(dict.fromkeys(run.env for run in results))
    seeds = sorted({run.seed for run in results})
    episodes = sorted({score.num_episodes for run in results for score in run.curve})
    return (
        f'<p class="soft">{len(results)} runs: {len(tasks)} task(s), {len(methods)} method(s), {len(seeds)} seed(s); '
        f"{' or '.join(map(str, episodes))} episodes in each evaluation, in environments of their own and without "
        "exploration. Success is the environment's, never a shaped return. Lines are interquartile means over seeds, "
        "bands 95 % intervals of a bootstrap that draws seeds anew within each task.</p>"
    )


def _steps_table(groups: Groups, metric: Metric, threshold: float, seed: int) -> str:
    """Lay out how many steps each method needs, and how many times fewer than the environment's reward alone."""
    head = ("task", "method", "steps", "interval", "runs that reached it", f"times fewer than with {ENV_REWARD} alone")
    rows = []
    for task, methods in groups.items():
        needs = {method: steps_needed(runs, metric, threshold, seed) for method, runs in methods.items()}
        for method, need in needs.items():
            baseline = methods[method][0].baseline
            budget = "; the others count as their budget" if need.num_reached < need.num_runs else ""
            steps = need.steps
            row = (
                task,
                method,
                f"{steps.value:,.0f}",
                f"{steps.low:,.0f} to {steps.high:,.0f}",
                f"{need.num_reached} of {need.num_runs}{budget}",
                compare_steps(need, needs[baseline]) if baseline in needs and method != baseline else "",
            )
            rows.append(row)
    return _table(head, rows, numbers=(2, 3))


def _final_table(groups: Groups, seed: int) -> str:
    head = ("task", "method", "seeds", *(metric.replace("_", " ") for metric in METRICS), "reward return")
    rows = []
    for task, methods in groups.items():
        for method, runs in methods.items():
            numbers = []
            for metric in METRICS:
                last = np.array([run.values(metric).values[-1] for run in runs])
                numbers.append(_with_interval(estimate([last], np.random.default_rng(seed)), metric != "env_return"))
            paid = np.mean([run.curve[-1].reward_return for run in runs])
            rows.append((task, method, str(len(runs)), *numbers, f"{paid:.4g}"))
    return _table(head, rows, numbers=(2, 3, 4, 5, 6))


def _time_table(groups: Groups) -> str:
    """Lay out the steps a second, and the share of each part of the loop, over all runs of a method."""
    all_runs = [run for methods in groups.values() for runs in methods.values() for run in runs]
    parts = list(dict.fromkeys(part for run in all_runs for part in run.seconds))
    rows = []
    for task, methods in groups.items():
        for method, runs in methods.items():
            total = sum(sum(run.seconds.values()) for run in runs)
            shares = [f"{sum(run.seconds.get(part, 0.0) for run in runs) / total:.0%}" for part in parts]
            rate = sum(run.step for run in runs) / total
            rows.append((task, method, f"{total / len(runs):,.0f}", f"{rate:,.0f}", *shares))
    head = ("task", "method", "seconds a run", "steps/s", *parts)
    return _table(head, rows, numbers=range(2, len(head)))


def _runs_table(results: Sequence[RunResult]) -> str:
    head = ("task", "method", "seed", "steps", "of", "folder")
    rows = [(r.env, r.method, str(r.seed), f"{r.step:,}", f"{r.budget:,}", str(r.path)) for r in results]
    return _table(head, rows, numbers=(2, 3, 4))


def _videos(groups: Groups) -> str:
    """Embed an episode of the last evaluation of each method, while there is room."""
    cards, num_bytes = [], 0
    for task, methods in groups.items():
        for method, runs in methods.items():
            video = _last_video(runs[0])
            if video is None or num_bytes + video.stat().st_size > MAX_VIDEO_BYTES:
                continue
            num_bytes += video.stat().st_size
            cards.append(
                f'<div class="card tile"><small>{escaped(task)}<br>{escaped(method)}, seed {runs[0].seed}, after '
                f"{runs[0].curve[-1].step:,} steps</small>"
                f'<div class="screen"><video controls loop muted playsinline src="{_data_url(video, "video/mp4")}">'
                "</video></div></div>"
            )
    return f'<h2 id="videos">Episodes</h2><div class="tiles">{"".join(cards)}</div>' if cards else ""


def _last_video(run: RunResult) -> Path | None:
    videos = sorted((run.path / "videos").glob("step-*/episode-0.mp4"))
    return videos[-1] if videos else None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int]) -> str:
    def cell(kind: str, column: int, text: str) -> str:
        return f"<{kind}{' class=number' if column in numbers else ''}>{escaped(text)}</{kind}>"

    top = "".join(cell("th", column, name) for column, name in enumerate(head))
    body = "".join("<tr>" + "".join(cell("td", c, text) for c, text in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="card wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _with_interval(value: Estimate, is_share: bool) -> str:
    numbers = (value.value, value.low, value.high)
    best, low, high = (f"{number:.0%}" if is_share else f"{number:.4g}" for number in numbers)
    return f"{best} ({low} to {high})"


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _page(title: str, parts: Sequence[str]) -> str:
    style = resources.files("vidreward.evaluate").joinpath("report.css").read_text(encoding="utf-8")
    style += _STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escaped(title)}</title>",
            f"<style>{style}</style></head><body><main>",
            f"<h1>{escaped(title)}</h1>",
            *(part for part in parts if part),
            "<footer>Written by vidreward. This page is one file and makes no network request.</footer>",
            "</main></body></html>\n",
        ]
    )


_STYLE = """
p.card { padding: 10px; overflow-x: auto; }
p.card img { display: block; width: 100%; max-width: 1400px; background: #fff; }
p.card.note { padding: 8px 14px; }
.tile video { max-height: none; }
"""
