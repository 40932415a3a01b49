"""Write checkpoints as flax does, without flax; also broken ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgpack
import numpy as np
from numpy import ndarray


def pack_array(array: ndarray, *, dtype: str | None = None, code: int = 1) -> msgpack.ExtType:
    """Pack an array as msgpack's extension `code`; `dtype` is what it says it holds."""
    payload = (list(array.shape), dtype or array.dtype.name, array.tobytes())
    return msgpack.ExtType(code, msgpack.packb(payload))


def pack_chunks(array: ndarray, size: int) -> dict[str, object]:
    """Pack an array in flat pieces of at most `size` values."""
    flat = array.ravel()
    pieces = [flat[start : start + size] for start in range(0, len(flat), size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): side for i, side in enumerate(array.shape)},
        "chunks": {str(i): pack_array(piece) for i, piece in enumerate(pieces)},
    }


def nest(flat: Mapping[str, object]) -> dict[str, object]:
    """Turn paths joined by "/" into a tree of maps; arrays are packed."""
    tree: dict[str, object] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        place: dict = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = pack_array(leaf) if isinstance(leaf, ndarray) else leaf
    return tree


def write_tree(path: Path, tree: object) -> Path:
    path.write_bytes(msgpack.packb(tree))
    return path


def write_train_state(path: Path, params: Mapping[str, ndarray], stats: Mapping[str, ndarray], step: int = 7) -> Path:
    """Write parameters and batch statistics as a train state."""
    state: dict[str, object] = {f"optimizer/target/{name}": array for name, array in params.items()}
    state |= {f"model_state/batch_stats/{name}": array for name, array in stats.items()}
    tree = nest({**state, "global_step": np.asarray(step, np.int32)})
    return write_tree(path, {"model_state": {}, **tree})
