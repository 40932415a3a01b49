"""Names in a data set's files must not lead out of its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

VIDEO_SUFFIXES = tuple(
    f".{ending}"
    for ending in (
        *("mp4", "m4v", "mov", "webm", "mkv", "avi", "gif", "apng", "mpg", "mpeg", "ts", "mts", "m2ts", "flv", "f4v"),
        *("wmv", "asf", "ogv", "ogg", "3gp", "3g2", "mxf", "nut", "ivf", "dv"),
    )
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MAGIC = {0: (b"\x1aE\xdf\xa3", b"GIF8", b"FLV\x01", b"OggS", b"\x30\x26\xb2\x75"), 4: (b"ftyp", b"moov", b"mdat")}
"""First bytes of video containers, by position; they find a video whose name has another ending."""


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A file that was left out, and why."""

    file: str
    """Path relative to the data set's folder."""
    reason: str


class PathError(ValueError):
    """A name leads to no file, or out of the folder."""


class MissingError(PathError):
    """A name leads to no file."""


def resolve_inside(root: Path, name: str) -> Path:
    """Return the file or folder that a name in a data set means, refusing every way out of the folder.

    Args:
        root: The data set's folder, resolved.
        name: Relative name with forward slashes, from a file that anyone may have written.

    Raises:
        PathError: The name is absolute, climbs with "..", or passes a link that leaves the folder.
        MissingError: It is not there.
    """
    parts = PurePosixPath(name).parts
    if not name or "\0" in name or not parts:
        raise PathError("an empty or broken file name; name a file of this folder")
    if name.startswith(("/", "~")) or Path(name).is_absolute() or ".." in parts:
        raise PathError("the name leads out of the folder; name a file below it, without '..'")
    path = root.joinpath(*parts)
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise MissingError("no such file; correct the name or copy the file here") from error
    if not resolved.is_relative_to(root):
        raise PathError("a link leads out of the folder; copy the file here, or open the folder it is in")
    return path


def list_tree(root: Path) -> tuple[list[Path], list[Quarantined]]:
    """List the regular files below a folder in natural order; hidden ones are left out.

    Returns:
        The files, and what was refused: links that leave the folder, pipes, devices, names that are not UTF-8.
    """
    files: list[Path] = []
    refused: list[Quarantined] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        folders: list[str] = []
        try:
            with os.scandir(root / folder) as entries:
                seen = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: natural_key(e.name))
        except OSError as error:
            problem = f"the folder cannot be read ({error.strerror}); check its permissions"
            refused.append(Quarantined(file=folder.rstrip("/") or ".", reason=problem))
            continue
        for entry in seen:
            relative = f"{folder}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{relative}/")
                continue
            reason = refusal(root, relative, entry)
            if reason is None:
                files.append(Path(entry.path))
            else:
                shown = relative.encode(errors="backslashreplace").decode()
                refused.append(Quarantined(file=shown, reason=reason))
        pending += reversed(folders)
    return files, refused


def refusal(root: Path, relative: str, entry: os.DirEntry[str]) -> str | None:
    """Say why an entry of a folder is not taken; None for a regular file inside, which only links may not be."""
    try:
        relative.encode()
        if entry.is_symlink():
            resolve_inside(root, relative)
    except UnicodeEncodeError:
        return "the name is not valid UTF-8; rename the file"
    except PathError as error:
        return str(error)
    if entry.is_file():
        return None
    if entry.is_dir():
        return "a link to a folder; open that folder instead"
    return "a pipe, socket or device, not a file; remove it"


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Order names with numbers as people do: frame2 before frame10.

    Example:
        >>> sorted(["f10.png", "f2.png", "f1.png"], key=natural_key)
        ['f1.png', 'f2.png', 'f10.png']
    """
    key: list[tuple[int, int, str]] = []
    digits = text = ""
    for letter in [*name, ""]:
        is_digit = letter.isascii() and letter.isdigit()
        if text and (is_digit or not letter):
            key.append((1, 0, text))
            text = ""
        if digits and not is_digit:
            key.append((0, int(digits[:4000]), digits))
            digits = ""
        if is_digit:
            digits += letter
        else:
            text += letter
    return key


def is_video_file(path: Path) -> bool:
    """Whether a name's ending or the first bytes say video; whether it really is one, decoding tells."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    riff = start.startswith(b"RIFF") and start[8:12] == b"AVI "
    return riff or any(start.startswith(mark, at) for at, marks in MAGIC.items() for mark in marks)


def is_image_file(path: Path) -> bool:
    """Whether the ending is one of a still picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES
