"""The plain side: HOLD's training pipeline written the obvious way, image by image, in NumPy.

The arithmetic is that of docs/methods/hold_r.md, so that both sides give the same pixels (the tests say so): bilinear
scaling as `tf.image.resize` does it, then a cut; operations as in TensorFlow's model garden, in float32, with results
cut to uint8. Images are (height, width, 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

Image = UInt8[ndarray, "H W 3"]


def scale(image: Image, height: int, width: int) -> Image:
    """Scale as `tf.image.resize(method="bilinear")`, without antialiasing, and cut to uint8."""
    top, bottom, down = taps(image.shape[0], height)
    left, right, across = taps(image.shape[1], width)
    pixels = image.astype(np.float32)
    across, down = across[None, :, None], down[:, None, None]
    above = pixels[top][:, left] + (pixels[top][:, right] - pixels[top][:, left]) * across
    below = pixels[bottom][:, left] + (pixels[bottom][:, right] - pixels[bottom][:, left]) * across
    return (above + (below - above) * down).astype(np.uint8)


def taps(old: int, new: int) -> tuple[Int[ndarray, "n"], Int[ndarray, "n"], Float[ndarray, "n"]]:
    """Return, for each new pixel, the two old ones it lies between, and the weight of the second."""
    ratio = np.float32(old) / np.float32(new)
    at = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5)
    low = np.floor(at)
    return np.maximum(low, 0).astype(int), np.minimum(np.ceil(at), old - 1).astype(int), at - low


def blend(degenerate: ndarray, image: Image, factor: float) -> Image:
    """Go from a degenerate image past the image."""
    start = degenerate.astype(np.float32)
    return np.clip(start + np.float32(factor) * (image.astype(np.float32) - start), 0, 255).astype(np.uint8)


def grey(image: Image) -> UInt8[ndarray, "H W 1"]:
    """Mix the channels as `tf.image.rgb_to_grayscale`."""
    mixed = (image.astype(np.float32) / np.float32(255)) @ np.array([0.2989, 0.587, 0.114], np.float32)
    return (mixed * np.float32(255.5)).astype(np.uint8)[..., None]


def autocontrast(images: Sequence[Image]) -> list[Image]:
    """Stretch each channel of the sample to 0..255."""
    low = np.min([image.min((0, 1)) for image in images], 0).astype(np.float32)
    high = np.max([image.max((0, 1)) for image in images], 0).astype(np.float32)
    factor = np.where(high > low, np.float32(255) / np.maximum(high - low, 1), 1).astype(np.float32)
    offset = np.where(high > low, -low * factor, 0).astype(np.float32)
    return [np.clip(image.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8) for image in images]


def equalize(images: Sequence[Image]) -> list[Image]:
    """Level the histogram of each channel of the sample."""
    counts = sum(np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]) for image in images)
    tables = [equalizing(histogram) for histogram in counts]
    return [np.stack([table[image[..., c]] for c, table in enumerate(tables)], -1) for image in images]


def equalizing(histogram: Int[ndarray, "256"]) -> UInt8[ndarray, "256"]:
    """Make the table that levels a histogram."""
    step = (histogram.sum() - histogram[histogram > 0][-1]) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    table = [(count + step // 2) // step for count in [0, *np.cumsum(histogram)[:-1]]]
    table[0] = 0
    return np.clip(table, 0, 255).astype(np.uint8)


def sharpness(images: Sequence[Image], factor: float) -> list[Image]:
    """Blend the frames, one below the other, with what the smoothing kernel makes of them."""
    tall = np.concatenate(images)
    smooth = tall.copy()
    pixels = tall.astype(np.int32)
    height, width = len(tall), tall.shape[1]
    total = sum(pixels[1 + i : height - 1 + i, 1 + j : width - 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1))
    smooth[1:-1, 1:-1] = (total + 4 * pixels[1:-1, 1:-1]) // 13
    return np.split(blend(smooth, tall, factor), len(images))


def cutout(image: Image, row: int, column: int, pad: int) -> Image:
    """Blacken a box around a pixel."""
    image = image.copy()
    image[max(0, row - pad) : row + pad, max(0, column - pad) : column + pad] = 0
    return image


def solarize_add(image: Image, addition: int) -> Image:
    """Add to dark pixels."""
    return np.where(image < 128, np.clip(image.astype(np.int64) + addition, 0, 255), image).astype(np.uint8)


def operate(number: int, images: Sequence[Image], row: float, column: float) -> list[Image]:
    """Apply the operation of this number to the frames of a sample, at HOLD's magnitude 20.

    Posterize to 8 bits (3), solarize from 512 (4) and the number after the last (11) change nothing.
    """
    match number:
        case 0:
            return autocontrast(images)
        case 1:
            return equalize(images)
        case 2:
            return [255 - image for image in images]
        case 5:
            return [blend(grey(image), image, 3.7) for image in images]
        case 6:
            return [blend(np.full_like(image, 255), image, 3.7) for image in images]
        case 7:
            return [blend(np.zeros_like(image), image, 3.7) for image in images]
        case 8:
            return sharpness(images, 3.7)
        case 9:
            height, width = images[0].shape[:2]
            return [cutout(image, int(row * height), int(column * width), 80) for image in images]
        case 10:
            return [solarize_add(image, 220) for image in images]
        case _:
            return list(images)


def augment(images: Sequence[Image], side: int, draws: ndarray, layers: ndarray) -> list[Image]:
    """Scale by 0.9 to 1.33, cut, mirror half of the time, and apply RandAugment to the frames of one sample.

    Args:
        images: Frames with a margin.
        side: Of the square that is cut out.
        draws: From U(0, 1), float32: two magnifications, the place of the cut, the mirror.
        layers: From U(0, 1) (layers, 5): operation, two for the fixed variant, place of the box.
    """
    height, width = images[0].shape[:2]
    factors = np.float32(0.9) + np.float32(1.33 - 0.9) * draws[:2]
    height, width = int(np.float32(height) * factors[0]), int(np.float32(width) * factors[1])
    top, left = int(draws[2] * (height - side + 1)), int(draws[3] * (width - side + 1))
    images = [scale(image, height, width)[top : top + side, left : left + side] for image in images]
    if draws[4] < 0.5:
        images = [image[:, ::-1] for image in images]
    for layer in layers:
        images = operate(int(layer[0] * 12), images, layer[3], layer[4])
    return list(images)
