"""What probing found out about the files of a data set, kept, so that opening it again looks at no file's inside.

Probing reads a whole file and decodes one frame of it: 220,000 videos take half an hour of one core, the index of
them seconds. It is a Parquet file in the cache folder, one for each data set, with a row for each video: what `probe`
returned or why it refused, and a sha256 of the content. A row counts as long as the file's size and times of change
are those it had, and the index as long as the versions of the prober and of FFmpeg are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy import ndarray

from vidreward.data.pixels import VideoError
from vidreward.data.probe import PROBE_VERSION, VideoProbe, probe
from vidreward.data.progress import say
from vidreward.data.sources import hash_file
from vidreward.files import atomic_path

SECONDS_BETWEEN_SAVES = 60.0
"""How much of a long opening a killed process loses."""
STAMP = ("size", "mtime_ns", "ctime_ns")
"""What tells that a file is as it was: ctime too, since a copy may bring the old size and modification time along."""
NUMBERS = ("num_frames", "width", "height", "fps", "duration")
ARRAYS = ("times", "pts", "keys")
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        *((name, pa.int64()) for name in STAMP),
        ("content", pa.string()),
        ("reason", pa.string()),
        ("codec", pa.string()),
        *((name, pa.int64()) for name in NUMBERS[:3]),
        *((name, pa.float64()) for name in NUMBERS[3:]),
        ("times", pa.list_(pa.float64())),
        *((name, pa.list_(pa.int64())) for name in ARRAYS[1:]),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about one file."""

    stamp: tuple[int, ...]
    content: str
    """The sha256 of its content; empty for a file that cannot be used."""
    video: VideoProbe | None
    reason: str | None
    """Why it cannot be used."""


class ProbeIndex:
    """Probe the files below a folder, each once; several threads and processes may use one index.

    A process that writes replaces the whole file, with what it read and what it found, so that of two that probe at
    once the later one's is kept; both are right.

    Args:
        root: The data set's folder, resolved.
        folder: Where the index lies, made when it is missing.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.path = folder / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.probes"
        self._prefix = f"{root}{os.sep}"
        self._stored = read_index(self.path)
        self._found: dict[str, Entry] = {}
        self._saved = time.monotonic()
        self._num_saved = 0

    def probe(self, path: Path) -> VideoProbe:
        """Return what `vidreward.data.probe.probe` does, from the index where the file has not changed.

        Raises:
            VideoError: The file cannot be used.
        """
        stamp = stamp_of(path)
        entry = self._look_up(path)
        if entry is None or entry.stamp != stamp:
            entry = self._found[self._name(path)] = examine(path, stamp)
        if entry.video is None:
            raise VideoError(f"{path}: {entry.reason}")
        return entry.video

    def content_of(self, path: Path) -> str:
        """Return the sha256 of a file's content when it was probed; of a file that never was, as it is now."""
        entry = self._look_up(path)
        return hash_file(path) if entry is None else entry.content

    def save(self) -> None:
        """Write the index when something was found; a folder that cannot be written to is said, and stops nothing."""
        if len(self._found) == self._num_saved:
            return
        found = dict(self._found)
        self._saved, self._num_saved = time.monotonic(), len(found)
        table = to_table(found)
        if self._stored is not None:
            table = pa.concat_tables([self._stored.without(found), table])
        try:
            with atomic_path(self.path) as temporary:
                metadata = {"versions": versions()}
                pyarrow.parquet.write_table(
                    table.replace_schema_metadata(metadata), temporary, compression="zstd", write_page_checksum=True
                )
        except OSError as error:
            say(f"{self.path}: not written ({error}); the videos will be probed again when they are opened next")

    def save_now_and_then(self) -> None:
        """Write the index when the last time was long ago."""
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def _look_up(self, path: Path) -> Entry | None:
        name = self._name(path)
        entry = self._found.get(name)
        return self._stored.entry(name) if entry is None and self._stored is not None else entry

    def _name(self, path: Path) -> str:
        return str(path).removeprefix(self._prefix)


def versions() -> str:
    """Write down what a probe's result depends on besides the file."""
    return json.dumps([PROBE_VERSION, {name: list(numbers) for name, numbers in sorted(av.library_versions.items())}])


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return size and times of change of a file; nothing where it cannot be looked at, which probing tells better."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def examine(path: Path, stamp: tuple[int, ...]) -> Entry:
    """Probe a file.

    Raises:
        VideoError: It cannot be read now, which says nothing about what is in it.
    """
    try:
        video = probe(path)
        return Entry(stamp=stamp, content=hash_file(path), video=video, reason=None)
    except VideoError as error:
        if not stamp or isinstance(error.__cause__, OSError | MemoryError):
            raise
        return Entry(stamp=stamp, content="", video=None, reason=str(error).removeprefix(f"{path}: "))


