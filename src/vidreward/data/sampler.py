"""From episodes to training batches: `SampledFrames` asks the model which frames it needs and reads only those.

Batch k is a function of (seed, k) alone: there is no iterator to save, a resumed run draws what the uninterrupted
one would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from vidreward.data.collate import collate
from vidreward.reward_model import LearnedRewardModel
from vidreward.types import Episode, Pick, Video


@dataclass(frozen=True)
class Batch:
    """What one training step reads."""

    videos: dict[str, Video]
    episode_ids: tuple[str, ...]


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

    def batch(self, step: int) -> Batch:
        """Read this process's rows of batch number `step` (from 0); the same step gives the same batch."""
        start = step * self.batch_size + self.first_row
        rows = [self._row(position) for position in range(start, start + self.num_rows)]
        episodes = [episode for episode, _ in rows]
        names = rows[0][1].keys()
        read = [_read_picks(episode, picks) for episode, picks in rows]
        videos = {name: collate(name, episodes, [p[name] for _, p in rows], [r[name] for r in read]) for name in names}
        return Batch(videos, tuple(episode.id for episode in episodes))

    def batches(self, start: int, stop: int, *, num_workers: int = 1, depth: int = 3) -> Iterator[Batch]:
        """Yield batches start..stop-1 in order, read ahead by threads."""
        with ThreadPoolExecutor(num_workers) as pool:
            ahead = [pool.submit(self.batch, step) for step in range(start, min(start + depth, stop))]
            for step in range(start, stop):
                batch = ahead.pop(0).result()
                if step + depth < stop:
                    ahead.append(pool.submit(self.batch, step + depth))
                yield batch

    def _row(self, position: int) -> tuple[Episode, dict[str, Pick]]:
        epoch, place = divmod(position, len(self.episodes))
        order = self._order(epoch)
        episode = self.episodes[int(order[place])]
        rng = np.random.default_rng([self.seed, self.stream, 1, position])
        return episode, self.model.sample(episode.info, rng)

    def _order(self, epoch: int) -> ndarray:
        return np.random.default_rng([self.seed, self.stream, 0, epoch]).permutation(len(self.episodes))


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
