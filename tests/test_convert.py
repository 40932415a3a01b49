"""Released HOLD checkpoints: what the original code computes from them, and files that do not fit."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

import vidreward
from clips import write_clips
from flax_writer import write_train_state
from goldens import GOLDEN, golden
from vidreward.checkpoint import read_description
from vidreward.cli import main
from vidreward.convert.flax_file import read_parameters
from vidreward.convert.hold import Kind, convert_hold
from vidreward.convert.hold_layout import BATCH_STATS, check, find_sources
from vidreward.data.episodes import open_episodes
from vidreward.envs import make_env
from vidreward.evaluate.hold_metrics import MEAN_FPS, hold_metrics
from vidreward.jobs import open_like_training
from vidreward.nets.resnet import ResNet
from vidreward.nets.vivit import LARGE, ViViT
from vidreward.rewards.hold_c import HoldC
from vidreward.rewards.hold_r import HoldR
from vidreward.rl.reward import Reward, RewardMix, RewardTerm, usual_shaping
from vidreward.rl.wrapper import VideoReward
from vidreward.scoring import score_frames

RESNET_C = "hold_checkpoint_resnet/holdc_r50_f3_adam"
RESNET_R = "hold_checkpoint_resnet/holdr_r14_f5_12ch_sgd"
VIVIT = "hold_checkpoint_vivit/vivit_fe_h24_32px_momentumhp"
VIT = "hold_checkpoint_vivit/holdc_vit_h24_32px_sgd"
RESNETS = [RESNET_C, RESNET_R, "hold_checkpoint_resnet/holdr_r50_f3_6ch_momentumhp"]
TRANSFORMERS = [VIVIT, "hold_checkpoint_vivit/vivit_fe_h24_64px_sgd_chunked", VIT]
ALL = [*RESNETS, *TRANSFORMERS]
SCORED = [name for name in ALL if "chunked" not in name]
"""The checkpoints with whole videos and outputs of the reward model's wrapper."""


def kind_of(name: str) -> Kind:
    return "hold-c" if "holdc" in name else "hold-r"


def crop_size(name: str) -> int:
    """The side of the frames that the golden wrapper gave to the network."""
    return 64 if name in RESNETS or "64px" in name else 32


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., HoldC | HoldR]:
    """Convert a golden checkpoint once, and load it."""
    folder = tmp_path_factory.mktemp("converted")

    @cache
    def load(name: str, size: int | None = None) -> HoldC | HoldR:
        out = folder / f"{Path(name).name}-{size}"
        convert_hold(kind_of(name), GOLDEN / f"{name}.msgpack", out, size=size)
        model = vidreward.load(out)
        assert isinstance(model, HoldC | HoldR)
        return model

    return load


def channels_first(frames: ndarray) -> Tensor:
    return torch.from_numpy(frames).movedim(-1, -3)


def output(model: HoldC | HoldR, images: Tensor) -> ndarray:
    """Give images (N, 3, H, W), or (N, T, 3, H, W) with the goal last, to the model, as scoring does."""
    with torch.inference_mode():
        if isinstance(model, HoldC):
            return model.encode(images.flatten(0, -4)).numpy()
        return model.distance(images[:, :-1], images[:, -1:])[:, None].numpy()


# --- the original's numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("name", ALL)
def test_outputs_equal_the_original(
    load: Callable[..., HoldC | HoldR], monkeypatch: pytest.MonkeyPatch, name: str, fold: bool
) -> None:
    """Frames of several sizes, odd ones too; with normalisation folded into the convolutions, and without."""
    monkeypatch.setattr("vidreward.nets.resnet.FOLD_FROM", 0 if fold else 10**12)
    value, model = golden(f"{name}.npz"), load(name)
    num_cases = sum(key.startswith("input_") for key in value)
    assert num_cases >= 1
    for i in range(num_cases):
        expected = value[f"output_{i}"]
        got = output(model, channels_first(value[f"input_{i}_u8"]))
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5 * np.abs(expected).max(), err_msg=f"input {i}")


