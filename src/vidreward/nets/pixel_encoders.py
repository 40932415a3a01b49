"""What policies see of pictures: random shifts, and the small convolutional encoders of HOLD's agent and DrQ-v2."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F


def shift_pixels(
    pixels: UInt8[Tensor, "B C H W"],
    shift: Int[Tensor, "B 2"],
    pad: int,
    border: Literal["replicate", "zero"] = "replicate",
) -> UInt8[Tensor, "B C H W"]:
    """Pad pictures on every side and cut the size back out, at a place of its own for each row.

    Args:
        pixels: Pictures, or stacks of them that move together.
        shift: Columns and rows to skip of the padded picture, 0..2 * pad; `pad` changes nothing.
        pad: Pixels added on each side.
        border: What is added: the nearest pixel, or black.

    Example:
        >>> picture = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
        >>> shift_pixels(picture, torch.tensor([[2, 1]]), pad=1).tolist()
        [[[[1, 1], [3, 3]]]]
    """
    num, channels, height, width = pixels.shape
    columns = torch.arange(width, device=pixels.device) + shift[:, :1] - pad  # (B, W)
    rows = torch.arange(height, device=pixels.device) + shift[:, 1:] - pad  # (B, H)
    place = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    moved = pixels.flatten(2).gather(2, place.view(num, 1, -1).expand(-1, channels, -1)).view_as(pixels)
    if border == "replicate":
        return moved
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return moved * inside[:, None]


class HoldEncoder(nn.Module):
    """The encoder of HOLD's agent: twice 5x5 convolution to 8 filters, ReLU, 2x2 max pooling; no dense layer."""

    def __init__(self, channels: int, height: int, width: int, noise: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(i, 8, kernel=5, padding=2) for i in (channels, 8))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight, generator=noise)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dim = 8 * (height // 4) * (width // 4)

    def forward(self, pixels: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        x = _unit_range(pixels)
        for layer in self.layers:
            x = F.relu(F.max_pool2d(layer(x), 2))  # pooling first: the same, and ReLU sees a quarter of the numbers
        return x.permute(0, 2, 3, 1).flatten(1)


class DrqEncoder(nn.Module):
    """The encoder of DrQ-v2: four 3x3 convolutions to 32 channels, the first with stride 2, ReLU after each."""

    def __init__(self, channels: int, height: int, width: int, noise: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(i, 32, kernel=3, stride=s) for i, s in ((channels, 2), *((32, 1),) * 3))
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight, gain=math.sqrt(2), generator=noise)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        sides = [(side - 3) // 2 - 5 for side in (height, width)]
        if min(sides) < 1:
            raise ValueError(f"DrQ-v2's encoder needs pictures of at least 15 pixels a side; got {height}x{width}")
        self.dim = 32 * sides[0] * sides[1]

    def forward(self, pixels: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        x = _unit_range(pixels) - 0.5
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.flatten(1)


def _conv(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """Make a convolution with zero biases whose weights are still to be drawn."""
    conv = nn.utils.skip_init(nn.Conv2d, in_channels, out_channels, kernel, stride=stride, padding=padding)
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _unit_range(pixels: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Turn 0-255 into 0-1, channels last, at once in the precision that convolutions will run in."""
    kind = pixels.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    return pixels.to(dtype, memory_format=torch.channels_last) / 255
