"""Files of a replay: groups of whole episodes that never change once written, named by a checksum of their content."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidreward.files import atomic_path, remove_stale

Columns = dict[str, ndarray]
"""One episode by name: observations have a row more than the rest."""


class Segment(NamedTuple):
    """A file of consecutive episodes."""

    first: int
    last: int
    checksum: int

    @property
    def name(self) -> str:
        return f"episodes-{self.first:08d}-{self.last:08d}-{self.checksum:08x}.safetensors"


def write_segment(folder: Path, first: int, episodes: Sequence[Mapping[str, ndarray]]) -> Segment:
    """Write episodes, numbered from `first`, to a file of their own; one that is there already stays."""
    arrays = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    tensors["num_steps"] = torch.tensor([len(episode["action"]) for episode in episodes])
    segment = Segment(first, first + len(episodes) - 1, _checksum(tensors))
    if not (folder / segment.name).is_file():
        with atomic_path(folder / segment.name) as temporary:
            save_file(tensors, temporary)
    return segment


def read_segment(folder: Path, segment: Segment) -> Iterator[tuple[int, Columns]]:
    """Read the episodes of a file, with their numbers.

    Raises:
        ValueError: It is missing, or not what was written.
    """
    where = folder / segment.name
    try:
        tensors = load_file(where)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{where} is damaged or missing: {error}; use another checkpoint of the run") from error
    if "num_steps" not in tensors or _checksum(tensors) != segment.checksum:
        raise ValueError(f"{where} is damaged: its checksum differs; copy it again or use another checkpoint")
    lengths = tensors.pop("num_steps").tolist()
    parts = {
        name: values.split([n + 1 for n in lengths] if name in ("pixels", "state") else lengths)
        for name, values in tensors.items()
    }
    for index, number in enumerate(range(segment.first, segment.last + 1)):
        yield number, {name: values[index].numpy() for name, values in parts.items()}


def remove_segments(folder: Path, *, keep: Collection[str]) -> None:
    """Delete the files of episodes that are not among the names to keep, and what killed processes left."""
    remove_stale(folder)
    for path in folder.glob("episodes-*.safetensors"):
        if path.name not in keep:
            path.unlink()


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of names and content."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(
            tensors[name].contiguous().numpy().reshape(-1).view(np.uint8), zlib.crc32(name.encode(), value)
        )
    return value
