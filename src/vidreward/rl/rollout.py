"""Steps of a vector environment gathered into episodes: what a replay stores, and what a reward is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from vidreward.rl.env_checks import autoreset_mode
from vidreward.types import ArraySource, Episode, EpisodeInfo

ORACLES = ("dense_reward", "progress")
"""Entries of an environment's info that may serve as an oracle's reward, the first there is."""


@dataclass(frozen=True, kw_only=True)
class Experience:
    """One episode as it was lived: T steps, T + 1 observations."""

    env: int
    """Number of the environment."""
    action: Float[ndarray, "T A"]
    env_reward: Float[ndarray, "T"]
    success: Bool[ndarray, "T"]
    """Whether the task is done after each step."""
    state: Float[ndarray, "T+1 S"]
    pixels: UInt8[ndarray, "T+1 3 H W"] | None
    oracle: Float[ndarray, "T"] | None
    """Dense reward of those who know the simulator; None where it tells none."""
    goal: UInt8[ndarray, "G 3 H W"] | None
    terminated: bool
    """Whether the last step ended the episode for good."""
    finished: bool
    """False: the episode was cut off, because all environments were reset."""

    def __len__(self) -> int:
        return len(self.action)

    def episode(self, *, id: str, fps: float) -> Episode:
        """Return it as rewards read it; row t of a column belongs to the step that leaves frame t."""
        info = EpisodeInfo(id=id, num_frames=len(self) + 1, fps=fps, success=bool(self.success[-1]))
        source = ArraySource({} if self.pixels is None else {"default": self.pixels})
        columns = {"reward": np.append(self.env_reward, 0.0), "state": self.state}
        return Episode(info, source, columns=columns, goal=self.goal)


@dataclass
class _Running:
    """An episode of which the end is not known yet."""

    env: int
    goal: UInt8[ndarray, "G 3 H W"] | None
    state: list[ndarray] = field(default_factory=list)
    pixels: list[ndarray] = field(default_factory=list)
    action: list[ndarray] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    oracle: list[float] = field(default_factory=list)

    def see(self, observation: Mapping[str, ndarray]) -> None:
        self.state.append(observation["state"])
        if "pixels" in observation:
            self.pixels.append(observation["pixels"])

    def stop(self, *, terminated: bool, finished: bool) -> Experience:
        return Experience(
            env=self.env,
            action=np.array(self.action, np.float32),
            env_reward=np.array(self.reward),
            success=np.array(self.success, bool),
            state=np.array(self.state, np.float32),
            pixels=np.array(self.pixels) if self.pixels else None,
            oracle=np.array(self.oracle) if self.oracle else None,
            goal=self.goal,
            terminated=terminated,
            finished=finished,
        )


class Collector:
    """Step a vector environment and hand over each episode when it ends.

    `send` and `receive` are apart, so that the learner works while asynchronous environments do; what they return does
    not depend on who is faster.

    Args:
        env: From `make_env`, in autoreset mode SAME_STEP.
        frame_stack: Frames that the policy sees at once; the first is repeated when an episode begins.
        goal: Goal frames (G, 3, H, W) of every episode; None takes `info["goal"]` of each.
        in_stages: Take `info["subgoals"]` instead, where there are some.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        frame_stack: int = 1,
        goal: UInt8[ndarray, "G 3 H W"] | None = None,
        in_stages: bool = False,
    ) -> None:
        assert autoreset_mode(env) == AutoresetMode.SAME_STEP, "the collector reads the last frame from final_obs"
        self.env = env
        self._frame_stack, self._goal, self._in_stages = frame_stack, goal, in_stages
        self._running: list[_Running] = []
        self._observation: dict[str, ndarray] = {}
        self._actions: Float[ndarray, "N A"] = np.zeros(0)

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin an episode in every environment; those that were running are forgotten."""
        self._observation, info = self.env.reset(seed=list(seeds))  # type: ignore[arg-type]
        self._running = [self._begin(row, info) for row in range(self.env.num_envs)]

    def observation(self) -> dict[str, ndarray]:
        """Return what the policy sees now: state (N, S), pixels (N, 3 * frame_stack, H, W), oldest frame first."""
        if self._frame_stack == 1 or "pixels" not in self._observation:
            return self._observation
        newest = range(-self._frame_stack, 0)
        stacks = [
            np.concatenate([running.pixels[max(number, -len(running.pixels))] for number in newest])
            for running in self._running
        ]
        return {**self._observation, "pixels": np.stack(stacks)}

    def send(self, actions: Float[ndarray, "N A"]) -> None:
        """Give every environment its action; asynchronous ones begin to work on it."""
        self._actions = actions
        if isinstance(self.env, AsyncVectorEnv):
            self.env.step_async(actions)

    def receive(self) -> list[Experience]:
        """Wait for the step that was sent, and return the episodes that it ended."""
        if isinstance(self.env, AsyncVectorEnv):
            self._observation, rewards, terminated, truncated, info = self.env.step_wait()
        else:
            self._observation, rewards, terminated, truncated, info = self.env.step(self._actions)
        ended = []
        for row, running in enumerate(self._running):
            is_last = bool(terminated[row] or truncated[row])
            said = info["final_info"] if is_last else info
            running.action.append(self._actions[row])
            running.reward.append(float(rewards[row]))
            running.success.append(bool(said["success"][row]))
            running.oracle += [float(said[name][row]) for name in ORACLES if name in said][:1]
            running.see(info["final_obs"][row] if is_last else self._row(row))
            if is_last:
                ended.append(running.stop(terminated=bool(terminated[row]), finished=True))
                self._running[row] = self._begin(row, info)
        return ended

    def cut(self) -> list[Experience]:
        """Return the episodes that are running as they are, those without a step left out; `reset` must follow."""
        return [running.stop(terminated=False, finished=False) for running in self._running if running.action]

    def goals(self) -> list[UInt8[ndarray, "G 3 H W"] | None]:
        """Return the goal of each environment's episode; None where there is none."""
        return [running.goal for running in self._running]

    def _begin(self, row: int, info: Mapping[str, Any]) -> _Running:
        running = _Running(env=row, goal=self._goal_of(row, info))
        running.see(self._row(row))
        return running

    def _goal_of(self, row: int, info: Mapping[str, Any]) -> UInt8[ndarray, "G 3 H W"] | None:
        if self._goal is not None:
            return self._goal
        name = "subgoals" if self._in_stages and "subgoals" in info else "goal"
        return np.array(info[name][row]) if name in info else None

    def _row(self, row: int) -> dict[str, ndarray]:
        return {name: values[row] for name, values in self._observation.items()}


def spaces_of(env: VectorEnv[Any, Any, Any]) -> tuple[spaces.Dict, spaces.Box]:
    """Return what one environment of `make_env` shows, and what it takes."""
    shown, taken = env.single_observation_space, env.single_action_space
    assert isinstance(shown, spaces.Dict) and isinstance(taken, spaces.Box)
    return shown, taken


def seeds_for(seed: int, stream: int, step: int, count: int) -> list[int]:
    """Make seeds of environments, those of every stream and step unlike all others."""
    return [int(value) for value in np.random.SeedSequence((seed, stream, step)).generate_state(count)]


def generator_for(seed: int, stream: int, step: int) -> np.random.Generator:
    """Make the generator of one step: draws depend on nothing that was drawn before."""
    return np.random.default_rng(np.random.SeedSequence((seed, stream, step)))
