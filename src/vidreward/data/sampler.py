"""From episodes to training batches: `SampledFrames` asks the model which frames it needs and reads only those.

Batch k is a function of (seed, k) and the files alone: there is no iterator to save, a resumed run draws what the
uninterrupted one would have drawn. Among 200,000 videos some are broken where nobody looked before; each time such a
one is drawn another takes its place, chosen by seed and position, so that this too is the same in a resumed run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy import ndarray

from vidreward.data.collate import collate
from vidreward.data.paths import Quarantined
from vidreward.data.sources import DiskSource, UnreadableError
from vidreward.reward_model import LearnedRewardModel
from vidreward.types import Episode, Pick, Video

MAX_BROKEN_SHARE = 0.1
"""Share of the episodes tried that may be broken; above it something else is wrong, such as a disk."""
MIN_TRIED = 100
"""Episodes to try before that share means anything."""
MAX_IN_A_ROW = 10
"""Replacements tried for one row of a batch."""


@dataclass(frozen=True)
class Batch:
    """What one training step reads."""

    videos: dict[str, Video]
    episode_ids: tuple[str, ...]
    broken: tuple[Quarantined, ...] = ()
    """Episodes that turned out to be broken and were replaced; each is named in the first batch that meets it."""


@dataclass(frozen=True)
class _Row:
    """What was read of one episode."""

    episode: Episode
    picks: dict[str, Pick]
    frames: dict[str, ndarray | None]
    broken: tuple[Quarantined, ...]


class SampledFrames:
    """Draw batches of the frames a model asks for; every episode once per pass, in a new order each pass.

    Args:
        episodes: Where to draw from; memory-mapped ones (`build_cache`) are fastest.
        model: Its `sample` chooses the frames.
        batch_size: Episodes in a batch, all processes together.
        seed: Fixes every draw.
        stream: Number of the random stream; validation uses another than training.
        rank: Number of this process, from 0.
        num_processes: Processes that share each batch: process `rank` reads the rows of its own equal part, in order.

    Raises:
        ValueError: There is no episode, or the batch cannot be shared equally.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        model: LearnedRewardModel,
        batch_size: int,
        *,
        seed: int,
        stream: int = 0,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        if not episodes:
            raise ValueError("no episodes to sample from; open a folder that holds some")
        if batch_size % num_processes:
            near = batch_size - batch_size % num_processes or num_processes
            raise ValueError(
                f"a batch of {batch_size} episodes cannot be shared equally by {num_processes} processes; "
                f"give a multiple of {num_processes}, such as --fit.batch-size {near}"
            )
        assert 0 <= rank < num_processes, (rank, num_processes)
        self.episodes = episodes
        self.model = model
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream
        self.num_rows = batch_size // num_processes
        self.first_row = rank * self.num_rows
        self._lock = threading.Lock()
        self._tried: set[str] = set()
        self._broken: set[str] = set()

    def batch(self, step: int) -> Batch:
        """Read this process's rows of batch number `step` (from 0); the same step gives the same batch.

        Raises:
            UnreadableError: So many episodes are broken that something else must be wrong.
        """
        return _stack([self._read_row(position) for position in self._positions(step)])

    def batches(self, start: int, stop: int, *, num_workers: int | None = None, depth: int = 3) -> Iterator[Batch]:
        """Yield batches start..stop-1 in order, read ahead by threads.

        Args:
            start: Number of the first batch.
            stop: One more than the number of the last.
            num_workers: Threads, which share the rows of a batch; None: `default_num_workers`.
            depth: Batches that are read at once.
        """
        pool = ThreadPoolExecutor(num_workers or default_num_workers(self.episodes))

        def submit(step: int) -> Future[Batch]:
            # threads take tasks in order: when one takes the last, its rows are done or being read by others
            rows = [pool.submit(self._read_row, position) for position in self._positions(step)]
            return pool.submit(lambda: _stack([row.result() for row in rows]))

        try:
            ahead = [submit(step) for step in range(start, min(start + depth, stop))]
            for step in range(start, stop):
                batch = ahead.pop(0).result()
                if step + depth < stop:
                    ahead.append(submit(step + depth))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _positions(self, step: int) -> range:
        start = step * self.batch_size + self.first_row
        return range(start, start + self.num_rows)

    def _read_row(self, position: int) -> _Row:
        """Read the episode at a place of the endless sequence, or, while that is broken, others in its place."""
        epoch, place = divmod(position, len(self.episodes))
        number = int(_order(self.seed, self.stream, epoch, len(self.episodes))[place])
        found: list[Quarantined] = []
        attempt = 0
        while True:
            episode = self.episodes[number]
            # a broken episode is tried again each time: it may be broken in its last frames only, and what a row
            # shows must not depend on which rows were read before
            replacement = [attempt] if attempt else []
            rng = np.random.default_rng([self.seed, self.stream, 1, position, *replacement])
            try:
                picks = self.model.sample(episode.info, rng)
                frames = _read_picks(episode, picks)
            except UnreadableError as error:
                found += self._note_broken(episode, error, attempt)
                number = int(rng.integers(len(self.episodes)))
                attempt += 1
                continue
            with self._lock:
                self._tried.add(episode.id)
            return _Row(episode, picks, frames, tuple(found))

    def _note_broken(self, episode: Episode, error: UnreadableError, attempt: int) -> list[Quarantined]:
        """Keep count of broken episodes; returns this one unless it was named before.

        Raises:
            UnreadableError: There are too many.
        """
        with self._lock:
            is_new = episode.id not in self._broken
            self._broken.add(episode.id)
            self._tried.add(episode.id)
            num_broken, num_tried = len(self._broken), len(self._tried)
        too_many = num_tried >= MIN_TRIED and num_broken > MAX_BROKEN_SHARE * num_tried
        if too_many or attempt == MAX_IN_A_ROW:
            raise UnreadableError(
                error.source,
                f"{num_broken} of the {num_tried} episodes read so far cannot be decoded, too many to be left out; "
                f"is the disk there and whole? The last one: {error}",
            ) from error
        return [Quarantined(file=episode.id, reason=error.reason)] if is_new else []


