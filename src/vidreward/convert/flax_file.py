"""Read the msgpack files of `flax.training.checkpoints`, with msgpack and numpy only.

Such a file is one tree of maps. Its leaves are numbers, or msgpack extensions: 1 an array (shape, name of the dtype,
bytes in C order), 2 a complex number, 3 a numpy scalar, written like an array. Arrays above 1 GiB are a map of flat
pieces. Nothing in a file is trusted: every length, shape and dtype is checked before it is used, and no code is run.
"""

from __future__ import annotations

import math
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgpack
import numpy as np
from numpy import ndarray

type Leaf = ndarray | int | float
"""What a tree holds: arrays, and plain numbers."""

_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {"bfloat16": np.dtype("uint16")}  # numpy has none: its bits are the upper half of a float32
_NUMBERED = re.compile(r"(.*)_\d+")
_NUMBER = re.compile(r"(\d+)")
_MOST_DIMENSIONS = 32
_MOST_DEPTH = 64
_LIMITS = {"max_array_len": _MOST_DIMENSIONS, "max_map_len": 1_000_000, "max_str_len": 4096}


def read_flax(path: Path, *, under: tuple[str, ...] = ()) -> dict[str, Leaf]:
    """Read a flax checkpoint as one flat mapping.

    Args:
        path: The msgpack file.
        under: Beginnings of the keys to decode, as in ("optimizer/target/", "model_state/"): the optimiser's state
            is as large as the parameters. Everything by default.

    Returns:
        Leaves by their path in the tree, joined by "/". bfloat16 becomes float32; numpy scalars become arrays without
        dimensions; empty maps and nil leave nothing.

    Raises:
        ValueError: The path is no file, or the file is truncated, damaged, or no flax checkpoint; it is named.
    """
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; give the checkpoint file itself")
    try:
        tree = _unpack_file(path)
        if not isinstance(tree, dict):
            raise ValueError(f"it holds {type(tree).__name__} instead of a tree of named arrays")
        flat: dict[str, Leaf] = {}
        for key, leaf in _walk(tree, "", 0):
            if under and not key.startswith(under):
                continue
            if key in flat:
                raise ValueError(f"{key} is there twice")
            flat[key] = _decode(leaf, key)
    except ValueError as error:
        raise ValueError(
            f"{path} is no flax checkpoint, or is damaged: {error}; download it again, and give the file as it came"
        ) from error
    return flat


def read_parameters(path: Path) -> tuple[dict[str, Leaf], dict[str, Leaf], int]:
    """Read what inference needs of a scenic train state: parameters, batch statistics, and the training step.

    Parameters lie under `optimizer/target`; under `params` in files of today's scenic.

    Old files (`optimizer/target/params`) count the unnamed modules of all kinds together, as in Dense_0, LayerNorm_1,
    Dense_2; they get today's names, which count each kind apart.

    Returns:
        Parameters by path ("stem_conv/kernel"), batch statistics by path ("init_bn/mean"), global step (0 when the file
        has none).

    Raises:
        ValueError: As for `read_flax`, or the file has no parameters.
    """
    flat = read_flax(path, under=("optimizer/target/", "params/", "model_state/", "global_step"))
    params = _below(flat, "optimizer/target/") or _below(flat, "params/")
    stats = _below(flat, "model_state/")
    stats = _below(stats, "batch_stats/") or stats
    if any(name.startswith("params/") for name in params):
        params, stats = _renumber(_below(params, "params/")), _renumber(stats)
    if not params:
        raise ValueError(
            f"{path} has no parameters under optimizer/target or params; give a checkpoint_<step> file of hold-rewards "
            "or scenic"
        )
    step = np.asarray(flat.get("global_step", 0))
    return params, stats, int(step) if step.ndim == 0 and step.dtype.kind in "iu" else 0


def _unpack_file(path: Path) -> object:
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _unpack(data)


def _walk(tree: dict[str, object], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    """Yield the leaves with their paths, taking them out of the tree, so that each is freed once it is decoded."""
    if depth > _MOST_DEPTH:
        raise ValueError(f"more than {_MOST_DEPTH} maps inside each other, at {prefix[:80]}...")
    for key in list(tree):
        value = tree.pop(key)
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} under {prefix or 'the root'} is no text")
        path = prefix + "/".join(part for part in key.split("/") if part)
        if isinstance(value, dict) and _CHUNKED not in value:
            yield from _walk(value, f"{path}/", depth + 1)
        elif value is not None:
            yield path, value


