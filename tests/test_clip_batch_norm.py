"""Batch normalisation of several clips in one batch equals one clip on each of several devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vidreward.nets.batch_norm import ClipBatchNorm2d
from vidreward.nets.resnet import ResNet

NUM_CLIPS, NUM_FRAMES, NUM_CHANNELS = 3, 4, 6


def one_clip_a_device(
    x: Tensor, gradient: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Write the definition out: every device normalises its clip in float64, their gradients are summed."""
    x = x.double().requires_grad_()
    weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
    outs, means, variances = [], [], []
    for clip in x.chunk(NUM_CLIPS):
        mean = clip.mean((0, 2, 3), keepdim=True)
        variance = (clip - mean).square().mean((0, 2, 3), keepdim=True)
        normal = (clip - mean) / (variance + 1e-5).sqrt()
        outs.append(normal * weight[:, None, None] + bias[:, None, None])
        means.append(mean.detach().flatten())
        variances.append(variance.detach().flatten())
    torch.cat(outs).backward(gradient.double())
    assert x.grad is not None and weight.grad is not None and bias.grad is not None
    running_mean = 0.1 * torch.stack(means).mean(0)
    running_var = 0.9 + 0.1 * torch.stack(variances).mean(0)
    return torch.cat(outs).detach(), x.grad, weight.grad, bias.grad, running_mean, running_var


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"])
def test_clips_are_normalised_as_on_devices_of_their_own(
    dtype: torch.dtype, tolerance: float, layout: torch.memory_format, compiled: bool
) -> None:
    torch.manual_seed(0)
    # clips that differ in level and contrast, so that statistics that cross clips would show
    level = torch.tensor([0.0, 2.0, -3.0]).repeat_interleave(NUM_FRAMES).view(-1, 1, 1, 1)
    x = (torch.randn(NUM_CLIPS * NUM_FRAMES, NUM_CHANNELS, 5, 7) * (1 + level.abs()) + level).to(dtype)
    x = x.to(memory_format=layout).requires_grad_()
    gradient = torch.randn_like(x)
    layer = ClipBatchNorm2d(NUM_CHANNELS)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.normal_(layer.bias)
    forward: Callable[..., Tensor] = torch.compile(layer, backend="aot_eager") if compiled else layer
    out = forward(x, NUM_CLIPS)
    out.backward(gradient)
    assert out.dtype == dtype
    assert layer.running_mean is not None and layer.running_mean.dtype == torch.float32
    got = (out.detach(), x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var)
    expected = one_clip_a_device(x.detach(), gradient, layer.weight.detach(), layer.bias.detach())
    for one, other in zip(got, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def test_one_batch_is_not_two_clips() -> None:
    x = torch.randn(4, 2, 3, 3) + torch.tensor([0.0, 0.0, 5.0, 5.0]).view(-1, 1, 1, 1)
    whole, apart = ClipBatchNorm2d(2)(x), ClipBatchNorm2d(2)(x, 2)
    torch.testing.assert_close(whole, ClipBatchNorm2d(2)(x, 1))
    assert (whole - apart).abs().max() > 0.5


def test_a_network_of_clips_equals_networks_of_one() -> None:
    torch.manual_seed(0)
    network = ResNet(14, num_outputs=3, num_filters=4)
    for block in network.blocks():
        nn.init.ones_(block.get_submodule(f"bn{block.num_convs}").weight)  # type: ignore[arg-type]
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    together = network(images, 2)
    together.square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    network.zero_grad()
    for clip, rows in zip(images.chunk(2), together.chunk(2), strict=True):
        alone = network(clip, 1)
        torch.testing.assert_close(alone, rows, rtol=1e-4, atol=1e-5)
        (alone.square().mean() / 2).backward()
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (32, 16), (48, 8)])
def test_gradients_of_tiny_images_are_those_of_the_pixels(shape: tuple[int, int]) -> None:
    """Kernel columns that see only padding have no gradient, whatever the memory held before."""
    torch.manual_seed(0)
    network = ResNet(14, num_outputs=3, num_filters=16).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (8, 3, *shape), dtype=torch.uint8)
    gradients = []
    for precision in (torch.bfloat16, None):
        network.zero_grad()
        used = [torch.full((128 * 128 * 9,), torch.nan, dtype=torch.bfloat16) for _ in range(8)]
        del used  # leaves its memory to be found by the next tensors
        with torch.autocast("cpu", precision, enabled=precision is not None):
            network(images).square().sum().backward()
        weights = [block.get_submodule("conv2").weight.grad.clone() for block in network.blocks()]  # type: ignore[union-attr, operator]
        gradients.append(weights[-1])
    assert torch.equal(gradients[0][..., [0, 2]], torch.zeros_like(gradients[0][..., [0, 2]]))
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(*gradients, rtol=0.2, atol=0.1 * float(gradients[1].abs().max()))
