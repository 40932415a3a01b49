"""Predict without looking, and look at the wrong thing: the controls beside every measured score.

Predictors that see no content (clock, constant, random) say what a metric gives away for free. Views that show a
model the wrong content (reversed, shuffled or frozen video, another episode's goal) say what it reads: a score that
counts frames keeps rising on a reversed video, one that reads them falls.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from vidreward.evaluate.metrics import spearman
from vidreward.types import Episode

Scorer = Callable[[UInt8[ndarray, "T 3 H W"], Episode, UInt8[ndarray, "G 3 H W"]], Float[ndarray, " T"]]
"""Scores of frames of an episode against a goal, higher is better; the frames may be rearranged."""

CONTROLS = ("clock", "constant", "random")
"""Predictors that see no content."""
FROZEN_TOLERANCE = 1e-4
"""Share of the real video's score range below which scores of a frozen video count as constant (batch noise)."""
_TRIED_GOALS = 8
"""Candidates for a wrong goal that are decoded at most, to find one of the same size and other content."""


@dataclass(frozen=True, kw_only=True)
class WrongGoals:
    """Goals of other episodes; None where there is no suitable one."""

    layout: UInt8[ndarray, "G 3 H W"] | None = None
    """Same task, another layout."""
    task: UInt8[ndarray, "G 3 H W"] | None = None
    """Another task."""


@dataclass(frozen=True, kw_only=True)
class BlindPredictors:
    """The predictors that see no content, for one set of episodes.

    Where the measured model predicts time, they do so too, as well as one can without looking: the clock counts
    down from the mean length of these very episodes, the constant always says the mean time that remains.
    """

    mean_length: float
    """Mean number of steps of the episodes, in frames at `mean_fps` where that is given."""
    mean_fps: float | None = None
    """Rate in which the measured model counts frames; None when it does not predict time."""
    seed: int = 0
    """Seed of the random control; each episode draws its own noise, always the same."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], rates: Sequence[float], *, mean_fps: float | None, seed: int
    ) -> BlindPredictors:
        """Make them from the number of frames and the frame rate of each episode."""
        scales = np.array([1.0 if mean_fps is None else mean_fps / fps for fps in rates])
        mean_length = float(np.mean((np.asarray(lengths) - 1) * scales))
        return cls(mean_length=mean_length, mean_fps=mean_fps, seed=seed)

    def scores(self, num_frames: int, fps: float, episode_id: str) -> dict[str, Float[ndarray, " T"]]:
        """Score the frames of one episode: control -> scores."""
        scale = 1.0 if self.mean_fps is None else self.mean_fps / fps
        noise = episode_rng(self.seed, "noise", episode_id)
        return {
            "clock": as_stored(np.arange(num_frames) * scale - self.mean_length),
            "constant": as_stored(np.full(num_frames, -self.mean_length / 2)),
            "random": as_stored(noise.uniform(-self.mean_length - 1, 0, num_frames)),
        }

    def scorer(self, name: str) -> Scorer:
        """Make one of them take the place of a model."""

        def score(frames: ndarray, episode: Episode, goal: ndarray) -> ndarray:
            return self.scores(len(frames), episode.fps, episode.id)[name]

        return score


def episode_rng(seed: int, purpose: str, episode_id: str) -> np.random.Generator:
    """Make the generator of one episode and purpose: the same whatever the order in which episodes are measured."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose}/{episode_id}".encode())])


