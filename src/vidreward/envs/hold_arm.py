"""The arm, the camera and the goal pictures that HOLD's five tasks have in common; the tasks are in hold_tasks.py.

The hand follows a mocap body, as in Meta-World and multiworld: an action moves that body, a weld pulls the arm along.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.envs.metaworld import CAMERAS as METAWORLD_CAMERAS
from vidreward.envs.metaworld import UPSIDE_DOWN
from vidreward.envs.mujoco_pictures import FreeCamera, Pictures, Quality, use_egl
from vidreward.envs.names import check_names
from vidreward.envs.pixel_env import PixelEnv

CAMERAS = ("original", *METAWORLD_CAMERAS)
DOWN, FORWARD = (0.70710678, 0.0, 0.70710678, 0.0), (0.70710678, 0.0, 0.0, 0.70710678)
"""Where the fingers point."""
OPEN, CLOSED = -1.0, 1.0
SETTLE_STEPS = 200
"""Steps of the physics in tens, after which the arm is at rest where episodes start."""
MAX_EXPERT_STEPS = 400
MAX_GOALS = 256
"""Goal pictures kept in memory; a task with a random drawer never runs out of new ones."""

Point = tuple[float, float, float]

_goals: dict[tuple[Any, ...], UInt8[ndarray, "G 3 H W"]] = {}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How an arm is controlled."""

    low: Point
    """Corner of the box that the hand stays in, in metres."""
    high: Point
    start: Point
    fingers: tuple[float, float, float, float]
    """Orientation of the hand, `DOWN` or `FORWARD`."""
    step: float
    """Metres that a full action moves the hand's target."""
    num_substeps: int
    """Steps of the physics, of 2.5 ms, in a control step."""


