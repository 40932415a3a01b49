"""A data set that has been opened: its episodes, what was left out, how to split it and how to recognise it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, overload

import numpy as np

from vidreward.data.paths import Quarantined
from vidreward.data.pixels import FrameSpec
from vidreward.data.sources import hash_array
from vidreward.types import DataSpec, Episode

MAX_NAMED = 5
"""Quarantined files, or sizes, that a message names."""


class StoredSource(Protocol):
    """Pixels that lie on disk, as they came or in the cache."""

    @property
    def content_key(self) -> str:
        """Identify the frames by the content of their files and how they are taken from them."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames of the first camera."""


class EpisodeSet(Sequence[Episode]):
    """Opened episodes of one data set, in a stable order, and the files that were left out.

    Args:
        episodes: At least one.
        root: Folder or file they came from.
        format: What was recognised: "video_folder", "frame_folder" or "something_v2".
        spec: How their frames are sized and cropped.
        quarantine: Files that were left out, with the reason.
    """

    def __init__(
        self,
        episodes: Iterable[Episode],
        *,
        root: Path,
        format: str,
        spec: FrameSpec,
        quarantine: Iterable[Quarantined] = (),
    ) -> None:
        self.episodes = tuple(episodes)
        self.root = root
        self.format = format
        self.spec = spec
        self.quarantine = tuple(quarantine)
        if not self.episodes:
            raise ValueError(f"{root}: no episode is left; choose a wider selection{named_few(self.quarantine)}")

    def __len__(self) -> int:
        return len(self.episodes)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> EpisodeSet: ...
    def __getitem__(self, index: int | slice) -> Episode | EpisodeSet:
        return self.subset(self.episodes[index]) if isinstance(index, slice) else self.episodes[index]

    def __repr__(self) -> str:
        return f"EpisodeSet({len(self)} episodes of {self.format} {str(self.root)!r}, {len(self.quarantine)} left out)"

    def subset(self, episodes: Iterable[Episode], quarantine: Iterable[Quarantined] | None = None) -> EpisodeSet:
        """Return a set of other episodes of the same data set."""
        return EpisodeSet(
            episodes,
            root=self.root,
            format=self.format,
            spec=self.spec,
            quarantine=self.quarantine if quarantine is None else quarantine,
        )

    def filter(self, predicate: Callable[[Episode], bool]) -> EpisodeSet:
        """Keep the episodes for which a function says yes.

        Raises:
            ValueError: None is left.
        """
        return self.subset(episode for episode in self if predicate(episode))

    def split(self, val_fraction: float, *, seed: int = 0) -> tuple[EpisodeSet, EpisodeSet]:
        """Split into training and validation episodes.

        A metadata column `split` decides where it is there: "test" episodes go to neither part. The others are
        drawn by a hash of their id, so that adding episodes moves none of those that were there. Both parts get at
        least one episode.

        Args:
            val_fraction: Part of the episodes to validate on, 0 to 1, both excluded.
            seed: Another seed draws another split.

        Returns:
            Training and validation episodes.

        Raises:
            ValueError: There are fewer than two episodes to split, or the fraction is out of range.
        """
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must be more than 0 and less than 1; got {val_fraction}")
        declared = {episode.id: episode.info.metadata.get("split") for episode in self}
        pool = [episode for episode in self if declared[episode.id] != "test"]
        if len(pool) < 2:
            raise ValueError(f"{self.root}: {len(pool)} episodes outside the test split; splitting needs at least two")
        draw = {episode.id: unit_hash(f"{seed}:{episode.id}") for episode in pool}
        if any(declared[episode.id] == "validation" for episode in pool):
            held_out = {episode.id for episode in pool if declared[episode.id] == "validation"}
        else:
            held_out = {episode.id for episode in pool if draw[episode.id] < val_fraction}
            held_out = held_out or {min(draw, key=draw.__getitem__)}
        if len(held_out) == len(pool):
            held_out.remove(max(draw, key=draw.__getitem__))
        train = self.subset(episode for episode in pool if episode.id not in held_out)
        return train, self.subset(episode for episode in pool if episode.id in held_out)

    def held_out(self) -> EpisodeSet:
        """Keep the episodes that the metadata calls "validation", which training never sees; all where none is."""
        validation = [episode for episode in self if episode.info.metadata.get("split") == "validation"]
        return self.subset(validation or self)

    def fingerprint(self) -> str:
        """Identify ids, labels, per-frame truth and the content of every file; it changes when any of them does."""
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            rows = list(pool.map(describe, self.episodes))
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()

    def data_spec(self, size: tuple[int, int] | None = None) -> DataSpec:
        """Describe the data for `RewardConfig.build`.

        Args:
            size: Height and width that are cut out of frames read with a margin; None: that of the frames.

        Raises:
            ValueError: Episodes differ in frame size or in the width of state or action.
        """
        sizes = sorted({stored_source(episode).size for episode in self})
        if size is None and len(sizes) > 1:
            shown = ", ".join(f"{width}x{height}" for height, width in sizes[:MAX_NAMED])
            raise ValueError(
                f"{self.root}: frames differ in size ({shown}); give open_episodes one size=(height, width)"
            )
        height, width = sizes[0] if size is None else size
        common = [c for c in self[0].cameras if all(c in episode.cameras for episode in self)]
        return DataSpec(
            height=height,
            width=width,
            fps=float(np.mean([episode.fps for episode in self])),
            cameras=tuple(common),
            tasks=tuple(sorted({episode.task for episode in self if episode.task is not None})),
            state_dim=self.column_dim("state"),
            action_dim=self.column_dim("action"),
        )

    def column_dim(self, name: str) -> int:
        """Return the width of a per-frame column, 0 where no episode has it."""
        dims = {1 if c.ndim == 1 else c.shape[1] for e in self if (c := e.column(name)) is not None}
        if len(dims) > 1:
            raise ValueError(
                f"{self.root}: column {name!r} has {sorted(dims)} values a frame; give all episodes one width"
            )
        return dims.pop() if dims else 0


def stored_source(episode: Episode) -> StoredSource:
    """Return the source of an episode that `open_episodes` or `build_cache` made."""
    source = episode.source
    assert isinstance(getattr(source, "size", None), tuple), f"episode {episode.id!r} does not come from disk"
    return source  # type: ignore[return-value]


def describe(episode: Episode) -> list[object]:
    """Write down everything of an episode that training can see."""
    info = episode.info
    columns = {name: hash_array(values) for name, values in sorted(episode.columns.items())}
    return [info.id, stored_source(episode).content_key, info.fps, info.task, info.success, list(info.cameras), columns]


def unit_hash(text: str) -> float:
    """Map text to [0, 1), evenly and the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def named_few(quarantine: Sequence[Quarantined]) -> str:
    """Write the first quarantined files and their reasons as the end of a message."""
    if not quarantine:
        return ""
    lines = [f"\n  {entry.file}: {entry.reason}" for entry in quarantine[:MAX_NAMED]]
    more = len(quarantine) - len(lines)
    return ". Left out:" + "".join(lines) + (f"\n  and {more} more" if more else "")
