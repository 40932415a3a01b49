"""The rewards of one running episode: goal, held steps, potentials. The only place where a step is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vidreward.rl.goals import SubGoals, TimeIndexedGoals
from vidreward.rl.shaping import Shaping

ENV = "env"
"""Name of the environment's own reward among the terms."""


@dataclass(frozen=True, kw_only=True)
class PaidTerm:
    """What an account must know of one term."""

    name: str
    weight: float
    shaping: Shaping
    looks_at_goal: bool
    mean: float = 0.0
    """Of its scores, with which they are standardized."""
    std: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EnvTerm:
    """What becomes of the environment's own reward."""

    weight: float
    offset: float
    replace_threshold: float | None
    """Pay 1 for distances below it, and else 0, instead of the environment's reward."""


class Account:
    """Pay one episode step by step.

    Args:
        terms: Terms whose scores are paid.
        env: What becomes of the environment's reward.
        schedule: How goals follow each other; None: there is one.
        goal_scores: For each term that subtracts a baseline, the score of each goal against itself (K,).
        num_goals: K, goals of the schedule; 1 without one.
    """

    def __init__(
        self,
        terms: Sequence[PaidTerm],
        env: EnvTerm,
        schedule: SubGoals | TimeIndexedGoals | None,
        *,
        goal_scores: Mapping[str, Sequence[float]],
        num_goals: int,
    ) -> None:
        self.terms, self.env, self.schedule = terms, env, schedule
        self.num_goals = num_goals
        self.counter = 0
        """Frames in a row that were near the current sub-goal."""
        self._goal_scores = goal_scores
        self._stage = 0
        self._num_frames = 0
        self._potentials: dict[str, float] = {}

    @property
    def goal(self) -> int:
        """Number of the goal that the next frame is compared with."""
        if isinstance(self.schedule, TimeIndexedGoals):
            return self.schedule.goal(self._num_frames, self.num_goals)
        return self._stage

    def begin(self, scores: Mapping[str, float]) -> None:
        """Take the scores of the reset frame, for which nothing is paid."""
        self._potentials, _ = self._look(scores, resets=True)

    def step(self, scores: Mapping[str, float], env_reward: float, *, terminated: bool = False) -> dict[str, float]:
        """Pay the step that led to a frame.

        Args:
            scores: Of that frame, by term, against `goal`.
            env_reward: The environment's own reward of the step.
            terminated: Whether the step ended the episode for good, and not just the recording of it.

        Returns:
            What each term and the environment (`env`) add to the reward, weights included.
        """
        before = self._potentials
        self._potentials, reached = self._look(scores, resets=False)
        paid = {
            term.name: term.weight
            * term.shaping.pay(before[term.name], self._potentials[term.name], terminated=terminated)
            for term in self.terms
        }
        own = env_reward if self.env.replace_threshold is None else float(reached)
        return {**paid, ENV: self.env.weight * own + self.env.offset}

    def _look(self, scores: Mapping[str, float], *, resets: bool) -> tuple[dict[str, float], bool]:
        """Turn the scores of a frame into potentials, and let the sub-goals go on; also whether success is near."""
        goal = self.goal
        potentials, reached = {}, False
        for term in self.terms:
            goal_score = self._goal_score(term.name, goal)
            value = term.shaping.value(scores[term.name], goal_score)
            if term.looks_at_goal and isinstance(self.schedule, SubGoals):
                value, goal_score, reached = self._stage_by_stage(term, value, goal_score, resets=resets)
            elif term.looks_at_goal and self.env.replace_threshold is not None:
                reached = -value < self.env.replace_threshold
            potentials[term.name] = term.shaping.potential(value, goal_score, term.mean, term.std)
        self._num_frames += 1
        return potentials, reached

    def _stage_by_stage(
        self, term: PaidTerm, value: float, goal_score: float, *, resets: bool
    ) -> tuple[float, float, bool]:
        """Add the cost of the goals that are left, and count the frame.

        Returns:
            The value with that cost, the goal's own score for the normaliser, and whether success is near.
        """
        assert isinstance(self.schedule, SubGoals)
        as_coded = self.schedule.variant == "as_coded"
        goal, distance = self._stage, -value
        offset = self.schedule.offset(goal, self.num_goals)
        # as coded, the reset frame is only looked at for a difference, by the function that also counts
        if not resets or (as_coded and term.shaping.difference):
            self._stage, self.counter = self.schedule.advance(goal, self.counter, distance, self.num_goals)
        if as_coded:
            goal_score = self._goal_score(term.name, self._stage)
        threshold = self.env.replace_threshold
        if threshold is None:
            reached = False
        elif as_coded:
            reached = distance + offset < threshold
        else:
            reached = goal == self.num_goals - 1 and distance < threshold
        return value - offset, goal_score, reached

    def _goal_score(self, name: str, goal: int) -> float:
        return self._goal_scores[name][goal] if name in self._goal_scores else 0.0
