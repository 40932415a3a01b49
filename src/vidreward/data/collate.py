"""Stack what was read of several episodes to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from vidreward.margin import FRAME_SIZE
from vidreward.types import Episode, Pick, Video


def collate(name: str, episodes: Sequence[Episode], picks: Sequence[Pick], frames: Sequence[ndarray | None]) -> Video:
    """Stack one name's picks to a batch, padding shorter rows with their last frame.

    Frames of different sizes (`FrameSpec.load_size`) are put into the top left corner of black ones that hold them
    all, and the label `frame_size` says what is real of each; training cuts its window out of that.
    """
    num_frames = max(len(pick.index) for pick in picks)
    index = torch.tensor([[*pick.index, *[pick.index[-1]] * (num_frames - len(pick.index))] for pick in picks])
    pixels = [np.zeros((0, 3, 0, 0), np.uint8) if read is None else read for read in frames]
    pixels = [_repeat_last(read, num_frames) if len(read) else read for read in pixels]
    sizes = [read.shape[2:] for read in pixels]
    labels = _labels(episodes, index)
    if len(set(sizes)) > 1:
        labels[FRAME_SIZE] = torch.tensor(sizes)
    return Video(
        frames=_stack(pixels),
        index=index,
        length=torch.tensor([len(pick.index) for pick in picks]),
        fps=torch.tensor([episode.fps for episode in episodes], dtype=torch.float32),
        text=_text(episodes),
        state=_column(episodes, "state", index),
        action=_column(episodes, "action", index),
        labels=labels,
    )


def _repeat_last(frames: UInt8[ndarray, "T 3 H W"], num_frames: int) -> UInt8[ndarray, "N 3 H W"]:
    short = num_frames - len(frames)
    return np.concatenate([frames, np.repeat(frames[-1:], short, 0)]) if short else frames


def _stack(rows: Sequence[UInt8[ndarray, "T 3 H W"]]) -> UInt8[Tensor, "B T 3 H W"]:
    height, width = (max(row.shape[axis] for row in rows) for axis in (2, 3))
    if all(row.shape[2:] == (height, width) for row in rows):
        return torch.from_numpy(np.stack(rows))
    stacked = torch.zeros((len(rows), len(rows[0]), 3, height, width), dtype=torch.uint8)
    for target, row in zip(stacked, rows, strict=True):
        target[..., : row.shape[2], : row.shape[3]] = torch.from_numpy(row)
    return stacked


def _text(episodes: Sequence[Episode]) -> tuple[str, ...] | None:
    tasks = tuple(episode.task for episode in episodes)
    return None if None in tasks else tuple(str(task) for task in tasks)


def _column(episodes: Sequence[Episode], name: str, index: Tensor) -> Tensor | None:
    columns = [episode.column(name) for episode in episodes]
    rows = [column[index[i].numpy()] for i, column in enumerate(columns) if column is not None]
    if len(rows) < len(columns):
        return None
    return torch.from_numpy(np.stack(rows)).float()


def _labels(episodes: Sequence[Episode], index: Tensor) -> dict[str, Tensor]:
    """Gather the truth that every episode of the batch has."""
    labels = {}
    for name in ("progress", "stage", "reward"):
        values = _column(episodes, name, index)
        if values is not None:
            labels[name] = values
    outcomes = [episode.success for episode in episodes]
    if None not in outcomes:
        labels["success"] = torch.tensor(outcomes, dtype=torch.float32)
    return labels
