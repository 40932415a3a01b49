"""Decoded frames on disk at training size, so that a training step reads memory instead of decoding video.

A cache file is named by what is in it: content of the video files, size, crop, rate, and versions of the decoder. A
changed file gets another name, so nothing stale is ever read; a killed build leaves whole files, which the next one
keeps. Files are decoded in separate processes: one that crashes or hangs FFmpeg is quarantined and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import av
from rich.progress import Progress

from vidreward.data.cache_file import CachedSource, is_whole, layout_of, mapped
from vidreward.data.episode_set import EpisodeSet
from vidreward.data.paths import Quarantined
from vidreward.data.progress import progress_bar
from vidreward.data.sources import DiskSource
from vidreward.data.worker import Worker, WorkerError, job_for
from vidreward.files import remove_stale
from vidreward.types import Episode

GB = 10**9
MIN_TIMEOUT = 120.0
"""Seconds that any episode may take to decode."""
FRAME_TIMEOUT = 0.5
"""Seconds more for each of its stored frames."""


def build_cache(
    episodes: EpisodeSet, cache_dir: Path | None = None, *, num_workers: int | None = None, limit_gb: float = 20.0
) -> EpisodeSet:
    """Decode every episode once into memory-mapped files, or find them there from an earlier run.

    Frames of all cameras and goal pictures are kept at the size the episodes were opened with. Every cached file is
    checked to its last byte before it is used, and made again when it is damaged. The build can be killed at any
    moment and run again, and several processes can build the same cache at once.

    Args:
        episodes: What `open_episodes` returned.
        cache_dir: Where the files go; None: $VIDREWARD_CACHE, else ~/.cache/vidreward/frames.
        num_workers: Decoding processes; None: one a core.
        limit_gb: Most gigabytes (10^9 bytes) that the decoded episodes may take.

    Returns:
        The same episodes, in the same order, reading from the cache; those that could not be decoded are in
        `quarantine` with the reason.

    Raises:
        ValueError: The limit or the disk is too small, or no episode could be decoded.
        OSError: The cache folder cannot be written.
    """
    folder = default_folder() if cache_dir is None else Path(cache_dir)
    pending = {episode.id: episode.source for episode in episodes if isinstance(episode.source, DiskSource)}
    check_limit(episodes, decoded_bytes(episodes), limit_gb)
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    failed: dict[str, str] = {}
    cached: dict[str, CachedSource] = {}
    with progress_bar() as bar:
        whole = look_up(folder, pending, cached, failed, bar)
        missing = {id: cached[id] for id in pending if id in cached and not whole[id]}
        targets = {entry.path: id for id, entry in missing.items()}
        check_disk(folder, sum(cached[id].layout.num_bytes for id in targets.values()))
        errors = decode_all({path: (pending[id], cached[id]) for path, id in targets.items()}, num_workers, bar)
    failed |= {id: errors[entry.path] for id, entry in missing.items() if entry.path in errors}
    mapped.cache_clear()
    done = [
        episode if episode.id not in pending else with_source(episode, cached[episode.id])
        for episode in episodes
        if episode.id not in failed
    ]
    left_out = [Quarantined(file=id, reason=reason) for id, reason in failed.items()]
    return episodes.subset(done, quarantine=(*episodes.quarantine, *left_out))


def default_folder() -> Path:
    """Return the cache folder of this user."""
    return Path(os.environ.get("VIDREWARD_CACHE") or "~/.cache/vidreward/frames").expanduser()


def decoded_bytes(episodes: Sequence[Episode]) -> int:
    """Return the size of the frames and goals of the episodes that are not in the cache."""
    return sum(episode.source.num_bytes for episode in episodes if isinstance(episode.source, DiskSource))


def check_limit(episodes: EpisodeSet, num_bytes: int, limit_gb: float) -> None:
    """Refuse a cache that would be too large, before decoding anything."""
    if num_bytes > limit_gb * GB:
        size = episodes.spec.size
        now = "their own size" if size is None else f"{size[0]}x{size[1]}"
        raise ValueError(
            f"{episodes.root}: {len(episodes)} episodes at {now} take {num_bytes / GB:.3f} GB decoded, over the limit "
            f"of {limit_gb:g} GB; open them with a smaller size or a lower fps, or raise the limit to "
            f"{math.ceil(num_bytes / GB * 1000) / 1000:g}"
        )


def check_disk(folder: Path, num_bytes: int) -> None:
    """Refuse to start what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"{folder}: {num_bytes / GB:.2f} GB are to be written and {free / GB:.2f} GB are free; free some space, or "
            "give another cache folder (cache_dir, or the variable VIDREWARD_CACHE), or none (--data.cache-gb 0)"
        )


