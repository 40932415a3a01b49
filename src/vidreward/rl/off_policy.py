"""The loop of off-policy agents: act, step, pay, store, update, in lock-step.

While the environments work on step k, the learner makes the updates that the steps before k brought; the actions of
step k are those of the weights after the updates that were due before it. That order is fixed, so what is learned does
not depend on who is faster. Episodes wait on the CPU as uint8 until they end; then they are paid in one batch and
enter the replay.

What happens at a step is a function of the seed, the step, the agent and the replay: actions at random, batches and
resets draw from generators made for that step. At a checkpoint all environments are reset, so a killed run that goes on
from there ends with the same bits as an uninterrupted one. Evaluation changes nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from vidreward.log import Logger, to_floats
from vidreward.rl.agent import Agent, AgentConfig
from vidreward.rl.evaluation import PolicyScore
from vidreward.rl.payment import Payer, Payment
from vidreward.rl.replay import Replay
from vidreward.rl.rollout import Collector, Experience, generator_for, seeds_for, spaces_of
from vidreward.rl.saving import PolicySaving, Progress
from vidreward.train import TrainingDivergedError, note_interrupts

RESETS, ACTIONS, BATCHES, EVALUATION = range(4)
"""Streams of random numbers."""
RECENT_EPISODES = 20
"""Training episodes that the progress bar's numbers are means of."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train, and what to do on the way; steps are those of all environments together."""

    steps: int = 100_000
    """Environment steps."""
    seed: int = 0
    """Of weights, layouts, exploration and batches."""
    eval_every: int = 5_000
    """Steps from one evaluation to the next."""
    eval_episodes: int = 20
    """Episodes of an evaluation."""
    eval_videos: int = 2
    """Videos of each evaluation; 0 saves drawing where nothing else looks at pictures."""
    checkpoint_every: int = 10_000
    """Steps from one checkpoint to the next; each cuts running episodes off, so whole episodes fit best."""
    log_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "eval_episodes", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if min(self.seed, self.eval_videos) < 0:
            raise ValueError(f"seed ({self.seed}) and eval_videos ({self.eval_videos}) must be at least 0")


def train_policy(
    env: VectorEnv[Any, Any, Any],
    agent: Agent,
    replay: Replay,
    payer: Payer,
    config: LoopConfig,
    log: Logger,
    *,
    settings: AgentConfig,
    goal: UInt8[ndarray, "G 3 H W"] | None = None,
    evaluate: Callable[[int], PolicyScore] | None = None,
    report: Callable[[Progress], None] | None = None,
    saving: PolicySaving | None = None,
) -> Progress:
    """Train an agent, going on from the last checkpoint where there is one.

    An interrupt (Ctrl-C, SIGTERM) ends the current step and raises KeyboardInterrupt. Nothing is written then: a
    checkpoint resets the environments, and where that happens must not depend on the moment of an interrupt.

    Args:
        env: Training environments, in autoreset mode SAME_STEP.
        agent: Trained in place.
        replay: Empty; keeps what `settings.observation` names.
        payer: Pays each episode when it ends.
        config: How long, and what to do on the way.
        log: Where progress and numbers go.
        settings: The agent's.
        goal: Goal frames of every episode; None takes the environment's.
        evaluate: Measures the agent after a number of steps; None never does.
        report: Told of the progress after each evaluation and checkpoint.
        saving: Where to write checkpoints; None writes none.

    Returns:
        What was done and measured.

    Raises:
        TrainingDivergedError: A number of the last update is not finite.
        ValueError: The checkpoint is of another agent, or an episode lacks what the reward reads.
    """
    progress = Progress() if saving is None else saving.restore(agent, replay)
    collector = Collector(env, frame_stack=settings.frame_stack, goal=goal, in_stages=payer.in_stages)
    learner = _Learner(agent, replay, payer, settings, config, progress)
    log.start(config.steps, min(progress.step, config.steps), "rl")
    with note_interrupts() as interrupted:
        if progress.step < config.steps:
            _reset(collector, config, progress)
        while progress.step < config.steps:
            before = progress.step
            _step(collector, learner, progress)
            log.step(min(progress.step, config.steps))
            is_last = progress.step >= config.steps
            saves = is_last or _passes(config.checkpoint_every, before, progress.step)
            evaluates = is_last or _passes(config.eval_every, before, progress.step)
            if saves:
                learner.learn()
            if is_last or _passes(config.log_every, before, progress.step):
                learner.log(log)
            if evaluate is not None and evaluates:
                _evaluate(evaluate, progress, log)
            if saves:
                learner.store(collector.cut())
                if saving is not None:
                    _save(saving, learner, progress)
            if saves and not is_last:
                _reset(collector, config, progress)
            if report is not None and (evaluates or saves):
                report(progress)
            if interrupted.is_set() and not is_last:
                raise KeyboardInterrupt(f"stopped after step {progress.step}, of which {progress.saved_step} are saved")
    return progress


def _reset(collector: Collector, config: LoopConfig, progress: Progress) -> None:
    """Begin new episodes, which depend on the seed and the step alone."""
    with progress.measure("environment"):
        collector.reset(seeds_for(config.seed, RESETS, progress.step, collector.env.num_envs))


