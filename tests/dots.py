"""Moving-dot episodes: the smallest videos in which frame order can be learned."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from vidreward.types import Episode


def dot_frames(num_frames: int, rng: np.random.Generator, size: int = 32) -> ndarray:
    """Draw a bright square that crosses a noisy picture from left to right at a random height: (T, 3, H, W)."""
    frames = np.tile(rng.integers(0, 60, (1, 3, size, size), dtype=np.uint8), (num_frames, 1, 1, 1))
    top = int(rng.integers(0, size - 6))
    for t in range(num_frames):
        left = round(t / max(1, num_frames - 1) * (size - 6))
        frames[t, :, top : top + 6, left : left + 6] = 250
    return frames


def dot_episodes(num: int, *, seed: int = 0, size: int = 32, lengths: tuple[int, int] = (14, 24)) -> list[Episode]:
    rng = np.random.default_rng(seed)
    videos = [dot_frames(int(rng.integers(*lengths)), rng, size) for _ in range(num)]
    return [
        Episode.from_frames(frames, id=f"dots-{seed}-{i}", fps=10.0, task="cross", success=True)
        for i, frames in enumerate(videos)
    ]
