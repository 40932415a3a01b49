"""Start HOLD-C's ViT from published weights, as HOLD does from a network trained on ImageNet-21k.

Weights are timm's, by name or as a file, or an .npz file of the original authors (docs/methods/hold_c.md). timm
resamples the positions to the frame's grid.
"""

from __future__ import annotations

import difflib
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError
from torch import Tensor

from vidreward.convert.hold_layout import check, fill, find_sources
from vidreward.nets.vit import ViT

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_HEADS = ("head", "pre_logits", "output_projection")
"""Beginnings of names that belong to the task the weights were trained on."""
_NAMES_IN_NPZ = {
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
}
"""The authors counted the parts of a block together; HOLD's version of flax counts each kind apart."""
_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError),
    *(pickle.UnpicklingError, SafetensorError),
)
"""What torch's restricted unpickler and safetensors raise on a damaged file."""


def initialise_vit(network: ViT, source: str) -> None:
    """Fill the backbone of a ViT; the head stays as it is.

    Args:
        network: Filled in place.
        source: Name of a timm model, or a file of weights: .safetensors or .pth with timm's names, .npz with those of
            the original authors.

    Raises:
        ValueError: There is no such model or file, it cannot be read, or tensors are missing, surplus or misshaped;
            they are named.
    """
    path = Path(source)
    if path.suffix not in _SUFFIXES and not path.exists():
        _fill_from_timm_names(network, _download(source, network), source)
    elif not path.is_file():
        raise ValueError(f"{source} is not there, or is a folder; give a file of weights or the name of a timm model")
    elif path.suffix == ".npz":
        _fill_from_npz(network, path)
    else:
        _fill_from_timm_names(network, _read_state(path), source)


def _download(name: str, network: ViT) -> Mapping[str, Tensor]:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if not name.startswith(("hf-hub:", "hf_hub:")) and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models("vit_*", pretrained=True), n=1)
        offer = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no file {name!r}, and timm has no model of this name{offer}")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"timm cannot get the weights of {name}: {error}; give them as a file") from error
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"{name} is a {type(model).__name__}; give a vision transformer, as vit_base_patch16_224")
    found, wanted = _num_heads(model), _num_heads(network.backbone)
    if found != wanted:  # no shape would tell
        raise ValueError(f"{name} has {found} heads and this network {wanted}; set vit.num_heads")
    return model.state_dict()


def _num_heads(backbone: VisionTransformer) -> int | None:
    from timm.layers.attention import Attention

    return next((module.num_heads for module in backbone.modules() if isinstance(module, Attention)), None)


def _read_state(path: Path) -> Mapping[str, Tensor]:
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path))
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}; give a file of weights and nothing else") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds no tensors by name; give a file of weights and nothing else")
    return state


def _fill_from_timm_names(network: ViT, state: Mapping[str, Tensor], where: str) -> None:
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith(_HEADS)}
    if "pos_embed" in tensors:
        tensors["pos_embed"] = _resample(tensors["pos_embed"], network)
    wanted = network.backbone.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        if name not in wanted:
            problems.append(f"surplus {name}")
        elif tensor.shape != wanted[name].shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, the network has {tuple(wanted[name].shape)}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} holds numbers that are not finite")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"{where} does not fit the network: {'; '.join(problems[:8])}{more}")
    network.backbone.load_state_dict(tensors)


def _fill_from_npz(network: ViT, path: Path) -> None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            raw = dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}; give a file of weights and nothing else") from error
    tree: dict[str, ndarray] = {}
    for name, array in raw.items():
        if not name.startswith(_HEADS):
            tree["/".join(_NAMES_IN_NPZ.get(part, part) for part in name.split("/"))] = array
    if _POSITIONS in tree:
        tree[_POSITIONS] = _resample(torch.from_numpy(tree[_POSITIONS]), network).numpy()
    sources = {name: source for name, source in find_sources(network).items() if not name.startswith("fc.")}
    check(sources, tree, str(path))
    fill(network, sources, tree)


def _resample(positions: Float[Tensor, "1 N D"], network: ViT) -> Float[Tensor, "1 M D"]:
    """Resample the positions of a square grid; the class token's, in front, stays."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    num_patches = positions.shape[1] - 1 if positions.ndim == 3 else 0
    if num_patches < 1 or math.isqrt(num_patches) ** 2 != num_patches:
        return positions  # fits as it is, or is named by the caller
    return resample_abs_pos_embed(positions, new_size=list(network.backbone.patch_embed.grid_size))
