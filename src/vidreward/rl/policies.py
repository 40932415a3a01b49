"""Heads of actors and critics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ParallelMlp(nn.Module):
    """Several perceptrons of one shape side by side, each layer one batched product: ReLU between layers.

    The last layer is computed in float32 whatever the precision around it: bfloat16 has 8 bits, too few for returns.

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
        pairs = list(pairwise(dims))
        self.num = num
        self.weights = nn.ParameterList(torch.empty(num, inputs, outputs) for inputs, outputs in pairs)
        self.biases = nn.ParameterList(torch.zeros(num, 1, outputs) for _, outputs in pairs)
        for weight in self.weights:
            for matrix in weight.detach():
                initialise(matrix, noise)

    def forward(self, inputs: Float[Tensor, "*num B I"], *, frozen: bool = False) -> Float[Tensor, "num B O"]:
        """Run all perceptrons.

        Args:
            inputs: (B, I) for all of them, or (num, B, I), one each.
            frozen: Whether gradients go through to the inputs only.
        """
        weights = [weight.detach() if frozen else weight for weight in self.weights]
        biases = [bias.detach() if frozen else bias for bias in self.biases]
        x = inputs.expand(self.num, -1, -1)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = torch.relu(torch.baddbmm(bias, x, weight))
        with torch.autocast(x.device.type, enabled=False):
            # transposed, because products with few columns are slow on a CPU and those with few rows are not
            return torch.matmul(weights[-1].mT, x.float().mT).mT + biases[-1]
