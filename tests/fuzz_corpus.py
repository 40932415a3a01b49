"""Videos for tests, good and broken, made with PyAV when a test runs.

Frame k shows a plain background with a bright square at a place that depends on k, so that a frame can be
recognised after lossy coding.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy import ndarray

from vidreward.data.encode import write_video

os.environ.setdefault("SVT_LOG", "1")

NUM_FRAMES = 24
SIZE = (48, 64)
MATRICES = {
    "quarter": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "three_quarters": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside_down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
}
"""Rows of the 2x2 display matrix by what it does to the picture."""


def make_frames(num_frames: int = NUM_FRAMES, size: tuple[int, int] = SIZE) -> ndarray:
    """Draw (T, 3, H, W) frames; `frame_numbers` reads the numbers back."""
    height, width = size
    frames = np.empty((num_frames, 3, height, width), np.uint8)
    frames[:] = np.array([40, 60, 80], np.uint8)[:, None, None]
    frames[:, 0] += np.linspace(0, 60, width).astype(np.uint8)
    for number in range(num_frames):
        left = number * (width - 8) // max(num_frames - 1, 1)
        frames[number, :, height // 2 - 4 : height // 2 + 4, left : left + 8] = 250
    return frames


def frame_numbers(frames: ndarray, num_frames: int = NUM_FRAMES) -> list[int]:
    """Recognise frames of `make_frames` after lossy coding, by the nearest original."""
    originals = make_frames(num_frames, frames.shape[2:]).astype(np.int32)
    return [int(np.abs(originals - frame).mean(axis=(1, 2, 3)).argmin()) for frame in frames.astype(np.int32)]


def encode(
    path: Path,
    codec: str,
    pixel_format: str,
    pictures: Iterable[ndarray],
    *,
    source_format: str = "rgb24",
    times: Sequence[int] | None = None,
    tick: Fraction = Fraction(1, 600),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """Encode (H, W[, C]) pictures with full control of times and options; `write_video` is the plain way."""
    with av.open(str(path), "w", format=container_format, container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(30), options=options or {})
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = tick
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=source_format)
            frame = frame.reformat(format=pixel_format)
            frame.pts = number * 20 if times is None else times[number]
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def channels_last(frames: ndarray) -> ndarray:
    return np.ascontiguousarray(frames.transpose(0, 2, 3, 1))


def truncate(source: Path, target: Path, fraction: float = 0.6) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * fraction)])
    return target


def set_display_matrix(source: Path, target: Path, rows: tuple[int, int, int, int]) -> Path:
    """Copy an mp4 with another display matrix in its track header."""
    data = bytearray(source.read_bytes())
    matrix_at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (value * 65536 for value in rows)
    struct.pack_into(">9i", data, matrix_at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def set_png_size(source: Path, target: Path, height: int, width: int) -> Path:
    """Copy a PNG with another size in its header, checksum included: a small file that claims a huge picture."""
    data = bytearray(source.read_bytes())
    chunk = data.index(b"IHDR")
    struct.pack_into(">II", data, chunk + 4, width, height)
    struct.pack_into(">I", data, chunk + 17, zlib.crc32(bytes(data[chunk : chunk + 17])))
    target.write_bytes(data)
    return target


def set_gif_size(source: Path, target: Path, height: int, width: int) -> Path:
    """Copy a GIF with another canvas size in its header."""
    data = bytearray(source.read_bytes())
    struct.pack_into("<HH", data, 6, width, height)
    target.write_bytes(data)
    return target


def write_audio(path: Path) -> Path:
    """Write a second of sound without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        samples = np.zeros((1, 44100), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_readable(folder: Path) -> dict[str, int]:
    """Write one video of each kind that must open; returns the number of frames by file name."""
    frames = make_frames()
    pictures = channels_last(frames)
    alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
    write_video(folder / "h264.mp4", frames, 10)
    write_video(folder / "hevc.mp4", frames, 10, codec="libx265")
    write_video(folder / "av1.mp4", frames, 10, codec="libsvtav1")
    write_video(folder / "vp9.webm", frames, 10, codec="libvpx-vp9")
    write_video(folder / "mpeg4.avi", frames, 10, codec="mpeg4")
    write_video(folder / "ten_bits.mkv", frames, 10, codec="libx265", pixel_format="yuv420p10le")
    write_video(folder / "gif.gif", frames, 10, codec="gif", pixel_format="rgb8")
    write_video(folder / "odd_size.mp4", make_frames(size=(47, 63)), 10, pixel_format="yuv444p")
    write_video(folder / "one_frame.mp4", frames[:1], 10)
    write_video(folder / "transport.ts", frames, 10)
    rgba = np.concatenate([pictures, alpha], axis=-1)
    encode(folder / "alpha.mov", "png", "rgba", rgba, source_format="rgba")
    encode(folder / "alpha.webm", "libvpx-vp9", "yuva420p", rgba, source_format="rgba", options={"auto-alt-ref": "0"})
    encode(folder / "grey.mkv", "ffv1", "gray", pictures[..., 0], source_format="gray")
    times = np.cumsum(np.random.default_rng(0).integers(5, 60, NUM_FRAMES)).tolist()
    encode(folder / "variable_rate.mp4", "libx264", "yuv420p", pictures, times=times)
    set_display_matrix(folder / "h264.mp4", folder / "turned.mp4", MATRICES["half"])
    (folder / "wrong_ending.txt").write_bytes((folder / "h264.mp4").read_bytes())
    (folder / "no_ending").write_bytes((folder / "vp9.webm").read_bytes())
    (folder / "avi_inside.mp4").write_bytes((folder / "mpeg4.avi").read_bytes())
    for name in (
        "new\nline.mp4",
        "\u65e5\u672c\u8a9e \U0001f916.mp4",
        "percent %d:colon.mp4",
        "-dash.mp4",
        "quote'\".mp4",
    ):
        (folder / name).write_bytes((folder / "h264.mp4").read_bytes())
    single = {"one_frame.mp4"}
    return {path.name: 1 if path.name in single else NUM_FRAMES for path in folder.iterdir()}


def write_broken(folder: Path, outside: Path) -> dict[str, str]:
    """Write one file of each kind that must be refused; returns a part of the reason by file name."""
    frames = make_frames()
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8)
    good = write_video(outside / "good.mp4", frames, 10)
    data = good.read_bytes()
    (folder / "zero.mp4").touch()
    truncate(good, folder / "truncated.mp4")
    for name, codec in (("t.mkv", "libx264"), ("t.webm", "libvpx-vp9"), ("t.avi", "mpeg4"), ("t.flv", "flv")):
        truncate(write_video(outside / name, noise, 10, codec=codec), folder / f"truncated_{name}", 0.8)
    truncate(write_video(outside / "t.gif", frames, 10, codec="gif", pixel_format="rgb8"), folder / "truncated.gif")
    index_at, frames_at = data.index(b"moov") - 4, data.index(b"mdat") - 4
    (folder / "no_index.mp4").write_bytes(data[:index_at] + data[frames_at:])
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes())
    write_audio(folder / "sound.mp4")
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{good}\n#EXT-X-ENDLIST\n")
    (folder / "script.mkv").write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    canvas = write_video(outside / "canvas.gif", frames[:2], 10, codec="gif", pixel_format="rgb8")
    set_gif_size(canvas, folder / "huge.gif", 10_000, 10_000)
    (folder / "link.mp4").symlink_to(good)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    os.mkfifo(folder / "pipe.mp4")
    return {
        "zero.mp4": "empty file",
        "truncated.mp4": "cut off",
        **{f"truncated_t.{ending}": "cut off" for ending in ("mkv", "webm", "avi", "flv")},
        "truncated.gif": "cut off",
        "no_index.mp4": "not a video",
        "text.mp4": "not a video",
        "noise.mkv": "not a video",
        "sound.mp4": "no video stream",
        "playlist.mp4": "not a video",
        "script.mkv": "not a video",
        "huge.gif": "64,000,000 pixels",
        "link.mp4": "link leads out of the folder",
        "loop.mp4": "no such file",
        "pipe.mp4": "a pipe",
    }
