"""Something-Something v2: which files the lists mean, and what is said about the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vidreward.data.episodes import recognise
from vidreward.data.something import VIDEO_FOLDERS, find_splits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set whose files are never opened here, so that any content will do."""
    root = tmp_path / "ssv2"
    videos = root / VIDEO_FOLDERS[0]
    (videos / "sub").mkdir(parents=True)
    for name in ("10", "2", "sub/5"):
        (videos / f"{name}.webm").write_bytes(b"video")
    outside = tmp_path / "outside.webm"
    outside.write_bytes(b"video")
    (videos / "3.webm").symlink_to(outside)
    (videos / "4.webm").symlink_to(tmp_path / "nowhere.webm")
    (videos / "6.webm").symlink_to(videos / "10.webm")
    os.mkfifo(videos / "7.webm")
    (videos / "8.webm").mkdir()
    ids = ["10", "2", "sub/5", "3", "4", "6", "7", "8", "99", "../outside", "10", "a\0b", "~/x"]
    write(root, "train", [{"id": id, "template": "Holding [something]"} for id in ids])
    return root


def write(root: Path, split: str, entries: list[dict[str, object]]) -> None:
    (root / f"{split}.json").write_text(json.dumps(entries))


def test_each_entry_is_found_or_its_absence_explained(root: Path) -> None:
    listing = recognise(root)
    assert [Path(c.id).relative_to(VIDEO_FOLDERS[0]).as_posix() for c in listing.candidates] == [
        *("10.webm", "2.webm", "sub/5.webm", "6.webm")
    ]
    assert {c.task for c in listing.candidates} == {"Holding something"}
    reasons = {entry.file: entry.reason for entry in listing.quarantine}
    assert reasons.keys() == {*(f"{name}.webm" for name in ("3", "4", "7", "../outside", "a\0b", "~/x")), "train.json"}
    assert "leads out of the folder" in reasons["3.webm"]
    assert "no such file" in reasons["4.webm"]
    assert "a pipe" in reasons["7.webm"]
    assert "leads out of the folder" in reasons["../outside.webm"]
    assert "broken file name" in reasons["a\0b.webm"]
    assert reasons["train.json"].startswith("2 of 13 videos are not there, such as 8.webm")


def test_a_video_of_two_lists_is_taken_once_and_unlisted_ones_are_named(root: Path) -> None:
    write(root, "validation", [{"id": 10, "template": "Moving [something]"}, {"id": 11}])
    write(root, "train", [{"id": 10, "template": "Holding [something]"}])
    (root / "11.webm").write_bytes(b"video")  # beside the lists, as some copies have it
    listing = recognise(root)
    assert [(c.id, c.task, c.metadata["split"]) for c in listing.candidates] == [
        (f"{VIDEO_FOLDERS[0]}10.webm", "Holding something", "train"),
        ("11.webm", None, "validation"),
    ]
    unlisted = [entry.file for entry in listing.quarantine if "in no split file" in entry.reason]
    assert unlisted == [f"{VIDEO_FOLDERS[0]}{name}.webm" for name in ("2", "6", "sub/5")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named(root: Path) -> None:
    (root / VIDEO_FOLDERS[0] / "sub").chmod(0)
    reasons = {entry.file: entry.reason for entry in recognise(root).quarantine}
    (root / VIDEO_FOLDERS[0] / "sub").chmod(0o755)
    assert "cannot be read" in reasons[f"{VIDEO_FOLDERS[0]}sub"]


def test_lists_are_found_where_they_are_put(tmp_path: Path) -> None:
    assert find_splits(tmp_path) == {}
    (tmp_path / "labels").mkdir()
    write(tmp_path / "labels", "something-something-v2-validation", [])
    write(tmp_path, "train", [])
    assert {split: path.name for split, path in find_splits(tmp_path).items()} == {
        "train": "train.json",
        "validation": "something-something-v2-validation.json",
    }
