"""The five robot tasks of HOLD (Alakuijala et al., ICRA 2023), rebuilt on the models that Meta-World ships.

RLV's pushing and drawer opening come from "Reinforcement Learning with Videos" (Schmeckpeper et al., 2020), the other
three from DVD (Chen et al., 2021). docs/environments.md lists, task by task, what is as in the original and what not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vidreward.envs import hold_scenes
from vidreward.envs.hold_arm import CLOSED, DOWN, FORWARD, OPEN, Arm, HoldEnv, Point
from vidreward.envs.hold_scenes import PUSHING_TARGET
from vidreward.envs.mujoco_pictures import FreeCamera
from vidreward.envs.names import check_names

MIRROR, HANG = (slice(None), slice(None, None, -1)), (slice(None, None, -1),)
"""Mirror the picture of an upright camera; of one that hangs upside down, turning the rows round does both."""

TOUCHING = (0.045, 0.05)
"""Distance in x and in y of the hand's middle from the mug's, in metres, at which closed fingers touch it."""
CENTERED = 0.008
"""Metres from the middle at which the expert is content."""


class Pushing(HoldEnv):
    """RLV Pushing: push the mug onto the dark square.

    Action (2,): x and y; the hand stays 5 cm above the table, its fingers closed. State (7,): hand x, y, z; mug x, y;
    square x, y. Done when the mug's L1 distance from the square's centre is below 3 cm. Layout: the mug's x. Dense
    reward: minus the L1 distances of hand to mug and mug to square, multiworld's for this task.

    Args:
        spread: Metres that the mug may start left or right of the middle, uniformly.
        settings: As in `HoldEnv`.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("layout",)
    arm = Arm(
        low=(-0.28, 0.3, 0.05), high=(0.28, 0.9, 0.05), start=(0, 0.4, 0.05), fingers=DOWN, step=0.02, num_substeps=40
    )
    axes, grip = ("x", "y"), CLOSED
    view, flip = FreeCamera(distance=0.45, lookat=(0.0, 0.85, 0.45), elevation=-60, azimuth=270), MIRROR
    state_dim, original_size, horizon = 7, 48, 100

    def __init__(self, *, spread: float = 0.1, **settings: Any) -> None:
        if not 0 <= spread <= 0.15:
            raise ValueError(f"spread must be 0 to 0.15 m, where the hand still gets behind the mug; got {spread}")
        self.spread = spread
        super().__init__(**settings)

    def scene(self) -> Any:
        return hold_scenes.pushing()

    def draw_layout(self) -> float:
        return float(self.np_random.uniform(-self.spread, self.spread))

    def place(self, layout: float) -> None:
        self.data.joint("puck").qpos[:] = (layout, 0.6, 0.0, 1, 0, 0, 0)
        self.data.joint("puck").qvel[:] = 0.0

    @property
    def mug(self) -> Float[ndarray, "2"]:
        """Where the mug stands."""
        return self.data.joint("puck").qpos[:2].copy()

    def is_done(self) -> bool:
        return bool(np.abs(self.mug - PUSHING_TARGET).sum() < 0.03)

    def dense_reward(self) -> float:
        to_mug = self.hand - self.data.joint("puck").qpos[:3]
        return float(-np.abs(to_mug).sum() - np.abs(self.mug - PUSHING_TARGET).sum())

    def state(self) -> Float[ndarray, "7"]:
        return np.array([*self.hand, *self.mug, *PUSHING_TARGET])

    def stages(self) -> list[Iterator[tuple[Point, float]]]:
        return [self._push()]

    def _push(self) -> Iterator[tuple[Point, float]]:
        """Push sideways until the mug stands before the square, then forwards: fingers are flat, and push straight."""
        side = 1.0 if self.mug[0] > 0 else -1.0
        if abs(self.mug[0]) > CENTERED:
            outside = float(self.mug[0] + side * 0.08)
            yield from self.go((outside, 0.5, 0.05), CLOSED, close=0.03)
            yield from self.go((outside, 0.6, 0.05), CLOSED, close=0.02)
            yield from self._shove(0, -side)
            yield from self.go((float(self.hand[0] + side * 0.03), 0.6, 0.05), CLOSED)
            yield from self.go((side * 0.1, 0.5, 0.05), CLOSED, close=0.03)
        yield from self.go((float(self.mug[0]), 0.5, 0.05), CLOSED)
        yield from self._shove(1, 1.0)

    def _shove(self, axis: int, way: float) -> Iterator[tuple[Point, float]]:
        """Push the mug along x or y until it is where the square is, slower as it comes near."""
        for _ in range(60):
            left = way * float(PUSHING_TARGET[axis] - self.mug[axis])
            if left < CENTERED:
                return
            to = [float(self.hand[0]), float(self.mug[1]), 0.05] if axis == 0 else [float(self.mug[0]), 0.0, 0.05]
            to[axis] = float(self.mug[axis]) - way * (TOUCHING[axis] - min(left, 0.02))
            yield (to[0], to[1], to[2]), CLOSED


