"""The DeepMind Control Suite with pictures.

Needs `pip install 'vidreward[robotics]'` and OpenGL; without a display set MUJOCO_GL=egl.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.envs.mujoco_pictures import Pictures, Quality, use_egl
from vidreward.envs.names import check_names
from vidreward.envs.pixel_env import PixelEnv

DONE_REWARD = 0.9
"""Reward, of at most 1, from which a task counts as done: the suite itself has no notion of success."""


def tasks() -> dict[str, tuple[str, str]]:
    """List the suite's tasks: our name -> domain and task.

    Raises:
        ImportError: dm_control is not installed.
    """
    use_egl()
    try:
        from dm_control import suite
    except ImportError as error:
        raise ImportError("dm_control is not installed; pip install 'vidreward[robotics]'") from error
    return {f"{domain}-{task}".replace("_", "-"): (domain, task) for domain, task in suite.ALL_TASKS}


def check_task(task: str) -> None:
    """Raise a clear error for an unknown task, or when dm_control is not installed."""
    check_names("dm_control task", [task], tuple(tasks()))


class Dmc(PixelEnv):
    """One task of the DeepMind Control Suite.

    Action: as the suite's, rescaled to [-1, 1]. State: the suite's observations, one after the other. The reward is the
    suite's, in [0, 1] a control step, also as `info["dense_reward"]`; `success` says whether it is at least 0.9. There
    is no goal picture.

    Args:
        task: As in "walker-walk", "cartpole-swingup-sparse".
        camera: Name or number of one of the model's cameras; None is the one that the suite's papers use.
        size: Side of the pictures in pixels, or (height, width).
        render: "fast" or "full".
        max_steps: Control steps after which an episode is truncated.
        action_repeat: Control steps that an action is held for.
        pixels: Whether observations have pictures.
        goals: Has no effect; every world takes it.
    """

    def __init__(
        self,
        task: str,
        *,
        camera: str | int | None = None,
        size: int | tuple[int, int] = 84,
        render: Quality = "fast",
        max_steps: int = 1000,
        action_repeat: int = 1,
        pixels: bool = True,
        goals: bool = True,
    ) -> None:
        check_task(task)
        from dm_control import suite

        domain, name = tasks()[task]
        self._env = suite.load(domain, name, task_kwargs={"random": 0, "time_limit": float("inf")})
        spec = self._env.action_spec()
        self._low, self._high = np.maximum(spec.minimum, -1e3), np.minimum(spec.maximum, 1e3)
        unlimited = self._high >= 1e3
        self._low[unlimited], self._high[unlimited] = -1.0, 1.0
        super().__init__(
            action_space=spaces.Box(-1.0, 1.0, spec.shape, np.float32),
            state_dim=sum(int(np.prod(part.shape)) for part in self._env.observation_spec().values()),
            size=size,
            control_rate=1 / self._env.control_timestep(),
            max_steps=max_steps,
            action_repeat=action_repeat,
            pixels=pixels,
            goals=goals,
        )
        self.task = task
        self.camera = camera if camera is not None else 2 if domain == "quadruped" else 0
        model = self._env.physics.model.ptr
        names = [model.camera(number).name for number in range(model.ncam)]
        if isinstance(self.camera, str):
            check_names(f"camera of {task}", [self.camera], names)
        elif not 0 <= self.camera < len(names):
            raise ValueError(f"{task} has cameras 0 to {len(names) - 1} ({', '.join(names)}); got {self.camera}")
        self._pictures = Pictures(model, self.height, self.width, render)

    def begin(self, options: dict[str, Any]) -> dict[str, Any]:
        self._env.task.random.seed(int(self.np_random.integers(2**32)))
        self._now = self._env.reset()
        return {"success": False}

    def advance(self, action: Float[ndarray, "A"]) -> tuple[float, bool, dict[str, Any]]:
        self._now = self._env.step(self._low + (action + 1) / 2 * (self._high - self._low))
        reward = float(self._now.reward)
        terminated = bool(self._now.last() and self._now.discount == 0)
        return reward, terminated, {"success": reward >= DONE_REWARD, "dense_reward": reward}

    def state(self) -> Float[ndarray, "S"]:
        return np.concatenate([np.ravel(part) for part in self._now.observation.values()])

    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        picture = self._pictures.draw(self._env.physics.data.ptr, self.camera if camera is None else camera)
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def goal_images(self) -> None:
        return None

    def close(self) -> None:
        """Free the OpenGL context."""
        self._pictures.close()
        self._env.close()
