"""Augment clips on the training device: one draw per row, shared by all its frames, the goal included.

A reward compares frames of one episode, so that a change of one frame alone would be a change of the label. HOLD
draws once for the state frames and the goal (docs/methods/hold_r.md); `fit` does the same for every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from vidreward.margin import FRAME_SIZE, scale_and_cut
from vidreward.randaugment import NUM_DRAWS as NUM_LAYER_DRAWS
from vidreward.randaugment import RandAugment, randaugment
from vidreward.types import Video

NUM_DRAWS = 11
"""Uniform draws a row takes."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Ranges of the random changes; the defaults change nothing."""

    zoom: tuple[float, float] = (1.0, 1.0)
    """Magnification, drawn apart for height and width. A value below 1 repeats the border, unless the frames were read
    with a margin (`DataConfig.load_size`)."""
    shift: float = 0.0
    """Largest shift, as a fraction of the side, in each direction."""
    rotate: float = 0.0
    """Largest rotation, in degrees. A camera that looks straight down has no up: 180 is right there."""
    flip: float = 0.0
    """Probability of a mirror image. Wrong where left and right matter; HOLD as coded has 0.5."""
    brightness: float = 0.0
    """Largest relative change of brightness."""
    contrast: float = 0.0
    """Largest relative change of contrast, around the row's mean."""
    saturation: float = 0.0
    """Largest relative change of saturation."""
    hue: float = 0.0
    """Largest rotation of the hue, in turns (0.5 reaches every hue)."""
    grey: float = 0.0
    """Probability of a grey clip."""
    randaugment: RandAugment = RandAugment(num_layers=0)
    """Operations on colours, sharpness and boxes, drawn for each sample; the last of all changes."""

    @property
    def moves(self) -> bool:
        """Whether pixels change place."""
        return self.zoom != (1.0, 1.0) or max(self.shift, self.rotate, self.flip) > 0

    @property
    def colours(self) -> bool:
        """Whether pixels change value."""
        return max(self.brightness, self.contrast, self.saturation, self.hue, self.grey) > 0


JITTER = Augment(zoom=(1.0, 1.25), brightness=0.3, contrast=0.3, saturation=0.5, hue=0.5)
"""For a camera that sees the scene from one side, always the same way up."""
TOP_DOWN = Augment(
    zoom=(0.9, 1.3), shift=0.05, rotate=180, brightness=0.4, contrast=0.4, saturation=0.7, hue=0.5, grey=0.1
)
"""For a camera that looks straight down, where every turn of the picture is as good."""
HOLD = Augment(zoom=(0.9, 1.33), flip=0.5, randaugment=RandAugment())
"""HOLD as coded, for frames with its margin: `load_size` 288 for 256."""
HOLD_FIXED = Augment(zoom=(0.9, 1.33), randaugment=RandAugment(variant="fixed", magnitude=9))
"""The same without mirror images, and with RandAugment as it was meant, at its paper's magnitude for ImageNet."""


def augment_batch(
    batch: Mapping[str, Video],
    config: Augment,
    generator: torch.Generator,
    *,
    size: tuple[int, int] | None = None,
    first_row: int = 0,
    num_rows: int | None = None,
) -> dict[str, Video]:
    """Augment every name of a batch with one draw per row.

    Args:
        batch: Videos of the same B rows, on one device.
        config: What to draw.
        generator: CPU generator: the draws do not depend on the device.
        size: Height and width of the model's frames. Frames with a margin around it are scaled by `config.zoom`, and
            a random window is cut out of them. None: frames stay as large as they are.
        first_row: Number of the first of these rows in the batch of all processes.
        num_rows: Rows of that batch; None: these are all.

    Raises:
        ValueError: The rows differ in size, or are smaller than `size`.
    """
    cuts = any(_has_margin(video, size) for video in batch.values())
    if not (cuts or config.moves or config.colours or config.randaugment.num_layers):
        return dict(batch)
    num_here = next(iter(batch.values())).frames.shape[0]
    here = slice(first_row, first_row + num_here)
    num_rows = num_here if num_rows is None else num_rows
    device = next(iter(batch.values())).frames.device
    draws = torch.rand(num_rows, NUM_DRAWS, generator=generator)[here].to(device, non_blocking=True)
    videos = {name: _augment_video(video, config, draws, size) for name, video in batch.items()}
    if config.randaugment.num_layers == 0:
        return videos
    layers = torch.rand(num_rows, config.randaugment.num_layers, NUM_LAYER_DRAWS, generator=generator)[here]
    return _randaugment_together(videos, config.randaugment, layers)


