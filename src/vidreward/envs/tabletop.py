"""The bundled tiny world: a table, two embodiments and five tasks, without OpenGL.

Physics by pymunk seen from above (strong damping stands for table friction), drawing by OpenCV. One rule holds
for both embodiments and all tasks: open fingers or jaws hover above the table and touch nothing; closed ones are
down, grasp what is narrow enough under them, and push anything else. In `sweep` they hold a brush.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pymunk
from gymnasium import spaces
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.envs.names import check_names
from vidreward.envs.pixel_env import PixelEnv
from vidreward.envs.tabletop_draw import CAMERAS, HANDLE_OFFSET, SHAPES, Painter, Scene
from vidreward.envs.tabletop_tasks import (
    APPROACH_SHARE,
    BRUSH_HALF_DEPTH,
    BRUSH_HALF_WIDTH,
    EMBODIMENTS,
    MAX_CRUMBS,
    TIP_RADIUS,
    TOLERANCE,
    Layout,
    Randomize,
    check_task,
    done_positions,
    end_tip,
    ready_point,
    sample_layout,
    zone_distance,
)

MAX_STEP = 0.14
"""World units that the tip moves in one step of 0.1 s at full action."""
INERTIA = {"hand": 0.3, "gripper": 0.12}
"""Share of the last step's motion that goes on into the next."""
GRIP_RATE = 0.5
HOVER, LIFT = 0.16, 0.22
SUBSTEPS = 4
STATE_DIM = 13 + 2 * MAX_CRUMBS
_NOTHING = pymunk.ShapeFilter(mask=0)