def _decode(leaf: object, key: str) -> Leaf:
    if isinstance(leaf, int | float):
        return leaf
    if isinstance(leaf, dict):
        return _join_chunks(leaf, key)
    if not isinstance(leaf, msgpack.ExtType):
        raise ValueError(f"{key} holds {type(leaf).__name__}; only arrays and numbers are read")
    if leaf.code in (1, 3):
        return _decode_array(leaf.data, key)
    if leaf.code == 2:
        parts = _unpack_payload(leaf.data, key)
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, int | float) for part in parts):
            raise ValueError(f"{key} is no complex number")
        return np.asarray(complex(*parts))
    raise ValueError(f"{key} has the unknown extension type {leaf.code}")


def _decode_array(payload: bytes, key: str) -> ndarray:
    record = _unpack_payload(payload, key)
    if not isinstance(record, list) or len(record) != 3 or not isinstance(record[0], list):
        raise ValueError(f"{key} is no array of shape, dtype and bytes")
    shape, name, data = record
    name = name.decode("ascii", "replace") if isinstance(name, bytes) else repr(name)
    if name not in _DTYPES:
        raise ValueError(f"{key} has the dtype {name[:40]!r}; known are {', '.join(_DTYPES)}")
    sides, dtype = _check_shape(shape, key), _DTYPES[name]
    num_bytes = math.prod(sides) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != num_bytes:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise ValueError(f"{key} has {found}; {name} {tuple(sides)} takes {num_bytes}")
    array = np.frombuffer(data, dtype.newbyteorder("<")).reshape(sides)
    if name == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _unpack_payload(payload: bytes, key: str) -> object:
    try:
        return _unpack(payload, raw=True)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _unpack(data: bytes | mmap.mmap, *, raw: bool = False) -> object:
    """Unpack with everything limited that is allocated before it is read; a byte string is as long as it says."""
    try:
        return msgpack.unpackb(data, raw=raw, max_bin_len=len(data), max_ext_len=len(data), **_LIMITS)
    except msgpack.StackError as error:
        raise ValueError("too many maps or lists inside each other") from error
    except msgpack.FormatError as error:
        raise ValueError("a byte that begins nothing known") from error


def _join_chunks(record: Mapping[str, object], key: str) -> ndarray:
    shape = _check_shape(_listed(record.get("shape"), key), key)
    chunks = _listed(record.get("chunks"), key)
    pieces = [_decode(chunk, f"{key}/chunks/{i}") for i, chunk in enumerate(chunks)]
    arrays = [piece for piece in pieces if isinstance(piece, ndarray) and piece.ndim == 1]
    if not arrays or len(arrays) != len(pieces) or len({array.dtype for array in arrays}) != 1:
        raise ValueError(f"{key}: its chunks are not flat arrays of one dtype")
    if sum(array.size for array in arrays) != math.prod(shape):
        raise ValueError(f"{key}: its chunks have {sum(array.size for array in arrays)} values for {tuple(shape)}")
    return np.concatenate(arrays).reshape(shape)


def _listed(record: object, key: str) -> list[object]:
    """Return the values of a map numbered "0", "1", ..., which is how flax writes lists and tuples."""
    if not isinstance(record, dict) or set(record) != {str(i) for i in range(len(record))}:
        raise ValueError(f"{key}: shape and chunks of an array in pieces must be maps numbered from 0")
    return [record[str(i)] for i in range(len(record))]


def _check_shape(shape: list[object], key: str) -> list[int]:
    sides = [side for side in shape if isinstance(side, int) and 0 <= side < 2**40]
    if len(sides) != len(shape) or len(sides) > _MOST_DIMENSIONS:
        raise ValueError(f"{key} has the shape {shape}; it must be at most {_MOST_DIMENSIONS} whole numbers")
    return sides


def _below(flat: Mapping[str, Leaf], prefix: str) -> dict[str, Leaf]:
    return {name.removeprefix(prefix): leaf for name, leaf in flat.items() if name.startswith(prefix)}


def _renumber(flat: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """Number the modules of each kind apart, in their order, at every level of the tree."""
    tree: dict[str, dict[str, Leaf]] = {}
    renamed = {name: leaf for name, leaf in flat.items() if "/" not in name}
    for name, leaf in flat.items():
        head, slash, rest = name.partition("/")
        if slash:
            tree.setdefault(head, {})[rest] = leaf
    counts: Counter[str] = Counter()
    for head in sorted(tree, key=lambda name: [int(part) if part.isdigit() else part for part in _NUMBER.split(name)]):
        match = _NUMBERED.fullmatch(head)
        name = head
        if match:
            name = f"{match[1]}_{counts[match[1]]}"
            counts[match[1]] += 1
        renamed.update({f"{name}/{rest}": leaf for rest, leaf in _renumber(tree[head]).items()})
    return renamed
