"""Adroit (a hand with 24 joints) and Franka Kitchen, as gymnasium-robotics has them, with pictures.

Needs `pip install 'vidreward[robotics]'` and OpenGL; without a display set MUJOCO_GL=egl.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.envs.mujoco_pictures import FreeCamera, Pictures, Quality, use_egl
from vidreward.envs.names import check_names
from vidreward.envs.pixel_env import PixelEnv

ADROIT_TASKS = ("door", "hammer", "pen", "relocate")
ADROIT_CAMERAS = ("vil_camera", "fixed")
KITCHEN_TASKS = (
    "bottom-burner",
    "top-burner",
    "light-switch",
    "slide-cabinet",
    "hinge-cabinet",
    "microwave",
    "kettle",
)
KITCHEN_CAMERAS: dict[str, str | FreeCamera] = {
    "default": FreeCamera(distance=2.2, lookat=(-0.2, 0.5, 2.0), elevation=-35, azimuth=70),
    "left_cap": "left_cap",
    "right_cap": "right_cap",
}


def _import(module: str) -> Any:
    use_egl()
    try:
        import gymnasium_robotics.envs.adroit_hand
        import gymnasium_robotics.envs.franka_kitchen.kitchen_env
    except ImportError as error:
        raise ImportError("gymnasium-robotics is not installed; pip install 'vidreward[robotics]'") from error
    envs = gymnasium_robotics.envs
    return envs.adroit_hand if module == "adroit" else envs.franka_kitchen.kitchen_env


def check_adroit(task: str) -> None:
    """Raise a clear error for an unknown task, or when gymnasium-robotics is not installed."""
    check_names("Adroit task", [task], ADROIT_TASKS)
    _import("adroit")


def check_kitchen(task: str) -> None:
    """Raise a clear error for unknown tasks ("microwave", "microwave+kettle"), or without gymnasium-robotics."""
    check_names("kitchen task", task.split("+"), KITCHEN_TASKS)
    _import("kitchen")


class Adroit(PixelEnv):
    """One of Adroit's four tasks: open a door, hammer a nail in, turn a pen, carry a ball.

    Action: targets of the joints (24 to 30), 100 times a second. State: gymnasium-robotics' own observation. Reward 1
    in each control step after which the task is done, else 0; gymnasium-robotics' dense reward is
    `info["dense_reward"]`. There is no goal picture: nobody plays these tasks by script.

    Args:
        task: One of `ADROIT_TASKS`.
        camera: One of `ADROIT_CAMERAS`.
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
        camera: str = "vil_camera",
        size: int | tuple[int, int] = 84,
        render: Quality = "fast",
        max_steps: int = 200,
        action_repeat: int = 1,
        pixels: bool = True,
        goals: bool = True,
    ) -> None:
        check_adroit(task)
        check_names("Adroit camera", [camera], ADROIT_CAMERAS)
        self._env = getattr(_import("adroit"), f"AdroitHand{task.capitalize()}Env")(reward_type="dense")
        num_actions, state_dim = self._env.action_space.shape[0], self._env.observation_space.shape[0]
        super().__init__(
            action_space=spaces.Box(-1.0, 1.0, (num_actions,), np.float32),
            state_dim=state_dim,
            size=size,
            control_rate=1 / self._env.dt,
            max_steps=max_steps,
            action_repeat=action_repeat,
            pixels=pixels,
            goals=goals,
        )
        self.task, self.camera = task, camera
        self._pictures = Pictures(self._env.model, self.height, self.width, render)

    def begin(self, options: dict[str, Any]) -> dict[str, Any]:
        self._state, _ = self._env.reset(seed=int(self.np_random.integers(2**31)))
        return {"success": False}

    def advance(self, action: Float[ndarray, "A"]) -> tuple[float, bool, dict[str, Any]]:
        self._state, dense_reward, terminated, _, info = self._env.step(action)
        success = bool(info["success"])
        return float(success), bool(terminated), {"success": success, "dense_reward": float(dense_reward)}

    def state(self) -> Float[ndarray, "S"]:
        return self._state

    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        picture = self._pictures.draw(self._env.data, camera or self.camera)
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def goal_images(self) -> None:
        return None

    def close(self) -> None:
        """Free the OpenGL context."""
        self._pictures.close()


class Kitchen(PixelEnv):
    """Franka Kitchen: bring one or several things in a kitchen into their goal positions.

    Action (9,): velocities of the joints, 12.5 times a second. State (59,): gymnasium-robotics' own observation. Reward
    1 in each control step after which all tasks are done, else 0; how many are done is `info["dense_reward"]`. Success
    does not end an episode. The goal picture shows everything in its goal position, the arm where it starts.

    Args:
        task: One of `KITCHEN_TASKS`, or several, as in "microwave+kettle".
        camera: "default", "left_cap" or "right_cap".
        size: Side of the pictures in pixels, or (height, width).
        render: "fast" or "full".
        max_steps: Control steps after which an episode is truncated.
        action_repeat: Control steps that an action is held for.
        pixels: Whether observations have pictures.
        goals: Whether resets come with a goal picture.
    """

    def __init__(
        self,
        task: str,
        *,
        camera: str = "default",
        size: int | tuple[int, int] = 84,
        render: Quality = "fast",
        max_steps: int = 280,
        action_repeat: int = 1,
        pixels: bool = True,
        goals: bool = True,
    ) -> None:
        check_kitchen(task)
        check_names("kitchen camera", [camera], tuple(KITCHEN_CAMERAS))
        self._tasks = [name.replace("-", " ") for name in task.split("+")]
        self._env = _import("kitchen").KitchenEnv(
            self._tasks, terminate_on_tasks_completed=False, remove_task_when_completed=False
        )
        super().__init__(
            action_space=spaces.Box(-1.0, 1.0, (9,), np.float32),
            state_dim=59,
            size=size,
            control_rate=1 / self._env.robot_env.dt,
            max_steps=max_steps,
            action_repeat=action_repeat,
            pixels=pixels,
            goals=goals,
        )
        self.task, self.camera = task, camera
        self._pictures = Pictures(self._env.model, self.height, self.width, render)

    def begin(self, options: dict[str, Any]) -> dict[str, Any]:
        observed, _ = self._env.reset(seed=int(self.np_random.integers(2**31)))
        self._state = observed["observation"]
        return {"success": False}

    def advance(self, action: Float[ndarray, "9"]) -> tuple[float, bool, dict[str, Any]]:
        observed, num_done, _, _, _ = self._env.step(action)
        self._state = observed["observation"]
        success = num_done == len(self._tasks)
        return float(success), False, {"success": success, "dense_reward": float(num_done)}

    def state(self) -> Float[ndarray, "59"]:
        return self._state

    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        picture = self._pictures.draw(self._env.data, KITCHEN_CAMERAS[camera or self.camera])
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def goal_images(self) -> UInt8[ndarray, "1 3 H W"]:
        import mujoco

        kitchen, model, data = _import("kitchen"), self._env.model, self._env.data
        now = data.qpos.copy()
        for name in self._tasks:
            data.qpos[kitchen.OBS_ELEMENT_INDICES[name]] = kitchen.OBS_ELEMENT_GOALS[name]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        picture = self.image()
        data.qpos[:] = now
        mujoco.mj_forward(model, data)
        return picture[None]

    def close(self) -> None:
        """Free the OpenGL context."""
        self._pictures.close()
