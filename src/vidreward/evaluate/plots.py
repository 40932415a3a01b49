"""Draw scores as pictures: one episode with its film strip, or a grid of many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vidreward.evaluate.metrics import order_metrics
from vidreward.evaluate.outputs import ScoredEpisode, film_indices
from vidreward.files import atomic_path

SCORE, PROGRESS, REWARD, SUCCESS, FAILURE, UNKNOWN = "#0072B2", "#E69F00", "#009E73", "#0072B2", "#D55E00", "#666666"
"""Colours of Okabe and Ito, told apart with any colour vision; lines also differ in style."""
_FILM_PICTURES = 9


def plot_episode(scored: ScoredEpisode, path: Path | str) -> Path:
    """Draw the score of one episode over time above a film strip, with reward and true progress where known.

    Args:
        scored: The episode and its scores.
        path: Where to write, ending in .png (or another ending matplotlib knows).
    """
    rows = 2 if scored.rewards is None else 3
    figure = Figure(figsize=(9, 1.4 + 2.1 * (rows - 1)), layout="constrained")
    grid = figure.add_gridspec(rows, 1, height_ratios=[1, *([1.9] + [1.1] * (rows - 2))])
    _draw_film(figure.add_subplot(grid[0]), scored)
    axes = figure.add_subplot(grid[1])
    _draw_scores(axes, scored)
    if scored.rewards is not None:
        axes.tick_params(labelbottom=False)
        bottom = figure.add_subplot(grid[2], sharex=axes)
        bottom.axhline(0, color="0.7", linewidth=0.8)
        bottom.step(scored.times, scored.rewards, where="mid", color=REWARD, label="reward")
        bottom.set_ylabel("reward")
        axes = bottom
    axes.set_xlabel("time (s)")
    figure.suptitle(printable(_title(scored)), fontsize=11, parse_math=False)
    return _save(figure, path)


def plot_overview(scored: Sequence[ScoredEpisode], path: Path | str, *, num_columns: int = 4, most: int = 40) -> Path:
    """Draw the score curves of many episodes as a grid, each beside its last frame.

    Args:
        scored: Episodes and their scores.
        path: Where to write.
        num_columns: Episodes in a row.
        most: Episodes drawn at most; the title says how many there were.
    """
    if not scored:
        raise ValueError("there is no scored episode to draw; score at least one")
    shown = scored[:most]
    num_columns = min(num_columns, len(shown))
    num_rows = -(-len(shown) // num_columns)
    figure = Figure(figsize=(3.4 * num_columns, 1.9 * num_rows + 0.6), layout="constrained")
    all_axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, item in zip(all_axes, shown, strict=False):
        outcome = {True: SUCCESS, False: FAILURE, None: UNKNOWN}[item.episode.success]
        axes.plot(item.times, item.scores, color=outcome, linestyle="--" if item.episode.success is False else "-")
        axes.set_title(printable(_title(item, short=True)), fontsize=7, parse_math=False)
        axes.tick_params(labelsize=6)
        axes.margins(x=0)
        picture = axes.inset_axes((1.02, 0, 0.36, 1))
        picture.imshow(item.episode.frames([item.episode.num_frames - 1])[0].transpose(1, 2, 0))
        picture.set_axis_off()
    for axes in all_axes[len(shown) :]:
        axes.set_axis_off()
    for row in range(num_rows):
        all_axes[row * num_columns].set_ylabel(printable(shown[0].score_name), fontsize=7, parse_math=False)
    for axes in all_axes[max(0, len(shown) - num_columns) : len(shown)]:
        axes.set_xlabel("time (s)", fontsize=7)
    more = f" of {len(scored)}" if len(scored) > len(shown) else ""
    figure.suptitle(f"{len(shown)}{more} episodes; blue: success, orange dashed: failure, grey: not known", fontsize=9)
    return _save(figure, path)


def printable(text: str) -> str:
    """Keep a name on one line and in the characters of the plotting font; others become escapes."""
    return " ".join(text.encode("latin-1", "backslashreplace").decode("latin-1").split())


def _title(scored: ScoredEpisode, *, short: bool = False) -> str:
    episode = scored.episode
    outcome = {True: "success", False: "failure", None: "outcome not known"}[episode.success]
    name = episode.id if len(episode.id) <= 34 else "..." + episode.id[-31:]
    if short:
        return f"{name} ({outcome})" if episode.success is not None else name
    order = order_metrics(scored.scores)["spearman"]
    correlation = "undefined (constant)" if order is None else f"{order + 0.0:.2f}".replace("-0.00", "0.00")
    return " - ".join(filter(None, [name, episode.task, outcome, f"value-order correlation {correlation}"]))


def _draw_film(axes: Axes, scored: ScoredEpisode) -> None:
    numbers = film_indices(scored.episode.num_frames, _FILM_PICTURES)
    frames = scored.episode.frames(numbers).transpose(0, 2, 3, 1)
    height, width = frames.shape[1:3]
    gap = max(1, width // 24)
    strip = np.full((height, len(numbers) * (width + gap) - gap, 3), 255, np.uint8)
    for place, frame in enumerate(frames):
        strip[:, place * (width + gap) : place * (width + gap) + width] = frame
    axes.imshow(strip)
    axes.set_yticks([])
    axes.set_xticks(
        [place * (width + gap) + width / 2 for place in range(len(numbers))],
        [f"{number / scored.episode.fps:.1f} s" for number in numbers],
        fontsize=7,
    )
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_scores(axes: Axes, scored: ScoredEpisode) -> None:
    lines = axes.plot(scored.times, scored.scores, color=SCORE, linewidth=1.8, label=printable(scored.score_name))
    axes.set_ylabel(printable(scored.score_name), parse_math=False)
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    if scored.progress is not None:
        right = axes.twinx()
        lines += right.plot(scored.times, scored.progress, color=PROGRESS, linestyle="--", label="true progress")
        right.set_ylim(-0.05, 1.05)
        right.set_ylabel("true progress (0 to 1)")
        legend = axes.legend(handles=lines, loc="best", fontsize=8, framealpha=0.8)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _save(figure: Figure, path: Path | str) -> Path:
    path = Path(path)
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path
