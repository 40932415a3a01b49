"""Frames from a cache where they fit, else from the videos, which may be broken behind the one frame that was tried.

`SampledFrames` replaces a broken episode by itself; here are the ways on without it for everyone else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vidreward.data.cache import GB, build_cache, decoded_bytes
from vidreward.data.episode_set import EpisodeSet
from vidreward.data.paths import Quarantined
from vidreward.data.sampler import default_num_workers
from vidreward.data.sources import DiskSource, UnreadableError
from vidreward.types import Episode

Note = Callable[[str, str], None]
"""Tells the user which episode was left out, and why."""


def cache_what_fits(episodes: EpisodeSet, cache_dir: Path | None, *, limit_gb: float) -> EpisodeSet:
    """Cache episodes (`build_cache`), or return them as they are where their frames take more than the limit.

    Raises:
        ValueError: The disk is too small, or no episode could be decoded.
    """
    if decoded_bytes(episodes) > limit_gb * GB:
        return episodes
    return build_cache(episodes, cache_dir, limit_gb=limit_gb)


def how_read(episodes: Sequence[Episode], limit_gb: float, num_workers: int | None) -> str | None:
    """Tell that a training step will decode, and how large a cache would be; None where there is one."""
    num_bytes = decoded_bytes(episodes)
    if num_bytes == 0:
        return None
    why = f"more than --data.cache-gb {limit_gb:g}" if limit_gb > 0 else "not kept (--data.cache-gb 0)"
    return (
        f"the frames take {num_bytes / GB:.3g} GB decoded, {why}: each step decodes what it needs from the videos, on "
        f"{num_workers or default_num_workers(episodes)} threads; with --data.cache-gb "
        f"{math.ceil(num_bytes / GB * 1000) / 1000:g} they are decoded once"
    )


def without_broken(episodes: EpisodeSet) -> EpisodeSet:
    """Decode episodes to their ends, and move those that are broken to the quarantine.

    Raises:
        ValueError: None is left.
    """
    broken: list[Quarantined] = []
    whole = keep_readable(episodes, lambda id, reason: broken.append(Quarantined(file=id, reason=reason)))
    return episodes.subset(whole, quarantine=(*episodes.quarantine, *broken)) if broken else episodes


def keep_readable(episodes: Sequence[Episode], note: Note) -> list[Episode]:
    """Decode episodes to their ends, and return those for which that works; cached ones are whole already."""

    def problem(episode: Episode) -> str | None:
        try:
            if isinstance(episode.source, DiskSource):
                for camera in episode.cameras:
                    for _ in episode.iterate(camera):
                        pass
                episode.goal()
        except UnreadableError as error:
            return error.reason
        return None

    kept = []
    with ThreadPoolExecutor(default_num_workers(episodes)) as pool:
        for episode, reason in zip(episodes, pool.map(problem, episodes), strict=True):
            if reason is None:
                kept.append(episode)
            else:
                note(episode.id, reason)
    return kept


def use_readable(use: Callable[[Sequence[Episode]], None], episodes: Sequence[Episode], note: Note) -> None:
    """Call a function with episodes; when it meets a broken one, again with a neighbour in that one's place.

    The list keeps its length, so that a function that looks at every n-th meets the same others again.

    Raises:
        UnreadableError: None of them can be read.
    """
    usable = list(episodes)
    broken: set[int] = set()
    while True:
        try:
            use(usable)
            return
        except UnreadableError as error:
            found = {k for k, episode in enumerate(episodes) if episode.source is error.source}
            broken |= found
            whole = [k for k in range(len(episodes)) if k not in broken]
            if not found or not whole:
                raise
            for k in found:
                note(episodes[k].id, error.reason)
            for k in broken:
                usable[k] = episodes[min(whole, key=lambda other: abs(other - k))]