@pytest.mark.parametrize("name", SCORED)
def test_whole_videos_equal_the_original(load: Callable[..., HoldC | HoldR], name: str) -> None:
    """The goal is the last frame, the history begins with frame 0 repeated, the metrics are HOLD's own."""
    value, model = golden(f"{name}.npz"), load(name, 32)
    frames = channels_first(value["fullseq/video_u8"]).numpy()
    scores = score_frames(model, frames, frames[-1:], precision="fp32")
    expected = value["fullseq/pred"][:, 0]
    np.testing.assert_allclose(-scores[:-1], expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    method = "hold_c" if isinstance(model, HoldC) else "hold_r"
    rates = float(value["fullseq/frame_rate"]), float(value["fullseq/mean_fps_used"])
    measured = hold_metrics(-scores[:-1], frame_rate=rates[0], mean_fps=rates[1], method=method)
    metrics = {key.split("/")[2] for key in value if key.startswith("fullseq/metric/")}
    assert metrics == set(measured)
    for metric in metrics:
        known = [float(value[f"fullseq/metric/{metric}/{part}"]) for part in ("value", "norm")]
        np.testing.assert_allclose(measured[metric], known, rtol=2e-4, atol=1e-5, err_msg=metric)


def prepare(image: ndarray, size: int) -> Tensor:
    """Preprocess as the original's reward model in reinforcement learning does, with values 0-255 instead of 0-1.

    The centre square is resized with bilinear weights, whose support widens when shrinking.
    """
    pixels = channels_first(image).float()
    side = min(pixels.shape[-2:])
    top, left = (pixels.shape[-2] - side) // 2, (pixels.shape[-1] - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    resized = F.interpolate(square[None], (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized[0]


def wrapper_cases(name: str) -> list[tuple[Tensor, Tensor, dict[str, float]]]:
    """Return the states (T, 3, H, W), goals (3, H, W) and distances that the original's reward model was run on."""
    value = golden(f"{name}.npz")
    cases = []
    for i in range(sum(key.startswith("wrapper_") and key.endswith("state_u8") for key in value)):
        case = f"wrapper_{i}/"
        state = value[f"{case}state_u8"]
        history = [state] if state.ndim == 3 else list(np.moveaxis(state, -1, 0))
        assert len(history) == int(value["history_length"])
        states = torch.stack([prepare(image, crop_size(name)) for image in history])
        prefix = f"{case}distance_"
        distances = {key.removeprefix(prefix): float(value[key]) for key in value if key.startswith(prefix)}
        cases.append((states, prepare(value[f"{case}goal_u8"], crop_size(name)), distances))
    assert cases
    return cases


@pytest.mark.parametrize("name", SCORED)
def test_distances_equal_the_original(load: Callable[..., HoldC | HoldR], name: str) -> None:
    model = load(name, crop_size(name))
    for states, goal, expected in wrapper_cases(name):
        images = torch.cat([states, goal[None]])
        if isinstance(model, HoldC):
            state_code, goal_code = output(model, images)
            squared = float(np.square(state_code - goal_code).sum())
            found = {"eucl": squared**0.5, "sq_eucl": squared}
            found["sq_eucl_huber"] = 0.005 * squared + 0.02 * (0.2 + squared) ** 0.5
        else:
            found = {"direct": float(output(model, images[None])[0, 0])}
        assert found.keys() == expected.keys()
        for kind, distance in expected.items():
            assert found[kind] == pytest.approx(distance, rel=3e-5), kind


@pytest.mark.parametrize("name", SCORED)
def test_scoring_rounds_the_resized_frames_to_bytes(load: Callable[..., HoldC | HoldR], name: str) -> None:
    """The only difference to the original in reinforcement learning, which keeps fractions."""
    model = load(name, crop_size(name))
    for states, goal, expected in wrapper_cases(name):
        frames = states.round().to(torch.uint8).numpy()
        score = score_frames(model, frames, goal.round().to(torch.uint8).numpy()[None], precision="fp32")[-1]
        distance = expected.get("eucl", expected.get("direct", 0.0))
        assert -score == pytest.approx(distance, rel=0.05)


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_folder_describes_what_was_found(tmp_path: Path) -> None:
    out = convert_hold("hold-r", GOLDEN / f"{RESNET_R}.msgpack", tmp_path / "out", normalizer=12.5)
    description = read_description(out)
    assert (description.config.variant, description.config.depth, description.config.num_filters) == ("as_coded", 14, 5)
    assert (description.config.num_history, description.data.height, description.data.fps) == (
        3,
        256,
        11.841645719966037,
    )
    assert description.preprocessing["resize"] == "crop"
    record = json.loads((out / "provenance.json").read_text())
    assert record["step"] == 37
    assert record["converted"]["num_parameters"] == 53_361
    assert record["converted"]["assumed"] == ["size", "mean_fps"]
    model = vidreward.load(out)
    assert model.counts_frames_at == MEAN_FPS
    assert usual_shaping(model).scale == 1 / 12.5


def test_videos_are_opened_with_the_margin_of_hold_s_evaluation(tmp_path: Path) -> None:
    checkpoint = GOLDEN / f"{VIVIT}.msgpack"
    videos = write_clips(tmp_path / "videos", 1)
    plain = open_like_training(convert_hold("hold-r", checkpoint, tmp_path / "plain"), videos)[0].frames([3])
    out = convert_hold("hold-r", checkpoint, tmp_path / "margin", load_size=36)
    frames = open_like_training(out, videos)[0].frames([3])
    larger = open_episodes(videos, size=36, resize="crop")[0].frames([3])
    np.testing.assert_array_equal(frames, larger[..., 2:-2, 2:-2])
    assert frames.shape == plain.shape
    assert not np.array_equal(frames, plain)
    with pytest.raises(ValueError, match="load_size 31 is less than the size 32"):
        convert_hold("hold-r", checkpoint, tmp_path / "less", load_size=31)


@pytest.mark.parametrize(("name", "normalizer"), [(RESNET_C, 5.0), (VIVIT, 45.0)])
def test_rewards_are_divided_by_the_papers_number(
    load: Callable[..., HoldC | HoldR], name: str, normalizer: float
) -> None:
    shaping = usual_shaping(load(name))
    assert (shaping.scale, shaping.baseline, shaping.clip) == (1 / normalizer, True, True)


@pytest.mark.filterwarnings("ignore:the environment makes 10 frames a second and hold was trained at")
@pytest.mark.parametrize("name", [RESNET_C, VIVIT])
def test_a_released_model_pays_an_agent(load: Callable[..., HoldC | HoldR], name: str) -> None:
    """The original's reward: -max(0, d(s', g) - d(g, g)) / T, plus the environment's own."""
    model = load(name, 32)
    mix = RewardMix(terms=(RewardTerm(model=model, name="hold"),), env_weight=1.0)
    env = VideoReward(make_env("tabletop/push", num_envs=1, size=32), Reward(mix, precision="fp32"))
    observation, info = env.reset(seed=0)
    goal = info["goal"][0]
    frames = [observation["pixels"][0]]
    for _ in range(3):
        observation, reward, _, _, info = env.step(env.action_space.sample())
        frames.append(observation["pixels"][0])
        scores = score_frames(model, np.stack(frames), goal, fps=10.0, precision="fp32")
        repeated = np.repeat(goal[-1:], 4, axis=0)
        baseline = score_frames(model, repeated, goal, precision="fp32")[-1]
        expected = min(0.0, scores[-1] - baseline) / (5 if kind_of(name) == "hold-c" else 45)
        assert info["reward/hold"][0] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert reward[0] == pytest.approx(expected + info["env_reward"][0], rel=1e-4, abs=1e-6)


# --- files that do not fit -------------------------------------------------------------------------------------------


Arrays = dict[str, ndarray]


def arrays(name: str) -> tuple[Arrays, Arrays]:
    params, stats, _ = read_parameters(GOLDEN / f"{name}.msgpack")
    return {key: np.asarray(leaf) for key, leaf in params.items()}, {k: np.asarray(leaf) for k, leaf in stats.items()}


def change(params: Arrays, stats: Arrays, how: str) -> None:
    kernel = "ResidualBlock_2/conv2/kernel"
    if how == "missing":
        del params[kernel], stats["init_bn/mean"]
    elif how == "surplus":
        params["extra/kernel"] = np.ones(2, np.float32)
    elif how == "misshaped":
        params[kernel] = params[kernel][..., :7]
    elif how == "flat":
        params["stem_conv/kernel"] = params["stem_conv/kernel"].ravel()
    elif how == "integers":
        params[kernel] = params[kernel].astype(np.int32)
    elif how == "not finite":
        params[kernel] = np.where(params[kernel] > 0, np.nan, params[kernel])
    elif how == "negative":
        stats["init_bn/var"] = -stats["init_bn/var"]
    elif how == "without statistics":
        stats.clear()
    elif how == "one block less":
        for key in [key for key in params if key.startswith("ResidualBlock_3/")]:
            del params[key]
    elif how == "no HOLD":
        params.clear()
        params["decoder/kernel"] = np.ones(2, np.float32)
    else:
        raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "parts"),
    {
        "missing": ["missing ResidualBlock_2/conv2/kernel", "missing batch_stats/init_bn/mean"],
        "surplus": ["surplus extra/kernel"],
        "misshaped": ["ResidualBlock_2/conv2/kernel is (3, 3, 20, 7), the network has (3, 3, 20, 20)"],
        "flat": ["stem_conv/kernel is (2940,), the network has (7, 7, 6, 5)"],
        "integers": ["ResidualBlock_2/conv2/kernel holds int32 instead of floating-point numbers"],
        "not finite": ["ResidualBlock_2/conv2/kernel holds numbers that are not finite"],
        "negative": ["batch_stats/init_bn/var holds variances below 0"],
        "without statistics": ["missing batch_stats/init_bn/mean", "and 26 more"],
        "one block less": ["missing ResidualBlock_3/conv1/kernel", "more"],
        "no HOLD": ["is no network of HOLD", "decoder/kernel", "HOLD's release"],
    }.items(),
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, how: str, parts: list[str]) -> None:
    params, stats = arrays(RESNET_R)
    change(params, stats, how)
    file = write_train_state(tmp_path / "wrong.msgpack", params, stats)
    with pytest.raises(ValueError, match=r"wrong\.msgpack") as caught:
        convert_hold("hold-r", file, tmp_path / "out")
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_array_of_a_transformer_is_needed(tmp_path: Path, name: str) -> None:
    """Whichever is missing or has an array beside it is named, and no other error comes first."""
    params, _ = arrays(name)
    for key in [key for key in params if "encoderblock_1" not in key]:
        rest = {other: array for other, array in params.items() if other != key}
        file = write_train_state(tmp_path / "less.msgpack", rest, {})
        with pytest.raises(ValueError, match=f"missing {re.escape(key)}"):
            convert_hold(kind_of(name), file, tmp_path / "out")
    wrong = {key: array[None] for key, array in params.items()}
    with pytest.raises(ValueError, match=r"the network has .* and \d+ more"):
        convert_hold(kind_of(name), write_train_state(tmp_path / "wrong.msgpack", wrong, {}), tmp_path / "out")


