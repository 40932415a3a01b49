"""Draw the tabletop world with OpenCV: one 3D scene of convex polygons, two projection matrices.

Everything is drawn directly at the final size with anti-aliased primitives at 1/16 pixel; what does not move
(table, light, goal marker) is drawn once per layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.envs.tabletop_tasks import BRUSH_HALF_DEPTH, BRUSH_HALF_WIDTH, Layout

CAMERAS = ("top", "side")
HANDLE_OFFSET = 0.12
"""From the drawer's opening to the middle of its handle."""
SHIFT = 4


def _ring(num_points: int, phase: float = 0.0) -> Float[ndarray, "K 2"]:
    angles = phase + np.arange(num_points) * (2 * np.pi / num_points)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


SHAPES = {"circle": _ring(14), "hexagon": 1.08 * _ring(6), "box": 1.25 * _ring(4, np.pi / 4)}
"""Outlines of unit size; boxes and hexagons reach a little further than the circle so that areas are alike."""
_BALL = np.concatenate([np.pad(_ring(8), ((0, 0), (0, 1))), [[0, 0, 1.0]]])


@dataclass(kw_only=True)
class Scene:
    """The moving state that a picture depends on, besides the layout."""

    poses: list[tuple[float, float, float, float]]
    """x, y, angle and lift of each object."""
    opening: float
    """How far the drawer is open."""
    tip: tuple[float, float]
    grip: float
    """-1 open, 1 closed."""
    height: float
    """Tip above the table."""


