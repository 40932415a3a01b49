"""Look at a data set before training on it: what was recognised, how much, how long, which outcomes, what is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vidreward.data.episode_set import EpisodeSet
from vidreward.data.episodes import open_episodes
from vidreward.data.paths import Quarantined
from vidreward.data.sources import DiskSource
from vidreward.files import atomic_path
from vidreward.types import Episode

NUM_ROWS = 8
NUM_COLUMNS = 6
TILE = 128
"""Height of a frame on the contact sheet, pixels."""
MARGIN = 6
CAPTION = 22
MAX_SHOWN = 20
"""Tasks, values or quarantined files that the printed table lists."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a data set holds."""

    root: Path
    format: str
    num_episodes: int
    num_frames: int
    splits: dict[str, int]
    """Episodes by the metadata's split; "(none)" where it has none."""
    tasks: dict[str, int]
    outcomes: dict[str, int]
    """Episodes that are "success", "failure" or "unknown"."""
    lengths: tuple[int, float, int]
    """Frames of the shortest, the median and the longest episode."""
    seconds: tuple[float, float, float]
    rates: dict[str, int]
    """Episodes by frames per second, rounded to 0.01."""
    sizes: dict[str, int]
    """Episodes by width x height."""
    codecs: dict[str, int]
    cameras: dict[str, int]
    columns: dict[str, int]
    """Episodes by the name of per-frame truth they have."""
    num_goals: int
    """Episodes with a goal picture of their own."""
    metadata: tuple[str, ...]
    quarantine: tuple[Quarantined, ...]
    contact_sheet: Path | None


def inspect_data(path: str | Path, *, out: Path | None = None, console: Console | None = None) -> Inspection:
    """Open a data set, print what is in it, and draw a contact sheet.

    Args:
        path: What `open_episodes` opens.
        out: PNG file to draw, or a folder in which `contact_sheet.png` is made; None: no picture.
        console: Where to print; None: standard output.

    Raises:
        ValueError: Nothing that can be opened is there.
    """
    episodes = open_episodes(path)
    sheet = None if out is None else (out if out.suffix.lower() == ".png" else out / "contact_sheet.png")
    unreadable: list[Quarantined] = []
    if sheet is not None:
        image, unreadable = contact_sheet(episodes)
        write_png(sheet, image)
    inspection = summarise(episodes, sheet, unreadable)
    print_inspection(inspection, console or Console())
    return inspection


def summarise(episodes: EpisodeSet, sheet: Path | None, unreadable: Iterable[Quarantined] = ()) -> Inspection:
    """Count what an opened data set holds."""
    lengths = np.array([episode.num_frames for episode in episodes])
    seconds = lengths / np.array([episode.fps for episode in episodes])
    outcome = {True: "success", False: "failure", None: "unknown"}
    footage = [f for e in episodes if isinstance(e.source, DiskSource) for f in [next(iter(e.source.footage.values()))]]
    return Inspection(
        root=episodes.root,
        format=episodes.format,
        num_episodes=len(episodes),
        num_frames=int(lengths.sum()),
        splits=count(str(episode.info.metadata.get("split", "(none)")) for episode in episodes),
        tasks=count(episode.task or "(none)" for episode in episodes),
        outcomes=count(outcome[episode.success] for episode in episodes),
        lengths=(int(lengths.min()), float(np.median(lengths)), int(lengths.max())),
        seconds=(float(seconds.min()), float(np.median(seconds)), float(seconds.max())),
        rates=count(f"{episode.fps:.2f}".rstrip("0").rstrip(".") for episode in episodes),
        sizes=count(f"{item.size[1]}x{item.size[0]}" for item in footage),
        codecs=count(item.codec for item in footage),
        cameras=count(camera for episode in episodes for camera in episode.cameras),
        columns=count(name for episode in episodes for name in episode.columns),
        num_goals=sum(episode.has_goal for episode in episodes),
        metadata=tuple(sorted({str(key) for episode in episodes for key in episode.info.metadata})),
        quarantine=(*episodes.quarantine, *unreadable),
        contact_sheet=sheet,
    )


