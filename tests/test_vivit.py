"""ViViT and ViT: sizes, numbers that must agree with flax, stochastic depth, and scoring that encodes frames once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from goldens import golden
from vidreward.convert.hold_layout import fill, find_sources
from vidreward.evaluate.metrics import spearman
from vidreward.nets import vit, vivit
from vidreward.nets.vit import ViT, ViTConfig
from vidreward.nets.vivit import Block, ViViT, ViViTConfig
from vidreward.optimizers import make_optimizer
from vidreward.reward_model import windows
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldRConfig, HoldRViViT
from vidreward.scoring import StreamingScorer, score_frames
from vidreward.types import DataSpec, Video

SPEC = DataSpec(height=32, width=48, fps=10.0)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def hold_r(num_history: int = 3, **kwargs) -> HoldRViViT:
    """A ViViT whose head and positions are not near zero, so that scores differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = HoldRConfig(network="vivit", vivit=replace(vivit.TINY, **kwargs), num_history=num_history)
        model = config.build(SPEC)
        assert isinstance(model, HoldRViViT)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    size = (3, SPEC.height, SPEC.width)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (*shape, *size), dtype=np.uint8))


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_the_released_vivit_has_its_number_of_parameters() -> None:
    """docs/methods/hold_r.md."""
    with torch.device("meta"):
        network = ViViT(vivit.LARGE, num_frames=4, frame_size=(256, 256))
    assert count(network) == 353_757_185
    assert count(network.spatial.blocks[0]) == 12_596_224
    rates = [block.drop_path for block in network.temporal.blocks if isinstance(block, Block)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_the_base_vit_is_timm_s() -> None:
    import timm

    with torch.device("meta"):
        network = ViT(vit.BASE, frame_size=(224, 224), num_outputs=32)
        other = timm.create_model("vit_base_patch16_224", num_classes=0)
    shapes = [{name: p.shape for name, p in module.named_parameters()} for module in (network.backbone, other)]
    assert shapes[0] == shapes[1]
    assert count(network.fc) == 768 * 32 + 32


@pytest.mark.parametrize("frame_size", [(32, 32), (24, 40)])
def test_any_frame_that_patches_fill(frame_size: tuple[int, int]) -> None:
    frames = torch.zeros(2, 3, 3, *frame_size, dtype=torch.uint8)
    assert ViViT(vivit.TINY, num_frames=3, frame_size=frame_size)(frames).shape == (2, 1)
    assert ViT(vit.TINY, frame_size=frame_size, num_outputs=5)(frames[:, 0]).shape == (2, 5)


@pytest.mark.parametrize("config", [HoldRConfig(network="vivit"), HoldCConfig(network="vit")])
def test_frames_that_patches_do_not_fill_are_refused(config: HoldRConfig | HoldCConfig) -> None:
    with pytest.raises(ValueError, match=r"32x44 cannot be cut into patches of 8x8.*multiple of 8"):
        config.build(DataSpec(height=32, width=44, fps=10.0))


def test_frames_of_another_size_are_refused() -> None:
    frames = torch.zeros(2, 3, 48, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="reads frames of 32x48; got 48x32"):
        hold_r().encode(frames)
    with pytest.raises(ValueError, match="reads frames of 32x48; got 48x32"):
        HoldCConfig(network="vit", vit=vit.TINY).build(SPEC).encode(frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "multiple of"),
        ({"patch_size": 0}, "at least 1"),
        ({"position_std": 0.0}, "more than 0"),
        ({"drop_path": 1.0}, r"\[0, 1\)"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(vivit.TINY, **change)  # type: ignore[arg-type]
    if "drop_path" not in change:
        with pytest.raises(ValueError, match=message):
            replace(vit.TINY, **change)  # type: ignore[arg-type]


# --- initialisation --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_vivit_starts_as_in_flax() -> None:
    torch.manual_seed(0)
    config = ViViTConfig(width=96, num_heads=4, mlp_dim=160, num_spatial_layers=2, num_temporal_layers=1, patch_size=16)
    network = ViViT(config, num_frames=4, frame_size=(128, 128))
    block = network.spatial.blocks[1]
    assert isinstance(block, Block)
    for weight in (*block.attention.qkv.weight.chunk(3), block.attention.out.weight):
        assert_uniform(weight, (6 / (96 + 96)) ** 0.5)
    for i in (0, 2):
        layer = block.mlp[i]
        assert isinstance(layer, nn.Linear)
        assert_uniform(layer.weight, (6 / (96 + 160)) ** 0.5)
        assert 5e-7 < layer.bias.std() < 2e-6
    assert network.embedding.weight.std() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.05)
    for encoder in (network.spatial, network.temporal):
        assert encoder.pos_embedding.std() == pytest.approx(0.02, rel=0.15)
        assert not encoder.cls.any()
    state = network.state_dict()
    zeros = ["embedding.bias", "fc.weight", "fc.bias", "spatial.blocks.1.attention.qkv.bias"]
    assert not any(state[name].any() for name in [*zeros, "temporal.blocks.0.attention.out.bias"])


@torch.no_grad()
def test_vit_starts_as_in_flax() -> None:
    torch.manual_seed(0)
    network = ViT(
        ViTConfig(width=96, num_heads=4, mlp_dim=161, num_layers=2, patch_size=16), frame_size=(64, 64), num_outputs=64
    )
    state = network.backbone.state_dict()
    assert state["blocks.0.mlp.fc1.weight"].shape == (161, 96)
    for weight in state["blocks.1.attn.qkv.weight"].chunk(3):
        assert_uniform(weight, (6 / (96 + 96)) ** 0.5)
    assert_uniform(state["blocks.1.mlp.fc1.weight"], (6 / (96 + 161)) ** 0.5)
    assert not state["cls_token"].any()
    assert network.fc.weight.std() == pytest.approx(96**-0.5, rel=0.05)
    assert network.fc.weight.abs().max() <= 2 * 96**-0.5 / 0.8796


def assert_uniform(weight: torch.Tensor, bound: float) -> None:
    assert weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.05)


