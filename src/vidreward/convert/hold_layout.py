"""Where each tensor of HOLD's networks lies in the tree of a released checkpoint.

Source of the names: hold-rewards (Apache-2.0), `scenic/projects/baselines/resnet.py`, `vit.py` and
`scenic/projects/vivit/model.py`. Flax keeps convolutions as (height, width, in, out), dense kernels as (in, out), and
attention with its heads apart: query, key and value (width, heads, head width), out (heads, head width, width).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from vidreward.convert.flax_file import Leaf
from vidreward.nets.resnet import Block, ResNet
from vidreward.nets.vit import ViT
from vidreward.nets.vivit import Attention, ViViT

BATCH_STATS = "batch_stats/"
"""Put before the paths of batch statistics, so that one mapping holds them beside the parameters."""


@dataclass(frozen=True)
class Source:
    """The arrays of a checkpoint that make one tensor."""

    paths: tuple[str, ...]
    """Several (query, key, value) are stacked, in this order."""
    shape: tuple[int, ...]
    """Of each array in the file."""
    axes: tuple[int, ...]
    """Their order in torch, which has outputs first."""

    def read(self, tree: Mapping[str, Leaf], shape: tuple[int, ...]) -> Tensor:
        """Make the float32 tensor of this shape."""
        stacked = np.stack([np.asarray(tree[path]).transpose(self.axes) for path in self.paths])
        return torch.from_numpy(np.ascontiguousarray(stacked, dtype=np.float32).reshape(shape))

    def find_problem(self, path: str, array: ndarray) -> str | None:
        """Say what is wrong with one of its arrays."""
        if array.shape != self.shape:
            return f"{path} is {array.shape}, the network has {self.shape}"
        if array.dtype.kind != "f":
            return f"{path} holds {array.dtype} instead of floating-point numbers"
        if not np.isfinite(array).all():
            return f"{path} holds numbers that are not finite"
        if path.endswith("/var") and array.min() < 0:
            return f"{path} holds variances below 0"
        return None


def check(sources: Mapping[str, Source], tree: Mapping[str, Leaf], where: str) -> None:
    """Check that a checkpoint has exactly the arrays that a network needs, all of them sound.

    Args:
        sources: By the name of the tensor.
        tree: Arrays by path.
        where: The file, for messages.

    Raises:
        ValueError: Arrays are missing, surplus, misshaped or not finite; the first eight are named.
    """
    known = {path: source for source in sources.values() for path in source.paths}
    problems = [f"missing {path}" for path in known if path not in tree]
    problems += [f"surplus {path}" for path in tree if path not in known]
    found = [source.find_problem(path, np.asarray(tree[path])) for path, source in known.items() if path in tree]
    problems += [problem for problem in found if problem is not None]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"{where} does not fit the network: {'; '.join(problems[:8])}{more}")


def fill(network: nn.Module, sources: Mapping[str, Source], tree: Mapping[str, Leaf]) -> None:
    """Overwrite every parameter and statistic of a network with a checkpoint's arrays."""
    state = {name: tensor for name, tensor in network.state_dict().items() if name in sources}
    network.load_state_dict(
        {name: sources[name].read(tree, tuple(tensor.shape)) for name, tensor in state.items()}, strict=False
    )


def find_sources(network: nn.Module) -> dict[str, Source]:
    """Name the arrays of every parameter and statistic of one of HOLD's networks; it may be on the meta device."""
    if isinstance(network, ResNet):
        sources = _resnet_sources(network)
    elif isinstance(network, ViViT):
        sources = _vivit_sources(network)
    else:
        assert isinstance(network, ViT), type(network)
        sources = _vit_sources(network)
    # how many batches were counted is in no checkpoint, and nothing reads it
    wanted = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    assert sources.keys() == wanted, sources.keys() ^ wanted
    return sources


def _resnet_sources(network: ResNet) -> dict[str, Source]:
    """Flax numbers the blocks through, torch within each stage."""
    modules = {"conv1": "stem_conv", "bn1": "init_bn", "fc": "output_projection"}
    blocks = [name for name, module in network.named_modules() if isinstance(module, Block)]
    for number, block in enumerate(blocks):
        for i in range(1, 4):
            modules[f"{block}.conv{i}"] = f"ResidualBlock_{number}/conv{i}"
            modules[f"{block}.bn{i}"] = f"ResidualBlock_{number}/bn{i}"
        modules[f"{block}.downsample.0"] = f"ResidualBlock_{number}/proj_conv"
        modules[f"{block}.downsample.1"] = f"ResidualBlock_{number}/proj_bn"
    return _plain_sources(network, modules)


