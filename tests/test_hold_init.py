"""Weights to start from: scenic's ViViT for HOLD-R, a vision transformer of ImageNet-21k for HOLD-C."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import ndarray
from safetensors.torch import save_file

from flax_writer import write_train_state
from goldens import golden
from vidreward.convert.hold_layout import find_sources
from vidreward.convert.vivit_init import initialise_vivit
from vidreward.nets import vit
from vidreward.nets.vit import ViT, ViTConfig
from vidreward.nets.vivit import ViViT, ViViTConfig
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.types import DataSpec

# --- HOLD-R: a ViViT of scenic ---------------------------------------------------------------------------------------

VIVIT = ViViTConfig(width=24, num_heads=4, mlp_dim=40, num_spatial_layers=3, num_temporal_layers=2, patch_size=16)
KERNEL = "embedding/kernel"
SPATIAL = "SpatialTransformer/posembed_input/pos_embedding"
TEMPORAL = "TemporalTransformer/posembed_input/pos_embedding"
BLOCK = "SpatialTransformer/encoderblock_0"


def classifier(
    *, grid: int = 2, num_steps: int = 16, frames_per_patch: int = 2, num_classes: int = 7
) -> dict[str, ndarray]:
    """Make the parameters of a small factorised ViViT as scenic stores them, all random."""
    network = ViViT(VIVIT, num_frames=num_steps, frame_size=(16 * grid, 16 * grid), num_outputs=num_classes)
    rng = np.random.default_rng(0)
    shapes = {path: source.shape for source in find_sources(network).values() for path in source.paths}
    shapes[KERNEL] = (frames_per_patch, 16, 16, 3, 24)
    return {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}


def tree_of(network: ViViT) -> dict[str, torch.Tensor]:
    """Return what lies where in a network, as far as one tensor is one array."""
    state = network.state_dict()
    return {source.paths[0]: state[name] for name, source in find_sources(network).items() if len(source.paths) == 1}


def hold_r(*, size: tuple[int, int] = (32, 32), num_history: int = 3) -> HoldR:
    config = HoldRConfig(network="vivit", vivit=VIVIT, num_history=num_history)
    return config.build(DataSpec(height=size[0], width=size[1], fps=10.0))


def network_of(model: HoldR) -> ViViT:
    assert isinstance(model.network, ViViT)
    return model.network


@pytest.mark.parametrize(
    ("file", "size"), [("same_resolution", 32), ("other_resolution", 64), ("restore_goal_embedding", 32)]
)
def test_initialisation_equals_the_original(file: str, size: int) -> None:
    value = golden(f"hold_vivit_init/{file}.npz")
    params = classifier()
    params |= {key.removeprefix("source/"): array for key, array in value.items() if key.startswith("source/")}
    network = network_of(hold_r(size=(size, size)))
    with torch.no_grad():
        for encoder, path in ((network.spatial, SPATIAL), (network.temporal, TEMPORAL)):
            encoder.pos_embedding.copy_(torch.from_numpy(value[f"fresh/{path}"]))
        network.fc.weight.copy_(torch.from_numpy(value["fresh/output_projection/kernel"].T))
    before = {path: array.copy() for path, array in params.items()}
    initialise_vivit(network, params, file, restore_goal=file.startswith("restore"))
    sources = find_sources(network)
    state = network.state_dict()
    compared = 0
    for name, source in sources.items():
        path = source.paths[0]
        if f"result/{path}" in value:
            expected = source.read({path: value[f"result/{path}"]}, tuple(state[name].shape))
            torch.testing.assert_close(state[name], expected, rtol=0, atol=1e-6, msg=path)
            compared += 1
        if path in value["copied_exactly"]:
            torch.testing.assert_close(state[name], source.read(params, tuple(state[name].shape)), rtol=0, atol=0)
    assert compared == sum(key.startswith("result/") for key in value) >= 8
    assert all((params[path] == before[path]).all() for path in params), "the source was changed"


def test_start_from_a_file(tmp_path: Path) -> None:
    params = classifier()
    write_train_state(tmp_path / "checkpoint_9", params, {})
    model = hold_r(size=(48, 80))
    goal = network_of(model).temporal.pos_embedding[:, -1].clone()
    model.initialise(str(tmp_path / "checkpoint_9"))
    found = tree_of(network_of(model))
    np.testing.assert_allclose(found[KERNEL], params[KERNEL].sum(0).transpose(3, 2, 0, 1), rtol=1e-6)
    assert found[SPATIAL].shape == (1, 1 + 3 * 5, 24)
    corners = found[SPATIAL][0, 1:].view(3, 5, 24)[[0, 0, 2, 2], [0, 4, 0, 4]]
    np.testing.assert_allclose(corners, params[SPATIAL][0, 1:], rtol=1e-6)
    steps = params[TEMPORAL][0, 1:]
    expected = np.stack([params[TEMPORAL][0, 0], steps[0], (steps[7] + steps[8]) / 2, steps[15]])
    np.testing.assert_allclose(found[TEMPORAL][0, :4], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[TEMPORAL][:, 4], goal)
    assert not any(parameter.any() for parameter in (network_of(model).fc.weight, network_of(model).fc.bias))


def test_one_frame_of_history_takes_the_first_time_step() -> None:
    params = classifier()
    network = network_of(hold_r(num_history=1))
    initialise_vivit(network, params, "a classifier")
    np.testing.assert_allclose(network.temporal.pos_embedding[0, :2].detach(), params[TEMPORAL][0, :2], rtol=1e-6)


def test_a_source_of_hold_s_own_layout_keeps_its_time_steps() -> None:
    """The original makes six of five, and stops."""
    params = classifier(num_steps=4, frames_per_patch=1, num_classes=1)
    network = network_of(hold_r())
    initialise_vivit(network, params, "a checkpoint of HOLD")
    found = tree_of(network)
    for path in (TEMPORAL, SPATIAL):
        np.testing.assert_array_equal(found[path], params[path])
    assert not network.fc.weight.any()
    other = classifier(num_steps=4, frames_per_patch=2)
    initialise_vivit(network, other, "a classifier of four steps")
    assert (network.temporal.pos_embedding[0, -1].detach().numpy() == params[TEMPORAL][0, -1]).all()


def drop(name: str) -> Callable[[dict[str, ndarray]], object]:
    return lambda params: params.pop(name)


def put(name: str, array: ndarray) -> Callable[[dict[str, ndarray]], object]:
    return lambda params: params.update({name: array})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(f"{BLOCK}/LayerNorm_1/bias"), f"missing {BLOCK}/LayerNorm_1/bias"),
        (drop(KERNEL), f"missing {KERNEL}"),
        (drop(TEMPORAL), f"missing {TEMPORAL}"),
        (put("SpatialTransformer/encoderblock_3/LayerNorm_0/scale", np.ones(24, np.float32)), "surplus .*block_3"),
        (put(f"{BLOCK}/MlpBlock_0/Dense_0/kernel", np.ones((24, 41), np.float32)), r"Dense_0/kernel is \(24, 41\)"),
        (put(KERNEL, np.ones((2, 8, 8, 3, 24), np.float32)), r"embedding/kernel is \(1, 8, 8, 3, 24\)"),
        (put(SPATIAL, np.ones((1, 4, 24), np.float32)), r"pos_embedding is \(1, 4, 24\)"),
        (put(SPATIAL, np.ones((1, 0, 24), np.float32)), r"pos_embedding is \(1, 0, 24\)"),
        (put(TEMPORAL, np.ones((17, 24), np.float32)), r"pos_embedding is \(17, 24\)"),
        (put(TEMPORAL, np.ones((1, 17, 20), np.float32)), r"TemporalTransformer.* is \(1, 17, 20\)"),
        (put(SPATIAL, np.full((1, 5, 24), np.nan, np.float32)), "not finite"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, ndarray]], object], message: str) -> None:
    params = classifier()
    change(params)
    network = network_of(hold_r())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        initialise_vivit(network, params, "the file")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, msg=f"{name} was changed")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not there"):
        hold_r().initialise(str(tmp_path / "nothing"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text"):
        hold_r().initialise(str(tmp_path / "text"))


@pytest.mark.parametrize("config", [HoldRConfig(depth=14, num_filters=4), HoldCConfig(depth=14, num_filters=4)])
def test_resnets_start_from_nothing(config: HoldRConfig | HoldCConfig) -> None:
    with pytest.raises(ValueError, match=r"no published weights.*--init-from vit_base"):
        config.build(DataSpec(height=32, width=32, fps=10.0)).initialise("vit_base_patch16_224")


# --- HOLD-C: a ViT of ImageNet-21k -----------------------------------------------------------------------------------

VIT = ViTConfig(width=24, num_heads=3, mlp_dim=40, num_layers=2, patch_size=16)


def hold_c(config: ViTConfig = VIT, size: tuple[int, int] = (32, 48)) -> HoldC:
    return HoldCConfig(network="vit", vit=config, embedding_dim=6).build(
        DataSpec(height=size[0], width=size[1], fps=10.0)
    )


def vit_of(model: HoldC) -> ViT:
    assert isinstance(model.network, ViT)
    return model.network


def authors_file(path: Path, *, grid: int = 4) -> dict[str, ndarray]:
    """Write an .npz file as the authors of "How to train your ViT?" publish them, all random."""
    network = ViT(VIT, frame_size=(16 * grid, 16 * grid), num_outputs=11)
    rng = np.random.default_rng(1)
    names = {
        "LayerNorm_1": "LayerNorm_2",
        "MlpBlock_0": "MlpBlock_3",
        "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
        "output_projection": "head",
    }
    arrays = {}
    for source in find_sources(network).values():
        for flax_path in source.paths:
            name = "/".join(names.get(part, part) for part in flax_path.split("/"))
            arrays[name] = rng.standard_normal(source.shape).astype(np.float32)
    arrays |= {"pre_logits/kernel": np.ones((24, 24), np.float32), "pre_logits/bias": np.ones(24, np.float32)}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


def timm_s_own(path: Path, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Read an .npz file by timm's loader into its own model."""
    backbone = vit.make_backbone(VIT, size)
    backbone.load_pretrained(str(path))
    return backbone.state_dict()


