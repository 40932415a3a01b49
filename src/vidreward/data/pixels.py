"""How a decoded picture becomes a frame: upright, cropped, on black, resized, uint8 RGB.

Every route to pixels (one pass, by number, cache) goes through `FrameConverter`, so they agree to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8
from numpy import ndarray

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded; 8K video has 33 million pixels."""

SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""Bilinear with a support that widens when shrinking (so it does not alias), the same bits on every processor."""

FORMAT_VERSION = 1
"""Raised when the pixels of the same file and the same FrameSpec change; part of every cache key."""


class VideoError(ValueError):
    """A file cannot be read as video: the text has the file, what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class FrameSpec:
    """How frames leave the decoder. Cropping comes first, then resizing.

    Example:
        >>> FrameSpec(size=(96, 96), resize="crop").output_size(720, 1280)
        (96, 96)
        >>> FrameSpec(crop=(0.0, 0.0, 0.5, 1.0)).output_size(720, 1280)
        (720, 640)
        >>> FrameSpec(load_size=288, resize="crop").output_size(720, 1280)
        (288, 512)
    """

    size: tuple[int, int] | None = None
    """Height and width in pixels; None keeps the file's own."""
    resize: Literal["squash", "crop"] = "squash"
    """"squash" changes the aspect ratio; "crop" fits the shorter side, then cuts the centre."""
    load_size: int | None = None
    """Shorter side to scale to, with resize="crop": more than `size` leaves a margin that is cut off, and without a
    size the whole picture is kept. None scales to `size`."""
    crop: tuple[float, float, float, float] | None = None
    """Box to keep: left, top, right, bottom edges as fractions 0-1 of the upright frame; drops an inset picture."""

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or not all(1 <= side <= 16384 for side in self.size)):
            raise ValueError(f"size must be (height, width), each 1 to 16384 pixels, or None; got {self.size}")
        if self.resize not in ("squash", "crop"):
            raise ValueError(f"resize must be 'squash' or 'crop'; got {self.resize!r}")
        if self.load_size is not None:
            self.check_load_size(self.load_size)
        if self.crop is not None:
            if len(self.crop) != 4:
                raise ValueError(f"crop must be (left, top, right, bottom) as fractions 0-1; got {self.crop}")
            left, top, right, bottom = self.crop
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(f"crop must have 0 <= left < right <= 1 and 0 <= top < bottom <= 1; got {self.crop}")

    @property
    def has_margin(self) -> bool:
        """Whether whole pictures are kept, scaled, so that their shapes may differ."""
        return self.load_size is not None and self.size is None

    def check_load_size(self, load_size: int) -> None:
        """Refuse a margin that is none, or that would have no meaning."""
        if not 1 <= load_size <= 16384:
            raise ValueError(f"load_size must be 1 to 16384 pixels, or None; got {load_size}")
        if self.resize != "crop":
            raise ValueError(
                f"load_size {load_size} keeps the aspect ratio and resize={self.resize!r} does not; give "
                "resize='crop' (--data.resize crop), or no load_size"
            )
        if self.size is not None and load_size < max(self.size):
            raise ValueError(
                f"load_size {load_size} is less than the size {max(self.size)} that is cut out of it; give at least "
                f"{max(self.size)}"
            )

    def crop_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom in pixels; at least one pixel is kept."""
        if self.crop is None:
            return 0, 0, width, height
        left, top = min(round(self.crop[0] * width), width - 1), min(round(self.crop[1] * height), height - 1)
        return left, top, max(round(self.crop[2] * width), left + 1), max(round(self.crop[3] * height), top + 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of frames made from an upright picture of this size."""
        left, top, right, bottom = self.crop_box(height, width)
        return self.size or self.scaled_size(bottom - top, right - left)

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that a cropped picture is scaled to, before its centre is cut out."""
        if self.load_size is not None:
            return max(self.load_size, height * self.load_size // width), max(
                self.load_size, width * self.load_size // height
            )
        if self.size is None:
            return height, width
        if self.resize == "squash":
            return self.size
        scale = max(self.size[0] / height, self.size[1] / width)  # the smallest that covers it in proportion
        return max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale))

    def to_json(self) -> dict[str, object]:
        """Write the settings down; one that is not used is left out, so that older cache files keep their names."""
        margin = {} if self.load_size is None else {"load_size": self.load_size}
        return {"size": self.size, "resize": self.resize, "crop": self.crop, **margin}


class FrameConverter:
    """Turn decoded pictures of one stream into frames. Keep one for a stream: it reuses its scaling tables."""

    def __init__(self, spec: FrameSpec) -> None:
        self.spec = spec
        self.reformatter = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> UInt8[ndarray, "3 H W"]:
        """Convert one picture. Transparency is put on black, grey becomes three equal channels, more bits become 8."""
        matrix = display_matrix(picture)
        transparent = any(component.is_alpha for component in picture.format.components)
        if transparent or matrix is not None or self.spec.crop is not None:
            picture = self.rebuild(picture, transparent, matrix)
        height, width = self.spec.scaled_size(picture.height, picture.width)
        size = self.spec.size or (height, width)
        pixels = self.to_array(picture, "rgb24", height, width)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        return np.ascontiguousarray(pixels[top : top + size[0], left : left + size[1]].transpose(2, 0, 1))

    def rebuild(self, picture: av.VideoFrame, transparent: bool, matrix: ndarray | None) -> av.VideoFrame:
        """Turn upright, put on black and crop at full size, so that resizing mixes only pixels that are kept."""
        pixels = self.to_array(picture, "rgba" if transparent else "rgb24", picture.height, picture.width)
        if transparent:
            weighted = pixels[..., :3].astype(np.uint16) * pixels[..., 3:]
            pixels = ((weighted + 127) // 255).astype(np.uint8)
        if matrix is not None:
            pixels = turn_upright(pixels, matrix)
        left, top, right, bottom = self.spec.crop_box(*pixels.shape[:2])
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[top:bottom, left:right]), format="rgb24")

    def to_array(self, picture: av.VideoFrame, pixel_format: str, height: int, width: int) -> ndarray:
        """Convert and scale in one step; one thread, since frames are small and many files decode at once."""
        converted = self.reformatter.reformat(
            picture,
            width=width,
            height=height,
            format=pixel_format,
            interpolation=SCALING,
            src_color_range=picture.color_range,
            threads=1,
        )
        return converted.to_ndarray()


def display_matrix(picture: av.VideoFrame) -> ndarray | None:
    """Return the 2x2 sign matrix that turns the picture upright, or None when it is upright already.

    Angles that are no multiple of 90 degrees are ignored, as browsers do.
    """
    data = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    largest = np.abs(matrix).max()
    if largest == 0:
        return None
    signs = np.rint(matrix / largest).astype(int)
    is_right_angle = (np.abs(signs).sum(axis=0) == 1).all() and (np.abs(signs).sum(axis=1) == 1).all()
    return None if not is_right_angle or (signs == np.eye(2)).all() else signs


def turn_upright(pixels: UInt8[ndarray, "H W 3"], matrix: ndarray) -> UInt8[ndarray, "H W 3"]:
    """Move pixel (x, y) to (x, y) @ matrix: turns by 90, 180 or 270 degrees, and mirrors."""
    if matrix[0, 0] == 0:
        pixels = pixels.transpose(1, 0, 2)
        horizontal, vertical = matrix[1, 0], matrix[0, 1]
    else:
        horizontal, vertical = matrix[0, 0], matrix[1, 1]
    return pixels[:: int(vertical), :: int(horizontal)]