def _randaugment_together(
    videos: Mapping[str, Video], config: RandAugment, layers: Float[Tensor, "B L 5"]
) -> dict[str, Video]:
    """Apply RandAugment to all frames of each row at once, whatever their names: statistics are those of the sample."""
    parts: list[tuple[Tensor, Tensor]] = []
    for video in videos.values():
        numbers = torch.arange(video.frames.shape[1], device=video.frames.device)
        parts.append((video.frames, numbers < video.length[:, None]))
        if video.goal is not None:
            parts.append((video.goal, torch.ones(video.goal.shape[:2], dtype=torch.bool, device=video.goal.device)))
    parts = [(frames, real) for frames, real in parts if frames.shape[1]]
    done = randaugment(torch.cat([f for f, _ in parts], 1), torch.cat([r for _, r in parts], 1), config, layers)
    rest = iter(done.split([frames.shape[1] for frames, _ in parts], 1))
    return {
        name: replace(
            video,
            frames=next(rest) if video.frames.shape[1] else video.frames,
            goal=next(rest) if video.goal is not None else None,
        )
        for name, video in videos.items()
    }


def _has_margin(video: Video, size: tuple[int, int] | None) -> bool:
    """Whether frames must be cut to become the model's.

    Raises:
        ValueError: They cannot become the model's.
    """
    given = tuple(video.frames.shape[-2:])
    if video.frames.shape[1] == 0:
        return False
    if size is None:
        if FRAME_SIZE in video.labels:
            raise ValueError("rows differ in size; open the data with one size (size=64, or --data.size 64)")
        return False
    if given[0] < size[0] or given[1] < size[1]:
        raise ValueError(
            f"frames of {given[0]}x{given[1]} are smaller than the model's {size[0]}x{size[1]}; open the data with "
            "this size, or with a load_size that is at least as large"
        )
    return given != size or FRAME_SIZE in video.labels


def _augment_video(video: Video, config: Augment, draws: Float[Tensor, "B 11"], size: tuple[int, int] | None) -> Video:
    if size is not None and _has_margin(video, size):
        video = _cut(video, config, draws, size)
        config = replace(config, zoom=(1.0, 1.0), flip=0.0)
    frames = augment_frames(video.frames, config, draws)
    goal = None if video.goal is None else augment_frames(video.goal, config, draws)
    return replace(video, frames=frames, goal=goal)


def _cut(video: Video, config: Augment, draws: Float[Tensor, "B 11"], size: tuple[int, int]) -> Video:
    """Scale and mirror frames with a margin, and cut a window out of them."""
    labels = dict(video.labels)
    sizes = labels.pop(FRAME_SIZE, None)
    if sizes is None:
        sizes = torch.empty((len(draws), 2), dtype=torch.int64, device=draws.device)
        sizes[:, 0], sizes[:, 1] = video.frames.shape[-2:]
    low, high = config.zoom

    def cut(frames: Tensor) -> Tensor:
        factors = low + (high - low) * draws[:, 0:2]
        mirrored = draws[:, 4] < config.flip
        return scale_and_cut(frames, sizes, size, factors=factors, places=draws[:, 2:4], mirrored=mirrored)

    return replace(video, frames=cut(video.frames), goal=None if video.goal is None else cut(video.goal), labels=labels)


