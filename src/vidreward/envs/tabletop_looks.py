"""What the tabletop world looks like, apart from where things are: colours, texture, light, cameras, arms."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vidreward.envs.tabletop_tasks import Randomize

SKIN = ([255, 219, 190], [234, 190, 150], [205, 150, 110], [165, 110, 75], [120, 78, 52], [84, 54, 38])
TABLES = ("plain", "wood", "noise", "checker", "cloth")


def random_color(rng: np.random.Generator) -> list[int]:
    """Draw an RGB colour, 0-255, mostly saturated and never near black."""
    hue, saturation, value = rng.random(), rng.beta(2.5, 1.2), rng.uniform(0.35, 1.0)
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value)]


def contrasting(rng: np.random.Generator, others: Sequence[Sequence[int]], distance: float = 120.0) -> list[int]:
    """Draw a colour that stands out from others; the best of 40 draws where none is far enough."""
    best, best_gap = random_color(rng), -1.0
    for _ in range(40):
        color = random_color(rng)
        gap = min(float(np.linalg.norm(np.subtract(color, other))) for other in others)
        if gap > best_gap:
            best, best_gap = color, gap
        if gap > distance:
            break
    return best


def sample_looks(rng: np.random.Generator, randomize: Randomize) -> dict[str, Any]:
    """Draw everything that does not depend on the task."""
    return {
        "table": _table(rng, randomize),
        "light": _light(rng, randomize),
        "camera": _camera(rng, randomize),
        "hand": _hand(rng, randomize),
        "gripper": _gripper(rng, randomize),
        "brush_color": random_color(rng) if randomize.colors else [90, 60, 140],
    }


def _table(rng: np.random.Generator, randomize: Randomize) -> dict[str, Any]:
    hue, saturation, value = rng.random(), rng.uniform(0.0, 0.55), rng.uniform(0.25, 0.95)
    first = [round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value)]
    if not randomize.colors:
        first = [176, 150, 120]
    change = rng.uniform(0.12, 0.3) * rng.choice([-1, 1])
    second = [int(np.clip(c * (1 + change), 0, 255)) for c in first]
    return {
        "kind": str(rng.choice(TABLES)) if randomize.textures else "plain",
        "colors": [first, second],
        "wall": random_color(rng) if randomize.colors else [150, 165, 180],
        "scale": float(rng.uniform(0.12, 0.35)),
        "angle": float(rng.uniform(-np.pi, np.pi)),
        "seed": int(rng.integers(2**31)),
    }


def _light(rng: np.random.Generator, randomize: Randomize) -> dict[str, Any]:
    if not randomize.lighting:
        return {"angle": 0.8, "strength": 0.0, "gain": [1.0, 1.0, 1.0], "shadow": [0.05, -0.04]}
    angle = rng.uniform(-np.pi, np.pi)
    gain = rng.uniform(0.75, 1.15) * rng.uniform(0.92, 1.08, 3)
    length = rng.uniform(0.02, 0.09)
    return {
        "angle": float(angle),
        "strength": float(rng.uniform(0.0, 0.4)),
        "gain": gain.tolist(),
        "shadow": [float(-np.cos(angle) * length), float(-np.sin(angle) * length)],
    }


def _camera(rng: np.random.Generator, randomize: Randomize) -> dict[str, Any]:
    amount = 1.0 if randomize.camera else 0.0
    return {
        "zoom": float(1.0 + amount * rng.uniform(-0.06, 0.08)),
        "shift": (amount * rng.uniform(-0.07, 0.07, 2)).tolist(),
        "roll": float(amount * rng.uniform(-0.09, 0.09)),
        "azimuth": float(amount * rng.uniform(-0.15, 0.15)),
        "elevation": float(amount * rng.uniform(-0.08, 0.08)),
    }


def _hand(rng: np.random.Generator, randomize: Randomize) -> dict[str, Any]:
    shade = rng.uniform(0, len(SKIN) - 1)
    low = int(shade)
    high = min(low + 1, len(SKIN) - 1)
    skin = np.array(SKIN[low]) * (low + 1 - shade) + np.array(SKIN[high]) * (shade - low)
    return {
        "skin": [int(c) for c in skin] if randomize.colors else list(SKIN[1]),
        "sleeve": random_color(rng) if randomize.colors else [70, 90, 150],
        "sleeve_end": float(rng.uniform(0.3, 0.75)),
        "width": float(rng.uniform(0.075, 0.105)),
        "anchor": float(rng.uniform(-0.35, 0.35)),
    }


def _gripper(rng: np.random.Generator, randomize: Randomize) -> dict[str, Any]:
    grey = rng.uniform(90, 225) if randomize.colors else 170
    tint = rng.uniform(0.93, 1.07, 3) if randomize.colors else np.ones(3)
    joint = rng.uniform(0.35, 0.75) if randomize.colors else 0.5
    return {
        "metal": [int(c) for c in np.clip(grey * tint, 0, 255)],
        "joint": [int(c) for c in np.clip(grey * tint * joint, 0, 255)],
        "jaw": str(rng.choice(["straight", "tapered", "hooked"])),
        "width": float(rng.uniform(0.05, 0.075)),
        "anchor": float(rng.uniform(-0.35, 0.35)),
        "elbow": float(rng.choice([-1.0, 1.0])),
    }
