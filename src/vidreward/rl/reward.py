"""From scores to the agent's reward: a weighted sum of shaped scores and the environment's own reward.

The equations are in docs/rewards-in-rl.md. `Reward.label` pays a recorded episode; `VideoReward` in wrapper.py pays
running environments; both pay through `Account`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float, Int
from numpy import ndarray

from vidreward.checkpoint import describe, describe_untrained, load
from vidreward.reward_model import RewardModel
from vidreward.rl.account import ENV, Account, EnvTerm, PaidTerm
from vidreward.rl.goal_scorer import Goal, GoalScorer, Run
from vidreward.rl.goals import GoalSchedule, SubGoals, TimeIndexedGoals
from vidreward.rl.shaping import Shaping, score_statistics, suggest_normalizer, usual_shaping
from vidreward.scoring import Precision, score_episode
from vidreward.train import choose_device
from vidreward.types import DataSpec, Episode

__all__ = [
    "Reward",
    "RewardMix",
    "RewardTerm",
    "Shaping",
    "SubGoals",
    "TimeIndexedGoals",
    "label",
    "suggest_normalizer",
    "usual_shaping",
]


@dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """One reward model in a mix."""

    model: Annotated[str | RewardModel, tyro.conf.arg(constructor=str, metavar="RUN")]
    """A run's folder, a checkpoint, a Hub id owner/name, the name of a reward that needs no training, or a model in
    memory."""
    name: str = ""
    """What it is called in `info`; by default after the model."""
    weight: float = 1.0
    shaping: Shaping | None = None
    """None is the usual one of the model."""
    model_file: Path | None = None
    """Python file of a model that is not part of vidreward."""


@dataclass(frozen=True, kw_only=True)
class RewardMix:
    """What an agent is paid: the weighted sum of the terms, plus env_weight * environment's reward + env_offset."""

    terms: tuple[RewardTerm, ...] = ()
    env_weight: float = 0.0
    """Weight of the environment's own reward; HOLD adds the sparse one with weight 1."""
    env_offset: float = 0.0
    env_replace_threshold: float | None = None
    """Pay, as the environment's reward, 1 where the distance to the goal is below it and else 0."""
    goals: GoalSchedule | None = None
    """How goals follow each other; None: the goal stays."""


@dataclass(frozen=True)
class Trace:
    """Everything behind the rewards of an episode of T frames."""

    reward: Float[ndarray, "T-1"]
    terms: Mapping[str, Float[ndarray, "T-1"]]
    """What each term, and `env`, adds to the reward, weights included."""
    scores: Mapping[str, Float[ndarray, "T"]]
    """Of each frame, against the goal it is compared with."""
    goal: Int[ndarray, "T"]
    """Number of the goal that each frame is compared with."""
    next_goal: Int[ndarray, "T"]
    """Number of the goal that is current after each frame."""
    counter: Int[ndarray, "T"]
    """Frames in a row near the current sub-goal, after each frame."""


@dataclass(frozen=True)
class LoadedTerm:
    """A term with its model."""

    pays: PaidTerm
    model: RewardModel
    scorer: GoalScorer
    data: DataSpec | None
    """What it was trained on, where it comes from disk."""

    @property
    def name(self) -> str:
        return self.pays.name

    @property
    def has_baseline(self) -> bool:
        """Whether it asks for the score of the goal itself."""
        return self.pays.shaping.baseline or self.pays.shaping.normalizer_less_baseline


@dataclass(frozen=True)
class OpenEpisode:
    """An episode that is being paid."""

    account: Account
    runs: Mapping[str, Run]
    """For each term, what its next score looks back on."""
    goal: Goal | None


