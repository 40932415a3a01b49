"""A dot that moves to a goal, stops half-way or goes back: episodes with known truth, and a scorer that sees it."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from vidreward.types import Episode

SIZE = 32
FAILURES = ("stops", "undoes")


def draw_dot(x: float, y: float, size: int = SIZE) -> ndarray:
    rows, columns = np.mgrid[:size, :size]
    frame = np.full((3, size, size), 30, np.uint8)
    frame[:, (rows - y) ** 2 + (columns - x) ** 2 < 9] = 255
    return frame


def dot_episode(
    name: str, task: str, layout: int, kind: str, num_frames: int, rng: np.random.Generator, **metadata: object
) -> Episode:
    start, goal = rng.uniform(3, 8, 2), rng.uniform(18, 28, 2)
    progress = np.linspace(0, 1, num_frames)
    if kind == "stops":
        progress = np.minimum(progress, 0.5)
    if kind == "undoes":
        progress = 0.9 * np.minimum(2 * progress, 2 * (1 - progress))
    frames = np.stack([draw_dot(*(start + (goal - start) * share)) for share in progress])
    return Episode.from_frames(
        frames,
        id=name,
        fps=10.0,
        task=task,
        success=kind == "success",
        columns={"progress": progress},
        goal=draw_dot(*goal)[None],
        metadata={"layout": layout, "failure": "" if kind == "success" else kind, **metadata},
    )


def labelled_episodes(num_tasks: int = 2, num_layouts: int = 3, seed: int = 0, num_frames: int = 16) -> list[Episode]:
    """For each task and layout, one success and one failure of each kind, of slightly different lengths."""
    rng = np.random.default_rng(seed)
    return [
        dot_episode(
            f"t{task}-l{layout}-{kind}",
            f"task{task}",
            layout,
            kind,
            num_frames + int(rng.integers(-3, 4)),
            np.random.default_rng([seed, task, layout]),
            colour=("red", "blue")[layout % 2],
        )
        for task in range(num_tasks)
        for layout in range(num_layouts)
        for kind in ("success", *FAILURES)
    ]


def dot_centre(frames: ndarray) -> ndarray:
    """Centre of the dot in each frame, (T, 2)."""
    bright = frames[:, 0] > 128
    rows, columns = np.mgrid[: frames.shape[2], : frames.shape[3]]
    area = bright.sum((1, 2)).clip(1)
    return np.stack([(bright * columns).sum((1, 2)) / area, (bright * rows).sum((1, 2)) / area], axis=1)


def see_distance(frames: ndarray, episode: Episode, goal: ndarray) -> ndarray:
    """Score by content: minus the distance from the dot to where it is in the goal image."""
    return -np.linalg.norm(dot_centre(frames) - dot_centre(goal)[-1], axis=1)


def count_frames(frames: ndarray, episode: Episode, goal: ndarray) -> ndarray:
    """Score by position: a clock that calls itself a model."""
    return np.arange(len(frames), dtype=float)