class StoredIndex:
    """The rows of an index file, of which only those asked for become objects.

    Raises:
        ValueError: They are not what this version writes.
    """

    def __init__(self, table: pa.Table) -> None:
        if not table.schema.equals(SCHEMA):
            raise ValueError("other columns")
        table.validate(full=True)
        self.table = table.combine_chunks()
        self.rows = {name: row for row, name in enumerate(self.table["path"].to_pylist())}
        self.stamps = np.stack([self._column(name).to_numpy() for name in STAMP], 1)
        self.numbers = {name: self._column(name).to_numpy(zero_copy_only=False) for name in NUMBERS}
        self.texts = {name: self._column(name) for name in ("content", "reason", "codec")}
        self.arrays = {name: Ragged(self._column(name)) for name in ARRAYS}
        usable = self.texts["reason"].is_null().to_numpy(zero_copy_only=False)
        if (self.arrays["times"].lengths != np.where(usable, self.numbers["num_frames"], 0)).any():
            raise ValueError("other numbers of frames")

    def entry(self, name: str) -> Entry | None:
        """Return what is known about a file."""
        row = self.rows.get(name)
        if row is None:
            return None
        reason = self.texts["reason"][row].as_py()
        return Entry(
            stamp=tuple(self.stamps[row].tolist()),
            content=self.texts["content"][row].as_py(),
            video=self._video(row) if reason is None else None,
            reason=reason,
        )

    def without(self, names: Mapping[str, object]) -> pa.Table:
        """Return the rows of all other files."""
        return self.table.take([row for name, row in self.rows.items() if name not in names])

    def _video(self, row: int) -> VideoProbe:
        num_frames, width, height, fps, duration = (self.numbers[name][row].item() for name in NUMBERS)
        times, pts, keys = (self.arrays[name][row] for name in ARRAYS)
        assert times is not None and keys is not None, row
        return VideoProbe(
            num_frames=num_frames,
            fps=fps,
            width=width,
            height=height,
            codec=self.texts["codec"][row].as_py(),
            duration=duration,
            times=times,
            pts=pts,
            keys=keys.reshape(-1, 2),
        )

    def _column(self, name: str) -> pa.Array:
        chunks = self.table[name].chunks
        return chunks[0] if chunks else pa.array([], SCHEMA.field(name).type)


class Ragged:
    """A column of lists as one flat array: a row is a view of it, or None."""

    def __init__(self, column: pa.ListArray) -> None:
        self.values: ndarray = column.values.to_numpy()
        self.offsets = column.offsets.to_numpy()
        self.is_null = column.is_null().to_numpy(zero_copy_only=False)

    @property
    def lengths(self) -> ndarray:
        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> ndarray | None:
        return None if self.is_null[row] else self.values[self.offsets[row] : self.offsets[row + 1]]


def read_index(path: Path) -> StoredIndex | None:
    """Read an index file; None where there is none, or one of other versions. A damaged one is said, and made again."""
    if not path.exists():
        return None
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        if (table.schema.metadata or {}).get(b"versions") != versions().encode():
            return None
        return StoredIndex(table.replace_schema_metadata(None))
    except (pa.ArrowException, OSError, ValueError) as error:
        say(f"{path}: damaged ({error}); the videos are probed again")
        return None


def to_table(entries: Mapping[str, Entry]) -> pa.Table:
    """Put entries into rows."""
    videos = [entry.video for entry in entries.values()]
    columns: dict[str, list[object]] = {
        "path": list(entries),
        "content": [entry.content for entry in entries.values()],
        "reason": [entry.reason for entry in entries.values()],
    }
    for place, name in enumerate(STAMP):
        columns[name] = [entry.stamp[place] for entry in entries.values()]
    for name in NUMBERS:
        columns[name] = [0 if video is None else getattr(video, name) for video in videos]
    for name in ("codec", "times", "pts"):
        columns[name] = [None if video is None else getattr(video, name) for video in videos]
    columns["keys"] = [None if video is None else video.keys.reshape(-1) for video in videos]
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA)
