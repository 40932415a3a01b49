"""Write a video with the score curve drawn under the frames and a cursor that moves along it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from vidreward.data.encode import write_video
from vidreward.evaluate.outputs import ScoredEpisode
from vidreward.evaluate.plots import PROGRESS, REWARD, SCORE, printable

MIN_WIDTH = 480
"""Width to which smaller frames are enlarged, so that axis labels are legible."""
_CURSOR = (213, 94, 0)
_PANEL_SHARE = 0.34
_CHUNK_FRAMES = 64


def overlay_video(scored: ScoredEpisode, path: Path | str, *, camera: str | None = None) -> Path:
    """Write the episode with its curve below and a moving cursor.

    Frames are read a few at a time, so an hour-long episode fits in memory.

    Args:
        scored: The episode, its scores and, where given, rewards and true progress.
        path: Where to write; the ending chooses the container (.mp4).
        camera: Camera to show; None is the first.
    """
    height, width = scored.episode.frames([0], camera).shape[2:]
    scale = max(1.0, MIN_WIDTH / width)
    size = (2 * round(width * scale / 2), 2 * round(height * scale / 2))  # even, for the video's colour format
    panel, top, bottom, columns, rows = _draw_panel(scored, size[0], max(150, 2 * round(size[0] * _PANEL_SHARE / 2)))
    return write_video(
        Path(path), _compose(scored, camera, size, panel, (top, bottom), columns, rows), scored.episode.fps
    )


def _compose(
    scored: ScoredEpisode,
    camera: str | None,
    size: tuple[int, int],
    panel: UInt8[ndarray, "P W 3"],
    extent: tuple[int, int],
    columns: ndarray,
    rows: ndarray,
) -> Iterator[UInt8[ndarray, "3 H W"]]:
    num = scored.episode.num_frames
    for start in range(0, num, _CHUNK_FRAMES):
        numbers = range(start, min(num, start + _CHUNK_FRAMES))
        for number, frame in zip(numbers, scored.episode.frames(numbers, camera), strict=True):
            picture = cv2.resize(frame.transpose(1, 2, 0), size, interpolation=cv2.INTER_LINEAR)
            below = panel.copy()
            cv2.line(below, (columns[number], extent[0]), (columns[number], extent[1]), _CURSOR, 1)
            cv2.circle(below, (columns[number], rows[number]), 4, _CURSOR, -1, cv2.LINE_AA)
            yield np.ascontiguousarray(np.concatenate([picture, below]).transpose(2, 0, 1))


def _draw_panel(scored: ScoredEpisode, width: int, height: int) -> tuple[ndarray, int, int, ndarray, ndarray]:
    """Draw the curves once: the panel, top and bottom row of its axes, and the curve's pixel at each frame."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = axes.plot(scored.times, scored.scores, color=SCORE, linewidth=1.6, label=printable(scored.score_name))
    if scored.rewards is not None:
        extra = axes.twinx()
        lines += extra.plot(scored.times, scored.rewards, color=REWARD, linewidth=0.9, label="reward")
        extra.set_ylabel("reward", fontsize=8)
        extra.tick_params(labelsize=7)
    elif scored.progress is not None:
        extra = axes.twinx()
        lines += extra.plot(scored.times, scored.progress, color=PROGRESS, linestyle="--", label="true progress")
        extra.set_ylim(-0.05, 1.05)
        extra.set_ylabel("true progress", fontsize=8)
        extra.tick_params(labelsize=7)
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_ylabel(printable(scored.score_name), fontsize=8, parse_math=False)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    if len(lines) > 1:
        axes.legend(handles=lines, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    canvas.draw()
    points = axes.transData.transform(np.stack([scored.times, scored.scores], axis=1))
    panel = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    columns = np.clip(points[:, 0].round().astype(int), 0, panel.shape[1] - 1)
    rows = np.clip((panel.shape[0] - 1 - points[:, 1]).round().astype(int), 0, panel.shape[0] - 1)
    bottom, top = (round(panel.shape[0] - 1 - edge) for edge in (axes.bbox.y0, axes.bbox.y1))
    return panel, top, bottom, columns, rows
