"""Heads of actors and critics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vidreward.scoring import Precision, has_fast_bf16


def hidden_type(device: torch.device, precision: Precision) -> torch.dtype:
    """Return the type that hidden layers are computed in; weights and losses stay float32."""
    low = precision == "bf16" or (precision == "auto" and has_fast_bf16(device.type))
    return torch.bfloat16 if low else torch.float32


class ParallelMlp(nn.Module):
    """Several perceptrons of one shape side by side, each layer one batched product: ReLU between layers.

    The last layer is computed in the weights' own precision: bfloat16 has 8 bits, too few for returns.

    Args:
        num: Perceptrons.
        dims: Widths: input, hidden ones, output.
        initialise: Draws one weight matrix in place, from the generator; biases are 0.
        noise: Where weights come from.
    """

    def __init__(
        self,
        num: int,
        dims: Sequence[int],
        initialise: Callable[[Tensor, torch.Generator], Tensor],
        noise: torch.Generator,
    ) -> None:
        super().__init__()
        self.num = num
        self.weights = nn.ParameterList(torch.empty(num, inputs, outputs) for inputs, outputs in pairwise(dims))
        self.biases = nn.ParameterList(torch.zeros(num, 1, outputs) for outputs in dims[1:])
        self._all = (*self.weights, *self.biases)  # walking a ParameterList takes as long as a small layer
        for weight in self.weights:
            for matrix in weight.detach():
                initialise(matrix, noise)

    def forward(
        self,
        inputs: Float[Tensor, "*num B I"],
        hidden_type: torch.dtype = torch.float32,
        *,
        frozen: bool = False,
    ) -> Float[Tensor, "num B O"]:
        """Run all perceptrons.

        Args:
            inputs: (B, I) for all of them, or (num, B, I), one each.
            hidden_type: Precision of the hidden layers.
            frozen: Whether gradients go through to the inputs only.
        """
        parameters = [parameter.detach() for parameter in self._all] if frozen else self._all
        result: Tensor = _Layers.apply(hidden_type, inputs.expand(self.num, -1, -1), *parameters)
        return result


class _Layers(Function):
    """The layers of `ParallelMlp` as one step of autograd: small networks would spend half their time in its steps."""

    @staticmethod
    def forward(ctx: Any, hidden_type: torch.dtype, inputs: Tensor, *parameters: Tensor) -> Tensor:
        depth = len(parameters) // 2
        weights = [weight.to(hidden_type) for weight in parameters[: depth - 1]]
        activations = [inputs.to(hidden_type)]
        for weight, bias in zip(weights, parameters[depth:-1], strict=True):
            activations.append(torch.baddbmm(bias.to(hidden_type), activations[-1], weight).relu_())
        ctx.save_for_backward(*activations, *weights, parameters[depth - 1])
        ctx.types = (inputs.dtype, parameters[0].dtype)
        return _last_layer(activations[-1], parameters[depth - 1], parameters[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved = ctx.saved_tensors
        depth = len(saved) // 2
        activations, weights = saved[:depth], saved[depth:]
        needs_input, needs_weights = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        weight_grads: list[Tensor | None] = [None] * depth
        bias_grads: list[Tensor | None] = [None] * depth
        grad = grad.contiguous()
        for number in reversed(range(depth)):
            values, weight = activations[number], weights[number]
            if needs_weights:
                weight_grads[number] = torch.bmm(values.mT, grad.to(values.dtype)).to(ctx.types[1])
                bias_grads[number] = grad.sum(1, keepdim=True).to(ctx.types[1])
            if number:
                grad = grad * weight.mT if grad.shape[-1] == 1 else torch.bmm(grad, weight.mT)
                grad = torch.ops.aten.threshold_backward(grad.to(values.dtype), values, 0)
            elif needs_input:
                grad = torch.bmm(grad, weight.mT).to(ctx.types[0])
        return None, grad if needs_input else None, *weight_grads, *bias_grads


def _last_layer(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply in the weights' precision; matrix products with one column are slow on a CPU."""
    if weight.shape[-1] == 1:
        return (values * weight.mT).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, values.to(weight.dtype), weight)