def _vivit_sources(network: ViViT) -> dict[str, Source]:
    sources = _plain_sources(network, {"embedding": "embedding", "fc": "output_projection"})
    # tubelets one frame long
    flat = sources["embedding.weight"]
    sources["embedding.weight"] = Source(flat.paths, (1, *flat.shape), (0, *(axis + 1 for axis in flat.axes)))
    names = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    for part, encoder in (("spatial", network.spatial), ("temporal", network.temporal)):
        flax = f"{part.capitalize()}Transformer"
        sources |= _encoder_sources(encoder, names, _num_heads(encoder), f"{part}.", flax)
        sources[f"{part}.cls"] = _same(f"cls_{flax}", encoder.cls)
        sources[f"{part}.pos_embedding"] = _same(f"{flax}/posembed_input/pos_embedding", encoder.pos_embedding)
    return sources


def _num_heads(encoder: nn.Module) -> int:
    return next(module.num_heads for module in encoder.modules() if isinstance(module, Attention))


def _vit_sources(network: ViT) -> dict[str, Source]:
    sources = _plain_sources(network, {"backbone.patch_embed.proj": "embedding", "fc": "output_projection"})
    names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    num_heads = network.backbone.get_submodule("blocks.0.attn").num_heads
    assert isinstance(num_heads, int)
    sources |= _encoder_sources(network.backbone, names, num_heads, "backbone.", "Transformer")
    state = network.state_dict()
    sources["backbone.cls_token"] = _same("cls", state["backbone.cls_token"])
    sources["backbone.pos_embed"] = _same("Transformer/posembed_input/pos_embedding", state["backbone.pos_embed"])
    return sources


def _encoder_sources(
    encoder: nn.Module, names: tuple[str, str, str, str], num_heads: int, prefix: str, flax: str
) -> dict[str, Source]:
    """Name the arrays of a transformer's blocks and of its last normalisation.

    Args:
        encoder: Has `blocks` and `norm`.
        names: Of the parts of its blocks: queries, keys and values; attention's output; first and second MLP layer.
        num_heads: Of its attention.
        prefix: Put before its names.
        flax: Path of the transformer in the tree.
    """
    qkv, out, first, second = names
    modules = {"norm": f"{flax}/encoder_norm"}
    state = encoder.state_dict()
    sources: dict[str, Source] = {}
    for i in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        block, path = f"blocks.{i}", f"{flax}/encoderblock_{i}"
        modules[f"{block}.norm1"], modules[f"{block}.norm2"] = f"{path}/LayerNorm_0", f"{path}/LayerNorm_1"
        modules[f"{block}.{first}"], modules[f"{block}.{second}"] = (
            f"{path}/MlpBlock_0/Dense_0",
            f"{path}/MlpBlock_0/Dense_1",
        )
        attention = f"{path}/MultiHeadDotProductAttention_0"
        width = len(state[f"{block}.norm1.weight"])
        heads = (num_heads, width // num_heads)
        three = [f"{attention}/{part}" for part in ("query", "key", "value")]
        sources |= {
            f"{block}.{qkv}.weight": Source(tuple(f"{part}/kernel" for part in three), (width, *heads), (1, 2, 0)),
            f"{block}.{qkv}.bias": Source(tuple(f"{part}/bias" for part in three), heads, (0, 1)),
            f"{block}.{out}.weight": Source((f"{attention}/out/kernel",), (*heads, width), (2, 0, 1)),
            f"{block}.{out}.bias": Source((f"{attention}/out/bias",), (width,), (0,)),
        }
    sources |= _plain_sources(encoder, modules)
    return {prefix + name: source for name, source in sources.items()}


def _same(path: str, tensor: Tensor) -> Source:
    return Source((path,), tuple(tensor.shape), tuple(range(tensor.ndim)))


def _plain_sources(network: nn.Module, modules: Mapping[str, str]) -> dict[str, Source]:
    """Name the arrays of convolutions, dense layers and normalisations, from the paths of their modules."""
    statistics = {"running_mean": "mean", "running_var": "var"}
    sources = {}
    for name, tensor in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        if module not in modules or leaf == "num_batches_tracked":
            continue
        shape, axes, flax_leaf = tuple(tensor.shape), tuple(range(tensor.ndim)), leaf
        if leaf == "weight" and tensor.ndim == 1:
            flax_leaf = "scale"
        elif leaf == "weight":
            axes = (1, 0) if tensor.ndim == 2 else (3, 2, 0, 1)
            shape, flax_leaf = tuple(shape[axes.index(axis)] for axis in range(tensor.ndim)), "kernel"
        prefix = BATCH_STATS if leaf in statistics else ""
        sources[name] = Source((f"{prefix}{modules[module]}/{statistics.get(leaf, flax_leaf)}",), shape, axes)
    return sources


def array_side(tree: Mapping[str, Leaf], paths: Sequence[str], axis: int, default: int) -> int:
    """Return one side of the first of these arrays that is there; `check` says what is wrong with the others.

    Args:
        tree: Arrays by path.
        paths: Arrays that have the same side.
        axis: Where they have it.
        default: Where none of them is there.
    """
    sides = [np.shape(tree[path])[axis] for path in paths if path in tree and np.ndim(tree[path]) > max(axis, 0)]
    return next((side for side in sides if side > 0), default)
