"""Keep the scores of an episode together with it, and write them as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Float
from numpy import ndarray

from vidreward.evaluate.controls import checked_scores
from vidreward.files import atomic_path
from vidreward.types import Episode


@dataclass(frozen=True, kw_only=True)
class ScoredEpisode:
    """An episode with what a model said about it."""

    episode: Episode
    scores: Float[ndarray, " T"]
    """Score of each frame, higher is better."""
    rewards: Float[ndarray, " T"] | None = None
    """Reward of each frame; one fewer than frames means one a step, paid for the frame that the step leads to."""
    score_name: str = "score"
    """What the score is, with its unit where it has one, for axis labels."""

    def __post_init__(self) -> None:
        num = self.episode.num_frames
        object.__setattr__(self, "scores", checked_scores(self.scores, self.episode, num))
        if self.rewards is None:
            return
        rewards = np.asarray(self.rewards, np.float64)
        if rewards.shape == (num - 1,):
            rewards = np.concatenate([[np.nan], rewards])
        if rewards.shape != (num,) or not np.all(np.isfinite(rewards[1:])):
            raise ValueError(
                f"episode {self.episode.id!r}: rewards must be {num} finite numbers, one a frame, or {num - 1}, one a "
                f"step; got shape {rewards.shape}"
            )
        object.__setattr__(self, "rewards", rewards)

    @property
    def times(self) -> Float[ndarray, " T"]:
        """Seconds since the first frame."""
        return np.arange(self.episode.num_frames) / self.episode.fps

    @property
    def progress(self) -> Float[ndarray, " T"] | None:
        """True progress of each frame, where it was recorded."""
        return self.episode.column("progress")


def write_scores(folder: Path | str, scored: Sequence[ScoredEpisode]) -> tuple[Path, Path]:
    """Write one row a frame as `scores.parquet` and `scores.csv`, each whole or not at all.

    Columns: episode (its id), frame (from 0), time (seconds), score, reward (empty where none was given).

    Returns:
        The paths of the Parquet and of the CSV file.
    """
    if not scored:
        raise ValueError("there is no scored episode to write; score at least one")
    lengths = [item.episode.num_frames for item in scored]
    rewards = [
        np.full(n, np.nan) if item.rewards is None else item.rewards for item, n in zip(scored, lengths, strict=True)
    ]
    table = pa.table(
        {
            "episode": pa.array([item.episode.id for item, n in zip(scored, lengths, strict=True) for _ in range(n)]),
            "frame": pa.array(np.concatenate([np.arange(n) for n in lengths])),
            "time": pa.array(np.concatenate([item.times for item in scored])),
            "score": pa.array(np.concatenate([item.scores for item in scored])),
            "reward": pa.array(np.concatenate(rewards), from_pandas=True),  # NaN becomes null
        }
    )
    parquet, csv = Path(folder) / "scores.parquet", Path(folder) / "scores.csv"
    with atomic_path(parquet) as temporary:
        pa.parquet.write_table(table, temporary)
    with atomic_path(csv) as temporary:
        pa.csv.write_csv(table, temporary)
    return parquet, csv


def film_indices(num_frames: int, num_pictures: int) -> list[int]:
    """Choose frames for a film strip: evenly spread, first and last included, no repeats.

    Example:
        >>> film_indices(10, 4), film_indices(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    return sorted({int(number) for number in np.linspace(0, num_frames - 1, num_pictures).round()})