def measure_views(
    scorer: Scorer,
    episode: Episode,
    frames: UInt8[ndarray, "T 3 H W"],
    goal: UInt8[ndarray, "G 3 H W"],
    scores: Float[ndarray, " T"],
    *,
    orders: Sequence[Int[ndarray, " T"]],
    wrong_goals: WrongGoals,
) -> dict[str, float | None]:
    """Score one episode under every wrong view.

    Args:
        scorer: Predictor to measure.
        episode: The episode that `frames` are of, in their right order.
        frames: All its frames.
        goal: Its own goal.
        scores: Its scores with that goal.
        orders: Permutations for the shuffled view.
        wrong_goals: Goals of other episodes.

    Returns:
        reversed_spearman: Frames played backwards, scores put back in the order of the content, Spearman with the
            original time. Who reads content keeps the value; the clock gets -1.
        reversed_gap: `spearman - reversed_spearman`: 0 reads content only, 2 counts frames.
        shuffled_spearman: As reversed, mean over the permutations; the clock gets about 0.
        frozen_spearman: The first frame held for the whole video. None (constant) is right; 1 counts frames.
        wrong_goal_spearman_*: Spearman when shown another episode's goal (layout, task); missing where none exists.
        goal_preference_*: 1 when the last frame scores higher with the right goal, 0 when lower, 0.5 when equal.
    """
    time = np.arange(len(frames))
    right = spearman(scores, time)
    reversed_spearman = spearman(_rearranged(scorer, episode, frames, goal, time[::-1]), time)
    frozen = checked_scores(scorer(np.repeat(frames[:1], len(frames), axis=0), episode, goal), episode, len(frames))
    still = np.ptp(frozen) <= FROZEN_TOLERANCE * np.ptp(scores)
    values: dict[str, float | None] = {
        "reversed_spearman": reversed_spearman,
        "reversed_gap": None if right is None or reversed_spearman is None else right - reversed_spearman,
        "frozen_spearman": None if still else spearman(frozen, time),
    }
    if orders:
        shuffled = [spearman(_rearranged(scorer, episode, frames, goal, order), time) for order in orders]
        defined = [value for value in shuffled if value is not None]
        values["shuffled_spearman"] = float(np.mean(defined)) if defined else None
    for name, wrong in (("layout", wrong_goals.layout), ("task", wrong_goals.task)):
        if wrong is not None:
            others = checked_scores(scorer(frames, episode, wrong), episode, len(frames))
            values[f"wrong_goal_spearman_{name}"] = spearman(others, time)
            values[f"goal_preference_{name}"] = float((np.sign(scores[-1] - others[-1]) + 1) / 2)
    return values


def as_stored(values: Float[ndarray, " T"]) -> Float[ndarray, " T"]:
    """Round to float32, the precision of models and of files, so that what is read back gives the same results."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32).astype(np.float64)


def checked_scores(scores: Float[ndarray, " T"], episode: Episode, num_frames: int) -> Float[ndarray, " T"]:
    """Return scores as float64, refusing any that is not one finite number a frame.

    Raises:
        ValueError: Names the episode and what was wrong with its scores.
    """
    scores = as_stored(scores)
    if scores.shape != (num_frames,):
        raise ValueError(
            f"episode {episode.id!r}: the scorer returned shape {scores.shape} for {num_frames} frames; "
            "return one score a frame"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(
            f"episode {episode.id!r}: the score of frame {bad[0]} is {scores[bad[0]]} ({len(bad)} of {num_frames} "
            "frames are not finite); check that the model was trained without divergence"
        )
    return scores


def find_wrong_goals(
    episode: Episode,
    goal: UInt8[ndarray, "G 3 H W"],
    episodes: Sequence[Episode],
    *,
    layout_column: str,
    rng: np.random.Generator,
) -> WrongGoals:
    """Choose goals of other episodes at random: one of the same task in another layout, one of another task.

    Only episodes that show a goal reached serve: those with a given goal, or whose last frame is a success or of
    unknown outcome.

    Args:
        episode: The episode to be shown a wrong goal.
        goal: Its own goal; one that looks the same is no wrong goal.
        episodes: Where other goals come from.
        layout_column: Metadata column that tells layouts apart, where there is one.
        rng: Generator of the choice.
    """
    layout = episode.info.metadata.get(layout_column)
    same: list[Episode] = []
    other: list[Episode] = []
    for candidate in episodes:
        if candidate.id == episode.id or not (candidate.has_goal or candidate.success is not False):
            continue
        if candidate.task != episode.task:
            other.append(candidate)
        elif layout is None or candidate.info.metadata.get(layout_column) != layout:
            same.append(candidate)
    return WrongGoals(layout=_other_goal(same, goal, rng), task=_other_goal(other, goal, rng))


def _other_goal(candidates: Sequence[Episode], goal: ndarray, rng: np.random.Generator) -> ndarray | None:
    for number in rng.permutation(len(candidates))[:_TRIED_GOALS]:
        wrong = candidates[number].goal()
        if wrong.shape == goal.shape and not np.array_equal(wrong, goal):
            return wrong
    return None


def _rearranged(scorer: Scorer, episode: Episode, frames: ndarray, goal: ndarray, order: ndarray) -> ndarray:
    """Score frames played in another order; the result is in the order of the content."""
    played = checked_scores(scorer(np.ascontiguousarray(frames[order]), episode, goal), episode, len(frames))
    scores = np.empty(len(frames))
    scores[order] = played
    return scores
