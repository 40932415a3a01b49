"""Turn released HOLD checkpoints into folders that `vidreward.load` opens.

The authors of "Learning Reward Functions for Robotic Manipulation by Observing Humans" (arXiv 2211.09019) released
files of flax, see docs/released-checkpoints.md. The architecture is read off the arrays' shapes. What no file says gets
the value of the original code, and is written to provenance.json as assumed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vidreward.checkpoint import Description, Preprocessing, build_model, save_checkpoint
from vidreward.config import to_json
from vidreward.convert.flax_file import Leaf, read_parameters
from vidreward.convert.hold_layout import BATCH_STATS, array_side, check, fill, find_sources
from vidreward.data.pixels import FrameSpec
from vidreward.nets.resnet import Depth
from vidreward.nets.vit import ViTConfig
from vidreward.nets.vivit import ViViTConfig
from vidreward.reward_model import RewardConfig
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.types import DataSpec

Kind = Literal["hold-c", "hold-r"]

MEAN_FPS = 11.841645719966037
"""Mean frame rate of Something-Something v2, in whose frames HOLD-R counts."""
SIZE = 256
"""Side of the frames of every released network."""
NORMALIZER: dict[Kind, float] = {"hold-c": 5.0, "hold-r": 45.0}
"""The paper's T on all of its tasks but drawer opening, which has 10 and 100."""

_HEAD = ("output_projection/bias", "output_projection/kernel")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the shapes of a checkpoint say."""

    kind: Kind
    network: str
    config: RewardConfig
    size: int | None
    """Side of the frames; None where the network takes any."""


def convert_hold(
    kind: Kind,
    checkpoint: Path,
    out: Path,
    *,
    size: int | None = None,
    load_size: int | None = None,
    normalizer: float | None = None,
) -> Path:
    """Write a released checkpoint as a folder that `vidreward.load` opens.

    Args:
        kind: Which method the checkpoint is of.
        checkpoint: File of flax.training.checkpoints, as downloaded.
        out: The new folder.
        size: Side of the square frames, in pixels. ResNets take any and are given 256, their size in training, by
            default; the others have one size.
        load_size: Shorter side that videos are scaled to before the centre is cut out of them. None leaves no margin,
            as the original in reinforcement learning; its evaluation has 288 for 256.
        normalizer: HOLD's T, by which rewards are divided: 5 for HOLD-C and 45 for HOLD-R by default.

    Returns:
        The folder.

    Raises:
        ValueError: The file is damaged or of the other method, its arrays do not fit (all are named), or the folder
            is there already.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is there already; give a new folder, or delete it")
    if normalizer is not None and not 0 < normalizer < math.inf:
        raise ValueError(f"the normalizer T divides rewards and must be more than 0; got {normalizer}")
    params, stats, step = read_parameters(checkpoint)
    tree = params | {BATCH_STATS + name: leaf for name, leaf in stats.items()}
    found = _recognise(kind, tree, str(checkpoint))
    side = _frame_size(found, size)
    FrameSpec(size=(side, side), resize="crop", load_size=load_size)  # refuses a margin that is none
    data = DataSpec(height=side, width=side, fps=MEAN_FPS)
    model = _build(found.config, data, tree, str(checkpoint))
    model.normalizer.fill_(NORMALIZER[kind] if normalizer is None else normalizer)
    description = Description(
        reward=kind.replace("-", "_"),
        config=found.config,
        data=data,
        preprocessing=to_json(Preprocessing(size=side, resize="crop", load_size=load_size)),
    )
    assumed = {"size": found.size is None and size is None, "normalizer": normalizer is None, "mean_fps": True}
    source = {
        "file": checkpoint.name,
        "sha256": _digest(checkpoint),
        "network": found.network,
        "num_parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "size": side,
        "load_size": load_size,
        "normalizer": float(model.normalizer),
        "mean_fps": MEAN_FPS,
        "assumed": [name for name, is_assumed in assumed.items() if is_assumed],
    }
    save_checkpoint(out, model, description, provenance={"step": step, "converted": source})
    return out


def describe_conversion(folder: Path) -> str:
    """Say in a few lines what `convert_hold` found and what it had to assume."""
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    found = record["converted"]

    def mark(name: str, option: str) -> str:
        return f" (assumed; {option} sets it)" if name in found["assumed"] else ""

    margin = "" if found["load_size"] is None else f", of videos scaled to a shorter side of {found['load_size']}"
    return "\n".join(
        [
            f"{found['network']}: {found['num_parameters']:,} parameters, trained for {record['step']:,} steps",
            f"frames: the square in the centre, {found['size']} pixels{mark('size', '--size')}{margin}",
            f"rewards are divided by T = {found['normalizer']:g}{mark('normalizer', '--normalizer')}",
        ]
    )


def _recognise(kind: Kind, tree: Mapping[str, Leaf], where: str) -> _Found:
    """Read the network off the tree.

    Raises:
        ValueError: It is none of HOLD's, or of the other method.
    """
    if any(name.startswith(("stem_conv/", "ResidualBlock_")) for name in tree):
        found = _recognise_resnet(kind, tree)
    elif any(name.startswith("SpatialTransformer/") for name in tree):
        found = _recognise_vivit(tree)
    elif any(name.startswith("Transformer/") for name in tree):
        found = _recognise_vit(tree)
    else:
        names = ", ".join(list(tree)[:4])
        raise ValueError(f"{where} is no network of HOLD: its arrays are {names}, ...; give a file of HOLD's release")
    if found.kind != kind:
        raise ValueError(f"{where} is a {found.network}; use: vidreward convert {found.kind}")
    return found