@pytest.mark.parametrize("name", [RESNET_C, RESNET_R, VIVIT, VIT])
def test_the_other_method_is_offered(tmp_path: Path, name: str) -> None:
    other: Kind = "hold-r" if kind_of(name) == "hold-c" else "hold-c"
    with pytest.raises(ValueError, match=rf"is a {kind_of(name).upper()} .*use: vidreward convert {kind_of(name)}"):
        convert_hold(other, GOLDEN / f"{name}.msgpack", tmp_path / "out")


@pytest.mark.parametrize("name", [RESNET_R, VIVIT, VIT])
@pytest.mark.parametrize("factor", [100, 10_000])
def test_no_memory_is_taken_for_sizes_that_the_file_does_not_hold(tmp_path: Path, name: str, factor: int) -> None:
    """A small array that claims a network of terabytes."""
    params, stats = arrays(name)
    for key in ("init_bn/scale", "SpatialTransformer/encoder_norm/scale", "Transformer/encoder_norm/scale"):
        if key in params:
            params[key] = np.ones(len(params[key]) * factor, np.float32)
    file = write_train_state(tmp_path / "wide.msgpack", params, stats)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="does not fit the network"):
        convert_hold(kind_of(name), file, tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=15)
def test_flipped_bytes_give_an_error_or_other_weights(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]]
) -> None:
    content = bytearray((GOLDEN / f"{RESNET_R}.msgpack").read_bytes())
    for where, byte in flips:
        content[int(where**3 * len(content))] = byte
    folder = tmp_path_factory.mktemp("flipped")
    (folder / "file.msgpack").write_bytes(content)
    said = ""
    try:
        vidreward.load(convert_hold("hold-r", folder / "file.msgpack", folder / "out"))
    except ValueError as error:
        said = str(error)
    assert not said or "file.msgpack" in said


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    content = (GOLDEN / f"{RESNET_R}.msgpack").read_bytes()
    (tmp_path / "cut.msgpack").write_bytes(content[:-5000])
    with pytest.raises(ValueError, match=r"cut\.msgpack is no flax checkpoint, or is damaged: .*incomplete"):
        convert_hold("hold-r", tmp_path / "cut.msgpack", tmp_path / "out")
    (tmp_path / "optimizer.msgpack").write_bytes(b"\x80")
    with pytest.raises(ValueError, match="has no parameters under optimizer/target"):
        convert_hold("hold-r", tmp_path / "optimizer.msgpack", tmp_path / "out")