class DrawerOpen(HoldEnv):
    """RLV Drawer Opening, in two stages: get behind the handle, then pull.

    Action: one number an axis, by default (2,): y and z, the hand in the drawer's plane, its fingers open. State (7,):
    hand x, y, z; handle x, y, z; opening in metres. Done when the drawer is open by `success_opening`. Layout: the
    drawer's x. Dense reward, ours: minus the distances of the fingers to the handle and of the drawer to fully open.

    Args:
        axes: Axes of the hand that actions move, of "xyz".
        spread: Metres that the drawer may stand left or right of the middle, uniformly.
        success_opening: In metres; the drawer opens by 0.16.
        settings: As in `HoldEnv`.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("layout",)
    arm = Arm(low=(-0.5, 0.4, 0.05), high=(0.5, 1, 0.5), start=(0, 0.6, 0.2), fingers=DOWN, step=0.01, num_substeps=5)
    view, flip = FreeCamera(distance=0.5, lookat=(0.0, 0.6, 0.2), elevation=-135, azimuth=-30), HANG
    state_dim, original_size, horizon = 7, 48, 200

    def __init__(
        self, *, axes: str = "yz", spread: float = 0.0, success_opening: float = 0.12, **settings: Any
    ) -> None:
        check_names("axis of the hand", axes, ("x", "y", "z"))
        if not 0 <= spread <= 0.04:
            raise ValueError(f"spread must be 0 to 0.04 m, where the handle is in the hand's plane; got {spread}")
        if not 0 < success_opening < 0.16:
            raise ValueError(f"success_opening must be between 0 and 0.16 m; got {success_opening}")
        self.axes = tuple(axes)  # type: ignore[misc]
        self.spread, self.success_opening = spread, success_opening
        super().__init__(**settings)

    def scene(self) -> Any:
        return hold_scenes.drawer()

    def draw_layout(self) -> float:
        return float(self.np_random.uniform(-self.spread, self.spread))

    def goal_layout(self) -> float:
        return float(self.model.body("drawer").pos[0])

    def place(self, layout: float) -> None:
        self.model.body("drawer").pos[0] = layout
        self.data.joint("goal_slidey").qpos[:] = 0.0
        self.data.joint("goal_slidey").qvel[:] = 0.0

    @property
    def opening(self) -> float:
        """How far the drawer is open, in metres."""
        return float(-self.data.joint("goal_slidey").qpos[0])

    @property
    def handle(self) -> Float[ndarray, "3"]:
        """Middle of the handle's bar."""
        return self.data.body("drawer_link").xpos + (0.0, -0.15, 0.0)

    def is_done(self) -> bool:
        return self.opening >= self.success_opening

    def dense_reward(self) -> float:
        fingers = self.hand - (0.0, 0.0, 0.045)
        return float(-np.linalg.norm(fingers - self.handle)) - (0.16 - self.opening)

    def state(self) -> Float[ndarray, "7"]:
        return np.array([*self.hand, *self.handle, self.opening])

    def stages(self) -> list[Iterator[tuple[Point, float]]]:
        return [self._hook(), self._pull()]

    def _hook(self) -> Iterator[tuple[Point, float]]:
        """Put the front finger between the handle and the drawer."""
        yield from self.go((0.0, 0.72, 0.2), OPEN)
        yield from self.go((0.0, 0.72, 0.115), OPEN)

    def _pull(self) -> Iterator[tuple[Point, float]]:
        yield from self.go((0.0, 0.5, 0.115), OPEN)


