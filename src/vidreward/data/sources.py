"""Where the pixels of an opened episode come from: a video file or a folder of pictures, per camera.

A source reads by frame number of the episode, which is the file's own numbering, or a resampled one when another
frame rate was asked for: then frame k is the last one shown at or before k / fps seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from vidreward.data.decode import check_read_size, iter_frames, probe, read_frames, read_image
from vidreward.data.pixels import FORMAT_VERSION, FrameSpec, VideoError
from vidreward.data.probe import DEFAULT_FPS, VideoProbe

CLOCK_TOLERANCE = 1e-3
"""Seconds a stored frame time may be late and still count: Matroska and WebM round times to milliseconds."""


class UnreadableError(VideoError):
    """An episode that was opened cannot be decoded after all: a file is damaged in its middle, changed or gone."""

    def __init__(self, source: DiskSource, reason: str) -> None:
        super().__init__(reason)
        self.source = source

    @property
    def reason(self) -> str:
        """What is wrong, without the file's path."""
        text = str(self)
        for path in self.source.files:
            text = text.removeprefix(f"{path}: ")
        return text


class Footage(Protocol):
    """What one camera recorded of one episode."""

    files: tuple[Path, ...]
    index: Int[ndarray, "T"]
    """Stored frame of each frame of the episode."""
    fps: float
    size: tuple[int, int]
    """Height and width of its frames."""
    codec: str
    timing: Mapping[str, float | None]
    """The `fps` and `rate` it was opened with."""

    @property
    def num_stored(self) -> int: ...
    def read(self, indices: Sequence[int]) -> UInt8[ndarray, "T 3 H W"]: ...
    def iterate(self, num_threads: int = 0) -> Iterator[UInt8[ndarray, "3 H W"]]: ...


class VideoFootage:
    """Frames of a video file.

    Args:
        path: The file.
        spec: Size and crop.
        fps: Rate to resample to; None keeps the file's frames.
        rate: True rate of the file where its own is wrong.
        video: What `probe` found, where it is known already.
    """

    def __init__(
        self,
        path: Path,
        spec: FrameSpec,
        fps: float | None = None,
        rate: float | None = None,
        *,
        video: VideoProbe | None = None,
    ) -> None:
        self.files: tuple[Path, ...] = (path,)
        self.spec = spec
        self.timing: Mapping[str, float | None] = {"fps": fps, "rate": rate}
        self.video = video or probe(path)
        times = self.video.times * (self.video.fps / rate) if rate else self.video.times
        self.index = resample(times, fps)
        self.fps = fps or rate or self.video.fps
        self.size = spec.output_size(self.video.height, self.video.width)
        self.codec = self.video.codec

    @property
    def num_stored(self) -> int:
        return self.video.num_frames

    def read(self, indices: Sequence[int]) -> UInt8[ndarray, "T 3 H W"]:
        # one thread: a training step reads many episodes side by side, each a fraction of a second long
        stored = self.index[np.asarray(indices, np.int64)].tolist()
        return read_frames(self.files[0], stored, self.spec, video=self.video, num_threads=1)

    def iterate(self, num_threads: int = 0) -> Iterator[UInt8[ndarray, "3 H W"]]:
        """Decode every frame of the episode in one pass."""
        frames = iter_frames(self.files[0], self.spec, video=self.video, num_threads=num_threads)
        repeats = np.bincount(self.index, minlength=self.num_stored)
        for repeat, frame in zip(repeats.tolist(), frames, strict=True):
            for _ in range(repeat):
                yield frame


