"""Start HOLD-R's ViViT from one that scenic trained to classify videos.

Source: hold-rewards `scenic/projects/func_dist/model_utils.py` (Apache-2.0), see docs/methods/hold_r.md. There are two
departures: a frame that is not square gets its positions from the square grid of the source, and a source that has
HOLD's own layout keeps its time steps, where the original appends one too many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import ndimage

from vidreward.convert.flax_file import Leaf
from vidreward.convert.hold_layout import check, fill, find_sources
from vidreward.nets.vivit import ViViT

_KERNEL = "embedding/kernel"
_SPATIAL = "SpatialTransformer/posembed_input/pos_embedding"
_TEMPORAL = "TemporalTransformer/posembed_input/pos_embedding"
_HEADS = ("output_projection/", "pre_logits/")


def initialise_vivit(network: ViViT, params: Mapping[str, Leaf], where: str, *, restore_goal: bool = False) -> None:
    """Fill all of a network but its head from the parameters of a classifier with a factorised encoder.

    The patch embedding is summed over the source's frames a patch, as if the frame stood still. Positions are
    interpolated linearly, corners on corners: spatial ones to the network's grid, temporal ones to the history. The
    goal is a time step that no classifier has: its position keeps its random start.

    Args:
        network: Filled in place.
        params: Arrays by path in scenic's tree; it is not changed.
        where: Their file, for messages.
        restore_goal: Interpolate the source's time steps to history and goal together.

    Raises:
        ValueError: Arrays are missing, surplus, misshaped or not finite; all are named.
    """
    tree = {name: np.asarray(leaf) for name, leaf in params.items() if not name.startswith(_HEADS)}
    kernel, spatial, temporal = (tree.get(name, np.empty(0)) for name in (_KERNEL, _SPATIAL, _TEMPORAL))
    width = network.fc.in_features
    # what has not the shape of positions stays, and is named below
    if _are_positions(spatial, width):
        tree[_SPATIAL] = _resize_grid(spatial, network.grid)
    if kernel.ndim == 5:
        tree[_KERNEL] = kernel.sum(0, keepdims=True, dtype=np.float32)
        is_hold = kernel.shape[0] == 1 and temporal.shape[1:2] == (network.num_frames + 1,)
        if _are_positions(temporal, width) and not is_hold:
            resized = _resize_time(temporal, network.num_frames if restore_goal else network.num_frames - 1)
            goal = network.temporal.pos_embedding[:, -1:].detach().cpu().numpy()
            tree[_TEMPORAL] = resized if restore_goal else np.concatenate([resized, goal], 1)
    sources = {name: source for name, source in find_sources(network).items() if not name.startswith("fc.")}
    check(sources, tree, where)
    fill(network, sources, tree)


def _are_positions(array: ndarray, width: int) -> bool:
    return array.ndim == 3 and array.shape[::2] == (1, width) and array.shape[1] > 1


def _resize_grid(positions: Float[ndarray, "1 N D"], grid: tuple[int, int]) -> Float[ndarray, "1 M D"]:
    """Interpolate the positions of a square grid; the class token's, in front, stays."""
    side = math.isqrt(positions.shape[1] - 1)
    if side**2 != positions.shape[1] - 1 or (side, side) == grid:
        return positions
    square = positions[0, 1:].reshape(side, side, -1)
    resized = _zoom(square, (*grid, square.shape[2])).reshape(1, grid[0] * grid[1], -1)
    return np.concatenate([positions[:, :1], resized], 1)


def _resize_time(positions: Float[ndarray, "1 N D"], num_steps: int) -> Float[ndarray, "1 M D"]:
    """Interpolate the positions of time steps; the class token's, in front, stays."""
    resized = _zoom(positions[0, 1:], (num_steps, positions.shape[2]))[None]
    return np.concatenate([positions[:, :1], resized], 1)


def _zoom(array: ndarray, shape: tuple[int, ...]) -> ndarray:
    factors = [wanted / found for wanted, found in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(np.asarray(array, dtype=np.float32), factors, order=1)
