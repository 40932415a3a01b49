"""Batch normalisation of clips: the statistics of each clip, or of a batch that several processes share.

The running statistics are flax's: the mean over clips of the batch mean and of the *biased* batch variance, momentum
0.9 in flax's sense (0.1 in torch's).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidreward import processes


class ClipBatchNorm2d(nn.BatchNorm2d):
    """Normalise each clip of the batch by its own statistics, or the batch as one.

    HOLD-C puts one video on each device, so that no statistic crosses videos (docs/methods/hold_c.md). Here a batch
    holds `num_clips` clips of equal length, one after the other. As one, the batch of all processes has one statistic,
    so that their number changes nothing.
    """

    def forward(self, x: Float[Tensor, "M C H W"], num_clips: int | None = None) -> Float[Tensor, "M C H W"]:
        """Normalise (num_clips * T, C, H, W); None: the whole batch is one, over all processes."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        spans_processes = num_clips is None and processes.is_split()
        if spans_processes or torch.compiler.is_compiling():
            with torch.autocast(x.device.type, enabled=False):
                out, means, variances = _Normalise.apply(
                    x, self.weight, self.bias, num_clips or 1, self.eps, spans_processes
                )
        else:
            out, means, variances = self._normalise_each(x, num_clips or 1)
        with torch.no_grad():
            self.running_mean.lerp_(means.mean(0), self.momentum)
            self.running_var.lerp_(variances.mean(0), self.momentum)
        return out

    def _normalise_each(self, x: Tensor, num_clips: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise clip after clip by torch's kernel, which reads each once for both statistics.

        Eagerly that beats elementary operations on all clips at once, each of which reads and writes the whole batch:
        the layers of a ResNet-50 on 8 clips of 32 frames at 64 px took 1.1 s against 4.6 s on one core, forward and
        backward (in bfloat16 0.8 s against 11 s). A compiler fuses the operations, and would unroll this loop.
        """
        means = torch.zeros(num_clips, self.num_features, device=x.device)
        variances = torch.zeros_like(means)
        clips = x.chunk(num_clips)
        # momentum 1 makes batch_norm write the clip's own statistics into the rows: no second pass over x
        out = [
            F.batch_norm(clip, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for clip, mean, variance in zip(clips, means, variances, strict=True)
        ]
        count = clips[0].numel() // self.num_features
        return out[0] if num_clips == 1 else torch.cat(out), means, variances * ((count - 1) / count)


class _Normalise(torch.autograd.Function):
    """Normalise all clips at once, statistics in float32; only the input and the statistics are kept for backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_clips: int, eps: float, spans_processes: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        clips = _by_clip(x, num_clips)
        mean = clips.mean(1, dtype=torch.float32)
        if spans_processes:
            mean = processes.mean(mean)
        variance = (clips - mean[:, None]).square().mean(1)
        if spans_processes:
            variance = processes.mean(variance)
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        out = torch.empty_like(x)
        torch.addcmul((bias - mean * scale)[:, None], clips, scale[:, None], out=_by_clip(out, num_clips))
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.num_clips, ctx.spans_processes = num_clips, spans_processes
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        """With n = (x - mean) / std: dx = weight / std * (dy - mean(dy) - n * mean(dy * n)), means over the clip."""
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        clips, gradients = _by_clip(x, ctx.num_clips), _by_clip(gradient, ctx.num_clips)
        of_bias = gradients.sum(1, dtype=torch.float32)
        of_weight = (gradients * (clips - mean[:, None])).sum(1) * inverse
        means = torch.stack([of_bias, of_weight]) / clips.shape[1]
        if ctx.spans_processes:
            means = processes.mean(means)
        normal = (clips - mean[:, None]) * inverse[:, None]
        of_x = torch.empty_like(x)
        of_clips = (weight * inverse)[:, None] * (gradients - means[0][:, None] - normal * means[1][:, None])
        _by_clip(of_x, ctx.num_clips).copy_(of_clips)
        return of_x, of_weight.sum(0), of_bias.sum(0), None, None, None


def _by_clip(x: Float[Tensor, "M C H W"], num_clips: int) -> Float[Tensor, "clips pixels C"]:
    """View images that are channels last as the pixels of each clip."""
    return x.permute(0, 2, 3, 1).view(num_clips, -1, x.shape[1])
