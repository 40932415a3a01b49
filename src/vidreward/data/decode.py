"""The only place that decodes: PyAV, one frame in flight, the same pixels in one pass and by frame number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from vidreward.data.pixels import MAX_PIXELS, FrameConverter, FrameSpec, VideoError
from vidreward.data.probe import VideoProbe, decoded, first_picture, probe
from vidreward.data.reader import IMAGE_DEMUXERS, VIDEO_DEMUXERS, DamagedError, Reader

__all__ = ["MAX_PIXELS", "FrameSpec", "VideoError", "VideoProbe", "iter_frames", "probe", "read_frames", "read_image"]

MAX_READ_BYTES = 4 * 2**30
"""Most memory one call of `read_frames` may fill."""


def iter_frames(
    path: str | Path, spec: FrameSpec = FrameSpec(), *, video: VideoProbe | None = None, num_threads: int = 0
) -> Iterator[UInt8[ndarray, "3 H W"]]:
    """Decode every frame in order, holding one at a time.

    Args:
        path: The video file.
        spec: Size and crop of the frames.
        video: What `probe` found, where it is known already.
        num_threads: Decoder threads; 0 takes as many as there are cores.

    Raises:
        VideoError: The file cannot be decoded to its end; frames before that were good.
    """
    path = Path(path)
    video = video or probe(path)
    convert = FrameConverter(spec)
    size = spec.output_size(video.height, video.width)
    with Reader(path, VIDEO_DEMUXERS, num_threads) as reader:
        for picture in in_order(reader, video):
            frame = convert(picture)
            if frame.shape[1:] != size:
                raise VideoError(f"{path}: pictures change from {size} to {frame.shape[1:]}; give one size")
            yield frame


def in_order(reader: Reader, video: VideoProbe) -> Iterator[av.VideoFrame]:
    """Decode every picture from the start, checking that each is the one that `probe` found there."""
    number = 0
    for picture in decoded(reader, video.num_frames):
        if number >= video.num_frames or (video.pts is not None and picture.pts != video.pts[number]):
            raise VideoError(
                f"{reader.path}: frame {number} of {video.num_frames} is not where the file's index says; it was "
                "changed while open, or its index is wrong: re-encode it"
            )
        yield picture
        number += 1
    if number < video.num_frames:
        raise VideoError(f"{reader.path}: only {number} of {video.num_frames} frames can be decoded; re-encode it")


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    spec: FrameSpec = FrameSpec(),
    *,
    video: VideoProbe | None = None,
    num_threads: int = 0,
) -> UInt8[ndarray, "T 3 H W"]:
    """Decode frames by number: the same pixels as in one pass, decoding from the nearest key frame.

    Args:
        path: The video file.
        indices: Frame numbers, in the order wanted; repeats are allowed.
        spec: Size and crop of the frames.
        video: What `probe` found, where it is known already.
        num_threads: Decoder threads; 0 takes as many as there are cores, which pays for large pictures only.

    Raises:
        IndexError: A number is outside the video.
        VideoError: The file cannot be decoded up to the frames asked for, or they do not fit in MAX_READ_BYTES.
    """
    path = Path(path)
    video = video or probe(path)
    wanted = np.asarray(indices, np.int64)
    if len(wanted) and not (0 <= wanted.min() and wanted.max() < video.num_frames):
        raise IndexError(f"{path} has frames 0..{video.num_frames - 1}; asked for {wanted.min()}..{wanted.max()}")
    height, width = spec.output_size(video.height, video.width)
    check_read_size(path, len(wanted), height, width)
    frames = np.empty((len(wanted), 3, height, width), np.uint8)
    numbers, counts = np.unique(wanted, return_counts=True)
    rows = np.split(np.argsort(wanted, kind="stable"), np.cumsum(counts)[:-1])
    source = seek_frames if len(video.keys) else pass_frames
    decode = source(path, numbers, spec, video, num_threads)
    for row, frame in zip(rows, decode, strict=True) if len(wanted) else ():
        if frame.shape[1:] != (height, width):
            raise VideoError(f"{path}: pictures change from {(height, width)} to {frame.shape[1:]}; give one size")
        frames[row] = frame
    return frames


def check_read_size(path: Path, num_frames: int, height: int, width: int) -> None:
    """Refuse to fill the memory with frames; `iter_frames` and the cache have no such limit."""
    num_bytes = num_frames * 3 * height * width
    if num_bytes > MAX_READ_BYTES:
        raise VideoError(
            f"{path}: {num_frames} frames of {height}x{width} need {num_bytes / 2**30:.1f} GiB at once, over the limit "
            f"of {MAX_READ_BYTES / 2**30:.0f} GiB; give a smaller size, a lower fps, or read fewer frames at a time"
        )


def pass_frames(
    path: Path, numbers: ndarray, spec: FrameSpec, video: VideoProbe, num_threads: int
) -> Iterator[UInt8[ndarray, "3 H W"]]:
    """Yield the frames with these ascending numbers from one pass, which ends at the last of them."""
    wanted = set(numbers.tolist())
    convert = FrameConverter(spec)
    with Reader(path, VIDEO_DEMUXERS, num_threads) as reader:
        for number, picture in enumerate(in_order(reader, video)):
            if number in wanted:
                yield convert(picture)
            if number == numbers[-1]:
                return


def seek_frames(
    path: Path, numbers: ndarray, spec: FrameSpec, video: VideoProbe, num_threads: int
) -> Iterator[UInt8[ndarray, "3 H W"]]:
    """Yield the frames with these ascending numbers, jumping over stretches nobody asked for.

    Each picture is recognised by its presentation time; when a jump misses, the rest comes from one pass.
    """
    assert video.pts is not None, path
    convert = FrameConverter(spec)
    pictures: Iterator[av.VideoFrame] | None = None
    position = 0
    with Reader(path, VIDEO_DEMUXERS, num_threads) as reader:
        for place, number in enumerate(numbers):
            key = int(np.searchsorted(video.keys[:, 0], number, side="right")) - 1
            if pictures is None or (key >= 0 and video.keys[key, 0] > position):
                pictures = pictures_from(reader, video, key)
            picture = picture_at(pictures, video.pts[number])
            if picture is None:
                yield from pass_frames(path, numbers[place:], spec, video, num_threads)
                return
            position = number + 1
            yield convert(picture)


def pictures_from(reader: Reader, video: VideoProbe, key: int) -> Iterator[av.VideoFrame]:
    """Decode from a key frame (-1: from the start), leaving out pictures before it; empty when the jump misses."""
    assert video.pts is not None, reader.path
    if key <= 0:
        yield from reader.pictures()
        return
    number, decoding_time = video.keys[key]
    start = video.pts[number]
    for timestamp in (start, decoding_time):
        reader.seek(int(timestamp))
        for picture in reader.pictures(damaged_before=int(start)):
            if picture.pts is None or picture.pts > start:
                break
            if picture.pts == start:
                yield picture
                yield from reader.pictures()
                return


def picture_at(pictures: Iterator[av.VideoFrame], pts: int) -> av.VideoFrame | None:
    """Decode up to the picture with this presentation time; None when it is not there."""
    try:
        for picture in pictures:
            if picture.pts is None or picture.pts >= pts:
                return picture if picture.pts == pts else None
    except (av.FFmpegError, DamagedError):
        # The pass that follows meets the same damage, and tells how many frames before it were good.
        return None
    return None


def read_image(path: str | Path, spec: FrameSpec = FrameSpec()) -> UInt8[ndarray, "3 H W"]:
    """Decode a still picture (png, jpg, webp, bmp, tiff), turned upright as its EXIF says.

    Raises:
        VideoError: The file is no picture, is damaged, or is too large to decode.
    """
    with Reader(Path(path), IMAGE_DEMUXERS, num_threads=1) as reader:
        return FrameConverter(spec)(first_picture(reader))
