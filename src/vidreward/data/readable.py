"""Go on without episodes that cannot be decoded after all, naming each, where `SampledFrames` is not the reader.

Opening decodes one frame a video; videos that are read without a cache may be broken behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from vidreward.data.sampler import default_num_workers
from vidreward.data.sources import DiskSource, UnreadableError
from vidreward.types import Episode

Note = Callable[[str, str], None]
"""Tells the user which episode was left out, and why."""


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