class HoldEnv(PixelEnv):
    """One of HOLD's tasks; a subclass says what is special about it.

    Reward 1 in each control step after which the task is done, else 0; the dense reward of the original, where there is
    one, is `info["dense_reward"]`. Success does not end an episode. The goal pictures show the end of each stage as the
    scripted expert leaves it.

    Args:
        camera: "original", or one of Meta-World's.
        mirrored: Whether left and right are exchanged, as the original's wrappers leave its camera's pictures.
        size: Side of the pictures in pixels, or (height, width); None is the original's.
        render: "fast", or "full" with shadows, reflections, multisampling and full meshes.
        max_steps: Control steps after which an episode is truncated; None is the original's horizon.
        action_repeat: Control steps that an action is held for.
        pixels: Whether observations have pictures.
        goals: Whether resets come with goal pictures.
    """

    arm: ClassVar[Arm]
    axes: ClassVar[tuple[str, ...]]
    """What the numbers of an action move: "x", "y", "z", "turn" (nothing: DVD overwrites it), "grip"."""
    grip: ClassVar[float] = OPEN
    """Where actions do not say."""
    view: ClassVar[FreeCamera | str]
    """The original's camera: a free one, or a name in the scene."""
    flip: ClassVar[tuple[slice, ...]]
    """What makes the original's picture upright, mirrored as its wrappers leave it."""
    state_dim: ClassVar[int]
    original_size: ClassVar[int]
    horizon: ClassVar[int]

    def __init__(
        self,
        *,
        camera: str = "original",
        mirrored: bool = True,
        size: int | tuple[int, int] | None = None,
        render: Quality = "fast",
        max_steps: int | None = None,
        action_repeat: int = 1,
        pixels: bool = True,
        goals: bool = True,
    ) -> None:
        use_egl()
        import mujoco

        check_names("camera of HOLD's tasks", [camera], CAMERAS)
        self.model = self.scene()
        self.data = mujoco.MjData(self.model)
        super().__init__(
            action_space=spaces.Box(-1.0, 1.0, (len(self.axes),), np.float32),
            state_dim=self.state_dim,
            size=self.original_size if size is None else size,
            control_rate=round(1 / (self.arm.num_substeps * self.model.opt.timestep), 6),
            max_steps=self.horizon if max_steps is None else max_steps,
            action_repeat=action_repeat,
            pixels=pixels,
            goals=goals,
        )
        self.camera, self.mirrored, self._render = camera, mirrored, render
        self._pictures = Pictures(self.model, self.height, self.width, render)
        self._rest = self._settle()

    # -- what a task says -----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def scene(self) -> Any:
        """Compile the model."""

    @abc.abstractmethod
    def place(self, layout: float) -> None:
        """Put the objects where an episode starts."""

    @abc.abstractmethod
    def draw_layout(self) -> float:
        """Draw what differs between episodes from `np_random`; a constant where nothing does."""

    @abc.abstractmethod
    def is_done(self) -> bool:
        """Say whether the task is done now."""

    @abc.abstractmethod
    def dense_reward(self) -> float:
        """Return the oracle's reward of the current state."""

    @abc.abstractmethod
    def stages(self) -> list[Iterator[tuple[Point, float]]]:
        """Return the expert: for each stage, where the hand's target goes and the grip, step by step."""

    def goal_layout(self) -> float:
        """Return the layout that goal pictures are drawn in: where everything ends is the same in all of them."""
        return 0.0

    def after_physics(self) -> None:
        """Correct the state after each control step; nothing by default."""

    # -- the environment ------------------------------------------------------------------------------------------

    def begin(self, options: dict[str, Any]) -> dict[str, Any]:
        """Start in `options["layout"]`, where the task has one, or in a random layout."""
        layout = float(options["layout"]) if "layout" in options else self.draw_layout()
        self._start(layout)
        return {"layout": layout, "success": self.is_done()}

    def advance(self, action: Float[ndarray, "A"]) -> tuple[float, bool, dict[str, Any]]:
        command = dict(zip(self.axes, action, strict=True))
        delta = np.array([command.get(axis, 0.0) for axis in "xyz"])
        target = np.clip(self.target + self.arm.step * delta, self.arm.low, self.arm.high)
        self._move(target, command.get("grip", self.grip), self.arm.num_substeps)
        success = self.is_done()
        return float(success), False, {"success": success, "dense_reward": self.dense_reward()}

    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        camera = camera or self.camera
        if camera == "original":
            picture = self._pictures.draw(self.data, self.view)[self.flip]
            picture = picture if self.mirrored else picture[:, ::-1]
        else:
            picture = self._pictures.draw(self.data, camera)
            picture = picture[::-1, ::-1] if camera in UPSIDE_DOWN else picture
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def goal_images(self) -> UInt8[ndarray, "G 3 H W"]:
        layout = self.goal_layout()
        key = (type(self), layout, self.camera, self.mirrored, self.height, self.width, self._render)
        if key not in _goals:
            if len(_goals) >= MAX_GOALS:
                _goals.clear()
            now = self._save()
            self._start(layout)
            pictures = []
            for stage in self.stages():
                for target, grip in stage:
                    self.advance(self.action_towards(target, grip))
                pictures.append(self.image())
            self._restore(now)
            _goals[key] = np.stack(pictures)
        return _goals[key]

    def expert(self) -> Callable[[], Float[ndarray, "A"]]:
        """Return a scripted expert: each call gives its action in the current state; in the end it holds still."""
        script = (aim for stage in self.stages() for aim in stage)
        last: tuple[Point, float] = (tuple(self.target), self.grip)

        def act() -> Float[ndarray, "A"]:
            nonlocal last
            last = next(script, last)
            return self.action_towards(*last).astype(np.float32)

        return act

    def close(self) -> None:
        """Free the OpenGL context."""
        self._pictures.close()

    # -- the arm --------------------------------------------------------------------------------------------------

    @property
    def target(self) -> Float[ndarray, "3"]:
        """Where the hand is being pulled to."""
        return self.data.mocap_pos[0].copy()

    @property
    def hand(self) -> Float[ndarray, "3"]:
        """Where the hand is: a point between the roots of the fingers."""
        return self.data.body("hand").xpos.copy()

    def action_towards(self, target: Sequence[float], grip: float) -> Float[ndarray, "A"]:
        """Return the action that moves the hand's target straight to a point, as fast as it may go."""
        delta = (np.asarray(target) - self.target) / self.arm.step
        delta /= max(1.0, float(np.abs(delta).max()))
        command = {**dict(zip("xyz", delta, strict=True)), "turn": 0.0, "grip": grip}
        return np.array([command[axis] for axis in self.axes])

    def go(self, target: Point, grip: float, close: float = 0.01, wait: int = 12) -> Iterator[tuple[Point, float]]:
        """Go to a point: until the hand is within `close` metres, or hangs `wait` steps behind what it is told."""
        hanging = 0
        for _ in range(MAX_EXPERT_STEPS):
            if np.linalg.norm(self.hand - target) < close or hanging >= wait:
                return
            hanging += bool(np.linalg.norm(self.target - target) < 1e-6)
            yield target, grip

    def _move(self, target: Float[ndarray, "3"], grip: float, num_substeps: int) -> None:
        import mujoco

        self.data.mocap_pos[0], self.data.mocap_quat[0] = target, self.arm.fingers
        self.data.ctrl[:] = grip, -grip
        mujoco.mj_step(self.model, self.data, nstep=num_substeps)
        self.after_physics()
        self._update_places()

    def _update_places(self) -> None:
        """Bring places of bodies, cameras and lights up to date with the joints; a step leaves them one behind."""
        import mujoco

        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _settle(self) -> Float[ndarray, "N"]:
        """Return the physics with the arm at rest where episodes start."""
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        for _ in range(SETTLE_STEPS):
            self.place(0.0)  # the arm may sweep over the table on its way
            self._move(np.array(self.arm.start), self.grip, 10)
        return self._save()

    def _start(self, layout: float) -> None:
        self._restore(self._rest)
        self.place(layout)
        self._update_places()

    def _save(self) -> Float[ndarray, "N"]:
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self.data, state, kind)
        return state

    def _restore(self, state: Float[ndarray, "N"]) -> None:
        import mujoco

        mujoco.mj_setState(self.model, self.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._update_places()
