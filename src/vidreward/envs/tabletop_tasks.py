"""What the tabletop world contains and when a task is done: layouts, their randomisation, progress and goals.

World units: the table spans about [-1, 1] in x (right) and y (away from the hand's side); z is height above it.
A layout is a plain JSON-able dictionary. It holds the looks of both embodiments, so that the same layout can be
played by either one: paired data for measuring transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vidreward.envs.names import check_names
from vidreward.envs.tabletop_looks import contrasting, random_color, sample_looks

TASKS = ("reach", "push", "slide-drawer", "pick-place", "sweep")
EMBODIMENTS = ("hand", "gripper")
STAGES = ("approach", "move", "done")
TIP_RADIUS = 0.09
"""Radius of the disc that closed fingers or jaws fill at table height."""
MAX_CRUMBS = 5
TOLERANCE = 0.07
"""Distance at which an object counts as placed, in world units (2 pixels at 64 px)."""
APPROACH_SHARE = 0.3
"""Part of the progress that is earned before anything has moved."""
BRUSH_HALF_WIDTH = 0.3
BRUSH_HALF_DEPTH = 0.045

Layout = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Randomize:
    """How strongly layouts differ from each other; every field can be switched off alone."""

    colors: bool = True
    """Colours of objects, goal marker, furniture, skin, sleeve and metal."""
    textures: bool = True
    """Table texture; off: plain."""
    lighting: bool = True
    """Direction, strength and tint of the light."""
    camera: bool = True
    """Zoom, shift and rotation of both cameras."""
    max_distractors: int = 4
    """Up to this many movable objects that play no part in the task, 0-4."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_distractors <= 4:
            raise ValueError(f"max_distractors must be 0-4, got {self.max_distractors}")

    @classmethod
    def none(cls) -> Randomize:
        """Return the setting in which only positions and sizes differ."""
        return cls(colors=False, textures=False, lighting=False, camera=False, max_distractors=0)


def check_task(task: str) -> None:
    """Raise ValueError for an unknown task, listing those that exist."""
    check_names("tabletop task", [task], TASKS)


def sample_layout(
    rng: np.random.Generator, task: str, randomize: Randomize | bool = True, min_distractors: int = 0
) -> Layout:
    """Draw a layout for a task: where things are, what they look like, how it is lit and seen.

    Args:
        rng: Source of all randomness.
        task: One of `TASKS`.
        randomize: True for everything, False for positions and sizes only, or a `Randomize`.
        min_distractors: Least number of distractors, for episodes that need a wrong object.

    Returns:
        JSON-able dictionary; pass it to `Tabletop.reset(options={"layout": layout})`.

    Raises:
        ValueError: The task is unknown.

    Example:
        >>> layout = sample_layout(np.random.default_rng(0), "push")
        >>> layout["task"], layout["objects"][0]["role"]
        ('push', 'target')
    """
    check_task(task)
    if isinstance(randomize, bool):
        randomize = Randomize() if randomize else Randomize.none()
    looks = sample_looks(rng, randomize)
    layout: Layout = {"task": task, "start": [float(rng.uniform(-0.35, 0.35)), float(rng.uniform(0.8, 0.92))], **looks}
    table = looks["table"]["colors"][0]
    layout["marker_color"] = contrasting(rng, [table]) if randomize.colors else [235, 215, 70]
    _place_task(rng, layout, table, randomize)
    high = max(randomize.max_distractors, min_distractors)
    num_distractors = int(rng.integers(min_distractors, high + 1))
    taken = [item["color"] for item in layout["objects"]] + [layout["marker_color"]]
    for _ in range(num_distractors):
        _add_distractor(rng, layout, taken, table, must=len(_distractors(layout)) < min_distractors)
    return layout


def _place_task(rng: np.random.Generator, layout: Layout, table: Sequence[int], randomize: Randomize) -> None:
    """Put the things that the task is about on the table; motion is mainly sideways, so that no arm hides it."""
    color = contrasting(rng, [table, layout["marker_color"]]) if randomize.colors else [200, 50, 45]
    side = float(rng.choice([-1.0, 1.0]))
    tilt = float(rng.uniform(-0.4, 0.4))
    axis = np.array([-side * np.cos(tilt), np.sin(tilt)])
    layout["objects"], layout["axis"] = [], axis.tolist()
    if layout["task"] == "reach":
        layout["goal"] = [float(rng.uniform(-0.65, 0.65)), float(rng.uniform(-0.4, 0.4))]
    elif layout["task"] in ("push", "pick-place"):
        length = float(rng.uniform(0.8, 1.1))
        middle = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.28, 0.28)])
        small = layout["task"] == "pick-place"
        shape = str(rng.choice(["circle", "box", "hexagon"]))
        size = float(rng.uniform(0.13, 0.16) if small else rng.uniform(0.15, 0.19))
        position = (middle - axis * length / 2).tolist()
        layout["objects"].append(_item(rng, "target", shape, size, color, position, graspable=small))
        layout["goal"] = (middle + axis * length / 2).tolist()
    elif layout["task"] == "slide-drawer":
        _place_drawer(rng, layout, axis, color, randomize)
    else:
        _place_crumbs(rng, layout, axis, color)


