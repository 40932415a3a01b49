"""Write frames to a video file: the only place that encodes (PyAV, in process)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from jaxtyping import UInt8
from numpy import ndarray

from vidreward.files import atomic_path

QUALITY_OPTIONS = {
    # Without cpu-independent, x264 gave small pictures one of two encodings from run to run, on one machine.
    "libx264": {"preset": "medium", "x264-params": "cpu-independent=1"},
    "libx265": {"preset": "medium", "x265-params": "log-level=error"},
    "libvpx-vp9": {"b": "0", "deadline": "good", "cpu-used": "4"},
    "libsvtav1": {"preset": "9"},
}
"""Encoders that take a constant quality (crf), with the options that make them quiet and quick enough."""


def write_video(
    path: str | Path,
    frames: UInt8[ndarray, "T 3 H W"] | Iterable[UInt8[ndarray, "3 H W"]],
    fps: float,
    *,
    codec: str = "libx264",
    crf: int = 20,
    gop: int = 12,
    pixel_format: str = "yuv420p",
) -> Path:
    """Write frames as a video; the file appears whole or not at all.

    One thread encodes, and libx264 gives the same bytes for the same frames on every machine. Frames of odd height
    or width are padded to even by repeating the last row or column when the pixel format halves the colours
    (yuv420p, which every browser plays); "yuv444p" keeps an odd size.

    Args:
        path: Where to write; the ending chooses the container (.mp4, .webm, .mkv, .avi, .mov, .gif).
        frames: RGB frames 0-255, all of one size; an iterable is read once and never held whole.
        fps: Frames per second, more than 0.
        codec: An encoder of FFmpeg: libx264, libx265, libvpx-vp9, libsvtav1, mpeg4, ffv1, gif, ...
        crf: Constant quality of the encoders that have it; lower is better, 0 is (nearly) lossless.
        gop: Frames from one key frame to the next; short ones make reading by number fast.
        pixel_format: Pixel format of the encoder.

    Returns:
        The path written.

    Raises:
        ValueError: There is no frame, a frame has another shape or type, or the encoder refuses the settings.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> write_video(Path(folder.name) / "a.mp4", np.zeros((3, 3, 16, 16), np.uint8), fps=10).name
        'a.mp4'
        >>> folder.cleanup()
    """
    path = Path(path)
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"{path}: fps must be more than 0; got {fps}")
    iterator = checked_frames(frames, path)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path}: no frames to write; a video needs at least one")
    rate = Fraction(fps).limit_denominator(1001)
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = first.shape[1:]
    refused = (
        f"{path}: cannot write {width}x{height} frames at {fps:g} fps with codec {codec!r} and pixel format "
        f"{pixel_format!r}; choose a codec and an ending that fit, such as libx264 and .mp4"
    )
    with atomic_path(path) as temporary:
        try:
            container = av.open(f"file:{temporary}", "w", options=container_options(path))
            stream = open_stream(container, first, rate, codec, crf, gop, pixel_format)
        except (av.FFmpegError, UnknownCodecError, ValueError) as error:
            raise ValueError(f"{refused} ({error})") from error
        try:
            with container:
                for number, frame in enumerate(chain([first], iterator)):
                    container.mux(stream.encode(to_video_frame(frame, stream, rate, number)))
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise ValueError(f"{refused} ({error})") from error
    return path


def container_options(path: Path) -> dict[str, str]:
    """Put the index of an mp4 at its front, so that a browser can play it while it loads."""
    return {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".mov", ".m4v") else {}


def checked_frames(frames: Iterable[ndarray], path: Path) -> Iterator[ndarray]:
    """Yield frames, refusing any that is not uint8 (3, H, W) of the first one's size."""
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[0] != 3:
            kind = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ValueError(f"{path}: frame {number} must be a uint8 array (3, H, W), RGB 0-255; got {kind}")
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"{path}: frame {number} has shape {frame.shape}, frame 0 has {shape}; give one size")
        yield frame


def open_stream(
    container: OutputContainer, first: ndarray, rate: Fraction, codec: str, crf: int, gop: int, pixel_format: str
) -> VideoStream:
    """Add a video stream with size, rate and colour tags that fit the first frame."""
    options = {**QUALITY_OPTIONS[codec], "crf": str(crf)} if codec in QUALITY_OPTIONS else {}
    stream = container.add_stream(codec, rate=rate, options=options)
    if not isinstance(stream, VideoStream):
        raise ValueError(f"{codec!r} does not encode video")
    height, width = first.shape[1:]
    halved = pixel_format.startswith(("yuv420", "yuva420", "yuv422", "nv12"))
    stream.height = height + (height % 2 if halved else 0)
    stream.width = width + (width % 2 if halved else 0)
    stream.pix_fmt = pixel_format
    stream.codec_context.gop_size = gop
    stream.codec_context.thread_count = 1
    if pixel_format.startswith("yuv"):
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.JPEG if pixel_format.startswith("yuvj") else ColorRange.MPEG
    return stream


def to_video_frame(frame: ndarray, stream: VideoStream, rate: Fraction, number: int) -> av.VideoFrame:
    """Convert (3, H, W) RGB to the stream's size and pixel format, and number it."""
    padding = ((0, stream.height - frame.shape[1]), (0, stream.width - frame.shape[2]))
    picture = np.pad(frame, ((0, 0), *padding), mode="edge").transpose(1, 2, 0)
    source = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    full_range = str(stream.pix_fmt).startswith("yuvj")
    converted = source.reformat(
        format=stream.pix_fmt, dst_colorspace="ITU601", dst_color_range="JPEG" if full_range else "MPEG"
    )
    converted.pts = number
    converted.time_base = 1 / rate
    return converted