def augment_frames(
    frames: UInt8[Tensor, "B T 3 H W"], config: Augment, draws: Float[Tensor, "B 11"]
) -> UInt8[Tensor, "B T 3 H W"]:
    """Apply draws from U(0, 1) to frames; the same row of draws always does the same."""
    if frames.shape[1] == 0 or not (config.moves or config.colours):
        return frames
    x = frames.float()
    if config.moves:
        x = _move(x, config, draws)
    if config.colours:
        x = _recolour(x, config, draws)
    return x.round_().clamp_(0, 255).to(torch.uint8)


def _move(x: Float[Tensor, "B T 3 H W"], config: Augment, draws: Float[Tensor, "B 11"]) -> Tensor:
    num_rows, num_frames, _, height, width = x.shape
    low, high = config.zoom
    zoom = low + (high - low) * draws[:, 0:2]
    # a zoomed-in view may lie anywhere inside the frame, as a random crop does, and the shift comes on top
    room = (1 - 1 / zoom).clamp(min=0) + 2 * config.shift
    offset = room * (2 * draws[:, 2:4] - 1)
    mirror = torch.where(draws[:, 4] < config.flip, -1.0, 1.0)
    angle = torch.deg2rad(config.rotate * (2 * draws[:, 10] - 1))
    cos, sin = angle.cos(), angle.sin()
    # grid coordinates are halves of each side: a rotation of a picture that is not square must undo that
    aspect = width / height
    theta = torch.zeros(num_rows, 2, 3, device=x.device)
    theta[:, 0, 0] = mirror * cos / zoom[:, 0]
    theta[:, 0, 1] = -mirror * sin / zoom[:, 0] / aspect
    theta[:, 1, 0] = sin / zoom[:, 1] * aspect
    theta[:, 1, 1] = cos / zoom[:, 1]
    theta[:, :, 2] = offset
    flat = x.reshape(num_rows, num_frames * 3, height, width)
    grid = F.affine_grid(theta, [num_rows, 1, height, width], align_corners=False)
    moved = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.view_as(x)


def _recolour(x: Float[Tensor, "B T 3 H W"], config: Augment, draws: Float[Tensor, "B 11"]) -> Tensor:
    """Turn, saturate and scale colours by one affine map of RGB per row: a 3x3 matrix and an offset."""
    num_rows = x.shape[0]
    luma = torch.tensor([0.299, 0.587, 0.114], device=x.device)

    def factor(strength: float, draw: Tensor) -> Tensor:
        return 1 + strength * (2 * draw - 1)

    saturation = torch.where(draws[:, 8] < config.grey, 0.0, factor(config.saturation, draws[:, 5]))
    angle = 2 * torch.pi * config.hue * (2 * draws[:, 6] - 1)
    eye = torch.eye(3, device=x.device)
    grey = luma.expand(3, 3)  # projects a colour to its luma
    # rotation about the grey axis (Rodrigues), exact for luma = mean; close enough for jitter
    axis = torch.full((3,), 3**-0.5, device=x.device)
    cross = torch.tensor([[0, -1.0, 1], [1, 0, -1], [-1, 1, 0]], device=x.device) * 3**-0.5
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    turn = cos * eye + sin * cross + (1 - cos) * torch.outer(axis, axis)
    saturate = grey + saturation.view(-1, 1, 1) * (eye - grey)
    brightness = factor(config.brightness, draws[:, 7])
    contrast = factor(config.contrast, draws[:, 9])
    matrix = turn @ saturate * (brightness * contrast).view(-1, 1, 1)
    mean = x.mean((1, 2, 3, 4)) * brightness
    out = torch.einsum("bij,btjhw->btihw", matrix, x)
    return out + ((1 - contrast) * mean).view(num_rows, 1, 1, 1, 1)
