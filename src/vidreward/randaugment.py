"""RandAugment as HOLD has it: each sample draws a few colour operations, the same for all its frames and its goal.

Paper: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS 2020,
arXiv 1909.13719. HOLD calls TensorFlow's model garden (Apache-2.0), one operation at a time, on one tall picture: all
frames of a sample, its goal included, one below the other. Written anew from the facts in docs/methods/hold_r.md:
statistics are those of the tall picture, arithmetic is float32, and results are cut (not rounded) to uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vidreward.margin import CPU_CHUNK

OPERATIONS = (
    "autocontrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "cutout",
    "solarize_add",
)
"""In the order of the draw; one more number stands for doing nothing."""
NUM_DRAWS = 5
"""Uniform draws of a layer: operation, its probability, whether it is applied, row and column of the cut-out box."""
MAX_LEVEL = 10
"""End of the original's scale of magnitudes."""
GREY = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in TensorFlow's grey."""


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """How many operations a sample draws, and how strong they are.

    The strength is m = magnitude / 10. Color, contrast, brightness and sharpness leave a degenerate picture behind by
    the factor 0.1 + 1.8 m (3.7 as coded; 1 changes nothing); posterize keeps 4 m bits (8: all); solarize inverts
    pixels from 256 m on (512: none); solarize_add adds 110 m to pixels below 128; cutout blackens a box of up to
    80 m x 80 m pixels in a picture of 256, and in proportion in others.

    `as_coded` has the original's quirks: an operation that was drawn is always applied, and the degenerate picture of
    contrast is white. `fixed` applies it with the probability that the original draws from 0.2 to 0.8 and then
    forgets, takes the mean grey of the sample for contrast, smooths each frame for itself (as coded, the edge between
    one frame and the next is smoothed too), and refuses magnitudes beyond the scale's end, 10.
    """

    num_layers: int = 2
    """Operations drawn for a sample, one after the other; 0 for no RandAugment at all."""
    magnitude: int = 20
    """Strength: 0 to 10, the scale's end, though HOLD has 20."""
    variant: Literal["as_coded", "fixed"] = "as_coded"

    def __post_init__(self) -> None:
        if self.num_layers < 0:
            raise ValueError(f"randaugment.num_layers must be at least 0; got {self.num_layers}")
        if self.magnitude < 0 or (self.variant == "fixed" and self.magnitude > MAX_LEVEL):
            end = f" to {MAX_LEVEL}" if self.variant == "fixed" else " or more"
            raise ValueError(f"randaugment.magnitude of {self.variant!r} must be 0{end}; got {self.magnitude}")

    @property
    def factor(self) -> float:
        """How far color, contrast, brightness and sharpness go: 0 is the degenerate picture, 1 the picture itself."""
        return self.magnitude / MAX_LEVEL * 1.8 + 0.1


def randaugment(
    frames: UInt8[Tensor, "B S 3 H W"],
    real: Bool[Tensor, "B S"],
    config: RandAugment,
    draws: Float[Tensor, "B L 5"],
) -> UInt8[Tensor, "B S 3 H W"]:
    """Apply to each row the operations it drew.

    Args:
        frames: All frames of each sample, whatever their names, the goal included.
        real: Which of them are no padding; padding repeats real frames and does not count in statistics.
        config: How many operations, how strong.
        draws: From U(0, 1), on the CPU, so that it knows who drew what without waiting for the device.
    """
    out = frames.clone()
    for layer in draws.unbind(1):
        chosen = _chosen(layer, config)
        for number, operation in enumerate(OPERATIONS):
            rows = [i for i, drawn in enumerate(chosen) if drawn == number]
            if not rows:
                continue
            if operation == "cutout":
                _cut_out(out, rows, layer, config)
                continue
            group, counted = torch.stack([out[i] for i in rows]), torch.stack([real[i] for i in rows])
            for i, changed in zip(rows, _apply(operation, group, counted, config), strict=True):
                out[i] = changed
    return out


def _chosen(layer: Float[Tensor, "B 5"], config: RandAugment) -> list[int]:
    """Say which operation each row applies; len(OPERATIONS) for one that changes nothing."""
    nothing = len(OPERATIONS)
    chosen = (layer[:, 0] * (nothing + 1)).long()
    if config.variant == "fixed":
        chosen = torch.where(layer[:, 2] < 0.2 + 0.6 * layer[:, 1], chosen, nothing)
    if _num_bits(config) >= 8:
        chosen[chosen == OPERATIONS.index("posterize")] = nothing
    if _threshold(config) >= 256:
        chosen[chosen == OPERATIONS.index("solarize")] = nothing
    return chosen.tolist()


def _num_bits(config: RandAugment) -> int:
    return int(config.magnitude / MAX_LEVEL * 4)


