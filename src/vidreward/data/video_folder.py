"""Folders of videos, or of folders of pictures; the Hugging Face VideoFolder convention for what is known about them.

reach/a.mp4  push/b.webm            a first-level folder is a task
metadata.csv | .jsonl | .parquet    file_name, task, success, goal, split, fps, cameras; other columns are kept
frames.parquet                      episode (= file_name), frame, then truth: progress, stage, state, action, reward
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from numpy import ndarray

from vidreward.data.candidates import Candidate, Listing
from vidreward.data.metadata import FRAMES_NAME, NAMES, Row, find_metadata, read_frame_columns, read_metadata
from vidreward.data.paths import (
    PathError,
    Quarantined,
    is_image_file,
    is_video_file,
    list_tree,
    natural_key,
    resolve_inside,
)

LOOKED_FOR = (
    "videos (mp4, webm, mkv, avi, mov, gif, ...), folders of pictures (jpg, png), a metadata.csv/.jsonl/.parquet with "
    "file_name, or Something-Something v2 (webm files and their json)"
)


def list_folder(root: Path) -> Listing:
    """Find the episodes of a folder of videos or of folders of pictures.

    With a metadata file its rows are the episodes, and videos that it does not name are quarantined; without one,
    every video is an episode, or every folder of pictures where there is no video.

    Raises:
        ValueError: A metadata file cannot be understood.
    """
    files, refused = list_tree(root)
    metadata = find_metadata(root)
    if metadata is not None:
        candidates, rejected = from_rows(root, read_metadata(metadata), files, metadata.name)
    else:
        videos = [path for path in files if path.name not in (*NAMES, FRAMES_NAME) and is_video_file(path)]
        candidates = from_videos(root, videos) if videos else from_pictures(root, files)
        rejected = []
    if (root / FRAMES_NAME).is_file():
        candidates, unknown = with_columns(candidates, read_frame_columns(root / FRAMES_NAME))
        rejected += unknown
    has_video = any(isinstance(media, Path) for candidate in candidates for media in candidate.cameras.values())
    return Listing(
        format="video_folder" if has_video or not candidates else "frame_folder",
        candidates=tuple(candidates),
        quarantine=(*refused, *rejected),
        looked_for=LOOKED_FOR,
    )


def from_videos(root: Path, videos: Iterable[Path]) -> list[Candidate]:
    """Make an episode of each video; its first-level folder is the task."""
    return [
        Candidate(id=path.relative_to(root).as_posix(), cameras={"default": path}, task=task_of(path, root))
        for path in videos
    ]


def from_pictures(root: Path, files: Iterable[Path]) -> list[Candidate]:
    """Make an episode of each folder that holds pictures; a folder above it, where there is one, is the task."""
    folders: dict[Path, list[Path]] = {}
    for path in files:
        if is_image_file(path):
            folders.setdefault(path.parent, []).append(path)
    return [
        Candidate(
            id=root.name if folder == root else folder.relative_to(root).as_posix(),
            cameras={"default": tuple(sorted(pictures, key=lambda path: natural_key(path.name)))},
            task=None if folder == root else task_of(folder, root),
        )
        for folder, pictures in folders.items()
    ]


def task_of(path: Path, root: Path) -> str | None:
    """Return the first-level folder above a file, or None at the top."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def from_rows(
    root: Path, rows: Iterable[Row], files: Iterable[Path], source: str
) -> tuple[list[Candidate], list[Quarantined]]:
    """Make an episode of each row of a metadata file."""
    candidates: list[Candidate] = []
    rejected: list[Quarantined] = []
    used: set[Path] = set()
    ids: set[str] = set()
    for row in rows:
        names = {**row.cameras, **({} if row.goal is None else {"goal": row.goal})}
        for name in (row.file_name, *names.values()):
            used.add(root / name)
        try:
            candidate = from_row(root, row)
        except PathError as error:
            rejected.append(Quarantined(file=printable(row.file_name), reason=f"{source}: {error}"))
            continue
        if candidate.id in ids:
            reason = f"{source}: another row names the same file as {printable(candidate.id)}; keep one"
            rejected.append(Quarantined(file=printable(row.file_name), reason=reason))
        else:
            candidates.append(candidate)
            ids.add(candidate.id)
    for path in files:
        inside_used = path in used or any(parent in used for parent in path.parents)
        if not inside_used and is_video_file(path):
            name = path.relative_to(root).as_posix()
            rejected.append(Quarantined(file=name, reason=f"not named in {source}; add a row or move it away"))
    return candidates, rejected


def from_row(root: Path, row: Row) -> Candidate:
    """Find the files that one row names.

    Raises:
        PathError: One is missing, or its name leads out of the folder.
    """
    first = next((camera for camera, name in row.cameras.items() if name == row.file_name), None)
    names = {first or "default": row.file_name, **row.cameras}
    cameras = {camera: media_at(root, name, "" if name == row.file_name else name) for camera, name in names.items()}
    path = resolve_inside(root, row.file_name)
    return Candidate(
        id=path.relative_to(root).as_posix(),
        cameras=cameras,
        task=row.task if row.task is not None else task_of(path, root),
        success=row.success,
        goal=None if row.goal is None else named(root, row.goal, f"goal {printable(row.goal)}"),
        rate=row.fps,
        metadata={**row.other, **({} if row.split is None else {"split": row.split})},
    )


def named(root: Path, name: str, what: str) -> Path:
    """Resolve a second file of a row, so that the reason names it."""
    try:
        return resolve_inside(root, name)
    except PathError as error:
        raise PathError(f"{what}: {error}" if what else str(error)) from error


def media_at(root: Path, name: str, what: str) -> Path | tuple[Path, ...]:
    """Return a video file, or the pictures of a folder in natural order."""
    path = named(root, name, what)
    if not path.is_dir():
        return path
    pictures = [entry for entry in path.iterdir() if is_image_file(entry) and not entry.name.startswith(".")]
    if not pictures:
        raise PathError(f"{what or 'the folder'} holds no pictures; name a video or a folder of jpg or png files")
    ordered = sorted(pictures, key=lambda entry: natural_key(entry.name))
    for entry in ordered:
        resolve_inside(root, entry.relative_to(root).as_posix())
    return tuple(ordered)


def with_columns(
    candidates: Iterable[Candidate], truth: dict[str, dict[str, ndarray]]
) -> tuple[list[Candidate], list[Quarantined]]:
    """Attach per-frame truth to the episodes it names; say which names have no episode."""
    remaining = dict(truth)
    attached = []
    for candidate in candidates:
        attached.append(replace(candidate, columns=remaining.pop(candidate.id, {})))
    unknown = sorted(remaining)
    if not unknown:
        return attached, []
    reason = f"names {len(unknown)} episodes that are not there, such as {printable(unknown[0])}; the rest is used"
    return attached, [Quarantined(file=FRAMES_NAME, reason=reason)]


def printable(name: str) -> str:
    """Show a name from a stranger's file on one line."""
    return name.encode("unicode_escape").decode() if not name.isprintable() else name