class _Dvd(HoldEnv):
    """What DVD's three tasks share: scene, camera, control, start.

    Action (5,): x, y, z, a rotation that does nothing, grip. State (10,): hand x, y, z; mug x, y, z; grip; drawer (0
    closed, -0.16 open); button; tap in radians. Every episode starts alike.
    """

    arm = Arm(
        low=(-0.4, 0.4, 0.0), high=(0.4, 0.8, 0.2), start=(0, 0.5, 0.02), fingers=FORWARD, step=0.05, num_substeps=5
    )
    axes = ("x", "y", "z", "turn", "grip")
    view, flip = "original", HANG
    state_dim, original_size, horizon = 10, 120, 60

    def scene(self) -> Any:
        return hold_scenes.dvd()

    def draw_layout(self) -> float:
        return 0.0

    def place(self, layout: float) -> None:
        data = self.data
        data.joint("mug").qpos[:] = (0.0, 0.6, 0.0, 1, 0, 0, 0)
        data.joint("goal_slidey").qpos[:] = -0.07
        data.joint("button").qpos[:] = data.joint("knob_Joint_1").qpos[:] = 0.0
        for joint in ("mug", "goal_slidey", "button", "knob_Joint_1"):
            data.joint(joint).qvel[:] = 0.0

    def after_physics(self) -> None:
        """Keep the mug upright and unturned, as DVD does."""
        self.data.joint("mug").qpos[3:] = (1, 0, 0, 0)

    @property
    def mug(self) -> Float[ndarray, "3"]:
        """Where the mug stands."""
        return self.data.joint("mug").qpos[:3].copy()

    def joint(self, name: str) -> float:
        """Return the place of the drawer, the button or the tap."""
        return float(self.data.joint(name).qpos[0])

    def state(self) -> Float[ndarray, "10"]:
        joints = (self.joint("goal_slidey"), self.joint("button"), self.joint("knob_Joint_1"))
        return np.array([*self.hand, *self.mug, self.joint("l_close"), *joints])


class CloseDrawer(_Dvd):
    """DVD Close Drawer: the drawer starts open by 7 cm; done while it is open by less than 5."""

    front = (0.25, 0.62, 0.06)
    """Where the hand is when the drawer is shut, for the oracle."""

    def is_done(self) -> bool:
        return self.joint("goal_slidey") > -0.05

    def dense_reward(self) -> float:
        return float(self.is_done() + self.joint("goal_slidey") - np.linalg.norm(self.hand - self.front))

    def stages(self) -> list[Iterator[tuple[Point, float]]]:
        return [self._close()]

    def _close(self) -> Iterator[tuple[Point, float]]:
        yield from self.go((0.25, 0.45, 0.08), CLOSED, close=0.03)
        yield from self.go((0.25, 0.64, 0.08), CLOSED)


class PushCup(_Dvd):
    """DVD Push Cup Forward: done while the mug is within 7.5 cm of a point 10 cm before where it starts."""

    aim = (0.0, 0.7, 0.0)

    def is_done(self) -> bool:
        return bool(np.linalg.norm(self.mug - self.aim) < 0.075)

    def dense_reward(self) -> float:
        """Return the oracle's reward; the hand is drawn to the aim, not to the mug, as in the original."""
        to_aim = np.linalg.norm(self.mug - self.aim) + np.linalg.norm(self.hand - self.aim)
        return float(self.is_done() - to_aim)

    def stages(self) -> list[Iterator[tuple[Point, float]]]:
        return [self._push()]

    def _push(self) -> Iterator[tuple[Point, float]]:
        yield from self.go((0.0, 0.62, 0.02), OPEN)


class TurnFaucet(_Dvd):
    """DVD Turn Faucet Right: done while the tap is turned by more than 0.01 rad, to the right of the mirrored view."""

    turned = (-0.27, 0.53, 0.11)
    """Where the tap's handle is when it is turned, for the oracle."""

    def is_done(self) -> bool:
        return self.joint("knob_Joint_1") < -0.01

    def dense_reward(self) -> float:
        return float(self.is_done() - self.joint("knob_Joint_1") - np.linalg.norm(self.hand - self.turned))

    def stages(self) -> list[Iterator[tuple[Point, float]]]:
        return [self._turn()]

    def _turn(self) -> Iterator[tuple[Point, float]]:
        yield from self.go((-0.12, 0.5, 0.13), CLOSED, close=0.03)
        yield from self.go((-0.34, 0.5, 0.13), CLOSED)


TASKS: dict[str, type[HoldEnv]] = {
    "pushing": Pushing,
    "drawer-open": DrawerOpen,
    "close-drawer": CloseDrawer,
    "push-cup": PushCup,
    "turn-faucet": TurnFaucet,
}


def hold_task(task: str) -> type[HoldEnv]:
    """Return the environment of one of HOLD's tasks.

    Raises:
        ValueError: There is no such task.
    """
    check_names("task of HOLD", [task], tuple(TASKS))
    return TASKS[task]