def test_start_from_the_authors_file(tmp_path: Path) -> None:
    authors_file(tmp_path / "ViT.npz")
    model = hold_c(size=(64, 64))
    head = vit_of(model).fc.weight.clone()
    model.initialise(str(tmp_path / "ViT.npz"))
    expected = timm_s_own(tmp_path / "ViT.npz", (64, 64))
    state = vit_of(model).backbone.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0, msg=name)
    torch.testing.assert_close(vit_of(model).fc.weight, head)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_positions_are_resampled_to_the_frame(suffix: str, tmp_path: Path) -> None:
    from timm.layers.pos_embed import resample_abs_pos_embed

    arrays = authors_file(tmp_path / "ViT.npz")
    state = timm_s_own(tmp_path / "ViT.npz", (64, 64))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif suffix == ".safetensors":
        save_file({**state, "head.weight": torch.ones(11, 24), "head.bias": torch.ones(11)}, path)
    else:
        torch.save({"state_dict": state}, path)
    model = hold_c(size=(32, 48))
    model.initialise(str(path))
    found = vit_of(model).backbone.state_dict()
    positions = torch.from_numpy(arrays["Transformer/posembed_input/pos_embedding"])
    torch.testing.assert_close(found["pos_embed"], resample_abs_pos_embed(positions, new_size=[2, 3]))
    assert found["pos_embed"].shape == (1, 7, 24)
    for name in state.keys() - {"pos_embed"}:
        torch.testing.assert_close(found[name], state[name], rtol=0, atol=0, msg=name)