def _threshold(config: RandAugment) -> int:
    return int(config.magnitude / MAX_LEVEL * 256)


def _apply(
    operation: str, frames: UInt8[Tensor, "R S 3 H W"], real: Bool[Tensor, "R S"], config: RandAugment
) -> UInt8[Tensor, "R S 3 H W"]:
    """Apply one operation, other than cutout, to rows that all drew it."""
    match operation:
        case "color":
            return _in_pieces(lambda images: _blend(_grey(images), images.float(), config.factor), frames)
        case "sharpness":
            return _sharpen(frames, config)
        case "invert":
            return frames.bitwise_not()
        case "autocontrast":
            table = _stretching(frames.amin((1, 3, 4)), frames.amax((1, 3, 4)))
        case "equalize":
            table = _equalizing(_histogram(frames, real))
        case "contrast" if config.variant == "fixed":
            table = _blend(_mean_grey(frames, real)[:, None, None], _all_values(frames).float(), config.factor)
        case _:
            table = _fixed_table(operation, _all_values(frames), config)
    return _look_up(frames, table.expand(len(frames), 3, 256))


def _all_values(frames: Tensor) -> Int[Tensor, "256"]:
    return torch.arange(256, device=frames.device)


def _fixed_table(operation: str, values: Int[Tensor, "256"], config: RandAugment) -> UInt8[Tensor, "256"]:
    """Say what becomes of every value, where that does not depend on the picture."""
    match operation:
        case "posterize":
            table = values & (256 - (256 >> _num_bits(config)))
        case "solarize":
            table = torch.where(values < _threshold(config), values, 255 - values)
        case "solarize_add":
            added = values + int(config.magnitude / MAX_LEVEL * 110)
            table = torch.where(values < 128, added.clamp(max=255), values)
        case "brightness":
            table = _blend(torch.zeros_like(values).float(), values.float(), config.factor)
        case "contrast":
            # as coded, a histogram's sum is taken for a mean: the number of pixels / 256, which is white when cut off
            table = _blend(torch.full_like(values, 255).float(), values.float(), config.factor)
        case _:
            raise AssertionError(operation)
    return table.to(torch.uint8)


def _look_up(frames: UInt8[Tensor, "R S 3 H W"], tables: UInt8[Tensor, "R 3 256"]) -> UInt8[Tensor, "R S 3 H W"]:
    """Replace every value by what its sample's and channel's table has for it."""

    def replaced(images: Tensor, tables: Tensor) -> Tensor:
        return tables.flatten().index_select(0, _bins(images)).view_as(images)

    return _in_pieces(replaced, frames, tables[:, None].expand(-1, frames.shape[1], -1, -1))


def _bins(images: UInt8[Tensor, "M 3 H W"]) -> Int[Tensor, "N"]:
    """Number the values of each image and channel apart: 256 for the first channel of the first image, and so on."""
    first = 256 * torch.arange(len(images) * 3, dtype=torch.int32, device=images.device)
    return images.int().add_(first.view(-1, 3, 1, 1)).flatten()


def _histogram(frames: UInt8[Tensor, "R S 3 H W"], real: Bool[Tensor, "R S"]) -> Int[Tensor, "R 3 256"]:
    """Count the values of each sample's channels in its real frames."""

    def count(images: Tensor) -> Tensor:
        num_bins = len(images) * 3 * 256
        bins = _bins(images)
        if not images.is_cuda:
            return torch.bincount(bins, minlength=num_bins).view(-1, 3, 256)
        # bincount would wait for the device, to learn the largest number
        ones = torch.ones(1, dtype=torch.int64, device=images.device).expand(len(bins))
        return (
            torch.zeros(num_bins, dtype=torch.int64, device=images.device)
            .scatter_add_(0, bins.long(), ones)
            .view(-1, 3, 256)
        )

    return (_in_pieces(count, frames) * real[:, :, None, None]).sum(1)


