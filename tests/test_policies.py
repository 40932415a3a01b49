"""The batched perceptrons against plain layers, values and gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn

from vidreward.rl.policies import ParallelMlp


def make(num: int, *dims: int) -> ParallelMlp:
    noise = torch.Generator().manual_seed(0)
    heads = ParallelMlp(num, dims, lambda matrix, noise: nn.init.normal_(matrix, generator=noise), noise).double()
    for bias in heads.biases:
        nn.init.normal_(bias, generator=noise)
    return heads


def plain(heads: ParallelMlp, inputs: Tensor) -> Tensor:
    x = inputs.expand(heads.num, -1, -1)
    for number, (weight, bias) in enumerate(zip(heads.weights, heads.biases, strict=True)):
        x = x @ weight + bias
        x = x if number == len(heads.weights) - 1 else x.relu()
    return x


@pytest.mark.parametrize(("num", "dims"), [(2, (5, 7, 6, 1)), (1, (4, 6, 8, 6)), (3, (4, 3)), (2, (4, 5, 1))])
@pytest.mark.parametrize("own_inputs", [True, False])
def test_values_and_gradients(num: int, dims: tuple[int, ...], own_inputs: bool) -> None:
    heads = make(num, *dims)
    noise = torch.Generator().manual_seed(1)
    shape = (num, 9, dims[0]) if own_inputs else (9, dims[0])
    inputs = torch.randn(shape, dtype=torch.float64, generator=noise).requires_grad_()
    result, wanted = heads(inputs, torch.float64), plain(heads, inputs)
    torch.testing.assert_close(result, wanted)
    weight = torch.randn(result.shape, dtype=torch.float64, generator=noise)
    wrt = [inputs, *heads.parameters()]
    ours, theirs = (torch.autograd.grad((values * weight).sum(), wrt) for values in (result, wanted))
    torch.testing.assert_close(ours, theirs)
    frozen = (heads(inputs, torch.float64, frozen=True) * weight).sum()
    ours = torch.autograd.grad(frozen, wrt, allow_unused=True)
    torch.testing.assert_close(ours[0], theirs[0])
    assert ours[1:] == (None,) * (len(wrt) - 1)


def test_low_precision_keeps_the_last_layer_exact() -> None:
    """Hidden values that bfloat16 holds exactly: the sum of 300 of them is beyond its 8 bits."""
    heads = make(1, 1, 300, 1).float()
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(heads.weights[0])
    nn.init.ones_(heads.weights[1])
    assert heads(torch.ones(1, 1), torch.bfloat16).item() == 300
    nn.init.constant_(heads.weights[1], 1.001)
    assert heads(torch.ones(1, 1), torch.bfloat16).item() == pytest.approx(300.3, rel=1e-6)


def test_a_copy_has_weights_of_its_own() -> None:
    heads = make(2, 3, 4, 1)
    other = copy.deepcopy(heads)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.ones(2, 3, dtype=torch.float64)
    assert not other(inputs, torch.float64).any() and heads(inputs, torch.float64).any()
    other.load_state_dict(heads.state_dict())
    assert torch.equal(other(inputs, torch.float64), heads(inputs, torch.float64))