# --- the released sizes ----------------------------------------------------------------------------------------------


def shapes_of_resnet(num_channels: int, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Write down the tree of the released HOLD-C, from its description (docs/released-checkpoints.md)."""
    shapes: dict[str, tuple[int, ...]] = {"stem_conv/kernel": (7, 7, num_channels, 64)}
    norms = {"init_bn": 64}
    number, width = 0, 64
    for filters, num_blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for j in range(num_blocks):
            block = f"ResidualBlock_{number}"
            shapes[f"{block}/conv1/kernel"] = (1, 1, width, filters)
            shapes[f"{block}/conv2/kernel"] = (3, 3, filters, filters)
            shapes[f"{block}/conv3/kernel"] = (1, 1, filters, 4 * filters)
            norms |= {f"{block}/bn1": filters, f"{block}/bn2": filters, f"{block}/bn3": 4 * filters}
            if j == 0:
                shapes[f"{block}/proj_conv/kernel"] = (1, 1, width, 4 * filters)
                norms[f"{block}/proj_bn"] = 4 * filters
            number, width = number + 1, 4 * filters
    for norm, side in norms.items():
        shapes |= {f"{norm}/scale": (side,), f"{norm}/bias": (side,)}
        shapes |= {f"{BATCH_STATS}{norm}/mean": (side,), f"{BATCH_STATS}{norm}/var": (side,)}
    return shapes | {"output_projection/kernel": (2048, num_outputs), "output_projection/bias": (num_outputs,)}


def shapes_of_vivit() -> dict[str, tuple[int, ...]]:
    """Write down the tree of the released HOLD-R, from its description (docs/released-checkpoints.md)."""
    shapes: dict[str, tuple[int, ...]] = {"embedding/kernel": (1, 16, 16, 3, 1024), "embedding/bias": (1024,)}
    for part, num_layers, num_tokens in (("Spatial", 24, 257), ("Temporal", 4, 5)):
        name = f"{part}Transformer"
        shapes |= {f"cls_{name}": (1, 1, 1024), f"{name}/posembed_input/pos_embedding": (1, num_tokens, 1024)}
        norms = [f"{name}/encoder_norm"]
        for i in range(num_layers):
            block = f"{name}/encoderblock_{i}"
            norms += [f"{block}/LayerNorm_0", f"{block}/LayerNorm_1"]
            attention = f"{block}/MultiHeadDotProductAttention_0"
            for projection in ("query", "key", "value"):
                shapes[f"{attention}/{projection}/kernel"] = (1024, 16, 64)
                shapes[f"{attention}/{projection}/bias"] = (16, 64)
            shapes |= {f"{attention}/out/kernel": (16, 64, 1024), f"{attention}/out/bias": (1024,)}
            shapes |= {f"{block}/MlpBlock_0/Dense_0/kernel": (1024, 4096), f"{block}/MlpBlock_0/Dense_0/bias": (4096,)}
            shapes |= {f"{block}/MlpBlock_0/Dense_1/kernel": (4096, 1024), f"{block}/MlpBlock_0/Dense_1/bias": (1024,)}
        for norm in norms:
            shapes |= {f"{norm}/scale": (1024,), f"{norm}/bias": (1024,)}
    return shapes | {"output_projection/kernel": (1024, 1), "output_projection/bias": (1,)}


@pytest.mark.parametrize(
    ("make", "shapes", "num_parameters"),
    [
        (lambda: ResNet(50, num_outputs=32), shapes_of_resnet(3, 32), 23_573_600),
        (lambda: ResNet(50, num_images=2, num_outputs=1), shapes_of_resnet(6, 1), 23_519_489),
        (lambda: ResNet(50, num_images=4, num_outputs=1), shapes_of_resnet(12, 1), 23_538_305),
        (lambda: ViViT(LARGE, num_frames=4, frame_size=(256, 256)), shapes_of_vivit(), 353_757_185),
    ],
    ids=["HOLD-C", "HOLD-R, 1 frame", "HOLD-R, 3 frames", "HOLD-R ViViT-L"],
)
def test_released_trees_fill_the_networks(
    make: Callable[[], torch.nn.Module], shapes: dict[str, tuple[int, ...]], num_parameters: int
) -> None:
    """Every array has one place, every tensor one source, and shapes agree; no memory is taken."""
    with torch.device("meta"):
        network = make()
    sources = find_sources(network)
    tree = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    check(sources, tree, "released")
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    assert sum(np.prod(shape) for name, shape in shapes.items() if not name.startswith(BATCH_STATS)) == num_parameters


@pytest.mark.slow
def test_a_released_resnet_converts_at_full_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tree = {name: rng.random(shape, np.float32) for name, shape in shapes_of_resnet(3, 32).items()}
    stats = {name.removeprefix(BATCH_STATS): array for name, array in tree.items() if name.startswith(BATCH_STATS)}
    params = {name: array for name, array in tree.items() if not name.startswith(BATCH_STATS)}
    file = write_train_state(tmp_path / "checkpoint", params, stats)
    model = vidreward.load(convert_hold("hold-c", file, tmp_path / "out"))
    state = model.network.state_dict()
    # ResidualBlock_7 begins the third stage; every axis of this kernel has values of its own
    np.testing.assert_array_equal(
        state["layer3.0.conv2.weight"], tree["ResidualBlock_7/conv2/kernel"].transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(state["layer4.0.downsample.1.running_var"], stats["ResidualBlock_13/proj_bn/var"])
    np.testing.assert_array_equal(state["fc.weight"], params["output_projection/kernel"].T)


# --- the command -----------------------------------------------------------------------------------------------------


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("name", [RESNET_C, VIVIT])
def test_convert_then_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("VIDREWARD_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "released"
    options = ["--size", 32] if name == RESNET_C else []
    assert run("convert", kind_of(name), GOLDEN / f"{name}.msgpack", out, *options, "--normalizer", 10) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in ("32 pixels", "T = 10", "trained for 37 steps", f"vidreward score {out}"):
        assert part in said
    videos = write_clips(tmp_path / "videos", 1)
    assert run("score", out, videos, "--out", tmp_path / "scored") == 0
    assert (tmp_path / "scored" / "scores.csv").is_file()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["hold-x", "CHECKPOINT", "OUT"], ["hold-c", "hold-r"]),
        (["hold-c", "absent", "OUT"], ["absent is not there", "checkpoint file"]),
        (["hold-c", "FOLDER", "OUT"], ["is a folder", "checkpoint file"]),
        (["hold-c", "CHECKPOINT", "OUT"], ["is a HOLD-R ViViT", "vidreward convert hold-r"]),
        (["hold-r", "TEXT", "OUT"], ["is no flax checkpoint"]),
        (["hold-r", "CHECKPOINT", "FOLDER"], ["is there already", "new folder"]),
        (["hold-r", "CHECKPOINT", "TEXT"], ["is there already"]),
        (["hold-r", "CHECKPOINT", "OUT", "--size", "64"], ["takes frames of 32 pixels only", "leave out --size"]),
        (["hold-r", "CHECKPOINT", "OUT", "--size", "0"], ["1 to 16384 pixels; got 0"]),
        (["hold-r", "CHECKPOINT", "OUT", "--normalizer", "0"], ["more than 0; got 0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("these are my notes, not a checkpoint")
    places = {"CHECKPOINT": GOLDEN / f"{VIVIT}.msgpack", "OUT": tmp_path / "out"}
    places |= {"FOLDER": folder, "TEXT": folder / "notes.txt"}
    assert run("convert", *(places.get(word, word) for word in words)) == 2
    said = " ".join(capsys.readouterr().err.split())
    for part in parts:
        assert part in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
