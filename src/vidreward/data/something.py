"""Something-Something v2: webm files named by number, and json files that say what each shows.

    78687.webm, or 20bn-something-something-v2/78687.webm
    something-something-v2-train.json, -validation.json, -test.json    (or train.json, ...; also below labels/)
    one entry: {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
                "template": "Holding [something] next to [something]", "placeholders": ["potato", "..."]}

The task is the template without its brackets. The data set's own licence forbids passing its videos on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from vidreward.data.candidates import Candidate, Listing
from vidreward.data.metadata import find_metadata, read_text
from vidreward.data.paths import MissingError, PathError, Quarantined, list_tree, resolve_inside

PREFIX = "something-something-v2-"
SPLITS = ("train", "validation", "test")
VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", ".")
LABEL_FOLDERS = (".", "labels")


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
    candidates: list[Candidate] = []
    quarantine: list[Quarantined] = []
    folders = [folder for folder in VIDEO_FOLDERS if (root / folder).is_dir()]
    listed: set[Path] = set()
    for split, path in splits.items():
        missing: list[str] = []
        entries = read_split(path)
        for place, entry in enumerate(entries):
            try:
                candidate = from_entry(root, folders, entry, split, f"{path}, entry {place}")
            except PathError as error:
                quarantine.append(Quarantined(file=f"{entry['id']}.webm", reason=str(error)))
                continue
            if candidate is None:
                missing.append(str(entry["id"]))
            elif candidate.cameras["default"] not in listed:
                candidates.append(candidate)
                listed.add(root / candidate.id)
        if missing:
            reason = (
                f"{len(missing)} of {len(entries)} videos are not there, such as {missing[0]}.webm; the rest is used"
            )
            quarantine.append(Quarantined(file=path.relative_to(root).as_posix(), reason=reason))
    files, refused = list_tree(root)
    unlisted = [path.relative_to(root).as_posix() for path in files if path.suffix == ".webm" and path not in listed]
    known = {entry.file for entry in quarantine}
    quarantine += [entry for entry in refused if Path(entry.file).name not in known]
    quarantine += [Quarantined(file=name, reason="in no split file; add an entry") for name in unlisted]
    return Listing(
        format="something_v2",
        candidates=tuple(candidates),
        quarantine=tuple(quarantine),
        looked_for=f"the webm files that {', '.join(path.name for path in splits.values())} name by id",
    )


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


def from_entry(root: Path, folders: list[str], entry: Mapping[str, object], split: str, place: str) -> Candidate | None:
    """Find the video of one entry; None when it is not there.

    Raises:
        PathError: The id leads out of the folder.
        ValueError: The label, template or placeholders are not what they should be.
    """
    name = f"{entry['id']}.webm"
    for folder in folders:
        try:
            path = resolve_inside(root, f"{folder}/{name}")
            break
        except MissingError:
            continue
    else:
        return None
    template = text_of(entry, "template", place)
    placeholders = entry.get("placeholders", [])
    if not isinstance(placeholders, list) or not all(isinstance(word, str) for word in placeholders):
        raise ValueError(f"{place}: placeholders must be a list of text; got {placeholders!r}")
    return Candidate(
        id=path.relative_to(root).as_posix(),
        cameras={"default": path},
        task=None if template is None else template.replace("[", "").replace("]", ""),
        metadata={"split": split, "label": text_of(entry, "label", place), "placeholders": tuple(placeholders)},
    )


def text_of(entry: Mapping[str, object], key: str, place: str) -> str | None:
    """Read text of an entry; test entries have none."""
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: {key} must be text; got {value!r}")
    return value