def test_start_from_a_timm_model_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through timm's own download, from a Hub cache that already holds a file."""
    import timm

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = ViTConfig(width=64, num_heads=2, mlp_dim=192, num_layers=6, patch_size=16)
    name = "test_vit.r160_in1k"
    with pytest.raises(ValueError, match=rf"timm cannot get the weights of {name}.*as a file"):
        hold_c(config).initialise(name)
    published = timm.create_model(name.partition(".")[0])
    repository = tmp_path / f"models--timm--{name}"
    (repository / "snapshots" / "1").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    save_file(published.state_dict(), repository / "snapshots" / "1" / "model.safetensors")
    model = hold_c(config, size=(160, 160))
    model.initialise(name)
    expected = published.state_dict()
    for key, tensor in vit_of(model).backbone.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0, msg=key)
    with pytest.raises(ValueError, match="has 2 heads and this network 4"):
        hold_c(ViTConfig(width=64, num_heads=4, mlp_dim=192, num_layers=6, patch_size=16)).initialise(name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("vit_bse_patch16_224", "did you mean 'vit_base_patch16_224"),
        ("weights.safetensors", "not there"),
        ("resnet18.nonsense", "cannot get the weights"),
    ],
)
def test_a_name_that_is_none(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hold_c().initialise(source)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_a_vit_that_does_not_fit_is_named(suffix: str, tmp_path: Path) -> None:
    arrays = authors_file(tmp_path / "ViT.npz")
    state = timm_s_own(tmp_path / "ViT.npz", (64, 64))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        del arrays["Transformer/encoder_norm/bias"]
        arrays["cls"] = np.ones((1, 1, 23), np.float32)
        arrays["Transformer/encoderblock_2/LayerNorm_0/scale"] = np.ones(24, np.float32)
        np.savez(path, **arrays)  # type: ignore[arg-type]
        parts = ["missing Transformer/encoder_norm/bias", "cls is (1, 1, 23)", "surplus Transformer/encoderblock_2"]
    else:
        del state["norm.bias"]
        state |= {"cls_token": torch.ones(1, 1, 23), "blocks.2.norm1.weight": torch.ones(24)}
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        parts = ["missing norm.bias", "cls_token is (1, 1, 23)", "surplus blocks.2.norm1.weight"]
    model = hold_c()
    before = vit_of(model).backbone.state_dict()["pos_embed"].clone()
    with pytest.raises(ValueError, match="does not fit") as error:
        model.initialise(str(path))
    assert all(part in str(error.value) for part in [str(path), *parts]), str(error.value)
    assert torch.equal(vit_of(model).backbone.state_dict()["pos_embed"], before), "the network was changed"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 but no more"])
def test_a_broken_file_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"weights{suffix}"):
        hold_c().initialise(str(path))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Run:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "was_run",)

    torch.save({"pos_embed": Run()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        hold_c().initialise(str(tmp_path / "weights.pth"))
    assert not (tmp_path / "was_run").exists()