def _step(collector: Collector, learner: _Learner, progress: Progress) -> None:
    """Take one step in every environment; the learner works on the steps before it meanwhile."""
    with progress.measure("act"):
        collector.send(learner.act(collector.observation(), spaces_of(collector.env)[1].shape[0]))
    learner.learn()
    with progress.measure("environment"):
        ended = collector.receive()
    progress.step += collector.env.num_envs
    learner.store(ended)


def _evaluate(evaluate: Callable[[int], PolicyScore], progress: Progress, log: Logger) -> None:
    with progress.measure("evaluation"):
        score = evaluate(progress.step)
    progress.curve += (score,)
    numbers = {name: value for name, value in asdict(score).items() if name not in ("step", "num_episodes")}
    log.scalars(progress.step, {f"eval/{name}": value for name, value in numbers.items()})
    log.message(f"step {progress.step}: {score}")


def _save(saving: PolicySaving, learner: _Learner, progress: Progress) -> None:
    """Write a checkpoint, of an agent that has not diverged."""
    learner.check_finite()
    with progress.measure("checkpoint"):
        saving.save(learner.agent, learner.replay, progress)


class _Learner:
    """The agent's side of the loop: what it does with the steps it is given."""

    def __init__(
        self,
        agent: Agent,
        replay: Replay,
        payer: Payer,
        settings: AgentConfig,
        config: LoopConfig,
        progress: Progress,
    ) -> None:
        self.agent, self.replay, self.payer = agent, replay, payer
        self.settings, self.config, self.progress = settings, config, progress
        self._scalars: dict[str, Tensor] = {}
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT_EPISODES))

    def act(self, observation: Mapping[str, ndarray], action_dim: int) -> Float[ndarray, "N A"]:
        """Choose actions: at random at first, then the agent's with its exploration."""
        step = self.progress.step
        if step >= self.settings.start_steps:
            return self.agent.act(observation, explore=True, step=step)
        rng = generator_for(self.config.seed, ACTIONS, step)
        return rng.uniform(-1, 1, (len(observation["state"]), action_dim)).astype(np.float32)

    def learn(self) -> None:
        """Make the updates that are due and not made yet; those due before the first episode ended are left out."""
        due = num_updates_due(self.settings, self.progress.step)
        with self.progress.measure("update"):
            for number in range(self.progress.num_due, due):
                if len(self.replay):
                    rng = generator_for(self.config.seed, BATCHES, number)
                    batch = self.replay.sample(self.settings.batch_size, rng)
                    self._scalars = self.agent.update(batch, self.progress.step)
                    self.progress.num_updates += 1
        self.progress.num_due = due

    def store(self, ended: Sequence[Experience]) -> None:
        """Pay the episodes that ended, and give them to the replay."""
        kept = self.settings.observed
        for experience in ended:
            with self.progress.measure("reward"):
                payment = self.payer.pay(experience)
            times_out = experience.finished and not self.settings.bootstrap_on_timeout
            self.replay.add_episode(
                action=experience.action,
                reward=payment.reward.astype(np.float32),
                terminated=experience.terminated or times_out,
                pixels=experience.pixels if "pixels" in kept else None,
                state=experience.state if "state" in kept else None,
                env_reward=experience.env_reward.astype(np.float32),
            )
            self.progress.num_episodes += 1
            if experience.finished:
                self._remember(experience, payment)

    def log(self, log: Logger) -> None:
        """Log the means of the last episodes and the numbers of the last update, success first.

        Raises:
            TrainingDivergedError: As `check_finite`.
        """
        means = {f"train/{name}": float(np.mean(values)) for name, values in self._recent.items()}
        if means:
            log.scalars(self.progress.step, means | self.check_finite())

    def check_finite(self) -> dict[str, float]:
        """Return the numbers of the last update.

        Raises:
            TrainingDivergedError: One is not finite.
        """
        numbers = to_floats(self._scalars)
        bad = [f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise TrainingDivergedError(
                f"after step {self.progress.step}, {' and '.join(bad)}; look at the size of the rewards, or lower "
                "the agent's learning rate"
            )
        return {f"agent/{name}": value for name, value in numbers.items()}

    def _remember(self, experience: Experience, payment: Payment) -> None:
        self._recent["success"].append(float(experience.success.any()))
        self._recent["env_return"].append(float(experience.env_reward.sum()))
        self._recent["reward_return"].append(float(payment.reward.sum()))
        for name, values in payment.terms.items():
            self._recent[f"return/{name}"].append(float(values.sum()))


def num_updates_due(settings: AgentConfig, step: int) -> int:
    """Count the updates that an agent asks for within a number of environment steps.

    Example:
        >>> from vidreward.rl.random_policy import RandomPolicyConfig
        >>> settings = RandomPolicyConfig(update_after=4, update_every=2, num_updates=3)
        >>> [num_updates_due(settings, step) for step in range(8)]
        [0, 0, 0, 0, 3, 3, 6, 6]
    """
    every = settings.update_every
    return settings.num_updates * max(0, step // every - (max(settings.update_after, 1) - 1) // every)


def _passes(every: int, before: int, now: int) -> bool:
    """Tell whether a multiple of a number lies in before+1..now."""
    return now // every > before // every