def count(values: Iterable[str]) -> dict[str, int]:
    """Count values, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print an inspection as a table, and the quarantined files with their reasons below it."""
    table = Table(title=escape(str(inspection.root)), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    shortest, median, longest = inspection.lengths
    quickest, typical, slowest = inspection.seconds
    rows = {
        "format": inspection.format,
        "episodes": f"{inspection.num_episodes} ({inspection.num_frames} frames)",
        "tasks": listed(inspection.tasks) if set(inspection.tasks) != {"(none)"} else "none given",
        "splits": listed(inspection.splits) if set(inspection.splits) != {"(none)"} else "none given",
        "outcomes": listed(inspection.outcomes),
        "length": f"{shortest} to {longest} frames, median {median:g}; "
        f"{quickest:.1f} to {slowest:.1f} s, median {typical:.1f} s",
        "frames per second": listed(inspection.rates),
        "width x height": listed(inspection.sizes),
        "codecs": listed(inspection.codecs),
        "cameras": listed(inspection.cameras),
        "goal pictures": str(inspection.num_goals),
        "per-frame truth": listed(inspection.columns) or "none",
        "metadata": ", ".join(inspection.metadata) or "none",
        "left out": str(len(inspection.quarantine)),
        "contact sheet": str(inspection.contact_sheet or "not asked for"),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    for entry in inspection.quarantine[:MAX_SHOWN]:
        console.print(f"[yellow]left out[/yellow] {escape(entry.file)}: {escape(entry.reason)}", soft_wrap=True)
    if len(inspection.quarantine) > MAX_SHOWN:
        console.print(f"... and {len(inspection.quarantine) - MAX_SHOWN} more")


def listed(counts: dict[str, int]) -> str:
    """Write counts on one line, the first ones only when there are many."""
    shown = [f"{name} ({number})" for name, number in list(counts.items())[:MAX_SHOWN]]
    return ", ".join(shown) + (f", and {len(counts) - MAX_SHOWN} more" if len(counts) > MAX_SHOWN else "")


def contact_sheet(episodes: EpisodeSet) -> tuple[UInt8[ndarray, "H W 3"], list[Quarantined]]:
    """Draw evenly spaced frames of evenly spaced episodes, one episode a row.

    Returns:
        RGB picture, and the episodes whose frames cannot be decoded after all.
    """
    rows: list[ndarray] = []
    unreadable: list[Quarantined] = []
    for place in np.unique(np.linspace(0, len(episodes) - 1, NUM_ROWS).round().astype(int)):
        episode = episodes[int(place)]
        try:
            rows.append(sheet_row(episode))
        except ValueError as error:
            unreadable.append(Quarantined(file=episode.id, reason=str(error)))
    width = max((row.shape[1] for row in rows), default=MARGIN)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded) if padded else np.full((CAPTION, width, 3), 255, np.uint8), unreadable


def sheet_row(episode: Episode) -> UInt8[ndarray, "H W 3"]:
    """Draw one episode: a caption, and frames from first to last with their time."""
    indices = np.linspace(0, episode.num_frames - 1, NUM_COLUMNS).round().astype(int)
    height, width = episode.frames([0]).shape[2:]
    scale = TILE / height
    tile_width = int(np.clip(round(width * scale), TILE // 4, TILE * 3))
    row = np.full((CAPTION + TILE + MARGIN, MARGIN + NUM_COLUMNS * (tile_width + MARGIN), 3), 255, np.uint8)
    for place, index in enumerate(indices.tolist()):
        frame = episode.frames([index])[0].transpose(1, 2, 0)  # One at a time: frames may be large.
        left = MARGIN + place * (tile_width + MARGIN)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        tile = cv2.resize(np.ascontiguousarray(frame), (tile_width, TILE), interpolation=interpolation)
        label(tile, f"{index / episode.fps:.1f}s")
        row[CAPTION : CAPTION + TILE, left : left + tile_width] = tile
    outcome = {True: ", success", False: ", failure", None: ""}[episode.success]
    task = f" [{episode.task}]" if episode.task else ""
    caption = f"{episode.id}{task}{outcome}, {episode.num_frames} frames at {episode.fps:.4g} fps"
    fitting = fit_text(caption.encode("ascii", "replace").decode(), row.shape[1] - 2 * MARGIN)
    cv2.putText(row, fitting, (MARGIN, CAPTION - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return row


def fit_text(text: str, width: int) -> str:
    """Shorten text in its middle until it is no wider than `width` pixels."""
    shown, half = text, len(text) // 2
    while half > 1 and cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0] > width:
        half -= 1
        shown = f"{text[:half]}...{text[-half:]}"
    return shown


def label(tile: UInt8[ndarray, "H W 3"], text: str) -> None:
    """Write white text with a dark edge into the lower left corner, in place."""
    place = (4, tile.shape[0] - 5)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thickness, cv2.LINE_AA)


def write_png(path: Path, image: UInt8[ndarray, "H W 3"]) -> None:
    """Write an RGB picture; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        temporary.write_bytes(data.tobytes())
