"""Frames that were read with a margin around what a model sees: training cuts a random piece, scoring the centre.

HOLD reads 288 pixels for 256 (docs/methods/hold_r.md). In training a frame is scaled by two random factors, for
height and width, and a window is cut out of it. Only the pixels of the window are ever computed, in the arithmetic of
`tf.image.resize` (bilinear, half-pixel centres, no antialiasing, float32, truncated to uint8). The scaling to 288
before that is the decoder's own (data/pixels.py), which rounds: on real clips its pixels are 0.3 to 0.5 levels of 255
from TensorFlow's, on average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from vidreward.types import Episode, FrameSource

FRAME_SIZE = "frame_size"
"""Label of a video whose rows differ in size: the real height and width of each, int (B, 2)."""
CPU_CHUNK = 2**18
"""Numbers that a CPU works on at once, so that they stay in its cache."""


@dataclass(frozen=True)
class CentreSource:
    """The centre of the frames of another source."""

    source: FrameSource
    size: tuple[int, int]

    def read(self, indices: Sequence[int], camera: str) -> UInt8[ndarray, "T 3 H W"]:
        return cut_centre(self.source.read(indices, camera), self.size)

    def iterate(self, camera: str) -> Iterator[UInt8[ndarray, "3 H W"]]:
        for frame in self.source.iterate(camera):
            yield cut_centre(frame, self.size)


def cut_centre(frames: UInt8[ndarray, "*T 3 H W"], size: tuple[int, int]) -> UInt8[ndarray, "*T 3 h w"]:
    """Cut the centre of this (height, width) out of frames.

    Raises:
        ValueError: They are smaller.
    """
    height, width = frames.shape[-2:]
    if (height, width) == size:
        return frames
    if height < size[0] or width < size[1]:
        raise ValueError(
            f"frames of {height}x{width} are smaller than the model's {size[0]}x{size[1]}; open them with this size, "
            "or with a load_size that is at least as large"
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return np.ascontiguousarray(frames[..., top : top + size[0], left : left + size[1]])


def centre_views(episodes: Sequence[Episode], size: tuple[int, int] | None) -> Sequence[Episode]:
    """Return episodes whose frames and goals are the centres of those given; they themselves where size is None.

    Raises:
        ValueError: When a frame is read that is smaller than the size.
    """
    return episodes if size is None else [_centre_view(episode, size) for episode in episodes]


def _centre_view(episode: Episode, size: tuple[int, int]) -> Episode:
    goal = (lambda: cut_centre(episode.goal(), size)) if episode.has_goal else None
    return Episode(episode.info, CentreSource(episode.source, size), columns=episode.columns, goal=goal)


def scale_and_cut(
    frames: UInt8[Tensor, "B T 3 H W"],
    sizes: Int[Tensor, "B 2"],
    size: tuple[int, int],
    *,
    factors: Float[Tensor, "B 2"],
    places: Float[Tensor, "B 2"],
    mirrored: Bool[Tensor, "B"],
) -> UInt8[Tensor, "B T 3 h w"]:
    """Scale each row, cut a window out of it and mirror it, the same for all frames of the row.

    Args:
        frames: Rows, each in the top left corner of H x W.
        sizes: Real height and width of each row.
        size: Height and width of the window.
        factors: Magnification of height and width; a row is never scaled below the window.
        places: Where the window lies, 0 (top, left) to 1 (excluded).
        mirrored: Whether to mirror.
    """
    x, y = window_taps(sizes, size, factors=factors, places=places, mirrored=mirrored)
    planes = frames.flatten(1, 2)  # (B, T * 3, H, W)
    if planes.is_cuda:
        return cut_at_once(planes, x, y).unflatten(1, frames.shape[1:3])
    return torch.stack([cut_row(planes[i], x.row(i), y.row(i)) for i in range(len(planes))]).view(
        *frames.shape[:3], *size
    )


@dataclass(frozen=True)
class Taps:
    """The two pixels along one axis that make a new one, and the weight of the second."""

    low: Int[Tensor, "B n"]
    high: Int[Tensor, "B n"]
    weight: Float[Tensor, "B n"]

    def row(self, number: int) -> Taps:
        """Return those of one row, as a batch of one."""
        return Taps(self.low[number, None], self.high[number, None], self.weight[number, None])


def window_taps(
    sizes: Int[Tensor, "B 2"],
    size: tuple[int, int],
    *,
    factors: Float[Tensor, "B 2"],
    places: Float[Tensor, "B 2"],
    mirrored: Bool[Tensor, "B"],
) -> tuple[Taps, Taps]:
    """Say where the columns and lines of each row's window come from; arguments as of `scale_and_cut`."""
    straight = torch.zeros_like(mirrored)
    x = _taps(sizes[:, 1], size[1], factors[:, 1], places[:, 1], mirrored)
    y = _taps(sizes[:, 0], size[0], factors[:, 0], places[:, 0], straight)
    return x, y


