"""Initialisations of flax that torch does not have."""

from __future__ import annotations

import math

from torch import Tensor, nn


def lecun_normal_(weight: Tensor) -> Tensor:
    """Draw a kernel from a normal cut at two standard deviations, variance 1 / fan-in: flax's default.

    Args:
        weight: Of a convolution (out, in, h, w) or a linear layer (out, in); filled in place.
    """
    std = math.sqrt(1 / weight[0].numel()) / 0.87962566103423978  # the variance lost by the cut
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