def cache_key(content_key: str) -> str:
    """Name a cache file: what is in it, and by which versions it was decoded."""
    versions = {name: list(numbers) for name, numbers in sorted(av.library_versions.items())}
    return hashlib.sha256(json.dumps([content_key, versions]).encode()).hexdigest()


def look_up(
    folder: Path,
    pending: dict[str, DiskSource],
    cached: dict[str, CachedSource],
    failed: dict[str, str],
    bar: Progress,
) -> dict[str, bool]:
    """Plan each episode's cache file, and say whether it is there and whole."""

    def plan(item: tuple[str, DiskSource]) -> tuple[str, CachedSource | str, bool]:
        id, source = item
        try:
            content_key = source.hash_content()
        except OSError as error:
            return id, f"cannot be read any more ({error.strerror}); open the episodes again", False
        layout = layout_of(source, cache_key(content_key))
        entry = CachedSource(folder / f"{layout.key}.frames", layout, content_key)
        return id, entry, is_whole(entry.path, layout)

    whole: dict[str, bool] = {}
    task = bar.add_task("checking the cache", total=len(pending))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for id, entry, is_there in pool.map(plan, pending.items()):
            if isinstance(entry, str):
                failed[id] = entry
            else:
                cached[id], whole[id] = entry, is_there
            bar.advance(task)
    return whole


def decode_all(
    jobs: dict[Path, tuple[DiskSource, CachedSource]], num_workers: int | None, bar: Progress
) -> dict[Path, str]:
    """Make cache files in worker processes.

    Returns:
        The reason of each one that failed.
    """
    queue: SimpleQueue[tuple[Path, DiskSource, CachedSource]] = SimpleQueue()
    for path, (source, entry) in jobs.items():
        queue.put((path, source, entry))
    errors: dict[Path, str] = {}
    task = bar.add_task("decoding", total=len(jobs), visible=bool(jobs))
    workers = [Worker() for _ in range(min(num_workers or len(os.sched_getaffinity(0)), len(jobs)))]
    stop = threading.Event()

    def drain(worker: Worker) -> None:
        while not stop.is_set():
            try:
                path, source, entry = queue.get_nowait()
            except Empty:
                return
            reason = decode_one(worker, path, source, entry)
            if reason is not None:
                errors[path] = reason
            bar.advance(task)

    try:
        with ThreadPoolExecutor(max_workers=max(1, len(workers))) as pool:
            try:
                for done in [pool.submit(drain, worker) for worker in workers]:
                    done.result()
            except BaseException:
                stop.set()
                for worker in workers:
                    worker.kill()
                raise
    finally:
        for worker in workers:
            worker.close()
    return errors


def decode_one(worker: Worker, path: Path, source: DiskSource, entry: CachedSource) -> str | None:
    """Make one cache file; return the reason when the episode's files are at fault.

    Raises:
        OSError: The cache folder cannot take the file.
    """
    num_frames = sum(footage.num_stored for footage in source.footage.values())
    try:
        answer = worker.run(
            job_for(source, path, entry.layout.key, entry.content_key), MIN_TIMEOUT + FRAME_TIMEOUT * num_frames
        )
    except WorkerError as error:
        return str(error)
    if "disk" in answer:
        raise OSError(
            f"{path.parent}: {answer['disk']}; free some space or give another cache folder (VIDREWARD_CACHE)"
        )
    reason = answer.get("error")
    for file in source.files:
        reason = reason and reason.removeprefix(f"{file}: ")
    return reason


def with_source(episode: Episode, source: CachedSource) -> Episode:
    """Return the same episode, reading from the cache."""
    goal = source.read_goal if episode.has_goal else None
    return Episode(episode.info, source, columns=episode.columns, goal=goal)
