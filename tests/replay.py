"""An environment that plays recorded episodes, whatever the actions: what a wrapper makes of them has known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy import ndarray

if TYPE_CHECKING:  # a process that plays needs neither, and starts in a tenth of the time without
    from vidreward.rl.wrapper import VideoReward
    from vidreward.types import Episode


@dataclass(frozen=True, kw_only=True)
class Playback:
    """One episode: T frames, T - 1 rewards, and how it ends."""

    frames: ndarray
    rewards: Sequence[float]
    goal: ndarray | None = None
    states: ndarray | None = None
    terminates: bool = False
    """True at the last frame; otherwise the episode is truncated there."""

    def episode(self, text: str | None = None) -> Episode:
        from vidreward.types import Episode

        columns = {"reward": np.append(self.rewards, 0.0)}
        if self.states is not None:
            columns["state"] = self.states
        return Episode.from_frames(self.frames, id="played", fps=10, task=text, columns=columns, goal=self.goal)


class Replay(gymnasium.Env[dict[str, ndarray], int]):
    """Play episodes one after the other, beginning again after the last."""

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, playbacks: Sequence[Playback], *, channels_last: bool = False, camera: str | None = None
    ) -> None:
        self.playbacks, self.number, self.channels_last, self.camera = playbacks, -1, channels_last, camera
        if camera is not None:
            self.metadata = {**self.metadata, "camera": camera}
        first = playbacks[0]
        parts = {"pixels": spaces.Box(0, 255, self._picture(first.frames[0]).shape, np.uint8)}
        if first.states is not None:
            parts["state"] = spaces.Box(-np.inf, np.inf, first.states.shape[1:], np.float32)
        self.observation_space = spaces.Dict(parts)  # type: ignore[assignment,arg-type]
        self.action_space = spaces.Discrete(2)  # type: ignore[assignment]

    def _picture(self, frame: ndarray) -> ndarray:
        return np.moveaxis(frame, 0, -1) if self.channels_last else frame

    def _observation(self) -> dict[str, ndarray]:
        states = self.playing.states
        more = {} if states is None else {"state": states[self.frame].astype(np.float32)}
        return {"pixels": self._picture(self.playing.frames[self.frame]), **more}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.number = (self.number + 1) % len(self.playbacks)
        self.playing, self.frame = self.playbacks[self.number], 0
        goal = self.playing.goal
        info = {} if goal is None else {"goal": np.stack([self._picture(frame) for frame in goal])}
        return self._observation(), info

    def step(self, action: int) -> Any:
        self.frame += 1
        last = self.frame == len(self.playing.frames) - 1
        ends = self.playing.terminates
        reward = float(self.playing.rewards[self.frame - 1])
        return self._observation(), reward, last and ends, last and not ends, {"frame": self.frame}


def play(env: VideoReward, num_steps: int) -> list[list[dict[str, float]]]:
    """Step an environment after reset; for each of its rows, what was said of every step that was paid."""
    steps: list[list[dict[str, float]]] = [[] for _ in range(env.num_envs)]
    resetting = np.zeros(env.num_envs, dtype=bool)
    same_step = env.metadata["autoreset_mode"].value == "SameStep"
    for _ in range(num_steps):
        _, rewards, terminated, truncated, info = env.step(env.action_space.sample())
        for row in range(env.num_envs):
            names = [name for name in info if name.startswith(("score/", "reward/")) or name == "env_reward"]
            said = {"reward": float(rewards[row]), **{name: float(info[name][row]) for name in names}}
            if resetting[row]:
                assert rewards[row] == 0, "nothing is paid for the step in which NEXT_STEP resets"
            else:
                steps[row].append({**said, "goal_index": int(info["goal_index"][row])})
        resetting = np.zeros(env.num_envs, dtype=bool) if same_step else terminated | truncated
    return steps
