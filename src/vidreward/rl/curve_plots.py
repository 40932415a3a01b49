"""Draw learning curves: one column a task, one line a method, the interquartile mean with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from vidreward.evaluate.plots import printable
from vidreward.files import atomic_path
from vidreward.rl.curves import Band

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
"""Of Okabe and Ito, told apart with any colour vision; lines also differ in style."""
STYLES = ("-", "--", "-.", ":")
ROWS = {
    "success_any": "success\nin the episode",
    "success_last": "success\nat its last step",
    "env_return": "environment's\nreturn",
}

Bands = Mapping[str, Mapping[str, Band]]
"""Method -> metric -> band."""


def plot_learning_curves(
    tasks: Mapping[str, Bands], methods: Sequence[str], path: Path, *, metric: str, threshold: float
) -> Path:
    """Draw the learning curves of every task.

    Args:
        tasks: For each column's title, the bands of each method.
        methods: All methods, in the order of their colours.
        path: Where to write, ending in .png.
        metric: Row in which the threshold is drawn.
        threshold: Drawn as a line.
    """
    figure = Figure(figsize=(1.2 + 3.6 * max(len(tasks), 2), 7.4), layout="constrained")
    grid = figure.subplots(len(ROWS), len(tasks), squeeze=False, sharex="col")
    for column, (title, bands) in enumerate(tasks.items()):
        grid[0, column].set_title(printable(title), fontsize=10, parse_math=False)
        for row, name in enumerate(ROWS):
            axes = grid[row, column]
            if name == metric:
                axes.axhline(threshold, color="0.6", linewidth=0.8, linestyle=(0, (2, 2)))
            for method in (each for each in bands if name in bands[each]):
                _draw_band(axes, bands[method][name], methods.index(method), method)
            _dress(axes, name)
            axes.set_visible(any(name in each for each in bands.values()))
            if column == 0:
                axes.set_ylabel(ROWS[name], fontsize=9)
        lowest = [axes for axes in grid[:, column] if axes.get_visible()][-1]
        lowest.set_xlabel("environment steps", fontsize=9)
        lowest.tick_params(labelbottom=True)
    handles = {line.get_label(): line for axes in grid[0] for line in axes.get_lines() if line.get_label() in methods}
    shown = [handles[method] for method in methods if method in handles]
    legend = figure.legend(handles=shown, loc="outside lower center", ncols=min(len(shown), 4), fontsize=9)
    for text in legend.get_texts():
        text.set_text(printable(text.get_text()))
        text.set_parse_math(False)
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def _draw_band(axes: Axes, band: Band, number: int, method: str) -> None:
    color, style = COLORS[number % len(COLORS)], STYLES[number % len(STYLES)]
    marker = "o" if len(band.steps) < 15 else None
    axes.plot(band.steps, band.mean, color=color, linestyle=style, marker=marker, markersize=3, label=method)
    axes.fill_between(band.steps, band.low, band.high, color=color, alpha=0.16, linewidth=0)


def _dress(axes: Axes, name: str) -> None:
    if name.startswith("success"):
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks(np.linspace(0, 1, 5))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
