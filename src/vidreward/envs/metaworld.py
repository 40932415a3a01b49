"""Meta-World (50 manipulation tasks, MuJoCo) with pictures, rendered fast and the right way up.

Needs `pip install 'vidreward[metaworld]'` and OpenGL; without a display set MUJOCO_GL=egl. Shadows, reflections and
multisampling are off by default: at 64 to 224 px they cost most of the time and show nothing a reward needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8
from numpy import ndarray

if TYPE_CHECKING:
    from vidreward.envs.record import RecordConfig, Recording

CAMERAS = ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")
"""Cameras that Meta-World's scenes define rotated by 180 degrees."""
STEPS_A_FRAME = 2
"""Control steps (80 a second) between recorded frames."""
STEPS_AFTER_SUCCESS = 8
"""Control steps that an expert goes on after it has succeeded, so that the end is seen."""


def check_task(task: str) -> None:
    """Raise a clear error for an unknown task, or when Meta-World is not installed."""
    tasks = sorted(_import_metaworld().policies.ENV_POLICY_MAP)
    if task not in tasks:
        raise ValueError(f"no Meta-World task {task!r}; there are {', '.join(tasks)}")


def _import_metaworld() -> Any:
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import metaworld
        import metaworld.policies
    except ImportError as error:
        raise ImportError("Meta-World is not installed; pip install 'vidreward[metaworld]'") from error
    return metaworld


class MetaWorld(gymnasium.Env[dict[str, ndarray], ndarray]):
    """One Meta-World task with pictures.

    Action (4,): motion of the hand in x, y, z and grip, in [-1, 1], 80 times a second. Observation: `pixels`, uint8
    RGB (3, size, size); `state`, float32 (39,), Meta-World's own observation. Reward 1 in each step in which the task
    is done, else 0; Meta-World's dense reward is `info["dense_reward"]`.

    Args:
        task: One of the 50, as in "drawer-open-v3".
        camera: One of `CAMERAS`.
        size: Side of the pictures.
        render: "fast", or "full" with shadows, reflections and multisampling.
        max_steps: Steps after which an episode is truncated, at most 500.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 80}  # type: ignore[misc]

    def __init__(
        self,
        task: str,
        *,
        camera: str = "corner2",
        size: int = 64,
        render: Literal["fast", "full"] = "fast",
        max_steps: int = 500,
    ) -> None:
        check_task(task)
        if camera not in CAMERAS:
            raise ValueError(f"Meta-World has no camera {camera!r}; it has {', '.join(CAMERAS)}")
        if not 1 <= max_steps <= 500:
            raise ValueError(f"max_steps must be 1 to 500, Meta-World's own limit; got {max_steps}")
        self.task, self.camera, self.size, self.max_steps = task, camera, size, max_steps
        self._benchmark = _import_metaworld().MT1(task, seed=0)
        self._env = self._benchmark.train_classes[task]()
        self._env.set_task(self._benchmark.train_tasks[0])
        self._renderer = _make_renderer(self._env.model, size, fast=render == "fast")
        self._fast = render == "fast"
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {
                "pixels": spaces.Box(0, 255, (3, size, size), np.uint8),
                "state": spaces.Box(-np.inf, np.inf, (39,), np.float32),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, ndarray], dict[str, Any]]:
        """Start an episode in one of the task's 50 layouts; `options={"layout": k}` fixes which."""
        super().reset(seed=seed)
        tasks = self._benchmark.train_tasks
        layout = int((options or {}).get("layout", self.np_random.integers(len(tasks))))
        if not 0 <= layout < len(tasks):
            raise ValueError(f"layout must be 0 to {len(tasks) - 1}; got {layout}")
        self._env.set_task(tasks[layout])
        state, _ = self._env.reset()
        self._num_steps = 0
        return self._observation(state), {"layout": layout, "success": False}

    def step(self, action: ndarray) -> tuple[dict[str, ndarray], float, bool, bool, dict[str, Any]]:
        """Advance by one control step."""
        state, dense_reward, _, _, info = self._env.step(np.clip(action, -1, 1))
        self._num_steps += 1
        success = bool(info["success"])
        truncated = self._num_steps >= self.max_steps
        extra = {"success": success, "dense_reward": float(dense_reward)}
        return self._observation(state), float(success), False, truncated, extra

    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        """Return the picture of a camera, the right way up."""
        import mujoco

        camera = camera or self.camera
        self._renderer.update_scene(self._env.data, camera=camera)
        if self._fast:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = False
        picture = self._renderer.render()
        picture = picture[::-1, ::-1] if camera in UPSIDE_DOWN else picture
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    def expert_action(self, policy: Any, state: ndarray) -> ndarray:
        """Return what one of Meta-World's scripted policies does in a state."""
        return np.clip(policy.get_action(state.astype(np.float64)), -1, 1).astype(np.float32)

    def _observation(self, state: ndarray) -> dict[str, ndarray]:
        return {"pixels": self.image(), "state": np.asarray(state, np.float32)}


def _make_renderer(model: Any, size: int, *, fast: bool) -> Any:
    import mujoco

    if fast:
        model.vis.quality.offsamples = 0  # read when the context is made
    return mujoco.Renderer(model, size, size)


@contextmanager
def open_metaworld(task: str, **settings: Any) -> Iterator[MetaWorld]:
    """Open an environment and free its OpenGL context afterwards."""
    env = MetaWorld(task, **settings)
    try:
        yield env
    finally:
        env.close()


def play_metaworld(config: RecordConfig, task: str, failure: str | None, rng: np.random.Generator) -> Recording:
    """Play one episode with Meta-World's scripted policy, a little noise on its actions."""
    from vidreward.envs.record import Recording

    if failure is not None:
        raise ValueError("failures are scripted for the tabletop world only; record Meta-World with failures=0")
    cameras = config.cameras or ("corner2",)
    policy = _import_metaworld().policies.ENV_POLICY_MAP[task]()
    noise = float(rng.uniform(0.0, 0.1))
    with open_metaworld(task, camera=cameras[0], size=config.size) as env:
        observation, info = env.reset(options={"layout": int(rng.integers(50))})
        layout, left = info["layout"], None
        rows: list[tuple[dict[str, ndarray], ndarray, ndarray, float]] = []
        for step in range(env.max_steps):
            action = env.expert_action(policy, observation["state"])
            action = np.clip(action + rng.normal(0, noise, 4), -1, 1).astype(np.float32)
            if step % STEPS_A_FRAME == 0:
                pictures = {camera: env.image(camera) for camera in cameras}
                rows.append((pictures, observation["state"], action, float(info["success"])))
            observation, _, _, truncated, info = env.step(action)
            if left is None and info["success"]:
                left = STEPS_AFTER_SUCCESS
            if left == 0 or truncated:
                break
            left = None if left is None else left - 1
        pictures = {camera: env.image(camera) for camera in cameras}
    rows.append((pictures, observation["state"], np.zeros(4, np.float32), float(info["success"])))
    columns = {
        "state": np.stack([row[1] for row in rows]),
        "action": np.stack([row[2] for row in rows]),
        "reward": np.array([row[3] for row in rows]),
    }
    frames = {camera: np.stack([row[0][camera] for row in rows]) for camera in cameras}
    goal = frames[cameras[0]][-1]
    return Recording(frames, goal, bool(info["success"]), 80 / STEPS_A_FRAME, columns, {"layout": layout})
