"""HOLD's ResNet, and whole training steps of the original code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch.nn import functional as F

from goldens import golden
from vidreward.evaluate.metrics import spearman
from vidreward.nets.resnet import ClipBatchNorm2d, ResNet
from vidreward.optimizers import make_optimizer
from vidreward.rewards.hold_c import HoldC, HoldCConfig, clip_ids
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.types import Video

# --- the network -----------------------------------------------------------------------------------------------------


def test_parameter_counts() -> None:
    """docs/methods/hold_r.md."""

    def count(num_images: int, num_outputs: int) -> tuple[int, int]:
        network = ResNet(50, num_images=num_images, num_outputs=num_outputs)
        buffers = sum(b.numel() for name, b in network.named_buffers() if "num_batches" not in name)
        return sum(p.numel() for p in network.parameters()), buffers

    assert count(1, 32) == (23_573_600, 53_120)
    assert count(2, 1)[0] == 23_519_489
    assert count(4, 1)[0] == 23_538_305


def test_clip_statistics_equal_one_clip_at_a_time() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 5, 4, 4)
    together = ClipBatchNorm2d(5)
    out = together(x, num_clips=3)
    means, variances = [], []
    for i, clip in enumerate(x.chunk(3)):
        torch.testing.assert_close(out[4 * i : 4 * i + 4], F.batch_norm(clip, None, None, training=True))
        means.append(clip.mean((0, 2, 3)))
        variances.append(clip.var((0, 2, 3), unbiased=False))
    torch.testing.assert_close(together.running_mean, 0.1 * torch.stack(means).mean(0))
    torch.testing.assert_close(together.running_var, 0.9 + 0.1 * torch.stack(variances).mean(0))


def flax_name(name: str) -> str:
    """Translate a parameter's name to its path in flax's tree; the golden network has one block a stage."""
    parts = name.split(".")
    leaf = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}.get(parts[-1], parts[-1])
    fixed = {"conv1": "stem_conv", "bn1": "init_bn", "fc": "output_projection"}
    if parts[0] in fixed:
        module = fixed[parts[0]]
    else:
        inner = {"downsample": ["proj_conv", "proj_bn"][int(parts[3])] if len(parts) > 4 else ""}.get(
            parts[2], parts[2]
        )
        module = f"ResidualBlock_{int(parts[0][5:]) - 1}/{inner}"
    if "bn" in module and leaf == "kernel":
        leaf = "scale"
    return f"{module}/{leaf}"


def to_torch(array: ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.asarray(array, dtype=np.float32))
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T if tensor.ndim == 2 else tensor


def fill(network: ResNet, value: dict[str, ndarray], params: str, stats: str) -> None:
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = tensor
            continue
        path = flax_name(name)
        source = f"{stats}/batch_stats/{path}" if "running" in name else f"{params}/{path}"
        state[name] = to_torch(value[source]).contiguous()
    network.load_state_dict(state)


@pytest.mark.parametrize("file", ["holdc_resnet_adam", "holdr_resnet12ch_adam"])
def test_two_training_steps_equal_the_original(file: str) -> None:
    value = golden(f"hold_train_step/{file}.npz")
    if file.startswith("holdc"):
        model: HoldC | HoldR = HoldC(HoldCConfig(variant="as_coded", depth=14, num_filters=3, embedding_dim=6))
    else:
        model = HoldR(
            HoldRConfig(variant="as_coded", depth=14, num_filters=3, num_history=3), mean_fps=11.841645719966037
        )
    fill(model.network, value, "params0", "stats0")
    start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    optimizer = make_optimizer(model.parameters(), "adam", lr=1.0)
    model.train()
    for step in range(2):
        lr = float(value[f"step{step}/lr"])
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss, expected = golden_loss(model, value, step)
        loss.backward()
        optimizer.step()
        tolerance = (5e-4, 5e-3)[step] if file.startswith("holdc") else 2e-5
        np.testing.assert_allclose(loss.item(), expected, rtol=tolerance)
        for name, buffer in model.network.named_buffers():
            if "num_batches" not in name:
                path = flax_name(name)
                np.testing.assert_allclose(
                    buffer, value[f"stats{step + 1}/batch_stats/{path}"], rtol=5e-4, atol=1e-5, err_msg=name
                )
    errors = []
    for name, parameter in model.network.named_parameters():
        path = flax_name(name)
        change = to_torch(value[f"delta2/{path}"]) / 1024
        errors.append(((parameter.detach() - start[name] - change).abs() / lr).flatten())
    error = torch.cat(errors)
    assert error.median() <= 1e-3
    assert (error > 0.1).float().mean() <= 0.002
    assert error.max() <= 4


def golden_loss(model: HoldC | HoldR, value: dict[str, ndarray], step: int) -> tuple[torch.Tensor, float]:
    images = torch.from_numpy(value[f"step{step}/inputs_u8"]).movedim(-1, -3)
    metrics = {key: array for key, array in value.items() if key.startswith(f"step{step}/metric/")}
    if isinstance(model, HoldC):
        sequences = torch.from_numpy(value[f"step{step}/sequence_ids"]).long().view(1, -1)
        timesteps = torch.from_numpy(value[f"step{step}/timesteps"]).long().view(1, -1)
        video = Video.from_frames(images.transpose(0, 1))
        found, _ = clip_ids(timesteps)
        assert found.tolist() == sequences.tolist()
        loss, _ = model.loss({"clip": Video(video.frames, timesteps, video.length, video.fps)})
        return loss, float(metrics[f"step{step}/metric/triplet_svtc_loss/value"])
    batch = images.shape[0]
    fps = torch.from_numpy(value[f"step{step}/frame_rate"]).float().view(-1)
    apart = torch.from_numpy(value[f"step{step}/targets"]).long().view(-1, 1)
    index = torch.zeros(batch, 3, dtype=torch.long)
    length = torch.ones(batch, dtype=torch.long)
    state = Video(images[:, :3], index, length, fps)
    goal = Video(images[:, 3:], apart, length, fps)
    loss, _ = model.loss({"state": state, "goal": goal})
    errors = metrics[f"step{step}/metric/mean_squared_error_steps/value"]
    return loss, float(errors) / float(metrics[f"step{step}/metric/mean_squared_error_steps/norm"])


def test_scores_are_not_rounded_to_bfloat16() -> None:
    network = ResNet(18, num_outputs=1, num_filters=8).eval()
    torch.nn.init.constant_(network.fc.bias, 40.0)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outputs = network(images)
    assert outputs.unique().numel() == 6
    assert (outputs != outputs.bfloat16().float()).any()


def test_resnet_outputs_differ_between_images() -> None:
    """With the last BatchNorm of each block at zero the network still sees its input."""
    network = ResNet(18, num_outputs=4, num_filters=8).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    first, second = network(images)
    assert not torch.allclose(first, second)
    assert spearman(np.arange(4), first.detach().numpy()) is not None
