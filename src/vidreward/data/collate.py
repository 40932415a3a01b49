"""Stack what was read of several episodes to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from vidreward.types import Episode, Pick, Video


def collate(name: str, episodes: Sequence[Episode], picks: Sequence[Pick], frames: Sequence[ndarray | None]) -> Video:
    """Stack one name's picks to a batch, padding shorter rows with their last frame."""
    num_frames = max(len(pick.index) for pick in picks)
    index = torch.tensor([[*pick.index, *[pick.index[-1]] * (num_frames - len(pick.index))] for pick in picks])
    pixels = []
    for episode, pick, read in zip(episodes, picks, frames, strict=True):
        if read is None:
            pixels.append(np.zeros((0, 3, 0, 0), np.uint8))
            continue
        if pixels and read.shape[1:] != pixels[0].shape[1:]:
            raise ValueError(
                f"frames of {episode.id!r} are {read.shape[2]}x{read.shape[3]}, those of {episodes[0].id!r} are "
                f"{pixels[0].shape[2]}x{pixels[0].shape[3]}; open the data with one size (size=64, or --data.size 64)"
            )
        short = num_frames - len(pick.index)
        pixels.append(np.concatenate([read, np.repeat(read[-1:], short, 0)]) if short else read)
    return Video(
        frames=torch.from_numpy(np.stack(pixels)),
        index=index,
        length=torch.tensor([len(pick.index) for pick in picks]),
        fps=torch.tensor([episode.fps for episode in episodes], dtype=torch.float32),
        text=_text(episodes),
        state=_column(episodes, "state", index),
        action=_column(episodes, "action", index),
        labels=_labels(episodes, index),
    )


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
