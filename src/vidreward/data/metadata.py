"""Read metadata.csv / .jsonl / .parquet (one row an episode) and frames.parquet (one row a frame).

These files may come from anyone: a row that cannot be meant is an error with its line number.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy import ndarray

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FRAMES_NAME = "frames.parquet"
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
TRUTH = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
EMPTY = ("", "none", "null", "nan", "na")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One episode as its metadata file describes it; paths are still only names."""

    file_name: str
    place: str
    """Where it stands, for messages: file and line."""
    task: str | None = None
    success: bool | None = None
    goal: str | None = None
    split: str | None = None
    fps: float | None = None
    cameras: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, object] = field(default_factory=dict)


def find_metadata(root: Path) -> Path | None:
    """Return the metadata file of a folder, or None.

    Raises:
        ValueError: There are several; which one holds cannot be known.
    """
    found = [root / name for name in NAMES if (root / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{root} has {', '.join(path.name for path in found)}; keep one of them")
    return found[0] if found else None


def read_metadata(path: Path) -> list[Row]:
    """Read a metadata file.

    Raises:
        ValueError: It cannot be parsed, has no `file_name`, repeats one, or a value has no meaning; with the line.
    """
    reader = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}[path.suffix]
    rows: list[Row] = []
    lines: dict[str, str] = {}
    for place, values in reader(path):
        row = parse_row(values, place)
        if row.file_name in lines:
            raise ValueError(f"{place}: file_name {row.file_name!r} is already in {lines[row.file_name]}; keep one row")
        lines[row.file_name] = place
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """Read UTF-8 text, a byte order mark apart."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def read_csv(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (place, values) of each row of a comma-separated file with a header line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not valid CSV ({error}); correct the line") from error
        if cells is None:
            break
        place = f"{path}, line {reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) != len(header):
                raise ValueError(f"{place}: a column name is there twice: {', '.join(header)}; rename one")
            continue
        if len(cells) != len(header):
            raise ValueError(f"{place}: {len(cells)} values for {len(header)} columns ({', '.join(header)}); "
                             "put quotes around values with a comma")  # fmt: skip
        yield place, dict(zip(header, cells, strict=True))
    if header is None:
        raise ValueError(f"{path}: no header line; the first line names the columns, one of them file_name")


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (place, values) of each line of a JSON lines file."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError, ValueError) as error:
            raise ValueError(f"{place}: not valid JSON ({error}); write one object a line") from error
        if not isinstance(values, dict):
            raise ValueError(f'{place}: a {type(values).__name__}, not an object; write {{"file_name": ...}}')
        yield place, values


def read_parquet(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (place, values) of each row of a Parquet file."""
    for number, values in enumerate(read_table(path).to_pylist()):
        yield f"{path}, row {number}", values


def read_table(path: Path) -> pyarrow.Table:
    """Read a Parquet file whole."""
    try:
        return pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); write it again") from error


def parse_row(values: Mapping[str, object], place: str) -> Row:
    """Give the known columns their types; every other one is kept as it is."""
    known = ("file_name", "task", "success", "goal", "split", "fps", "cameras")
    name = values.get("file_name")
    if not isinstance(name, str) or not name.strip():
        columns = ", ".join(map(str, values)) or "none"
        raise ValueError(f"{place}: no file_name (columns: {columns}); name the video of each row in that column")
    return Row(
        file_name=name,
        place=place,
        task=parse_text(values.get("task"), place, "task"),
        success=parse_success(values.get("success"), place),
        goal=parse_text(values.get("goal"), place, "goal"),
        split=parse_split(values.get("split"), place),
        fps=parse_fps(values.get("fps"), place),
        cameras=parse_cameras(values.get("cameras"), place),
        other={str(key): value for key, value in values.items() if key not in known},
    )


def is_empty(value: object) -> bool:
    """Whether a cell says nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip().lower() in EMPTY


def parse_text(value: object, place: str, column: str) -> str | None:
    """Read text; None where the cell is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError(f"{place}: {column} must be text; got {value!r}")
    return value


def parse_success(value: object, place: str) -> bool | None:
    """Read an outcome; None where nobody recorded it."""
    if is_empty(value):
        return None
    outcome = TRUTH.get(str(value).strip().lower())
    if outcome is None:
        raise ValueError(f"{place}: success must be true, false, yes, no, 1, 0 or empty; got {value!r}")
    return outcome


def parse_split(value: object, place: str) -> str | None:
    """Read which part of the data an episode belongs to."""
    if is_empty(value):
        return None
    split = SPLITS.get(str(value).strip().lower())
    if split is None:
        raise ValueError(f"{place}: split must be train, validation, test or empty; got {value!r}")
    return split


def parse_fps(value: object, place: str) -> float | None:
    """Read a frame rate that replaces the file's own."""
    if is_empty(value):
        return None
    try:
        fps = float(str(value))
    except ValueError:
        fps = math.nan
    if not 0 < fps <= 1000:
        raise ValueError(f"{place}: fps must be a number more than 0 and at most 1000, or empty; got {value!r}")
    return fps


def parse_cameras(value: object, place: str) -> dict[str, str]:
    """Read a mapping camera name -> file name; in CSV it is written as JSON."""
    if is_empty(value):
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f'{place}: cameras must be JSON such as {{"top": "a.mp4"}} ({error})') from error
    if isinstance(value, list):  # Parquet has a map type, which reads as pairs.
        value = dict(value) if all(isinstance(pair, tuple) and len(pair) == 2 for pair in value) else value
    if not isinstance(value, Mapping) or not all(isinstance(v, str) or v is None for v in value.values()):
        raise ValueError(f"{place}: cameras must map camera names to file names; got {value!r}")
    return {str(camera): file for camera, file in value.items() if file}


def read_frame_columns(path: Path) -> dict[str, dict[str, ndarray]]:
    """Read per-frame truth: episode -> column -> rows in frame order.

    Raises:
        ValueError: `episode` or `frame` is missing, frames of an episode are not 0, 1, 2, ..., or a column holds
            lists of different lengths.
    """
    table = read_table(path)
    missing = {"episode", "frame"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; it needs episode, frame and the truth")
    names = table.column("episode").to_numpy(zero_copy_only=False).astype(str)
    numbers = table.column("frame").to_numpy(zero_copy_only=False)
    columns = {c: column_array(table.column(c), path, c) for c in table.column_names if c not in ("episode", "frame")}
    episodes, inverse = np.unique(names, return_inverse=True)
    order = np.lexsort((numbers, inverse))
    groups = np.split(order, np.searchsorted(inverse[order], np.arange(1, len(episodes))))
    found = {}
    for episode, rows in zip(episodes.tolist(), groups, strict=True):
        if not np.array_equal(numbers[rows], np.arange(len(rows))):
            raise ValueError(f"{path}: frames of episode {episode!r} must be 0..{len(rows) - 1}, each once")
        found[episode] = {name: values[rows] for name, values in columns.items()}
    return found


def column_array(column: pyarrow.ChunkedArray, path: Path, name: str) -> ndarray:
    """Turn a column of numbers, text or equally long lists into an array with a row a frame."""
    kind = column.type
    if not (pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind)):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    try:
        values = np.array(column.to_pylist(), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: column {name!r} must hold lists of numbers, all of one length ({error})") from error
    return values