class Reward:
    """Compute what an agent is paid.

    Args:
        mix: What to pay; a single term stands for a mix of it alone.
        device: For models on disk: "auto" takes a GPU when there is one. Models in memory stay where they are.
        precision: "auto" is bfloat16 where the processor has it.

    Raises:
        ValueError: A model cannot be loaded, names repeat, or the settings do not fit the models.

    Example:
        >>> from vidreward.rewards.hold_c import HoldC, HoldCConfig
        >>> episode = Episode.from_frames(np.zeros((5, 3, 32, 32), np.uint8), id="a", fps=10)
        >>> reward = Reward(RewardTerm(model=HoldC(HoldCConfig(depth=14))))
        >>> reward.label(episode).round(4).tolist() == [0.0] * 4  # every frame looks like the goal, the last one
        True
    """

    def __init__(self, mix: RewardMix | RewardTerm, *, device: str = "auto", precision: Precision = "auto") -> None:
        self.mix = RewardMix(terms=(mix,)) if isinstance(mix, RewardTerm) else mix
        self.terms = [load_term(term, device, precision) for term in self.mix.terms]
        self.precision = precision
        self._pays = [term.pays for term in self.terms]
        self._env = EnvTerm(
            weight=self.mix.env_weight,
            offset=self.mix.env_offset,
            replace_threshold=self.mix.env_replace_threshold,
        )
        self._check()

    @property
    def needs_goal(self) -> bool:
        """Whether any of the models looks at goal frames."""
        return any(term.scorer.needs_goal for term in self.terms)

    def open(
        self, goals: Sequence[Goal | None], *, fps: float, texts: Sequence[str | None] | None = None
    ) -> list[OpenEpisode]:
        """Begin to pay episodes; their goals are encoded, and scored against themselves for baselines, in one batch.

        Args:
            goals: Goal frames of each; None where no model looks at one.
            fps: Frames per second.
            texts: Instruction of each; None where no model reads one.
        """
        if not goals:
            return []
        chosen = self.mix.goals is not None
        texts = [None] * len(goals) if texts is None else texts
        runs = {term.name: term.scorer.begin(goals, fps=fps, texts=texts, choose=chosen) for term in self.terms}
        baselines = {term.name: term.scorer.goal_scores(runs[term.name]) for term in self.terms if term.has_baseline}
        opened = []
        for number, goal in enumerate(goals):
            account = Account(
                self._pays,
                self._env,
                self.mix.goals,
                goal_scores={name: scores[number].tolist() for name, scores in baselines.items()},
                num_goals=len(goal) if chosen and goal is not None else 1,
            )
            own = {name: term_runs[number] for name, term_runs in runs.items()}
            opened.append(OpenEpisode(account=account, runs=own, goal=goal))
        return opened

    def label(self, episode: Episode, *, terminated: bool = False) -> Float[ndarray, "T-1"]:
        """Compute the reward of each step; step t is paid for the frame it leads to, t + 1.

        Args:
            episode: Frames at the models' size, with its goal, and a column `reward` where the environment's counts:
                row t is the reward of the step that leaves frame t, as `vidreward record` writes it.
            terminated: Whether the last step ended the episode for good (only `Shaping.terminal` asks).

        Raises:
            ValueError: The episode lacks what a model or the mix reads.
        """
        return self.trace(episode, terminated=terminated).reward

    def label_terms(self, episode: Episode, *, terminated: bool = False) -> dict[str, Float[ndarray, "T-1"]]:
        """Compute what each term, and `env`, adds to the reward of each step; they sum to `label`."""
        return dict(self.trace(episode, terminated=terminated).terms)

    def trace(
        self, episode: Episode, *, terminated: bool = False, scores: Mapping[str, Float[ndarray, "T"]] | None = None
    ) -> Trace:
        """Compute the rewards of an episode, and everything behind them.

        Args:
            episode: As in `label`.
            terminated: As in `label`.
            scores: Of the terms, where they are known already; not for goals that follow each other.
        """
        env_reward = self._env_rewards(episode)
        asked = self.mix.goals is not None or any(term.has_baseline for term in self.terms)
        goal = episode.goal() if self.needs_goal and asked else None
        opened = self.open([goal], fps=episode.fps, texts=[episode.task])[0]
        account, tables = opened.account, self._tables(episode, opened, scores)
        paid: dict[str, list[float]] = {name: [] for name in [*tables, ENV]}
        seen: dict[str, list[float]] = {name: [] for name in tables}
        before, after, counters = [], [], []
        for frame in range(episode.num_frames):
            before.append(account.goal)
            current = {name: float(table[frame, account.goal]) for name, table in tables.items()}
            if frame == 0:
                account.begin(current)
            else:
                ended = terminated and frame == episode.num_frames - 1
                for name, value in account.step(current, env_reward[frame - 1], terminated=ended).items():
                    paid[name].append(value)
            for name, value in current.items():
                seen[name].append(value)
            after.append(account.goal)
            counters.append(account.counter)
        terms = {name: np.array(values) for name, values in paid.items()}
        return Trace(
            reward=np.sum(list(terms.values()), axis=0),
            terms=terms,
            scores={name: np.array(values) for name, values in seen.items()},
            goal=np.array(before),
            next_goal=np.array(after),
            counter=np.array(counters),
        )

    def _env_rewards(self, episode: Episode) -> list[float]:
        """Return the environment's reward of each step; zeros where it does not count."""
        column = episode.column("reward")
        if self.mix.env_weight == 0 or self.mix.env_replace_threshold is not None:
            return [0.0] * (episode.num_frames - 1)
        if column is None:
            raise ValueError(
                f"episode {episode.id!r} has no column reward, and the mix pays the environment's with env_weight "
                f"{self.mix.env_weight:g}; record one, or set env_weight to 0"
            )
        return [float(value) for value in column[:-1]]

    def _tables(
        self, episode: Episode, opened: OpenEpisode, known: Mapping[str, ndarray] | None
    ) -> dict[str, Float[ndarray, "T K"]]:
        """Score every frame against every goal it may be compared with; NaN where it never is."""
        tables, num_goals = {}, opened.account.num_goals
        for term in self.terms:
            state = episode.column("state") if term.model.inputs.state else None
            if known is not None or not (self.mix.goals is not None and term.scorer.needs_goal):
                scores = (
                    score_episode(term.model, episode, precision=self.precision) if known is None else known[term.name]
                )
                tables[term.name] = np.repeat(np.asarray(scores)[:, None], num_goals, axis=1)
                continue
            frames = episode.all_frames()
            schedule = self.mix.goals
            pairs = (
                [(t, schedule.goal(t, num_goals)) for t in range(len(frames))]
                if isinstance(schedule, TimeIndexedGoals)
                else [(t, k) for k in range(num_goals) for t in range(len(frames))]
            )
            table = np.full((len(frames), num_goals), np.nan)
            rows, columns = np.array(pairs).T
            table[rows, columns] = term.scorer.score_pairs(opened.runs[term.name], frames, pairs, state)
            tables[term.name] = table
        return tables

    def _check(self) -> None:
        names = [term.name for term in self.terms]
        if repeated := sorted({name for name in names if names.count(name) > 1 or name == ENV}):
            raise ValueError(f"the terms need different names, not {ENV}; give name= to {', '.join(repeated)}")
        looking = [term for term in self.terms if term.scorer.needs_goal]
        for term in self.terms:
            if term.has_baseline and term not in looking:
                raise ValueError(f"{term.name} looks at no goal, so it has no baseline; set shaping.baseline to False")
        scheduled = self.mix.goals is not None
        if scheduled and (not looking or any(term.model.inputs.goal != "image" for term in looking)):
            raise ValueError("goals that follow each other need a model that compares a frame with one goal image")
        one = isinstance(self.mix.goals, SubGoals) or self.mix.env_replace_threshold is not None
        if one and len(looking) != 1:
            raise ValueError(
                "sub-goals and env_replace_threshold ask one distance; the mix needs exactly one term that looks at a "
                f"goal and has {len(looking)}"
            )