def _place_drawer(
    rng: np.random.Generator, layout: Layout, axis: ndarray, color: list[int], randomize: Randomize
) -> None:
    """Put a cabinet at one side whose drawer slides towards the middle."""
    tilt = float(rng.uniform(-0.25, 0.25))
    axis = np.array([np.sign(axis[0]) * np.cos(tilt), np.sin(tilt)])
    front = -axis * rng.uniform(0.32, 0.42) + np.array([0.0, rng.uniform(-0.2, 0.2)])
    table = layout["table"]["colors"][0]
    layout["axis"] = axis.tolist()
    layout["drawer"] = {
        "front": front.tolist(),
        "opening": float(rng.uniform(0.0, 0.06)),
        "travel": float(rng.uniform(0.62, 0.78)),
        "half_width": float(rng.uniform(0.22, 0.28)),
        "depth": float(rng.uniform(0.42, 0.5)),
        "color": color,
        "cabinet_color": contrasting(rng, [table, color]) if randomize.colors else [120, 85, 55],
        "inside_color": contrasting(rng, [table, color]) if randomize.colors else [60, 60, 75],
        "handle_color": contrasting(rng, [table, color]) if randomize.colors else [225, 225, 225],
    }
    layout["goal"] = (front + axis * (layout["drawer"]["travel"] + 0.12)).tolist()


def _place_crumbs(rng: np.random.Generator, layout: Layout, axis: ndarray, color: list[int]) -> None:
    """Put a loose pile at one side and the zone to sweep it into at the other."""
    middle = np.array([rng.uniform(-0.05, 0.05), rng.uniform(-0.2, 0.2)])
    normal = np.array([-axis[1], axis[0]])
    pile = middle - axis * rng.uniform(0.36, 0.46)
    layout["goal"] = (middle + axis * rng.uniform(0.6, 0.68)).tolist()
    layout["zone"] = {"half_depth": 0.2, "half_width": float(rng.uniform(0.34, 0.4))}
    num_crumbs = int(rng.integers(3, MAX_CRUMBS + 1))
    size = float(rng.uniform(0.075, 0.09))
    shape = str(rng.choice(["circle", "box", "hexagon"]))
    spots: list[ndarray] = []
    for attempt in range(1000):
        if len(spots) == num_crumbs:
            break
        if attempt % 40 == 0:  # a jammed pile starts anew
            spots = []
        spot = pile + axis * rng.uniform(-0.15, 0.15) + normal * rng.uniform(-0.2, 0.2)
        if all(np.linalg.norm(spot - other) > 1.8 * size for other in spots):
            spots.append(spot)
    for spot in spots:
        layout["objects"].append(_item(rng, "crumb", shape, size, color, spot.tolist(), graspable=False))


def _item(
    rng: np.random.Generator,
    role: str,
    shape: str,
    size: float,
    color: Sequence[int],
    position: list[float],
    graspable: bool,
) -> dict[str, Any]:
    return {
        "role": role,
        "shape": shape,
        "size": size,
        "height": float(rng.uniform(0.7, 1.3) * size),
        "color": list(color),
        "position": position,
        "angle": float(rng.uniform(-np.pi, np.pi)),
        "graspable": graspable,
    }


def _distractors(layout: Layout) -> list[dict[str, Any]]:
    return [item for item in layout["objects"] if item["role"] == "distractor"]


def _add_distractor(
    rng: np.random.Generator, layout: Layout, taken: list[list[int]], table: Sequence[int], must: bool
) -> None:
    """Add a distractor clear of the task's path and of other objects; crowded tables may end with fewer than drawn."""
    path = work_path(layout)
    clear = 0.5 if layout["task"] in ("slide-drawer", "sweep") else 0.34
    size = float(rng.uniform(0.09, 0.14))
    for attempt in range(400 if must else 40):
        spot = np.array([rng.uniform(-0.85, 0.85), rng.uniform(-0.7, 0.7)])
        near_path = np.min(np.linalg.norm(path - spot, axis=1)) < (clear + size) * (1 - attempt / 800)
        near_object = any(
            np.linalg.norm(np.array(item["position"]) - spot) < item["size"] + size + 0.1 for item in layout["objects"]
        )
        if not near_path and not near_object:
            color = contrasting(rng, [table, *taken]) if rng.random() < 0.8 else random_color(rng)
            graspable = layout["task"] != "sweep"
            shape = str(rng.choice(["circle", "box", "hexagon"]))
            layout["objects"].append(_item(rng, "distractor", shape, size, color, spot.tolist(), graspable))
            return
    if must:
        raise RuntimeError("no room for a distractor; the layout's task area covers the table")


