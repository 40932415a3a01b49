"""Augment: HOLD's training pipeline on a batch, against the same image by image."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy import ndarray
from PIL import Image, ImageEnhance, ImageOps

import plain_augment
from measure import Ratio, compare
from videos import make_frames
from vidreward.augment import HOLD, augment_batch
from vidreward.augment import NUM_DRAWS as NUM_PLACES
from vidreward.randaugment import NUM_DRAWS
from vidreward.types import Video

LOADED = (288, 512)
"""Height and width of a video of Something-Something v2 in the usual shape, read with HOLD's margin."""


def augmenting(
    device: torch.device,
    *,
    method: Literal["hold_c", "hold_r"],
    by: Literal["NumPy", "PIL"],
    loaded: tuple[int, int] = LOADED,
    size: int = 256,
    num_rows: int | None = None,
    num_batches: int = 3,
    num_repetitions: int = 5,
) -> Ratio:
    """Measure batches of HOLD-C's clips of 32 frames, or of HOLD-R's samples of 3 frames and their goal.

    By NumPy is the same arithmetic, with the same draws and the same pixels. By PIL is what transforms of PIL images
    do: other rounding, statistics of each image instead of the sample; for orientation.
    """
    num_rows = num_rows or (2 if method == "hold_c" else 16)
    num_frames = 32 if method == "hold_c" else 4
    rng = np.random.default_rng(0)
    rows = np.stack([np.stack(list(make_frames(num_frames, *loaded, rng))) for _ in range(num_rows)])
    batch = as_batch(rows, method, device)
    images = [[np.ascontiguousarray(frame.transpose(1, 2, 0)) for frame in row] for row in rows]
    pictures = [[Image.fromarray(image) for image in row] for row in images]

    def one_by_one() -> int:
        for seed in range(num_batches):
            for i, (draws, layers) in enumerate(zip(*draw(seed, num_rows), strict=True)):
                if by == "NumPy":
                    plain_augment.augment(images[i], size, draws, layers)
                else:
                    augment_pictures(pictures[i], size, draws, layers)
        return num_batches * num_rows * num_frames

    def together() -> int:
        for seed in range(num_batches):
            augment_batch(batch, HOLD, torch.Generator().manual_seed(seed), size=(size, size))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return num_batches * num_rows * num_frames

    return compare(
        f"augmentation of {num_rows} samples of {method}, {num_frames} frames of {loaded[1]}x{loaded[0]} to {size} px",
        (by, one_by_one),
        ("library", together),
        unit="frames",
        target=5 if by == "NumPy" else None,
        num_repetitions=num_repetitions,
    )


def as_batch(rows: ndarray, method: str, device: torch.device) -> dict[str, Video]:
    """Put frames (B, T, 3, H, W) under the names that a method's `sample` gives them."""
    frames = torch.from_numpy(rows).to(device)
    if method == "hold_c":
        return {"clip": Video.from_frames(frames)}
    return {"state": Video.from_frames(frames[:, :-1]), "goal": Video.from_frames(frames[:, -1:])}


def draw(seed: int, num_rows: int) -> tuple[ndarray, ndarray]:
    """Draw what `augment_batch` draws from this seed: places (B, ...) and operations (B, layers, ...)."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(num_rows, NUM_PLACES, generator=generator)
    layers = torch.rand(num_rows, HOLD.randaugment.num_layers, NUM_DRAWS, generator=generator)
    return places.numpy(), layers.numpy()


def augment_pictures(pictures: list[Image.Image], side: int, draws: ndarray, layers: ndarray) -> list[ndarray]:
    """Scale, cut, mirror and apply two operations to pictures, one by one, with PIL."""
    width, height = (int(old * (0.9 + 0.43 * f)) for old, f in zip(pictures[0].size, draws[1::-1], strict=True))
    top, left = int(draws[2] * (height - side + 1)), int(draws[3] * (width - side + 1))
    done = []
    for picture in pictures:
        image = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws[4] < 0.5 else image
        for layer in layers:
            image = operate(int(layer[0] * 12), image, layer[3], layer[4])
        done.append(np.asarray(image))
    return done


def operate(number: int, image: Image.Image, row: float, column: float) -> Image.Image:
    """Apply PIL's operation of this number, in the order of `randaugment.OPERATIONS`."""
    match number:
        case 0:
            return ImageOps.autocontrast(image)
        case 1:
            return ImageOps.equalize(image)
        case 2:
            return ImageOps.invert(image)
        case 5 | 6 | 7 | 8:
            kinds = (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness)
            return kinds[number - 5](image).enhance(3.7)
        case 9:
            x, y = int(column * image.width), int(row * image.height)
            image.paste(
                (0, 0, 0), (max(0, x - 80), max(0, y - 80), min(image.width, x + 80), min(image.height, y + 80))
            )
            return image
        case 10:
            return image.point([min(255, value + 220) if value < 128 else value for value in range(256)] * 3)
        case _:
            return image
