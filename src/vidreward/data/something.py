"""Something-Something v2: webm files named by number, and json files that say what each shows.

    78687.webm, or 20bn-something-something-v2/78687.webm
    something-something-v2-train.json, -validation.json, -test.json    (or train.json, ...; also below labels/)
    one entry: {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
                "template": "Holding [something] next to [something]", "placeholders": ["potato", "..."]}

The task is the template without its brackets. The data set's own licence forbids passing its videos on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from vidreward.data.candidates import Candidate, Listing
from vidreward.data.metadata import find_metadata, read_text
from vidreward.data.paths import MissingError, PathError, Quarantined, list_tree, resolve_inside

PREFIX = "something-something-v2-"
SPLITS = ("train", "validation", "test")
VIDEO_FOLDERS = ("20bn-something-something-v2/", "videos/", "")
LABEL_FOLDERS = (".", "labels")
PLAIN_NAME = re.compile(r"\w+\.webm")
"""A name that leads nowhere else."""


def find_splits(root: Path) -> dict[str, Path]:
    """Return the split files of a folder by split; empty when it is not Something-Something v2."""
    if find_metadata(root) is not None:
        return {}
    found: dict[str, Path] = {}
    for split in SPLITS:
        for folder in LABEL_FOLDERS:
            for name in (f"{PREFIX}{split}.json", f"{split}.json"):
                path = root / folder / name
                if split not in found and path.is_file() and path.resolve().is_relative_to(root):
                    found[split] = path
    return found


def list_something(root: Path, splits: Mapping[str, Path]) -> Listing:
    """Find the episodes that the split files name.

    Part of the data set is enough: videos that are listed and not there are counted in one quarantine entry a
    split, since there may be two hundred thousand.

    Raises:
        ValueError: A split file cannot be understood; with the place.
    """
    files, refused = list_tree(root)
    prefix = os.path.join(root, "")
    videos = {str(path).removeprefix(prefix): path for path in files if path.suffix == ".webm"}
    refusals = {entry.file: entry.reason for entry in refused}
    candidates: dict[str, Candidate] = {}
    quarantine: dict[str, str] = {}
    for split, path in splits.items():
        missing: list[str] = []
        entries = read_split(path)
        for place, entry in enumerate(entries):
            name = f"{entry['id']}.webm"
            try:
                id = find_video(root, name, videos, refusals)
            except PathError as error:
                quarantine[name] = str(error)
                continue
            if id is None:
                missing.append(name)
            elif id not in candidates:
                candidates[id] = from_entry(id, videos[id], entry, split, f"{path}, entry {place}")
        if missing:
            quarantine[path.relative_to(root).as_posix()] = (
                f"{len(missing)} of {len(entries)} videos are not there, such as {missing[0]}; the rest is used"
            )
    named = set(quarantine)
    quarantine |= {file: reason for file, reason in refusals.items() if Path(file).name not in named}
    quarantine |= {file: "in no split file; add an entry" for file in videos if file not in candidates}
    return Listing(
        format="something_v2",
        candidates=tuple(candidates.values()),
        quarantine=tuple(Quarantined(file=file, reason=reason) for file, reason in quarantine.items()),
        looked_for=f"the webm files that {', '.join(path.name for path in splits.values())} name by id",
    )


def find_video(root: Path, name: str, videos: Mapping[str, Path], refusals: Mapping[str, str]) -> str | None:
    """Find the video of an entry among the files that are there: its path below the root, None when it is missing.

    Raises:
        PathError: It was refused, or the name leads out of the folder.
    """
    for folder in VIDEO_FOLDERS:
        relative = f"{folder}{name}"
        if relative in videos:
            return relative
        if relative in refusals:
            raise PathError(refusals[relative])
    with contextlib.suppress(MissingError):
        if not PLAIN_NAME.fullmatch(name):
            resolve_inside(root, name)
    return None


def read_split(path: Path) -> list[dict[str, object]]:
    """Read a split file: a list of objects with an id.

    Raises:
        ValueError: It is not valid JSON, or not such a list.
    """
    try:
        entries = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: a {type(entries).__name__}, not a list of entries with an id; download it again")
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(number, str | int) or isinstance(number, bool):
            raise ValueError(f"{path}, entry {place}: no id; each entry needs at least an id")
    return entries


def from_entry(id: str, path: Path, entry: Mapping[str, object], split: str, place: str) -> Candidate:
    """Take what one entry says about its video.

    Raises:
        ValueError: The label, template or placeholders are not what they should be.
    """
    template = text_of(entry, "template", place)
    placeholders = entry.get("placeholders", [])
    if not isinstance(placeholders, list) or not all(isinstance(word, str) for word in placeholders):
        raise ValueError(f"{place}: placeholders must be a list of text; got {placeholders!r}")
    return Candidate(
        id=id,
        cameras={"default": path},
        task=None if template is None else task_of(template),
        metadata={"split": split, "label": text_of(entry, "label", place), "placeholders": tuple(placeholders)},
    )


@lru_cache(maxsize=1024)
def task_of(template: str) -> str:
    """Name the task: the template without brackets; the 174 names are shared by all their videos."""
    return template.replace("[", "").replace("]", "")


def text_of(entry: Mapping[str, object], key: str, place: str) -> str | None:
    """Read text of an entry; test entries have none."""
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: {key} must be text; got {value!r}")
    return value
