"""Meta-World (50 manipulation tasks, MuJoCo) with pictures, rendered fast and the right way up.

Needs `pip install 'vidreward[metaworld]'` and OpenGL; without a display set MUJOCO_GL=egl.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.envs.mujoco_pictures import Pictures, Quality, use_egl
from vidreward.envs.names import check_names
from vidreward.envs.pixel_env import PixelEnv

CAMERAS = ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")
"""Cameras that Meta-World's scenes define rotated by 180 degrees."""
NUM_LAYOUTS = 50
MAX_STEPS = 500
CONTROL_RATE = 80.0
STEPS_AFTER_SUCCESS = 8
"""Control steps that an expert goes on after it has succeeded, so that the end is seen."""
MAX_TRIES = 20
"""Attempts, with more and more noise, at an episode that shows how the goal looks."""

_goals: dict[tuple[Any, ...], UInt8[ndarray, "1 3 H W"]] = {}


def check_task(task: str) -> None:
    """Raise a clear error for an unknown task, or when Meta-World is not installed."""
    check_names("Meta-World task", [task], tasks())


def tasks() -> list[str]:
    """List the 50 tasks."""
    return sorted(import_metaworld().policies.ENV_POLICY_MAP)


def import_metaworld() -> Any:
    """Import Meta-World with its scripted policies.

    Raises:
        ImportError: It is not installed.
    """
    use_egl()
    try:
        import metaworld
        import metaworld.policies
    except ImportError as error:
        raise ImportError("Meta-World is not installed; pip install 'vidreward[metaworld]'") from error
    return metaworld


@functools.cache
def _benchmark(task: str) -> Any:
    return import_metaworld().MT1(task, seed=0)


class MetaWorld(PixelEnv):
    """One Meta-World task with pictures.

    Action (4,): motion of the hand in x, y, z and grip, 80 times a second. State (39,): Meta-World's own observation.
    Reward 1 in each control step after which the task is done, else 0; Meta-World's dense reward is
    `info["dense_reward"]`. Success does not end an episode. The goal picture shows this layout as Meta-World's scripted
    policy leaves it, drawn once a layout, camera and size in a process.

    Args:
        task: One of the 50, as in "drawer-open-v3".
        camera: One of `CAMERAS`.
        size: Side of the pictures in pixels, or (height, width).
        render: "fast", or "full" with shadows, reflections, multisampling and full meshes.
        layouts: Of the task's 50 layouts (places of the objects), those that resets draw from.
        max_steps: Control steps after which an episode is truncated, at most 500.
        action_repeat: Control steps that an action is held for.
        pixels: Whether observations have pictures.
        goals: Whether resets come with a goal picture.

    Raises:
        ValueError: A setting is wrong.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("layout",)

    def __init__(
        self,
        task: str,
        *,
        camera: str = "corner2",
        size: int | tuple[int, int] = 64,
        render: Quality = "fast",
        layouts: Sequence[int] = range(NUM_LAYOUTS),
        max_steps: int = MAX_STEPS,
        action_repeat: int = 1,
        pixels: bool = True,
        goals: bool = True,
    ) -> None:
        check_task(task)
        check_names("Meta-World camera", [camera], CAMERAS)
        if not layouts:
            raise ValueError("give at least one layout")
        if max_steps > MAX_STEPS:
            raise ValueError(f"max_steps must be 1 to {MAX_STEPS}, Meta-World's own limit; got {max_steps}")
        super().__init__(
            action_space=spaces.Box(-1.0, 1.0, (4,), np.float32),
            state_dim=39,
            size=size,
            control_rate=CONTROL_RATE,
            max_steps=max_steps,
            action_repeat=action_repeat,
            pixels=pixels,
            goals=goals,
        )
        self.task, self.camera, self.layouts, self._render = task, camera, tuple(layouts), render
        for layout in self.layouts:
            _check_layout(layout)
        self._env = self._make_physics()
        self._pictures = Pictures(self._env.model, self.height, self.width, render)

    def _make_physics(self) -> Any:
        return _benchmark(self.task).train_classes[self.task]()

    def begin(self, options: dict[str, Any]) -> dict[str, Any]:
        """Start in `options["layout"]`, 0 to 49, or in one of `layouts` at random."""
        layout = options["layout"] if "layout" in options else self.layouts[self.np_random.integers(len(self.layouts))]
        _check_layout(layout)
        self._layout = int(layout)
        self._state = self._reset_physics(self._env)
        return {"layout": self._layout, "success": False}

    def _reset_physics(self, env: Any) -> Float[ndarray, "39"]:
        env.set_task(_benchmark(self.task).train_tasks[self._layout])
        state: ndarray = env.reset()[0]
        return state

    def advance(self, action: Float[ndarray, "4"]) -> tuple[float, bool, dict[str, Any]]:
        self._state, dense_reward, _, _, info = self._env.step(action.astype(np.float32))
        success = bool(info["success"])
        return float(success), False, {"success": success, "dense_reward": float(dense_reward)}

    def state(self) -> Float[ndarray, "39"]:
        return self._state

    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        return self._draw(self._env, camera or self.camera)

    def goal_images(self) -> UInt8[ndarray, "1 3 H W"]:
        key = (self.task, self._layout, self.camera, self.height, self.width, self._render)
        if key not in _goals:
            _goals[key] = self._draw(self._play_to_goal(), self.camera)[None]
        return _goals[key]

    def expert(self) -> Callable[[], Float[ndarray, "4"]]:
        """Return Meta-World's scripted policy: each call gives its action in the current state."""
        policy = self._make_policy()
        return lambda: policy(self._state)

    def close(self) -> None:
        """Free the OpenGL context."""
        self._pictures.close()

    def _draw(self, env: Any, camera: str) -> UInt8[ndarray, "3 H W"]:
        picture = self._pictures.draw(env.data, camera)
        picture = picture[::-1, ::-1] if camera in UPSIDE_DOWN else picture
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def _make_policy(self) -> Callable[[ndarray], Float[ndarray, "4"]]:
        policy = import_metaworld().policies.ENV_POLICY_MAP[self.task]()

        def act(state: ndarray) -> Float[ndarray, "4"]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Constant")  # some policies ask for more than 1, on purpose
                return np.clip(policy.get_action(state), -1, 1).astype(np.float32)

        return act

    def _play_to_goal(self) -> Any:
        """Return another copy of the physics as it was when the scripted policy had done this layout's task.

        Raises:
            RuntimeError: It never did.
        """
        import mujoco

        env = self._make_physics()
        for attempt in range(MAX_TRIES):
            rng, policy = np.random.default_rng([self._layout, attempt]), self._make_policy()
            state, done, left = self._reset_physics(env), None, STEPS_AFTER_SUCCESS
            for _ in range(MAX_STEPS):
                action = np.clip(policy(state) + rng.normal(0, 0.03 * attempt, 4), -1, 1).astype(np.float32)
                state, _, _, _, info = env.step(action)
                if info["success"]:
                    done = env.data.qpos.copy()
                left -= done is not None
                if left == 0:
                    break
            if done is not None:
                env.data.qpos[:] = done  # a few policies let go, and their success is lost
                mujoco.mj_forward(env.model, env.data)
                return env
        raise RuntimeError(f"{self.task}: the scripted policy failed in layout {self._layout}; give goals=False")


def _check_layout(layout: int) -> None:
    if not 0 <= layout < NUM_LAYOUTS:
        raise ValueError(f"layout must be 0 to {NUM_LAYOUTS - 1}; got {layout}")