class Tabletop(PixelEnv):
    """Move things on a table with a hand or a gripper.

    Action (3,): tip motion in x and y, as a share of `MAX_STEP`, and grip (positive closes), all in [-1, 1].

    Observation: `pixels`, uint8 RGB (3, size, size); `state`, float32 (23,): tip x, y and its motion of the last
    step (4), grip -1 open to 1 closed, holding 0 or 1, task object x, y and cosine, sine of its angle (4; the
    handle for the drawer, the crumbs' mean for sweeping, zeros for reaching), goal x, y (2), drawer opening,
    positions of up to five crumbs (10); zeros where the task has none.

    Reward 1 in each step that ends with the task done, else 0. Success does not end an episode, as in most
    manipulation benchmarks, and may be undone; `max_steps` truncates it.

    Info: `success`; `progress` in [0, 1], 0.3 of it for the approach; `stage`, an index into `STAGES`;
    at reset also `layout` and `goal`, the picture (1, 3, size, size) of the task done.

    Args:
        task: One of `TASKS`.
        embodiment: "hand" (enters from the bottom) or "gripper" (from the top).
        camera: "top" or "side".
        size: Height and width of the picture in pixels, at least 32.
        randomize: True for everything, False for positions and sizes only, or a `Randomize`.
        max_steps: Steps, of 0.1 s, after which an episode is truncated.
        action_repeat: Steps that an action is held for.
        pixels: Whether observations have pictures.
        goals: Whether resets come with a picture of the task done.

    Raises:
        ValueError: A setting is wrong.

    Example:
        >>> env = Tabletop("push", embodiment="gripper")
        >>> observation, info = env.reset(seed=0)
        >>> observation["pixels"].shape, info["goal"].shape, info["success"]
        ((3, 64, 64), (1, 3, 64, 64), False)
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("layout",)

    def __init__(
        self,
        task: str = "push",
        *,
        embodiment: str = "hand",
        camera: str = "top",
        size: int = 64,
        randomize: Randomize | bool = True,
        max_steps: int = 100,
        action_repeat: int = 1,
        pixels: bool = True,
        goals: bool = True,
    ) -> None:
        check_task(task)
        check_names("embodiment", [embodiment], EMBODIMENTS)
        check_names("tabletop camera", [camera], CAMERAS)
        if size < 32:
            raise ValueError(f"size must be at least 32; got {size}")
        self.task, self.embodiment, self.camera, self.size, self.randomize = task, embodiment, camera, size, randomize
        super().__init__(
            action_space=spaces.Box(-1.0, 1.0, (3,), np.float32),
            state_dim=STATE_DIM,
            size=size,
            control_rate=10,
            max_steps=max_steps,
            action_repeat=action_repeat,
            pixels=pixels,
            goals=goals,
        )
        self.layout: Layout = {}
        self.velocity: Float[ndarray, "2"] = np.zeros(2)
        self._painters: dict[str, Painter] = {}

    def begin(self, options: dict[str, Any]) -> dict[str, Any]:
        """Build the scene of `options["layout"]`, or of a random layout.

        Raises:
            ValueError: The layout is of another task.
        """
        layout = options.get("layout") or sample_layout(self.np_random, self.task, self.randomize)
        if layout["task"] != self.task:
            raise ValueError(f"the layout is for task {layout['task']!r}, this environment's is {self.task!r}")
        self.layout, self._painters = layout, {}
        self._build(layout)
        self._approach_start = max(self._approach_distance(), 1e-6)
        return {**self._info(), "layout": layout}

    def advance(self, action: Float[ndarray, "3"]) -> tuple[float, bool, dict[str, Any]]:
        """Move the tip for 0.1 s."""
        inertia = INERTIA[self.embodiment]
        self.velocity = inertia * self.velocity + (1 - inertia) * MAX_STEP * action[:2]
        target = np.clip(self.tip + self.velocity, -1.1, 1.1)
        self.velocity = target - self.tip
        self._move_grip(1.0 if action[2] > 0 else -1.0)
        self._move_tip(target)
        info = self._info()
        return float(info["success"]), False, info

    # -- pictures -------------------------------------------------------------------------------------------------

    def image(self, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        """Return the picture of the current state, by default of the environment's camera."""
        return self._painter(camera).render(self._scene())

    def goal_images(self) -> UInt8[ndarray, "1 3 H W"]:
        return self.goal_image()[None]

    def goal_image(self, layout: Layout | None = None, camera: str | None = None) -> UInt8[ndarray, "3 H W"]:
        """Return the picture of a layout's task done, the embodiment in its end pose.

        Args:
            layout: Layout of this environment's task; None is the current one.
            camera: One of `CAMERAS`; None is the environment's.
        """
        current = layout is None or layout is self.layout
        layout = self.layout if layout is None else layout
        painter = (
            self._painter(camera) if current else Painter(layout, self.embodiment, camera or self.camera, self.size)
        )
        opening = layout["drawer"]["travel"] if layout["task"] == "slide-drawer" else 0.0
        tip = end_tip(layout, self.embodiment)
        closed = layout["task"] == "reach"
        return painter.render(
            Scene(
                poses=[(x, y, angle, 0.0) for (x, y), angle in done_positions(layout)],
                opening=opening,
                tip=(float(tip[0]), float(tip[1])),
                grip=1.0 if closed else -1.0,
                height=0.0 if closed else HOVER,
            )
        )

    def _painter(self, camera: str | None) -> Painter:
        camera = camera or self.camera
        if camera not in self._painters:
            self._painters[camera] = Painter(self.layout, self.embodiment, camera, self.size)
        return self._painters[camera]

    def _scene(self) -> Scene:
        lifts = [self._lift if self.held == index else 0.0 for index in range(len(self._bodies))]
        poses = [(*body.position, body.angle, lift) for body, lift in zip(self._bodies, lifts, strict=True)]
        height = HOVER * (0.5 - 0.5 * self.grip) + (self._lift if self.held is not None else 0.0)
        x, y = self.tip
        return Scene(poses=poses, opening=self.opening, tip=(x, y), grip=self.grip, height=height)

    # -- physics --------------------------------------------------------------------------------------------------

    def _build(self, layout: Layout) -> None:
        """Put the layout's bodies into a new space."""
        self._space = pymunk.Space()
        self._space.damping = 1e-5
        self._bodies: list[pymunk.Body] = []
        self._shapes: list[pymunk.Shape] = []
        for item in layout["objects"]:
            body = pymunk.Body(1.0, pymunk.moment_for_circle(1.0, 0, item["size"]))
            body.position, body.angle = tuple(item["position"]), item["angle"]
            outline = (item["size"] * SHAPES[item["shape"]]).tolist()
            shape = pymunk.Circle(body, item["size"]) if item["shape"] == "circle" else pymunk.Poly(body, outline)
            self._add_shape(body, shape)
            self._bodies.append(body)
            self._shapes.append(shape)
        for start, end in (((-1, -1), (1, -1)), ((1, -1), (1, 1)), ((1, 1), (-1, 1)), ((-1, 1), (-1, -1))):
            wall = pymunk.Segment(self._space.static_body, start, end, 0.02)
            self._space.add(wall)
        sign = -1.0 if self.embodiment == "hand" else 1.0
        self.tip = np.array([layout["start"][0], sign * layout["start"][1]])
        self.velocity, self.grip = np.zeros(2), -1.0
        self.held: int | None = None
        """Index of the object in the grip; -1 is the drawer's handle."""
        self._lift, self._hold_offset = 0.0, np.zeros(2)
        self._tip_body = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self._tip_body.position = tuple(self.tip)
        self._tip_shape = self._tip_outline(layout)
        self._add_shape(self._tip_body, self._tip_shape)
        self._tip_shape.filter = _NOTHING
        self.opening = 0.0
        self._drawer_body: pymunk.Body | None = None
        if layout["task"] == "slide-drawer":
            self._build_drawer(layout)

    def _add_shape(self, body: pymunk.Body, shape: pymunk.Shape) -> None:
        shape.friction, shape.elasticity = 0.4, 0.0
        self._space.add(body, shape)

    def _tip_outline(self, layout: Layout) -> pymunk.Shape:
        if layout["task"] != "sweep":
            return pymunk.Circle(self._tip_body, TIP_RADIUS)
        self._tip_body.angle = float(np.arctan2(layout["axis"][1], layout["axis"][0]))
        return pymunk.Poly.create_box(self._tip_body, (2 * BRUSH_HALF_DEPTH, 2 * BRUSH_HALF_WIDTH))

    def _build_drawer(self, layout: Layout) -> None:
        drawer, axis = layout["drawer"], np.array(layout["axis"])
        angle = float(np.arctan2(axis[1], axis[0]))
        self.opening = float(drawer["opening"])
        cabinet = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        cabinet.position, cabinet.angle = tuple(np.array(drawer["front"]) - axis * drawer["depth"] / 2), angle
        self._add_shape(cabinet, pymunk.Poly.create_box(cabinet, (drawer["depth"], 2 * drawer["half_width"] + 0.16)))
        self._drawer_body = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self._drawer_body.position, self._drawer_body.angle = tuple(self.handle), angle
        box = pymunk.Poly.create_box(self._drawer_body, (0.06, 2 * drawer["half_width"]))
        self._add_shape(self._drawer_body, box)

    @property
    def handle(self) -> Float[ndarray, "2"]:
        """Middle of the drawer's handle."""
        return np.array(self.layout["drawer"]["front"]) + np.array(self.layout["axis"]) * (self.opening + HANDLE_OFFSET)

    def position(self, index: int) -> Float[ndarray, "2"]:
        """Return where an object of the layout is now."""
        return np.array(self._bodies[index].position)

    def _move_grip(self, command: float) -> None:
        before = self.grip
        self.grip = float(np.clip(before + GRIP_RATE * command, -1.0, 1.0))
        if before <= 0 < self.grip:
            self._close()
        elif self.grip <= 0 < before:
            self._release()

    def _close(self) -> None:
        """Grasp the nearest narrow thing under the tip, else put the fingers down."""
        if self._drawer_body is not None and np.linalg.norm(self.handle - self.tip) < 0.13:
            self.held, self._hold_offset = -1, self.handle - self.tip
            return
        for index, item in enumerate(self.layout["objects"]):
            offset = self.position(index) - self.tip
            if item["graspable"] and np.linalg.norm(offset) < 0.6 * item["size"] + 0.03:
                self.held, self._hold_offset = index, offset
                self._shapes[index].filter = _NOTHING
                return
        self._tip_shape.filter = pymunk.ShapeFilter()

    def _release(self) -> None:
        self._tip_shape.filter = _NOTHING
        if self.held is not None and self.held >= 0:
            self._shapes[self.held].filter = pymunk.ShapeFilter()
            self._bodies[self.held].velocity = (0.0, 0.0)
        self.held, self._lift = None, 0.0

    def _move_tip(self, target: Float[ndarray, "2"]) -> None:
        """Advance the physics by 0.1 s while the tip goes to the target."""
        if self.held == -1:
            self._pull_drawer(target)
        self._tip_body.velocity = tuple((target - self.tip) * 10.0)
        for _ in range(SUBSTEPS):
            self._space.step(0.1 / SUBSTEPS)
        self._tip_body.position = tuple(target)
        self.tip = target
        if self._drawer_body is not None:
            self._drawer_body.velocity = (0.0, 0.0)
            self._drawer_body.position = tuple(self.handle)
        if self.held is not None and self.held >= 0:
            self._lift = min(LIFT, self._lift + LIFT / 3)
            self._bodies[self.held].position = tuple(target + self._hold_offset)
            self._bodies[self.held].velocity = (0.0, 0.0)

    def _pull_drawer(self, target: Float[ndarray, "2"]) -> None:
        """Slide the drawer along with the tip; the handle slips out when the tip strays."""
        axis, drawer = np.array(self.layout["axis"]), self.layout["drawer"]
        wanted = target + self._hold_offset - np.array(drawer["front"])
        before = self.opening
        self.opening = float(np.clip(wanted @ axis - HANDLE_OFFSET, 0.0, drawer["travel"]))
        assert self._drawer_body is not None
        self._drawer_body.velocity = tuple(axis * (self.opening - before) * 10.0)
        if np.linalg.norm(self.handle - target) > 0.28:
            self._release()

    # -- truth ----------------------------------------------------------------------------------------------------

    def target(self) -> Float[ndarray, "2"]:
        """Return what the task acts on: object, handle, middle of the crumbs, or the place to reach."""
        if self.task == "reach":
            return np.array(self.layout["goal"])
        if self.task == "slide-drawer":
            return self.handle
        if self.task == "sweep":
            return self._crumbs().mean(axis=0)
        return self.position(0)

    def _crumbs(self) -> Float[ndarray, "K 2"]:
        return np.array(
            [
                b.position
                for b, item in zip(self._bodies, self.layout["objects"], strict=True)
                if item["role"] == "crumb"
            ]
        )

    def _approach_distance(self) -> float:
        """Distance of the tip to where it can start or go on working, with some slack."""
        size = self.layout["objects"][0]["size"] if self.task in ("push", "sweep") else 0.0
        return max(float(np.linalg.norm(ready_point(self.layout, self.target(), size) - self.tip)) - 0.06, 0.0)

    def _moved(self) -> float:
        """Share of the work itself that is done, 0-1; 1 is success."""
        layout = self.layout
        if self.task == "slide-drawer":
            drawer = layout["drawer"]
            length = drawer["travel"] - 0.03 - drawer["opening"]
            return float(np.clip((self.opening - drawer["opening"]) / length, 0.0, 1.0))
        if self.task == "sweep":
            starts = [item["position"] for item in layout["objects"] if item["role"] == "crumb"]
            now, start = (zone_distance(layout, np.array(p)) for p in (self._crumbs(), starts))
            return float(np.clip(1.0 - now / start, 0.0, 1.0).mean())
        goal = np.array(layout["goal"])
        start_distance = float(np.linalg.norm(np.array(layout["objects"][0]["position"]) - goal))
        distance = float(np.linalg.norm(self.position(0) - goal))
        moved = float(np.clip(1.0 - (distance - TOLERANCE) / (start_distance - TOLERANCE), 0.0, 1.0))
        if self.task == "pick-place":
            return moved * (0.95 if self.held == 0 else 1.0)
        return moved

    def progress(self) -> tuple[float, int]:
        """Return ground-truth progress in [0, 1] and the stage; both go down when work is undone."""
        near = 1.0 - self._approach_distance() / self._approach_start
        near = min(max(near, 0.0), 1.0)
        if self.task == "reach":
            return near, 2 if near >= 1.0 else 0
        moved = self._moved()
        done = APPROACH_SHARE * (near + (1 - near) * moved) + (1 - APPROACH_SHARE) * moved
        stage = 2 if moved >= 1.0 else 1 if moved > 0.03 or self.held in (-1, 0) else 0
        return done, stage

    def _info(self) -> dict[str, Any]:
        progress, stage = self.progress()
        return {"success": stage == 2, "progress": progress, "stage": stage}

    def state(self) -> Float[ndarray, "S"]:
        state = np.zeros(STATE_DIM, dtype=np.float32)
        state[0:2], state[2:4], state[4], state[5] = self.tip, self.velocity, self.grip, self.held is not None
        state[10:12], state[12] = self.layout["goal"], self.opening
        if self.task != "reach":
            angle = self._bodies[0].angle if self.task in ("push", "pick-place") else 0.0
            state[6:8], state[8:10] = self.target(), (np.cos(angle), np.sin(angle))
        if self.task == "sweep":
            crumbs = self._crumbs().ravel()
            state[13 : 13 + len(crumbs)] = crumbs
        return state
