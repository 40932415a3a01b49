"""What a format reader finds before any file is opened: the files of each episode and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from numpy import ndarray

from vidreward.data.paths import Quarantined


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One episode to be opened."""

    id: str
    """Path relative to the data set's folder."""
    cameras: Mapping[str, Path | tuple[Path, ...]]
    """A video file, or the pictures of a folder in order."""
    task: str | None = None
    success: bool | None = None
    goal: Path | None = None
    rate: float | None = None
    """Frame rate that replaces the file's own."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    columns: Mapping[str, ndarray] = field(default_factory=dict)
    """Per-frame truth, a row for each stored frame."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds, by its format's rules."""

    format: str
    candidates: tuple[Candidate, ...]
    quarantine: tuple[Quarantined, ...]
    looked_for: str
    """Said to the user when nothing is found."""
