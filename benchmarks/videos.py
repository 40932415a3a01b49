"""Synthetic videos to measure on: a textured table that drifts, and things that move over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from vidreward.data.encode import write_video

LONG_GOP = 250
"""What x264 takes when nobody says otherwise."""
SHORT_GOP = 12


def make_frames(
    num_frames: int, height: int, width: int, rng: np.random.Generator
) -> Iterator[UInt8[ndarray, "3 H W"]]:
    """Draw a drifting texture, three moving discs and a little camera noise."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = rng.uniform(0.02, 0.5, (12, 2)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (12, 3)).astype(np.float32)
    texture = sum(np.sin(a * x + b * y + p[:, None, None]) for (a, b), p in zip(waves, phases, strict=True))
    texture = np.clip(128 + 12 * texture, 0, 255).astype(np.uint8)
    noise = rng.integers(0, 6, (8, 3, height, width), np.uint8)
    starts, speeds = rng.uniform(0, 1, (3, 2)), rng.uniform(0.5, 2, (3, 2))
    colours = rng.integers(0, 256, (3, 3), np.uint8)
    for number in range(num_frames):
        frame = np.roll(texture, number // 2, axis=2)
        for start, speed, colour in zip(starts, speeds, colours, strict=True):
            top, left = (0.5 + 0.4 * np.sin(2 * np.pi * (start + speed * number / 100))) * (height, width)
            disc = (y - top) ** 2 + (x - left) ** 2 < (height / 8) ** 2
            frame[:, disc] = colour[:, None]
        yield np.minimum(frame, 249) + noise[number % 8]


def make_video(folder: Path, *, num_frames: int, height: int, width: int, gop: int = LONG_GOP, seed: int = 0) -> Path:
    """Write an H.264 file of such frames at 30 fps, or find it in the folder from an earlier measurement."""
    path = folder / f"{width}x{height}_{num_frames}_frames_key_every_{gop}_seed_{seed}.mp4"
    if path.exists():
        return path
    frames = make_frames(num_frames, height, width, np.random.default_rng(seed))
    return write_video(path, frames, 30, gop=gop)