class ImageFootage:
    """Frames stored as pictures, one file each, in the order given.

    Args:
        files: The pictures, at least one.
        spec: Size and crop; without a size all pictures must have the same.
        fps: Rate to resample to; None keeps every picture.
        rate: Rate they were taken at.
    """

    def __init__(
        self, files: tuple[Path, ...], spec: FrameSpec, fps: float | None = None, rate: float | None = None
    ) -> None:
        self.files = files
        self.spec = spec
        self.timing: Mapping[str, float | None] = {"fps": fps, "rate": rate}
        rate = rate or DEFAULT_FPS
        self.index = resample(np.arange(len(files)) / rate, fps)
        self.fps = fps or rate
        height, width = read_image(files[0], spec).shape[1:]
        self.size = (height, width)
        self.codec = files[0].suffix.lower().removeprefix(".")

    @property
    def num_stored(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> UInt8[ndarray, "T 3 H W"]:
        check_read_size(self.files[0].parent, len(indices), *self.size)
        frames = np.empty((len(indices), 3, *self.size), np.uint8)
        for place, number in enumerate(self.index[np.asarray(indices, np.int64)].tolist()):
            frames[place] = self.picture(number)
        return frames

    def iterate(self, num_threads: int = 0) -> Iterator[UInt8[ndarray, "3 H W"]]:
        """Decode every frame of the episode in order."""
        for number in self.index.tolist():
            yield self.picture(number)

    def picture(self, number: int) -> UInt8[ndarray, "3 H W"]:
        """Decode one stored picture."""
        frame = read_image(self.files[number], self.spec)
        if frame.shape[1:] != self.size:
            raise VideoError(f"{self.files[number]}: a picture of {frame.shape[1:]} among {self.size}; give one size")
        return frame


def resample(times: Float[ndarray, "T"], fps: float | None) -> Int[ndarray, "S"]:
    """Choose the stored frame shown at each k / fps seconds.

    Example:
        >>> resample(np.array([0.0, 0.1, 0.2, 0.3, 0.4]), 5.0).tolist()
        [0, 2, 4]
    """
    if fps is None:
        return every_frame(len(times))
    num_frames = int(np.floor((times[-1] + CLOCK_TOLERANCE) * fps)) + 1
    marks = np.arange(num_frames) / fps + min(CLOCK_TOLERANCE, 0.1 / fps)
    return np.searchsorted(times, marks, side="right") - 1


@lru_cache(maxsize=1024)
def every_frame(num_frames: int) -> Int[ndarray, "T"]:
    """Count the frames of a video; videos of one length share the numbers, which counts with 200,000 of them."""
    numbers = np.arange(num_frames)
    numbers.flags.writeable = False
    return numbers


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class DiskSource:
    """Every camera of one episode on disk, and its goal picture."""

    footage: Mapping[str, Footage]
    spec: FrameSpec
    goal_path: Path | None = None
    content_of: Callable[[Path], str] = hash_file
    """Identifies the content that a file had when it was opened, or when first asked."""

    def read(self, indices: Sequence[int], camera: str) -> UInt8[ndarray, "T 3 H W"]:
        with self.naming():
            return self.footage[camera].read(indices)

    def iterate(self, camera: str) -> Iterator[UInt8[ndarray, "3 H W"]]:
        with self.naming():
            yield from self.footage[camera].iterate()

    def read_goal(self) -> UInt8[ndarray, "1 3 H W"]:
        """Read the goal picture, sized like the frames."""
        assert self.goal_path is not None
        with self.naming():
            return read_image(self.goal_path, self.spec)[None]

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Say with an error which source it comes from, so that a caller can go on without that episode."""
        try:
            yield
        except VideoError as error:
            raise UnreadableError(self, str(error)) from error

    @property
    def files(self) -> tuple[Path, ...]:
        goal = () if self.goal_path is None else (self.goal_path,)
        return tuple(path for footage in self.footage.values() for path in footage.files) + goal

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames of the first camera."""
        return next(iter(self.footage.values())).size

    @property
    def num_bytes(self) -> int:
        """Size of all frames and the goal, decoded."""
        sizes = [len(footage.index) * 3 * footage.size[0] * footage.size[1] for footage in self.footage.values()]
        return sum(sizes) + (0 if self.goal_path is None else 3 * self.size[0] * self.size[1])

    @cached_property
    def content_key(self) -> str:
        """Identify the frames, by the content of the files when they were opened, or when this was first asked."""
        return self.key_of(self.content_of)

    def hash_content(self) -> str:
        """Return a sha256 over the content of every file, as it is now, and how frames are taken from it."""
        return self.key_of(hash_file)

    def key_of(self, content_of: Callable[[Path], str]) -> str:
        """Put the contents of the files and how frames are taken from them into one sha256."""
        cameras = {
            camera: {"files": [content_of(path) for path in footage.files], "index": hash_array(footage.index)}
            for camera, footage in self.footage.items()
        }
        goal = None if self.goal_path is None else content_of(self.goal_path)
        content = {"format": FORMAT_VERSION, "cameras": cameras, "goal": goal, "spec": self.spec.to_json()}
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def hash_array(values: ndarray) -> str:
    """Return the sha256 of an array's values, type and shape."""
    head = f"{values.dtype.str} {values.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()
