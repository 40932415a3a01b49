"""Write files and folders so that a reader sees the old content or the new, never half of either.

Everything is written under a temporary name beside its destination, synced to disk and renamed. A process that
is killed leaves at most such a temporary behind: `is_temporary` recognises it, `remove_stale` deletes it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\.tmp~(?P<host>[\w-]*)~(?P<process>\d+)~[0-9a-f]{8}(\.\w+)?")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def temporary_beside(path: Path) -> Path:
    """Name a temporary in the folder of `path`; it keeps the suffix, which encoders choose a format by."""
    host = re.sub(r"[^\w-]", "-", socket.gethostname(), flags=re.ASCII)[:64]
    suffix = path.suffix if re.fullmatch(r"\.\w{1,16}", path.suffix, flags=re.ASCII) else ""
    return path.parent / f".tmp~{host}~{os.getpid()}~{secrets.token_hex(4)}{suffix}"


def is_temporary(path: Path) -> bool:
    """Tell whether a path is an unfinished file or folder of this module, to be ignored by whoever lists a folder.

    Example:
        >>> is_temporary(temporary_beside(Path("runs/mine"))), is_temporary(Path("runs/mine"))
        (True, False)
    """
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_stale(folder: Path) -> list[Path]:
    """Delete the temporaries that killed processes of this machine left in a folder.

    Those of a living process, or of another machine that shares the disk, stay.

    Returns:
        The paths that were deleted.
    """
    host = temporary_beside(folder / "any").name.split("~")[1]
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["host"] == host and not _is_running(int(match["process"])):
            _remove(path)
            removed.append(path)
    return removed


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path to write one file at; it becomes `path` when the block ends without an error.

    Missing parent folders are made. When the block raises, `path` is left as it was.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("frame,score")
        >>> target.read_text()
        'frame,score'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: Path | str, data: bytes) -> None:
    """Write bytes to a file, replacing it as a whole."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: Path | str, text: str) -> None:
    """Write UTF-8 text to a file as it is (no newline translation), replacing it as a whole."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path | str, value: object) -> None:
    """Write strict JSON, indented; readers of every language must be able to parse it, so NaN has no place.

    Raises:
        ValueError: A number is NaN or infinite; the message says where.
        TypeError: A value is not a JSON type.
    """
    place = _not_finite(value, "")
    if place is not None:
        raise ValueError(f"{path}: the number at {place or 'the top'} is not finite; JSON has none, write null instead")
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give a temporary folder to fill; it replaces the folder `path` when the block ends without an error.

    Every file in it is synced first. When the block raises, `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        replace_folder_atomic(temporary, path)
    finally:
        _remove(temporary)


def replace_folder_atomic(source: Path, target: Path) -> None:
    """Sync a finished folder and put it in the place of another, which is deleted; both must be on one disk.

    Where the file system can exchange two folders this is one step. Elsewhere it is two, and a kill between them
    leaves the old folder under another name, from which `recover_folder` brings it back.

    Raises:
        ValueError: The target exists and is not a folder.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{target} exists and is not a folder; choose another path or move it away")
    for parent, _, names in os.walk(source):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))
    recover_folder(target)
    if not target.exists():
        os.rename(source, target)
    elif _exchange(source, target):
        _remove(source)
    else:
        old = _replaced(target)
        os.rename(target, old)
        os.rename(source, target)
        _remove(old)
    sync(target.parent)


def recover_folder(path: Path) -> None:
    """Bring a folder back when its replacement was killed between two renames; call it before reading the folder."""
    old = _replaced(path)
    if old.is_dir():
        if path.exists():
            _remove(old)
        else:
            os.rename(old, path)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise  # some network file systems cannot sync folders; files always can
    finally:
        os.close(descriptor)


def _replaced(path: Path) -> Path:
    return path.parent / f".replaced~{path.name}"


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step; False where the kernel or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _not_finite(value: object, place: str) -> str | None:
    """Find the first number that JSON cannot hold; None when there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    items: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = list(enumerate(value))
    found = (_not_finite(item, f"{place}[{key!r}]") for key, item in items)
    return next((inner for inner in found if inner is not None), None)
