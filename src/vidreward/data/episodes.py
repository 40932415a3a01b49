"""One way in: `open_episodes(path)` recognises the format, opens every file once, and names what it left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from numpy import ndarray

from vidreward.data.cache import default_folder
from vidreward.data.candidates import Candidate, Listing
from vidreward.data.episode_set import EpisodeSet, named_few
from vidreward.data.paths import Quarantined
from vidreward.data.pixels import FrameSpec
from vidreward.data.probe import probe
from vidreward.data.probe_index import ProbeIndex
from vidreward.data.progress import progress_bar
from vidreward.data.something import find_splits, list_something
from vidreward.data.sources import DiskSource, Footage, ImageFootage, VideoFootage, hash_file
from vidreward.data.video_folder import LOOKED_FOR, list_folder, printable
from vidreward.types import Episode, EpisodeInfo

__all__ = ["EpisodeSet", "Quarantined", "open_episodes"]

MIN_INDEXED = 100
"""Episodes from which on what was found out about their files is kept."""


def open_episodes(
    path: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    resize: Literal["squash", "crop"] = "squash",
    load_size: int | None = None,
    crop: tuple[float, float, float, float] | None = None,
    camera: str | None = None,
    fps: float | None = None,
    cache_dir: Path | None = None,
) -> EpisodeSet:
    """Open a folder of videos, of folders of pictures, Something-Something v2, or a single video.

    Nothing is decoded yet but one frame a file, which shows that its codec works. Files that cannot be used are
    named in `quarantine` with the reason; they stop nothing. What was found out about the files of a large folder is
    kept (`data.probe_index`), so that opening it again takes seconds.

    Args:
        path: Folder or video file.
        size: Height and width of the frames, one number for a square; None keeps each file's own.
        resize: "squash" changes the aspect ratio; "crop" fits the shorter side, then cuts the centre.
        load_size: Shorter side to scale to, with resize="crop": a margin around `size` that is cut off, or kept without
            a size.
        crop: Box to keep before resizing: left, top, right, bottom as fractions 0-1 of the frame.
        camera: The camera that comes first, and so is read by default; None: the order of the metadata.
        fps: Resample every episode to this rate: the last frame shown at or before each k / fps seconds.
        cache_dir: Where what was found out is kept; None: $VIDREWARD_CACHE, else ~/.cache/vidreward/frames.

    Raises:
        ValueError: Nothing that can be opened is there; or a metadata file cannot be understood.
        FileNotFoundError: The path does not exist.
    """
    frame_size = (size, size) if isinstance(size, int) else size
    spec = FrameSpec(size=frame_size, resize=resize, load_size=load_size, crop=crop)
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"fps must be more than 0 and at most 1000, or None; got {fps}")
    given = Path(path)
    if not given.exists():
        raise FileNotFoundError(f"{given} does not exist; give a folder of videos or a video file")
    listing = recognise(given.resolve())
    is_large = len(listing.candidates) >= MIN_INDEXED
    index = ProbeIndex(given.resolve(), cache_dir or default_folder()) if is_large else None
    opened = open_all(
        listing.candidates, partial(open_candidate, spec=spec, camera=camera, fps=fps, index=index), index
    )
    quarantine = listing.quarantine + tuple(entry for entry in opened if isinstance(entry, Quarantined))
    episodes = [entry for entry in opened if isinstance(entry, Episode)]
    if not episodes:
        raise ValueError(f"{given}: no episodes. Looked for {listing.looked_for}{named_few(quarantine)}")
    return EpisodeSet(episodes, root=given, format=listing.format, spec=spec, quarantine=quarantine)


def recognise(root: Path) -> Listing:
    """List the episodes of a path by the rules of the format it has."""
    if not root.is_dir():
        single = Candidate(id=root.name, cameras={"default": root})
        return Listing(format="video_folder", candidates=(single,), quarantine=(), looked_for=LOOKED_FOR)
    splits = find_splits(root)
    return list_something(root, splits) if splits else list_folder(root)


def open_all(
    candidates: Sequence[Candidate],
    open_one: Callable[[Candidate], Episode | Quarantined],
    index: ProbeIndex | None = None,
) -> list[Episode | Quarantined]:
    """Open candidates side by side, in their order, with a progress bar when there are many."""
    num_threads = min(16, len(os.sched_getaffinity(0)))
    # tasks of several candidates: where the index knows them, handing one over takes longer than opening it
    size = max(1, min(64, len(candidates) // (8 * num_threads)))
    parts = [candidates[start : start + size] for start in range(0, len(candidates), size)]
    opened: list[Episode | Quarantined] = []
    pool = ThreadPoolExecutor(num_threads)
    try:
        with progress_bar() as bar:
            task = bar.add_task("opening", total=len(candidates), visible=len(candidates) >= 50)
            for part in pool.map(lambda part: [open_one(candidate) for candidate in part], parts):
                opened += part
                bar.advance(task, len(part))
                if index is not None:
                    index.save_now_and_then()
    finally:
        pool.shutdown(cancel_futures=True)
        if index is not None:
            index.save()
    return opened


def open_candidate(
    candidate: Candidate, *, spec: FrameSpec, camera: str | None, fps: float | None, index: ProbeIndex | None = None
) -> Episode | Quarantined:
    """Open the files of one episode, or say why that cannot be done."""
    try:
        return make_episode(candidate, spec, camera, fps, index)
    except ValueError as error:
        reason = str(error)
        for media in candidate.cameras.values():
            reason = reason.removeprefix(f"{media}: ")
        return Quarantined(file=printable(candidate.id), reason=reason)


def make_episode(
    candidate: Candidate, spec: FrameSpec, camera: str | None, fps: float | None, index: ProbeIndex | None
) -> Episode:
    """Open every camera of an episode and check that its parts fit together.

    Raises:
        ValueError: A file is damaged, or lengths or sizes do not agree.
    """
    cameras = dict(candidate.cameras)
    if camera is not None:
        if camera not in cameras:
            raise ValueError(f"no camera {camera!r}; it has {', '.join(cameras)}")
        cameras = {camera: cameras[camera], **cameras}
    footage: dict[str, Footage] = {}
    for name, media in cameras.items():
        if isinstance(media, Path):
            video = probe(media) if index is None else index.probe(media)
            footage[name] = VideoFootage(media, spec, fps, candidate.rate, video=video)
        else:
            footage[name] = ImageFootage(media, spec, fps, candidate.rate)
    first = next(iter(footage.values()))
    for name, other in footage.items():
        if len(other.index) != len(first.index):
            raise ValueError(f"camera {name!r} has {len(other.index)} frames, the first has {len(first.index)}")
    source = DiskSource(footage, spec, candidate.goal, hash_file if index is None else index.content_of)
    if candidate.goal is not None and not spec.has_margin and source.read_goal().shape[2:] != first.size:
        raise ValueError(f"goal {candidate.goal.name} and frames differ in size; give open_episodes a size")
    info = EpisodeInfo(
        id=candidate.id,
        num_frames=len(first.index),
        fps=first.fps,
        task=candidate.task,
        cameras=tuple(footage),
        success=candidate.success,
        metadata=candidate.metadata,
    )
    goal = None if candidate.goal is None else source.read_goal
    return Episode(info, source, columns=resampled_columns(candidate, first), goal=goal)


def resampled_columns(candidate: Candidate, footage: Footage) -> dict[str, ndarray]:
    """Return per-frame truth at the frames of the episode.

    Raises:
        ValueError: The truth has another number of rows than the file has frames.
    """
    for name, values in candidate.columns.items():
        if len(values) != footage.num_stored:
            raise ValueError(
                f"frames.parquet has {len(values)} rows of {name!r} for {footage.num_stored} frames; give a row a frame"
            )
    return {name: values[footage.index] for name, values in candidate.columns.items()}