@lru_cache(maxsize=4)
def _order(seed: int, stream: int, epoch: int, num_episodes: int) -> ndarray:
    """Shuffle the episodes for one pass; kept, since it is asked for by every row and takes long for 200,000."""
    return np.random.default_rng([seed, stream, 0, epoch]).permutation(num_episodes)


def default_num_workers(episodes: Sequence[Episode]) -> int:
    """Choose how many threads read: one for frames in memory or in the cache, all cores where videos are decoded."""
    if not any(isinstance(episode.source, DiskSource) for episode in episodes):
        return 1
    num_sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun and accelerate
    return max(1, len(os.sched_getaffinity(0)) // num_sharing)


def _stack(rows: Sequence[_Row]) -> Batch:
    episodes = [row.episode for row in rows]
    videos = {
        name: collate(name, episodes, [row.picks[name] for row in rows], [row.frames[name] for row in rows])
        for name in rows[0].picks
    }
    broken = tuple(entry for row in rows for entry in row.broken)
    return Batch(videos, tuple(episode.id for episode in episodes), broken)


def _read_picks(episode: Episode, picks: dict[str, Pick]) -> dict[str, ndarray | None]:
    """Read all picks of an episode with one request a camera, so that a video file is decoded forward once."""
    frames: dict[str, ndarray | None] = dict.fromkeys(picks)
    for camera in {pick.camera for pick in picks.values()}:
        wanted = {name: pick for name, pick in picks.items() if pick.camera == camera and pick.pixels}
        indices = [int(i) for pick in wanted.values() for i in pick.index]
        if not indices:
            continue
        read = episode.frames(indices, camera)
        start = 0
        for name, pick in wanted.items():
            frames[name] = read[start : start + len(pick.index)]
            start += len(pick.index)
    return frames
