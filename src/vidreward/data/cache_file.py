"""One cache file: the decoded frames of one episode as raw bytes, every camera and the goal, for memory mapping.

    8 bytes magic | 8 bytes header length | JSON header, padded to a multiple of 4096 | uint8 frames, array by array

The header repeats the key, the shapes, the file's size and a checksum, so a file that is cut off, damaged, of another
version or under a wrong name is recognised and made again.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from vidreward.data.pixels import VideoError
from vidreward.data.sources import DiskSource
from vidreward.files import atomic_path

MAGIC = b"VRFRAME1"
BLOCK = 4096
GOAL = "goal"
CHUNK = 2**22
MAX_OPEN = 128
"""Cache files kept mapped by a process; each holds a file descriptor."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each array lies in a cache file."""

    key: str
    shapes: Mapping[str, tuple[int, int, int, int]]
    """Array name ("camera/<name>", "goal") -> (T, 3, H, W)."""

    def header(self, checksum: int) -> bytes:
        """Write magic, length and JSON, padded; the length does not depend on the checksum."""
        content = {
            "key": self.key,
            "shapes": dict(self.shapes),
            "num_bytes": self.num_bytes,
            "crc32": f"{checksum:08x}",
        }
        text = json.dumps(content, sort_keys=True).encode()
        head = MAGIC + len(text).to_bytes(8, "little") + text
        return head + b" " * (-len(head) % BLOCK)

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays, the header apart."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def offsets(self) -> dict[str, int]:
        """Byte at which each array begins, counted from the end of the header."""
        found, at = {}, 0
        for name, shape in self.shapes.items():
            found[name] = at
            at += math.prod(shape)
        return found


def layout_of(source: DiskSource, key: str) -> Layout:
    """Plan the cache file of an episode."""
    shapes = {f"camera/{name}": (len(f.index), 3, *f.size) for name, f in source.footage.items()}
    if source.goal_path is not None:
        # read with a margin, a goal of another shape than the video's keeps its own
        shapes[GOAL] = (1, 3, *(source.read_goal().shape[2:] if source.spec.has_margin else source.size))
    return Layout(key=key, shapes=shapes)


def write_cache_file(path: Path, source: DiskSource, key: str, check: Callable[[], bool]) -> None:
    """Decode an episode into a cache file, a frame at a time; the file appears whole or not at all.

    Args:
        path: Where to write.
        source: The opened episode.
        key: Identifies content, settings and versions.
        check: Called when all frames are decoded; says whether the files are still those of the key.

    Raises:
        VideoError: A file cannot be decoded, or changed while it was read.
    """
    layout = layout_of(source, key)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(layout.header(0))
        checksum, num_bytes = 0, 0
        for frame in all_frames(source):
            data = frame.tobytes()
            checksum = zlib.crc32(data, checksum)
            num_bytes += len(data)
            file.write(data)
        if num_bytes != layout.num_bytes or not check():
            raise VideoError(f"{source.files[0]}: changed while it was read; run again when nobody writes to it")
        file.seek(0)
        file.write(layout.header(checksum))
        file.flush()


def all_frames(source: DiskSource) -> Iterable[UInt8[ndarray, "3 H W"]]:
    """Decode everything of an episode in the order of the file, one frame at a time."""
    for footage in source.footage.values():
        yield from footage.iterate(num_threads=1)
    if source.goal_path is not None:
        yield source.read_goal()[0]


def is_whole(path: Path, layout: Layout) -> bool:
    """Whether a cache file is there, has this layout, and every byte of it is as written."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(layout.header(0)))
            checksum, num_bytes = 0, 0
            while chunk := file.read(CHUNK):
                checksum = zlib.crc32(chunk, checksum)
                num_bytes += len(chunk)
    except FileNotFoundError:
        return False
    return num_bytes == layout.num_bytes and head == layout.header(checksum)


@lru_cache(maxsize=MAX_OPEN)
def mapped(path: Path) -> UInt8[ndarray, "bytes"]:
    """Map a cache file; pages are read when touched and shared between processes."""
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


@dataclass(frozen=True)
class CachedSource:
    """Frames of one episode in a cache file."""

    path: Path
    layout: Layout
    content_key: str
    """Identifies the frames, as `DiskSource.content_key` does."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames of the first camera."""
        height, width = next(iter(self.layout.shapes.values()))[2:]
        return height, width

    def read(self, indices: Sequence[int], camera: str) -> UInt8[ndarray, "T 3 H W"]:
        return np.ascontiguousarray(self.array(f"camera/{camera}")[np.asarray(indices, np.int64)])

    def iterate(self, camera: str) -> Iterator[UInt8[ndarray, "3 H W"]]:
        yield from self.array(f"camera/{camera}")

    def read_goal(self) -> UInt8[ndarray, "1 3 H W"]:
        """Read the goal picture."""
        return np.array(self.array(GOAL))

    def array(self, name: str) -> UInt8[ndarray, "T 3 H W"]:
        """Return one array of the file, unread.

        Raises:
            VideoError: The cache file was deleted.
        """
        shape = self.layout.shapes[name]
        start = len(self.layout.header(0)) + self.layout.offsets[name]
        try:
            content = mapped(self.path)
        except FileNotFoundError as error:
            raise VideoError(f"{self.path}: deleted while in use; build the cache again") from error
        return content[start : start + math.prod(shape)].reshape(shape)