# --- stochastic depth ------------------------------------------------------------------------------------------------


def test_skipped_branches_are_shared_by_an_example_s_frames_and_not_scaled() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 16, drop_path=0.4).train()
    x = torch.randn(2000 * 3, 4, 8)
    branch = torch.randn_like(x)
    out = block._drop(branch, 3)
    kept = out.flatten(1).any(1).view(2000, 3)
    assert (kept == kept[:, :1]).all(), "frames of one example differ"
    assert kept[:, 0].float().mean() == pytest.approx(0.6, abs=0.05)
    torch.testing.assert_close(out[kept.flatten()], branch[kept.flatten()], rtol=0, atol=0)
    assert (block._drop(branch, 3) != out).any(), "two branches share their mask"
    torch.testing.assert_close(block.eval()._drop(branch, 3), branch, rtol=0, atol=0)


def test_frames_of_one_example_skip_the_same_blocks_of_the_whole_network() -> None:
    """Four times the same frame must give four times the same token, in training too."""
    model = hold_r(num_history=3, drop_path=0.9, num_spatial_layers=6).train()
    same = images(8, 1).expand(-1, 4, -1, -1, -1)
    torch.manual_seed(1)
    tokens = model.network.encode_frames(same.flatten(0, 1), 4).unflatten(0, (8, 4))
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens))
    assert not torch.allclose(tokens[:, 0], model.eval().network.encode_frames(same[:, 0])), "nothing was skipped"


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [HoldRConfig(network="vivit", vivit=vivit.TINY), HoldCConfig(network="vit", vit=vit.TINY)]
)
def test_scores_are_not_rounded_to_bfloat16(config: HoldRConfig | HoldCConfig) -> None:
    model = config.build(SPEC).eval()
    with torch.no_grad():
        model.network.fc.weight.normal_()
        model.network.fc.bias.fill_(40.0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outputs = model.network(images(6, 2) if isinstance(model, HoldRViViT) else images(6))
    assert outputs.dtype == torch.float32
    assert (outputs != outputs.bfloat16().float()).any()
    assert outputs[:, 0].unique().numel() == 6


def test_pixels_are_read_from_minus_one_to_one() -> None:
    model = hold_r()
    weight, bias = model.network.embedding.weight, model.network.embedding.bias
    seen = []
    model.network.embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.encode(torch.tensor([0, 255, 51], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 48))
    assert bias is not None and weight.dtype == torch.float32
    torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_two_training_steps_equal_the_original() -> None:
    value = golden("hold_train_step/holdr_vivit_momentumhp_clip1.npz")
    size = ViViTConfig(
        width=24,
        num_heads=4,
        mlp_dim=40,
        num_spatial_layers=3,
        num_temporal_layers=2,
        patch_size=16,
        drop_path=0.0,
    )
    config = HoldRConfig(variant="as_coded", network="vivit", vivit=size, num_history=3)
    model = config.build(DataSpec(height=32, width=32, fps=11.841645719966037)).train()
    sources = find_sources(model.network)

    def tree(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): array for key, array in value.items() if key.startswith(prefix)}

    fill(model.network, sources, tree("params0/"))
    start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    optimizer = make_optimizer(model.parameters(), "momentum_bf16", lr=1.0)
    for step in range(2):
        optimizer.param_groups[0]["lr"] = float(value[f"step{step}/lr"])
        optimizer.zero_grad()
        loss = train_loss(model, value, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        metric = f"step{step}/metric/mean_squared_error_steps"
        expected = float(value[f"{metric}/value"]) / float(value[f"{metric}/norm"])
        np.testing.assert_allclose(loss.item(), expected, rtol=2e-5)
    changes = {name: sources[name].read(tree("delta2/"), p.shape) / 1024 for name, p in start.items()}
    largest = max(change.abs().max() for change in changes.values())
    for name, parameter in model.network.named_parameters():
        error = (parameter.detach() - start[name] - changes[name]).abs().max()
        assert error <= 2e-3 * largest, name


def train_loss(model: nn.Module, value: dict[str, np.ndarray], step: int) -> torch.Tensor:
    assert isinstance(model, HoldRViViT)
    frames = torch.from_numpy(value[f"step{step}/inputs_u8"]).movedim(-1, -3)
    fps = torch.from_numpy(value[f"step{step}/frame_rate"]).float().view(-1)
    apart = torch.from_numpy(value[f"step{step}/targets"]).long().view(-1, 1)
    length = torch.ones(len(frames), dtype=torch.long)
    state = Video(frames[:, :3], torch.zeros(len(frames), 3, dtype=torch.long), length, fps)
    loss, _ = model.loss({"state": state, "goal": Video(frames[:, 3:], apart, length, fps)})
    return loss


# --- scoring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_history", [1, 3])
def test_encoding_once_equals_reading_every_window(num_history: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To float32 noise: the same numbers, summed in batches of another size."""
    monkeypatch.setattr("vidreward.rewards.hold_r.WINDOWS_PER_PIECE", 4)
    model = hold_r(num_history)
    video = Video.from_frames(images(2, 7), goal=images(2, 2, seed=1))
    assert video.goal is not None
    index = windows(7, num_history)
    with torch.inference_mode():
        plain = torch.stack([-model.distance(video.frames[:, index[t]], video.goal) for t in range(7)], 1)
        fast = model.score(video)
    assert plain.std() > 0.01
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_every_frame_and_the_goal_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hold_r(3)
    frames, goal = images(40).numpy(), images(1, seed=1).numpy()
    num_encoded: list[int] = []
    model.network.spatial.register_forward_hook(lambda _, __, tokens: num_encoded.append(len(tokens)))
    monkeypatch.setattr("vidreward.scoring.PIXELS_PER_PIECE", 16 * SPEC.height * SPEC.width)
    whole = score_frames(model, frames, goal, precision="fp32")
    assert sum(num_encoded) == 40 + 1
    num_encoded.clear()
    scorer = StreamingScorer(model, goal=goal, precision="fp32")
    streamed = [scorer.push(frame) for frame in frames[:10]]
    assert sum(num_encoded) == 10 + 1
    np.testing.assert_allclose(streamed, whole[:10], rtol=1e-4, atol=1e-5)


def test_the_goal_and_the_order_matter() -> None:
    model = hold_r(3)
    frames, goals = images(1, 6), images(2, 1, seed=1)
    with torch.inference_mode():
        first, second = (model.score(Video.from_frames(frames, goal=goals[i : i + 1])) for i in range(2))
        turned = model.score(Video.from_frames(frames.flip(1), goal=goals[:1]))
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, turned.flip(1))
    assert spearman(np.arange(6), first[0].numpy()) is not None


def test_a_resnet_scores_in_pieces_and_not_by_codes() -> None:
    """Its codes would be the frames themselves: a whole episode would be kept, and read at once."""
    from vidreward.scoring import _encodes

    resnet = HoldRConfig(depth=14, num_filters=4).build(SPEC)
    assert not _encodes(resnet)
    assert _encodes(hold_r())
    assert _encodes(HoldCConfig(network="vit", vit=vit.TINY).build(SPEC))


def test_a_vit_embeds_a_clip_image_by_image() -> None:
    model = HoldCConfig(network="vit", vit=vit.TINY, variant="as_coded", num_frames=6).build(SPEC)
    assert isinstance(model, HoldC)
    clips = Video.from_frames(images(2, 6))
    loss, _ = model.train().loss({"clip": clips})
    each = [model.loss({"clip": Video.from_frames(clips.frames[i : i + 1])})[0] for i in range(2)]
    torch.testing.assert_close(loss, torch.stack(each).mean())
