"""Optimisers and the learning-rate schedule of `fit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

OptimizerName = Literal["adam", "adamw", "momentum_bf16"]


def learning_rate(step: int, *, base_lr: float, total_steps: int, warmup_steps: int = 0) -> float:
    """Warm up linearly from 0, then follow half a cosine to 0 (docs/methods/hold_r.md).

    Args:
        step: Updates already done.
        base_lr: Peak.
        total_steps: Updates after which the rate is 0.
        warmup_steps: Updates until the peak; 0 starts at it.

    Example:
        >>> round(learning_rate(1, base_lr=0.1, total_steps=172280, warmup_steps=21535), 10)
        4.6436e-06
    """
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    done = max(0, step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base_lr * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class MomentumBf16(Optimizer):
    """Heavy-ball SGD whose momentum buffer is kept in bfloat16: HOLD-R's `momentum_hp` (docs/methods/hold_r.md).

    m = momentum * m + gradient; parameter -= lr * m; m is rounded after it was used.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient, all of a group at once: few calls, which a GPU waits for."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            stored = [self.state[parameter]["momentum"] for parameter in parameters]
            momenta = [old.to(parameter.dtype) for old, parameter in zip(stored, parameters, strict=True)]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, [parameter.grad for parameter in parameters])
            torch._foreach_add_(parameters, momenta, alpha=-group["lr"])
            torch._foreach_copy_(stored, momenta)


def make_optimizer(
    params: Iterable[nn.Parameter], name: OptimizerName, *, lr: float, weight_decay: float = 0.0
) -> Optimizer:
    """Make an optimiser by name.

    Args:
        params: Parameters to train.
        name: `adam` (0.9, 0.999, 1e-8), `adamw`, or `momentum_bf16` (0.9).
        lr: Peak learning rate; `fit` sets the current one before each step.
        weight_decay: Decoupled decay, for `adamw` only.

    Raises:
        ValueError: Weight decay with an optimiser that has none.
    """
    if name == "adamw":
        return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, fused=True)
    if weight_decay:
        raise ValueError(f"weight_decay={weight_decay} has no meaning for {name!r}; choose optimizer 'adamw'")
    if name == "adam":
        return torch.optim.Adam(params, lr=lr, fused=True)
    return MomentumBf16(params, lr=lr)