def _taps(
    sizes: Int[Tensor, "B"],
    window: int,
    factors: Float[Tensor, "B"],
    places: Float[Tensor, "B"],
    mirrored: Bool[Tensor, "B"],
) -> Taps:
    """Say which old pixels each of the window's comes from, along one axis."""
    scaled = (sizes * factors).long().clamp(min=window)
    offsets = torch.minimum((places * (scaled - window + 1)).long(), scaled - window)
    steps = torch.arange(window, device=sizes.device)
    steps = torch.where(mirrored[:, None], window - 1 - steps, steps)  # (B, n)
    scale = sizes.float() / scaled.float()
    at = ((offsets[:, None] + steps).float() + 0.5) * scale[:, None] - 0.5
    low = at.floor()
    return Taps(low.long().clamp(min=0), torch.minimum(at.ceil().long(), sizes[:, None] - 1), at - low)


def cut_at_once(planes: UInt8[Tensor, "B P H W"], x: Taps, y: Taps) -> UInt8[Tensor, "B P h w"]:
    """Interpolate all rows together, with few launches of a GPU's kernels."""
    shape = (*planes.shape[:3], x.low.shape[1])
    left, right = (planes.gather(3, taps[:, None, None].expand(shape)) for taps in (x.low, x.high))
    return _interpolate(left, right, x.weight, y)


def cut_row(planes: UInt8[Tensor, "P H W"], x: Taps, y: Taps) -> UInt8[Tensor, "P h w"]:
    """Interpolate one row on a CPU, a few planes at a time, from the lines that the window needs."""
    num_planes, height, width = planes.shape
    first, last = int(y.low.min()), int(y.high.max())
    y = Taps(y.low - first, y.high - first, y.weight)
    num_lines = last - first + 1
    at_once = min(num_planes, max(1, CPU_CHUNK // (num_lines * x.low.shape[1])))
    # a list of places, made once for all planes, is read twice as fast as by `gather`
    starts = width * (height * torch.arange(at_once)[:, None] + torch.arange(first, last + 1)).view(-1, 1)
    low, high = ((starts + taps).int().flatten() for taps in (x.low, x.high))
    pieces = []
    for piece in planes.split(at_once):
        shape = (1, len(piece), num_lines, x.low.shape[1])
        left, right = (piece.flatten().index_select(0, places[: math.prod(shape)]) for places in (low, high))
        pieces.append(_interpolate(left.view(shape), right.view(shape), x.weight, y)[0])
    return torch.cat(pieces)


def _interpolate(
    left: UInt8[Tensor, "B P H w"], right: UInt8[Tensor, "B P H w"], x_weight: Float[Tensor, "B w"], y: Taps
) -> UInt8[Tensor, "B P h w"]:
    """Interpolate along lines, then between them: the order, and so the rounding, of `tf.image.resize`."""
    num_rows, num_planes, height, width = left.shape
    lines = _between(left.float(), right.float(), x_weight[:, None, None]).view(-1, width)
    # whole lines are copied: gathering along this axis is ten times slower on a CPU
    starts = height * torch.arange(num_rows * num_planes, device=left.device).view(num_rows, num_planes, 1)
    top, bottom = (lines.index_select(0, (starts + taps[:, None]).flatten()) for taps in (y.low, y.high))
    weight = y.weight[:, None].expand(-1, num_planes, -1).reshape(-1, 1)
    # int16 in between: its conversion to uint8 is vectorised, that of float is not
    out = _between(top, bottom, weight).to(torch.int16).to(torch.uint8)
    return out.view(num_rows, num_planes, -1, width)


def _between(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Go from the first to the second, which is overwritten; two roundings, as TensorFlow has, where lerp has one."""
    return second.sub_(first).mul_(weight).add_(first)
