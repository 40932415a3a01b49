"""What every world has in common: pixels and state, success, goal pictures, repeated actions.

A world says how a control step goes and how things look; `PixelEnv` makes a Gymnasium environment of it. A picture is
drawn once a step, of the state after the last repeat, and not at all where nobody asks for pixels.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.envs.names import check_names


class PixelEnv(gymnasium.Env[dict[str, ndarray], ndarray], abc.ABC):
    """An environment whose observation is a dictionary of `pixels` and `state`.

    Observation: `pixels`, uint8 RGB (3, height, width), the right way up, left out with `pixels=False`; `state`,
    float32 (state_dim,).

    Info, at each reset and step: `success`, whether the task is done now. At reset, where the world can make one and
    `goals` is true: `goal` (1, 3, height, width), a picture of the task done, and `subgoals` (G, 3, height, width) for
    a task in stages, the last of which is the goal.

    Args:
        action_space: Of one control step.
        state_dim: Numbers in `state`.
        size: Side of the pictures in pixels, or (height, width).
        control_rate: Control steps a second of the world's clock.
        max_steps: Control steps after which an episode is truncated.
        action_repeat: Control steps that an action is held for; their rewards are added up.
        pixels: Whether observations have pictures; `image()` draws one at any time.
        goals: Whether resets come with goal pictures.

    Raises:
        ValueError: A number is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Options that `reset` takes."""

    def __init__(
        self,
        *,
        action_space: spaces.Box,
        state_dim: int,
        size: int | tuple[int, int],
        control_rate: float,
        max_steps: int,
        action_repeat: int,
        pixels: bool,
        goals: bool,
    ) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 16:
            raise ValueError(f"pictures must have at least 16 pixels a side; got size={size}")
        if max_steps < 1 or action_repeat < 1:
            raise ValueError(f"max_steps and action_repeat must be at least 1; got {max_steps} and {action_repeat}")
        self.max_steps, self.action_repeat = max_steps, action_repeat
        self.pixels, self.goals = pixels, goals
        self.render_mode = "rgb_array"
        self.metadata = {**type(self).metadata, "render_fps": control_rate / action_repeat}  # type: ignore[misc]
        self.action_space = action_space
        observed: dict[str, spaces.Space[Any]] = {
            "state": spaces.Box(-np.inf, np.inf, (state_dim,), np.float32),
        }
        if pixels:
            observed["pixels"] = spaces.Box(0, 255, (3, self.height, self.width), np.uint8)
        self.observation_space = spaces.Dict(observed)  # type: ignore[assignment]
        self._num_steps = 0

    @abc.abstractmethod
    def begin(self, options: dict[str, Any]) -> dict[str, Any]:
        """Start an episode, drawing from `np_random` what the options leave open; return its first info."""

    @abc.abstractmethod
    def advance(self, action: Float[ndarray, "A"]) -> tuple[float, bool, dict[str, Any]]:
        """Do one control step; return its reward, whether the episode terminated, and the info after it."""

    @abc.abstractmethod
    def state(self) -> Float[ndarray, "S"]:
        """Return the state as the policy may see it."""

    @abc.abstractmethod
    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        """Draw the current state, by default as the environment's own camera sees it."""

    @abc.abstractmethod
    def goal_images(self) -> UInt8[ndarray, "G 3 H W"] | None:
        """Draw the end of each stage of this episode's task; None where the world does not know how it looks."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, ndarray], dict[str, Any]]:
        """Start an episode.

        Raises:
            ValueError: An option is unknown, or its value is.
        """
        super().reset(seed=seed)
        options = options or {}
        check_names("reset option", options, self.OPTIONS)
        info = self.begin(options)
        self._num_steps = 0
        goals = self.goal_images() if self.goals else None
        if goals is not None:
            info["goal"] = goals[-1:].copy()  # worlds keep theirs
            if len(goals) > 1:
                info["subgoals"] = goals.copy()
        return self._observe(), info

    def step(self, action: ndarray) -> tuple[dict[str, ndarray], float, bool, bool, dict[str, Any]]:
        """Hold an action, clipped to its bounds, for `action_repeat` control steps."""
        assert isinstance(self.action_space, spaces.Box)
        clipped = np.clip(np.asarray(action, np.float64), self.action_space.low, self.action_space.high)
        total = 0.0
        for _ in range(self.action_repeat):
            reward, terminated, info = self.advance(clipped)
            total += reward
            self._num_steps += 1
            truncated = self._num_steps >= self.max_steps
            if terminated or truncated:
                break
        return self._observe(), total, terminated, truncated, info

    def render(self) -> UInt8[ndarray, "H W 3"]:  # type: ignore[override]
        """Return the current picture, channels last as Gymnasium wants it."""
        return self.image().transpose(1, 2, 0)

    def _observe(self) -> dict[str, ndarray]:
        observation = {"state": np.asarray(self.state(), np.float32)}
        if self.pixels:
            observation["pixels"] = self.image()
        return observation