def _equalizing(histogram: Int[Tensor, "R 3 256"]) -> UInt8[Tensor, "R 3 256"]:
    """Make tables that level histograms in whole-number steps, as PIL does; a channel without spread stays."""
    values = torch.arange(256, device=histogram.device)
    largest = torch.where(histogram > 0, values, 0).amax(-1, keepdim=True)
    step = (histogram.sum(-1, keepdim=True) - histogram.gather(-1, largest)) // 255
    num_smaller = histogram.cumsum(-1) - histogram
    levels = ((num_smaller + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step == 0, values, levels).to(torch.uint8)


def _stretching(low: UInt8[Tensor, "R 3"], high: UInt8[Tensor, "R 3"]) -> UInt8[Tensor, "R 3 256"]:
    """Make tables that stretch low..high to 0..255; a channel of one value stays."""
    low, high = low[..., None].float(), high[..., None].float()
    values = torch.arange(256, device=low.device).float()
    scale = 255 / (high - low)
    stretched = (values * scale + -low * scale).clamp(0, 255)
    return torch.where(high > low, stretched, values).to(torch.uint8)


def _blend(degenerate: Tensor, images: Float[Tensor, "*S"], factor: float) -> UInt8[Tensor, "*S"]:
    """Go from a degenerate picture towards, or past, the picture itself."""
    blended = (images - degenerate).mul_(factor).add_(degenerate).clamp_(0, 255)
    # int16 in between: its conversion to uint8 is vectorised, that of float is not
    return blended.to(torch.int16).to(torch.uint8)


def _grey(images: UInt8[Tensor, "M 3 H W"]) -> Float[Tensor, "M 1 H W"]:
    """Mix the channels to whole numbers; TensorFlow scales by 255.5 / 255 before it cuts the fraction off."""
    red, green, blue = (c * (weight * 255.5 / 255) for c, weight in zip(images.unbind(1), GREY, strict=True))
    return red.add_(green).add_(blue).floor_()[:, None]


def _mean_grey(frames: UInt8[Tensor, "R S 3 H W"], real: Bool[Tensor, "R S"]) -> Float[Tensor, "R"]:
    """Average the grey of each sample's real frames, to a whole number."""
    means = _in_pieces(lambda images: _grey(images).mean((1, 2, 3)), frames)
    return ((means * real).sum(1) / real.sum(1)).round()


def _sharpen(frames: UInt8[Tensor, "R S 3 H W"], config: RandAugment) -> UInt8[Tensor, "R S 3 H W"]:
    num_rows, num_frames, _, height, width = frames.shape
    if config.variant == "fixed":
        return _sharpen_planes(frames.view(-1, height, width), config.factor).view_as(frames)
    tall = frames.transpose(1, 2).reshape(-1, num_frames * height, width)
    return _sharpen_planes(tall, config.factor).view(num_rows, 3, num_frames, height, width).transpose(1, 2)


def _sharpen_planes(planes: UInt8[Tensor, "P H W"], factor: float) -> UInt8[Tensor, "P H W"]:
    """Go away from what [1 1 1; 1 5 1; 1 1 1] / 13 makes of each plane; the border stays as it is."""
    out = planes.clone()
    num_planes, height, width = planes.shape
    depth = num_planes if planes.is_cuda else max(1, CPU_CHUNK // (height * width))
    lines = height if planes.is_cuda else max(1, CPU_CHUNK // width)
    for first in range(0, num_planes, depth):
        for top in range(0, height - 2, lines):
            part = planes[first : first + depth, top : top + lines + 2].to(torch.int16)
            centre = part[:, 1:-1, 1:-1]
            columns = part[:, :-2] + part[:, 1:-1] + part[:, 2:]
            weighted = (columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]).add_(centre, alpha=4)
            # half a unit more keeps a quotient that is whole from falling below itself
            smooth = (weighted + 0.5).mul_(1 / 13).floor_()
            sharp = _blend(smooth, centre.float(), factor)
            out[first : first + depth, top + 1 : top + 1 + centre.shape[1], 1:-1] = sharp
    return out


def _cut_out(
    frames: UInt8[Tensor, "B S 3 H W"], rows: Sequence[int], layer: Float[Tensor, "B 5"], config: RandAugment
) -> None:
    """Blacken one box in each of these rows, in place and in the same place of all its frames."""
    height, width = frames.shape[-2:]
    half = int(config.magnitude / MAX_LEVEL * 40)
    for row in rows:
        top, bottom = _box(float(layer[row, 3]), height, half)
        left, right = _box(float(layer[row, 4]), width, half)
        frames[row, ..., top:bottom, left:right] = 0


def _box(draw: float, side: int, half: int) -> tuple[int, int]:
    """Place a box of twice `half` pixels (of 256) around a random pixel; what lies outside the frame is lost."""
    centre, half = int(draw * side), round(half * side / 256)
    return max(0, centre - half), min(side, centre + half)


def _in_pieces(function: Callable[..., Tensor], frames: UInt8[Tensor, "R S 3 H W"], *others: Tensor) -> Tensor:
    """Apply a function of images, and of what belongs to each, to pieces that stay in a CPU's cache; a GPU takes all.

    Returns:
        Its results (R, S, ...), those of images in the shape of the frames.
    """
    images = frames.flatten(0, 1)
    others = tuple(other.flatten(0, 1) for other in others)
    num_images = len(images) if frames.is_cuda else max(1, CPU_CHUNK // images[0].numel())
    pieces = zip(*(tensor.split(num_images) for tensor in (images, *others)), strict=True)
    return torch.cat([function(*piece) for piece in pieces]).unflatten(0, frames.shape[:2])