def _recognise_resnet(kind: Kind, tree: Mapping[str, Leaf]) -> _Found:
    num_blocks = _count(tree, r"ResidualBlock_(\d+)/")
    depth: Depth = 14 if num_blocks <= 4 else 50
    num_filters = array_side(tree, ["init_bn/scale", "init_bn/bias"], 0, 64)
    num_outputs = array_side(tree, _HEAD, -1, 1 if kind == "hold-r" else 32)
    name = f"ResNet-{depth} of {num_filters} filters"
    if num_outputs > 1:
        found_c = HoldCConfig(variant="as_coded", depth=depth, num_filters=num_filters, embedding_dim=num_outputs)
        return _Found(kind="hold-c", network=f"HOLD-C {name}, embedding of {num_outputs}", config=found_c, size=None)
    num_images = max(2, array_side(tree, ["stem_conv/kernel"], 2, 6) // 3)
    found_r = HoldRConfig(variant="as_coded", depth=depth, num_filters=num_filters, num_history=num_images - 1)
    name = f"HOLD-R {name}, {_frames(num_images - 1)} and the goal"
    return _Found(kind="hold-r", network=name, config=found_r, size=None)


def _recognise_vivit(tree: Mapping[str, Leaf]) -> _Found:
    patch_size = array_side(tree, ["embedding/kernel"], 1, 16)
    num_frames = array_side(tree, ["TemporalTransformer/posembed_input/pos_embedding"], 1, 5) - 1
    vivit = ViViTConfig(
        **_transformer_sides(tree, "SpatialTransformer"),
        num_spatial_layers=_count(tree, r"SpatialTransformer/encoderblock_(\d+)/") or 24,
        num_temporal_layers=_count(tree, r"TemporalTransformer/encoderblock_(\d+)/") or 4,
        patch_size=patch_size,
    )
    config = HoldRConfig(variant="as_coded", network="vivit", vivit=vivit, num_history=max(1, num_frames - 1))
    layers = f"{vivit.num_spatial_layers} + {vivit.num_temporal_layers} layers"
    name = f"HOLD-R ViViT of {layers}, width {vivit.width}, {_frames(config.num_history)} and the goal"
    size = patch_size * _grid(tree, "SpatialTransformer/posembed_input/pos_embedding")
    return _Found(kind="hold-r", network=name, config=config, size=size)


def _recognise_vit(tree: Mapping[str, Leaf]) -> _Found:
    patch_size = array_side(tree, ["embedding/kernel"], 0, 16)
    vit = ViTConfig(
        **_transformer_sides(tree, "Transformer"),
        num_layers=_count(tree, r"Transformer/encoderblock_(\d+)/") or 12,
        patch_size=patch_size,
    )
    embedding_dim = array_side(tree, _HEAD, -1, 32)
    config = HoldCConfig(variant="as_coded", network="vit", vit=vit, embedding_dim=embedding_dim)
    name = f"HOLD-C ViT of {vit.num_layers} layers, width {vit.width}, embedding of {embedding_dim}"
    size = patch_size * _grid(tree, "Transformer/posembed_input/pos_embedding")
    return _Found(kind="hold-c", network=name, config=config, size=size)


def _transformer_sides(tree: Mapping[str, Leaf], prefix: str) -> dict[str, int]:
    """Return width, heads and hidden units of a transformer; ViT-B's where the arrays are missing."""
    width = array_side(tree, [f"{prefix}/encoder_norm/{name}" for name in ("scale", "bias")], 0, 768)
    block = f"{prefix}/encoderblock_0"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    num_heads = array_side(tree, [f"{attention}/{name}/bias" for name in ("query", "key", "value")], 0, 1)
    return {
        "width": width,
        "num_heads": num_heads if width % num_heads == 0 else 1,
        "mlp_dim": array_side(
            tree, [f"{block}/MlpBlock_0/Dense_0/{name}" for name in ("bias", "kernel")], -1, 4 * width
        ),
    }


def _grid(tree: Mapping[str, Leaf], path: str) -> int:
    """Return the patches along one side of a square frame, from the positions: one of each, and one of the class."""
    num_positions = array_side(tree, [path], 1, 257)
    return max(1, math.isqrt(num_positions - 1))


def _frames(num: int) -> str:
    return f"{num} frame{'s' if num > 1 else ''}"


def _count(tree: Mapping[str, Leaf], pattern: str) -> int:
    """Count the numbers that follow a name: 1 + the largest, so that a hole is found missing."""
    numbers = [int(match[1]) for name in tree if (match := re.match(pattern, name)) and len(match[1]) < 4]
    return max(numbers, default=-1) + 1


def _frame_size(found: _Found, size: int | None) -> int:
    """Choose the side of the frames.

    Raises:
        ValueError: The network has one size and another is asked for.
    """
    if size is not None and not 1 <= size <= 16384:
        raise ValueError(f"the size must be 1 to 16384 pixels; got {size}")
    if found.size is None:
        return SIZE if size is None else size
    if size not in (None, found.size):
        raise ValueError(f"the {found.network} takes frames of {found.size} pixels only; leave out --size {size}")
    return found.size


def _build(config: RewardConfig, data: DataSpec, tree: Mapping[str, Leaf], where: str) -> HoldC | HoldR:
    """Build the model and fill its network."""
    with torch.device("meta"):  # no memory is taken before the file is known to have the arrays
        empty = build_model(config, data, where)
    assert isinstance(empty, HoldC | HoldR)
    sources = find_sources(empty.network)
    check(sources, tree, where)
    model = build_model(config, data, where)
    assert isinstance(model, HoldC | HoldR)
    fill(model.network, sources, tree)
    return model


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
