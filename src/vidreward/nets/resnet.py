"""ResNet as HOLD trains it: several images stacked on the channel axis, statistics per clip, a linear head.

Source: hold-rewards `scenic/projects/baselines/resnet.py` (Apache-2.0), see docs/methods/hold_c.md. The
trunk is torchvision's v1.5 ResNet (stride on the 3x3 convolution) and keeps its parameter names, so that common
weights load; the initialisation is flax's.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vidreward.nets.batch_norm import ClipBatchNorm2d
from vidreward.nets.init import lecun_normal_

FOLD_FROM = 300_000
"""Pixels of a batch from which scoring folds normalisation into the convolutions; it costs a pass over the weights."""

Depth = Literal[14, 18, 34, 50]
_STAGES: dict[int, tuple[int, int, int, int]] = {14: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECK = {14, 50}


def convolve(
    conv: nn.Module, norm: nn.Module, x: Tensor, num_clips: int | None, fold: bool
) -> Float[Tensor, "M C H W"]:
    """Convolve and normalise; `fold` does both at once, which needs the running statistics (evaluation mode)."""
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, ClipBatchNorm2d)
    if not fold:
        if x.shape[-1] == 1 and conv.kernel_size[1] == 3:
            # the outer columns see only padding; oneDNN (torch 2.15, bfloat16, stride 2) leaves their gradient unset
            return norm(F.conv2d(x, conv.weight[..., 1:2], None, conv.stride, (1, 0)), num_clips)
        return norm(conv(x), num_clips)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    return F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride, conv.padding)


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1 that widens four times."""

    def __init__(self, num_inputs: int, num_filters: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        num_outputs = num_filters * 4 if bottleneck else num_filters
        widths = [num_inputs, *[num_filters] * (len(kernels) - 1), num_outputs]
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        self.num_convs = len(kernels)
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, strides[i], kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", ClipBatchNorm2d(widths[i + 1]))
        self.downsample: nn.ModuleList | None = None
        if stride != 1 or num_inputs != num_outputs:
            conv = nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False)
            self.downsample = nn.ModuleList([conv, ClipBatchNorm2d(num_outputs)])

    def forward(self, x: Tensor, num_clips: int | None, fold: bool) -> Tensor:
        residual = x
        if self.downsample is not None:
            residual = convolve(self.downsample[0], self.downsample[1], x, num_clips, fold)
        for i in range(1, self.num_convs + 1):
            x = convolve(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), x, num_clips, fold)
            if i < self.num_convs:
                x = F.relu(x, inplace=True)
        return F.relu(x + residual, inplace=True)


class ResNet(nn.Module):
    """Map stacked uint8 images to a vector.

    Args:
        depth: 18, 34 (basic blocks) or 50 (bottlenecks); 14 is one bottleneck a stage, for tests.
        num_images: Images stacked on the channel axis (3 channels each, oldest first, goal last).
        num_outputs: Width of the linear head; no activation, no normalisation.
        num_filters: Width of the stem; the stages have 1, 2, 4 and 8 times as many.
    """

    def __init__(self, depth: Depth, *, num_images: int = 1, num_outputs: int, num_filters: int = 64) -> None:
        super().__init__()
        self.num_images = num_images
        bottleneck = depth in _BOTTLENECK
        self.conv1 = nn.Conv2d(3 * num_images, num_filters, 7, 2, 3, bias=False)
        self.bn1 = ClipBatchNorm2d(num_filters)
        width = num_filters
        for stage, num_blocks in enumerate(_STAGES[depth]):
            blocks = nn.ModuleList()
            for j in range(num_blocks):
                filters = num_filters * 2**stage
                # the first stage's projection has stride 1: the stem has already pooled
                blocks.append(Block(width, filters, 2 if j == 0 and stage > 0 else 1, bottleneck))
                width = filters * 4 if bottleneck else filters
            self.add_module(f"layer{stage + 1}", blocks)
        self.fc = nn.Linear(width, num_outputs)
        self.apply(_init_like_flax)
        for block in self.blocks():
            last = block.get_submodule(f"bn{block.num_convs}")
            assert isinstance(last, ClipBatchNorm2d)
            nn.init.zeros_(last.weight)

    def blocks(self) -> list[Block]:
        """Return the residual blocks in order."""
        return [module for module in self.modules() if isinstance(module, Block)]

    def forward(self, images: UInt8[Tensor, "M C H W"], num_clips: int | None = None) -> Float[Tensor, "M D"]:
        """Encode uint8 images (M, 3 * num_images, H, W).

        In training, `num_clips` clips are normalised apart; None: the batch of all processes as one.

        Returns:
            float32 vectors (M, num_outputs).
        """
        dtype = self.conv1.weight.dtype
        x = images.contiguous(memory_format=torch.channels_last).to(dtype) * (2 / 255) - 1
        num_pixels = images.shape[0] * images.shape[2] * images.shape[3]
        fold = not self.training and not torch.is_grad_enabled() and num_pixels >= FOLD_FROM
        x = F.relu(convolve(self.conv1, self.bn1, x, num_clips, fold), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks():
            x = block(x, num_clips, fold)
        if self.training:
            return self.fc(x.mean((2, 3))).float()
        # a score of 40 in bfloat16 has steps of 0.25: neighbouring frames would tie
        with torch.autocast(x.device.type, enabled=False):
            return self.fc(x.mean((2, 3), dtype=torch.float32))


def _init_like_flax(module: nn.Module) -> None:
    """Draw kernels as flax does by default; biases are zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        lecun_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