def _look_at(eye: ndarray, target: ndarray, roll: float) -> Float[ndarray, "3 4"]:
    """World to camera (x right, y down, z forward)."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    up = np.array([np.sin(roll), np.cos(roll), 0.0]) if abs(forward[2]) > 0.9 else np.array([np.sin(roll), 0, 1.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([rotation, -(rotation @ eye)[:, None]], axis=1)


def projection(camera: str, looks: dict[str, Any], size: int) -> Float[ndarray, "3 4"]:
    """Return the matrix from homogeneous world points to homogeneous pixels.

    `top` looks straight down; `side` looks along the table from the front left, from 40 degrees above it.
    """
    shift = np.array([*looks["shift"], 0.0])
    if camera == "top":
        pose = _look_at(shift + [0.0, 0.0, 4.0], shift, looks["roll"])
        focal = size / 2 * 4.0 / 1.06 * looks["zoom"]
    else:
        azimuth, elevation = -np.pi / 2 - 0.6 + looks["azimuth"], 0.72 + looks["elevation"]
        level = np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)])
        eye = 4.0 * np.array([*level, np.sin(elevation)])
        pose = _look_at(shift + eye, shift + [0.0, 0.0, 0.05], looks["roll"] / 2)
        focal = size / 2 * 4.0 / 1.12 * looks["zoom"]
    centre = (size - 1) / 2
    return np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]]) @ pose


class Painter:
    """Draw scenes of one layout with one embodiment, seen by one camera.

    Args:
        layout: What `sample_layout` returned.
        embodiment: One of `EMBODIMENTS`.
        camera: One of `CAMERAS`.
        size: Height and width of the picture in pixels.
    """

    def __init__(self, layout: Layout, embodiment: str, camera: str, size: int) -> None:
        self.layout, self.embodiment, self.camera, self.size = layout, embodiment, camera, size
        matrix = projection(camera, layout["camera"], size)
        self._linear, self._offset = matrix[:, :3].T.copy(), matrix[:, 3].copy()
        self._points: list[ndarray] = []
        self._pieces: list[tuple[int, Sequence[float], bool]] = []
        ground = _ground(matrix, size)
        self._gain = _gain(layout["light"], ground)
        self._background = _texture(layout["table"], ground)
        self._shadow = [0.62 * c for c in layout["table"]["colors"][0]]
        self._marker()
        self._draw(self._background)

    def render(self, scene: Scene) -> UInt8[ndarray, "3 H W"]:
        """Return the picture of a scene."""
        image = self._background.copy()
        self._furniture(scene)
        self._objects(scene)
        if self.embodiment == "hand":
            self._hand(scene)
        else:
            self._gripper(scene)
        self._draw(image)
        image = cv2.multiply(image, self._gain, scale=1 / 128)
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _add(self, points: Float[ndarray, "K 3"], color: Sequence[float], hull: bool = False) -> None:
        self._points.append(points)
        self._pieces.append((len(points), color, hull))

    def _flat(self, points: Float[ndarray, "K 2"], z: float, color: Sequence[float]) -> None:
        outline = np.empty((len(points), 3))
        outline[:, :2], outline[:, 2] = points, z
        self._add(outline, color)

    def _prism(self, points: Float[ndarray, "K 2"], low: float, high: float, color: Sequence[float]) -> None:
        """Draw an upright prism: sides darker than the top."""
        count = len(points)
        both = np.empty((2 * count, 3))
        both[:count, :2] = both[count:, :2] = points
        both[:count, 2], both[count:, 2] = low, high
        self._add(both, [0.68 * c for c in color], hull=True)
        self._add(both[count:], color)

    def _limb(
        self, start: ndarray, end: ndarray, start_radius: float, end_radius: float, color: Sequence[float]
    ) -> None:
        self._add(np.concatenate([start + start_radius * _BALL, end + end_radius * _BALL]), color, hull=True)

    def _draw(self, image: UInt8[ndarray, "H W 3"]) -> None:
        """Project all pieces at once and fill them in order."""
        if not self._points:
            return
        homogeneous = np.concatenate(self._points) @ self._linear + self._offset
        pixels = np.rint(homogeneous[:, :2] / homogeneous[:, 2:] * (1 << SHIFT)).astype(np.int32)
        start = 0
        for count, color, hull in self._pieces:
            outline = pixels[start : start + count]
            start += count
            cv2.fillConvexPoly(image, cv2.convexHull(outline) if hull else outline, color, cv2.LINE_AA, SHIFT)
        self._points.clear()
        self._pieces.clear()

    # -- table ----------------------------------------------------------------------------------------------------

    def _frame(self) -> tuple[ndarray, ndarray]:
        axis = np.array(self.layout["axis"])
        return axis, np.array([-axis[1], axis[0]])

    def _marker(self) -> None:
        """Draw the goal marker: a target disc, a plate, or the zone to sweep into."""
        layout = self.layout
        color, table = layout["marker_color"], layout["table"]["colors"][0]
        goal = np.array(layout["goal"])
        if layout["task"] == "sweep":
            axis, normal = self._frame()
            depth, width = layout["zone"]["half_depth"], layout["zone"]["half_width"]
            corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [depth + 0.04, width + 0.04]
            self._flat(goal + corners @ np.stack([axis, normal]), 0.0, [0.6 * c for c in color])
            corners = corners * [depth / (depth + 0.04), width / (width + 0.04)]
            self._flat(goal + corners @ np.stack([axis, normal]), 0.0, color)
        elif layout["task"] != "slide-drawer":
            radius = layout["objects"][0]["size"] + 0.07 if layout["task"] != "reach" else 0.17
            self._flat(goal + radius * _ring(20), 0.0, color)
            self._flat(goal + 0.72 * radius * _ring(20), 0.0, table)
            self._flat(goal + 0.4 * radius * _ring(16), 0.0, color)

    def _furniture(self, scene: Scene) -> None:
        if self.layout["task"] != "slide-drawer":
            return
        drawer = self.layout["drawer"]
        axis, normal = self._frame()
        front, half, opening = np.array(drawer["front"]), drawer["half_width"], scene.opening

        def block(near: float, far: float, width: float) -> ndarray:
            corners = np.array([[near, -width], [far, -width], [far, width], [near, width]])
            return front + corners @ np.stack([axis, normal])

        shadow = np.array(self.layout["light"]["shadow"])
        self._flat(block(0, opening + 0.06, half) + shadow, 0.0, self._shadow)
        self._flat(block(-drawer["depth"], 0, half + 0.09) + 2 * shadow, 0.0, self._shadow)
        self._prism(block(-0.05, opening, half), 0.0, 0.1, drawer["color"])
        self._flat(block(-0.05, opening - 0.03, half - 0.05), 0.1, drawer["inside_color"])
        self._prism(block(opening, opening + 0.06, half + 0.02), 0.0, 0.14, drawer["color"])
        self._prism(block(opening + 0.06, opening + 0.15, 0.07), 0.05, 0.1, drawer["handle_color"])
        self._prism(block(-drawer["depth"], 0.0, half + 0.08), 0.0, 0.2, drawer["cabinet_color"])

    def _objects(self, scene: Scene) -> None:
        shadow = np.array(self.layout["light"]["shadow"])
        items = list(zip(self.layout["objects"], scene.poses, strict=True))
        for low, (item, (x, y, angle, lift)) in enumerate(sorted(items, key=lambda pair: (pair[1][3], -pair[1][1]))):
            cosine, sine = np.cos(angle), np.sin(angle)
            outline = (item["size"] * SHAPES[item["shape"]]) @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)
            self._flat(outline + shadow * (1 + 12 * lift), 0.0, self._shadow)
            self._prism(outline, lift, lift + item["height"], item["color"])
            # Top faces carry a lighter spot, so that turning and lifting can be seen.
            inner = outline + 0.45 * (np.array([x, y]) - outline) + 0.12 * item["size"] * SHAPES["box"][low % 4]
            self._flat(inner, lift + item["height"], [0.72 * c + 50 for c in item["color"]])

    # -- arms -----------------------------------------------------------------------------------------------------

    def _hand(self, scene: Scene) -> None:
        """Draw a forearm in a sleeve, a palm, four fingers and a thumb, entering from y = -1."""
        looks = self.layout["hand"]
        tip = np.array([*scene.tip, scene.height + 0.03])
        anchor = np.array([looks["anchor"] + 0.45 * scene.tip[0], -2.1, 0.42])
        along = (tip - anchor) / np.linalg.norm(tip - anchor)
        across = np.array([along[1], -along[0], 0.0])
        lift, width, skin = np.array([0.0, 0.0, 0.09]), looks["width"], looks["skin"]
        dark = [0.82 * c for c in skin]
        palm, wrist = tip - 0.2 * along + lift, tip - 0.36 * along + 1.4 * lift
        spread = 0.55 - 0.35 * scene.grip
        shadow = np.array([*self.layout["light"]["shadow"], 0.0]) * (1 + 8 * scene.height)
        self._limb(palm * [1, 1, 0] + shadow, tip * [1, 1, 0] + shadow, 0.1, 0.06, self._shadow)
        self._limb(anchor, wrist, 1.45 * width, 0.85 * width, skin)
        cuff = anchor + (wrist - anchor) * (1 - 0.45 * looks["sleeve_end"])
        self._limb(anchor, cuff, 1.75 * width, 1.3 * width, looks["sleeve"])
        self._limb(wrist, palm, 0.85 * width, 1.15 * width, dark)
        for finger in range(4):
            side = (finger - 1.5) / 1.5
            knuckle = palm + across * (side * 0.085)
            end = tip + across * (side * 0.16 * spread) - along * (0.03 * abs(side)) - lift * 0.2
            self._limb(knuckle, end, 0.034, 0.03, skin if finger % 2 else [0.93 * c for c in skin])
        thumb = palm - across * 0.1 - along * 0.03
        self._limb(thumb, tip - across * (0.05 + 0.16 * spread) - 0.05 * along, 0.045, 0.034, skin)
        self._brush(scene, looks["skin"])

    def _gripper(self, scene: Scene) -> None:
        """Draw a two-link arm whose base stands beyond y = 1, a wrist plate and two jaws."""
        looks = self.layout["gripper"]
        tip = np.array([*scene.tip, scene.height + 0.03])
        base = np.array([looks["anchor"], 1.35, 0.5])
        along = tip - np.array([0.3 * tip[0] + looks["anchor"], 2.2, tip[2]])
        along /= np.linalg.norm(along)
        across = np.array([along[1], -along[0], 0.0])
        wrist = tip - 0.3 * along + [0.0, 0.0, 0.12]
        elbow = _elbow(base, wrist, looks["elbow"])
        shadow = np.array([*self.layout["light"]["shadow"], 0.0]) * (1 + 8 * scene.height)
        self._limb(wrist * [1, 1, 0] + shadow, tip * [1, 1, 0] + shadow, 0.09, 0.06, self._shadow)
        metal, joint, width = looks["metal"], looks["joint"], looks["width"]
        self._limb(base, elbow, 1.5 * width, 1.1 * width, metal)
        self._limb(elbow, elbow, 1.5 * width, 1.5 * width, joint)
        self._limb(elbow, wrist, 1.1 * width, 0.9 * width, [0.86 * c for c in metal])
        self._limb(wrist - 0.13 * across, wrist + 0.13 * across, 0.05, 0.05, joint)
        gap = 0.105 - 0.045 * scene.grip
        root, end = {"straight": (0.0, 0.0), "tapered": (0.05, 0.0), "hooked": (0.04, -0.035)}[looks["jaw"]]
        for side in (-1.0, 1.0):
            bottom = wrist + across * side * (gap + root) + 0.04 * along
            middle = tip + across * side * (gap + root * 0.3) - 0.12 * along
            self._limb(bottom, middle, 0.042, 0.038, metal)
            self._limb(middle, tip + across * side * (gap + end), 0.038, 0.026, [0.7 * c for c in metal])
        self._brush(scene, joint)

    def _brush(self, scene: Scene, grip_color: Sequence[float]) -> None:
        """Draw the brush that either embodiment holds in the sweep task, and what holds it."""
        if self.layout["task"] != "sweep":
            return
        axis, normal = self._frame()
        corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [BRUSH_HALF_DEPTH, BRUSH_HALF_WIDTH]
        corners = np.array(scene.tip) + corners @ np.stack([axis, normal])
        low = scene.height
        self._prism(corners, low, low + 0.12, self.layout["brush_color"])
        middle = np.array([*scene.tip, low + 0.14])
        across = np.array([*axis, 0.0]) * 0.03
        self._limb(middle - across, middle + across, 0.05, 0.05, grip_color)


def _elbow(base: ndarray, wrist: ndarray, side: float) -> Float[ndarray, "3"]:
    """Return the elbow of two equal links between base and wrist, bent to one side."""
    span = wrist - base
    distance = float(np.linalg.norm(span[:2]))
    bend = np.sqrt(max(0.95**2 - (distance / 2) ** 2, 0.01))
    normal = np.array([-span[1], span[0], 0.0]) / distance
    return base + span / 2 + side * bend * normal + [0.0, 0.0, 0.1]


def _ground(matrix: Float[ndarray, "3 4"], size: int) -> Float[ndarray, "H W 2"]:
    """Return the table point that each pixel looks at; NaN above the horizon."""
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    points = pixels @ np.linalg.inv(matrix[:, [0, 1, 3]]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(points[..., 2:] > 0, points[..., :2] / points[..., 2:], np.nan)


def _gain(light: dict[str, Any], ground: Float[ndarray, "H W 2"]) -> UInt8[ndarray, "H W 3"]:
    """Return the light that falls on each pixel; 128 is neutral."""
    along = np.nan_to_num(ground) @ np.array([np.cos(light["angle"]), np.sin(light["angle"])])
    gain = (1 + light["strength"] * np.clip(along, -1.3, 1.3))[..., None] * np.array(light["gain"])
    return np.clip(np.rint(128 * gain), 30, 255).astype(np.uint8)


def _texture(table: dict[str, Any], ground: Float[ndarray, "H W 2"]) -> UInt8[ndarray, "H W 3"]:
    """Return the table as seen by the camera; what lies off the table is wall."""
    x, y = np.moveaxis(np.nan_to_num(ground, nan=9.0), -1, 0)
    cosine, sine = np.cos(table["angle"]), np.sin(table["angle"])
    u, v = (cosine * x + sine * y) / table["scale"], (cosine * y - sine * x) / table["scale"]
    cells = np.random.default_rng(table["seed"]).random((24, 24)).astype(np.float32)
    columns, rows = (((c * 1.7) % 23).astype(np.float32) for c in (u, v))
    smooth = cv2.remap(cells, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    amount = {
        "plain": lambda: np.zeros_like(u),
        "wood": lambda: 0.5 + 0.5 * np.sin(9 * v + 5 * smooth + 0.5 * np.sin(u)),
        "noise": lambda: smooth,
        "checker": lambda: (np.floor(u) + np.floor(v)) % 2,
        "cloth": lambda: 0.5 + 0.25 * np.sin(14 * u) + 0.25 * np.sin(14 * v),
    }[table["kind"]]()
    first, second = (np.array(color, dtype=np.float64) for color in table["colors"])
    image = first + amount[..., None] * (second - first)
    wall = (np.abs(x) > 1.7) | (np.abs(y) > 1.7)
    image[wall] = table["wall"]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