def load_term(term: RewardTerm, device: str, precision: Precision) -> LoadedTerm:
    """Load the model of a term and work out its name and shaping."""
    data = None
    if isinstance(term.model, RewardModel):
        model, name = term.model, type(term.model).__name__
    else:
        model, name = load(term.model, device=choose_device(device), model_file=term.model_file), Path(term.model).name
        if describe_untrained(term.model) is None:
            data = describe(term.model, model_file=term.model_file).data
    shaping = usual_shaping(model) if term.shaping is None else term.shaping
    scorer = GoalScorer(model, precision=precision)
    pays = PaidTerm(name=term.name or name, weight=term.weight, shaping=shaping, looks_at_goal=scorer.needs_goal)
    if shaping.standardize:
        mean, std = score_statistics(model)
        pays = replace(pays, mean=mean, std=std)
    return LoadedTerm(pays=pays, model=model, scorer=scorer, data=data)


def label(
    model: RewardModel, episode: Episode, shaping: Shaping | None = None, *, scores: Float[ndarray, "T"] | None = None
) -> Float[ndarray, "T-1"]:
    """Compute the reward of each step of an episode from one model alone.

    Args:
        model: Any reward model.
        episode: Frames and goal, at the model's size.
        shaping: None is the usual one of the model.
        scores: Of the episode, where they are known already.
    """
    reward = Reward(RewardTerm(model=model, name="score", shaping=shaping))
    return reward.trace(episode, scores=None if scores is None else {"score": scores}).reward