def work_path(layout: Layout) -> Float[ndarray, "K 2"]:
    """Return points along the way that the task's object takes, cabinet included."""
    goal = np.array(layout["goal"])
    if layout["task"] == "reach":
        return goal[None]
    if layout["task"] == "slide-drawer":
        drawer = layout["drawer"]
        start = np.array(drawer["front"]) - np.array(layout["axis"]) * drawer["depth"]
    else:
        start = np.mean([item["position"] for item in layout["objects"] if item["role"] != "distractor"], axis=0)
        if layout["task"] == "sweep":
            start = start - 0.3 * np.array(layout["axis"])
    return start + np.linspace(0, 1, 9)[:, None] * (goal - start)


def ready_point(layout: Layout, target: Float[ndarray, "2"], size: float) -> Float[ndarray, "2"]:
    """Return where the tip must be to act on the target: behind what is pushed, on top of what is grasped."""
    axis = np.array(layout["axis"])
    if layout["task"] == "push":
        away = np.array(layout["goal"]) - target
        distance = float(np.linalg.norm(away))
        axis = away / distance if distance > 0.15 else axis
        return target - axis * (size + TIP_RADIUS)
    if layout["task"] == "sweep":
        return target - axis * (0.14 + size + BRUSH_HALF_DEPTH)
    return target


def zone_distance(layout: Layout, positions: Float[ndarray, "K 2"]) -> Float[ndarray, "K"]:
    """Distance of each position to the sweep zone; 0 inside."""
    axis = np.array(layout["axis"])
    offset = positions - np.array(layout["goal"])
    along, across = offset @ axis, offset @ np.array([-axis[1], axis[0]])
    zone = layout["zone"]
    outside_along = np.maximum(np.abs(along) - zone["half_depth"], 0)
    outside_across = np.maximum(np.abs(across) - zone["half_width"], 0)
    return np.hypot(outside_along, outside_across)


def done_positions(layout: Layout) -> list[tuple[list[float], float]]:
    """Return (position, angle) of every object once the task is done.

    Crumbs line up in front of the brush: each stops at the brush or at the crumb before it.
    """
    poses = [(list(item["position"]), item["angle"]) for item in layout["objects"]]
    if layout["task"] in ("push", "pick-place"):
        poses[0] = (list(layout["goal"]), layout["objects"][0]["angle"])
    if layout["task"] == "sweep":
        axis = np.array(layout["axis"])
        normal = np.array([-axis[1], axis[0]])
        goal = np.array(layout["goal"])
        crumbs = [index for index, item in enumerate(layout["objects"]) if item["role"] == "crumb"]
        offsets = {index: np.array(layout["objects"][index]["position"]) - goal for index in crumbs}
        placed: list[tuple[float, float]] = []
        for index in sorted(crumbs, key=lambda index: float(offsets[index] @ axis)):
            size, across = layout["objects"][index]["size"], float(offsets[index] @ normal)
            along = brush_end(layout) + BRUSH_HALF_DEPTH + size
            for other_along, other_across in placed:
                gap = (1.9 * size) ** 2 - (across - other_across) ** 2
                along = max(along, other_along + np.sqrt(gap)) if gap > 0 else along
            placed.append((along, across))
            poses[index] = ((goal + axis * along + normal * across).tolist(), layout["objects"][index]["angle"])
    return poses


def brush_end(layout: Layout) -> float:
    """Return where the brush stops, along the sweep axis and relative to the zone's middle."""
    return -layout["zone"]["half_depth"] - 0.01


def end_tip(layout: Layout, embodiment: str) -> Float[ndarray, "2"]:
    """Return where the tip rests once the task is done, after a slight retreat."""
    goal, axis = np.array(layout["goal"]), np.array(layout["axis"])
    home = np.array([0.0, -1.0 if embodiment == "hand" else 1.0])
    if layout["task"] == "push":
        return goal - axis * (layout["objects"][0]["size"] + TIP_RADIUS + 0.08)
    if layout["task"] == "sweep":
        return goal + axis * (brush_end(layout) - 0.06)
    if layout["task"] == "slide-drawer":
        return goal + axis * 0.07
    return goal + home * (0.13 if layout["task"] == "pick-place" else 0.0)
