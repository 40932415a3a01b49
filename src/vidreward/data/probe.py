"""What a video file holds: length, rate, size, frame times, and whether it is whole; found without keeping a frame.

A frame's number is its place in the order of presentation times, which a pass over the packets finds without
decoding. Where packets do not tell (no times, interlaced fields, old containers) the file is decoded once to count.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import Float, Int
from numpy import ndarray

from vidreward.data.pixels import VideoError, display_matrix
from vidreward.data.reader import VIDEO_DEMUXERS, DamagedError, Reader

PROBE_VERSION = 1
"""Raised when `probe` finds something else in the same file; results that were kept are then made anew."""
MAX_FRAMES = 20_000_000
"""Most frames a file may have; four days at 60 fps."""
DEFAULT_FPS = 10.0
"""Rate of a file that has one frame and tells no rate."""
NO_TIME = np.iinfo(np.int64).min

TIMED_CONTAINERS = ("mov", "matroska", "gif", "apng", "flv")
"""Containers that give each packet its own presentation time."""
SEEKABLE_CONTAINERS = ("mov", "matroska")
FRAME_PER_PACKET = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "png", "ffv1", "rawvideo", "prores", "gif")
NEED_THE_PAST = ("gif", "apng")
"""Codecs whose marked key frames are still drawn over earlier ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoProbe:
    """What a file holds, found without keeping a frame."""

    num_frames: int
    fps: float
    """Mean rate: frames shown between the first and the last, over the time between them."""
    width: int
    """Pixels, after turning upright."""
    height: int
    codec: str
    duration: float
    """Seconds, the last frame's own time included."""
    times: Float[ndarray, "T"]
    """Seconds from the first frame to each."""
    pts: Int[ndarray, "T"] | None
    """Presentation times in the stream's units; None where frames can only be counted."""
    keys: Int[ndarray, "K 2"]
    """Frames from which decoding can start: frame number and decoding time; empty when seeking is unreliable."""


@dataclass(frozen=True, kw_only=True)
class Packets:
    """The packets of a stream in file order, without their data."""

    pts: Int[ndarray, "P"]
    dts: Int[ndarray, "P"]
    is_key: ndarray
    is_shown: ndarray
    num_corrupt: int
    end: int
    """Latest presentation time plus duration."""

    @property
    def shown_pts(self) -> Int[ndarray, "T"]:
        return np.sort(self.pts[self.is_shown])


def probe(path: str | Path) -> VideoProbe:
    """Find length, rate, size and frame times of a video file, and whether it is whole.

    Raises:
        VideoError: The file is no video, has no frame, is cut off, or is too large to decode.
    """
    path = Path(path)
    with Reader(path, VIDEO_DEMUXERS, num_threads=1) as reader:
        packets, first = scan(reader)
        check_whole(reader, packets)
        picture = shown(path, first)
        container = reader.container.format.name.split(",")[0]
        codec = reader.stream.codec_context.codec.canonical_name
        tick = float(Fraction(reader.stream.time_base.numerator, reader.stream.time_base.denominator))
        rate = declared_rate(reader.stream)
        trusted = packets_are_frames(packets, container, codec, reader.stream)
    pts = packets.shown_pts if trusted else decoded_times(path)
    keys = np.zeros((0, 2), np.int64)
    if trusted and container in SEEKABLE_CONTAINERS and codec not in NEED_THE_PAST:
        usable = packets.is_key & packets.is_shown
        keys = np.stack([np.searchsorted(pts, packets.pts[usable]), packets.dts[usable]], axis=1)
        keys = keys[np.argsort(keys[:, 0])]
    times = (pts - pts[0]) * tick if is_increasing(pts) else np.arange(len(pts)) / rate
    fps = float((len(pts) - 1) / times[-1]) if len(pts) > 1 else rate
    matrix = display_matrix(picture)
    turned = matrix is not None and matrix[0, 0] == 0
    return VideoProbe(
        num_frames=len(pts),
        fps=fps,
        width=picture.height if turned else picture.width,
        height=picture.width if turned else picture.height,
        codec=codec,
        duration=float(times[-1] + 1 / fps),
        times=times,
        pts=pts if is_increasing(pts) else None,
        keys=keys,
    )


def is_increasing(pts: ndarray) -> bool:
    """Whether every time is known and later than the one before."""
    return pts[0] != NO_TIME and bool((np.diff(pts) > 0).all())


First = av.VideoFrame | av.FFmpegError | DamagedError | None
"""What the first decoded packets gave."""


def first_picture(reader: Reader) -> av.VideoFrame:
    """Decode one picture: proves that the codec works and tells size and orientation."""
    return shown(reader.path, decoded_first(reader.pictures()))


def decoded_first(pictures: Iterator[av.VideoFrame]) -> First:
    """Take the first picture, or the error that decoding it gave."""
    try:
        return next(pictures, None)
    except (av.FFmpegError, DamagedError) as error:
        return error


def shown(path: Path, first: First) -> av.VideoFrame:
    """Return the first picture.

    Raises:
        VideoError: There is none, or it cannot be decoded.
    """
    if first is None:
        raise VideoError(f"{path}: no frames; a video needs at least one")
    if isinstance(first, Exception):
        raise VideoError(
            f"{path}: not one frame can be decoded ({reason_of(first)}); re-encode or remove it"
        ) from first
    return first


def reason_of(error: Exception) -> str:
    """Return what went wrong, without the number and the file name that FFmpeg's errors carry."""
    return (isinstance(error, av.FFmpegError) and error.strerror) or str(error)


def scan(reader: Reader) -> tuple[Packets, First]:
    """Read every packet, numbers only, so that an hour of video fits; decode no more than the first picture."""
    pts, dts, flags = array("q"), array("q"), bytearray()
    num_corrupt, end = 0, NO_TIME
    first: First = None
    try:
        for packet in reader.container.demux(reader.stream):
            if first is None:
                first = decoded_first(reader.decode(packet))
            if not packet.size:
                continue
            if len(pts) >= MAX_FRAMES:
                raise VideoError(f"{reader.path}: over the limit of {MAX_FRAMES:,} frames; cut it into pieces")
            pts.append(NO_TIME if packet.pts is None else packet.pts)
            dts.append(NO_TIME if packet.dts is None else packet.dts)
            flags.append(packet.is_keyframe | (not packet.is_discard) << 1)
            num_corrupt += packet.is_corrupt
            end = max(end, pts[-1] + (packet.duration or 0)) if pts[-1] != NO_TIME else end
    except av.FFmpegError as error:
        raise VideoError(f"{reader.path}: damaged after {len(pts)} frames ({error.strerror}); copy it again") from error
    bits = np.frombuffer(bytes(flags), np.uint8)
    packets = Packets(
        pts=np.array(pts, np.int64),
        dts=np.array(dts, np.int64),
        is_key=(bits & 1).astype(bool),
        is_shown=(bits & 2).astype(bool),
        num_corrupt=num_corrupt,
        end=end,
    )
    return packets, first


def check_whole(reader: Reader, packets: Packets) -> None:
    """Refuse a file that was cut off: fewer packets than its index lists, or an end before the declared one."""
    path, stream, num_packets = reader.path, reader.stream, len(packets.pts)
    if not packets.is_shown.any():
        raise VideoError(f"{path}: no frames; a video needs at least one")
    if packets.num_corrupt:
        num_whole = num_packets - packets.num_corrupt
        promised = max(num_packets, stream.frames if reader.container.format.name.startswith("mov") else 0)
        raise VideoError(f"{path}: cut off or damaged: {num_whole} of {promised} frames are whole; copy it again")
    if reader.container.format.name == "gif" and not ends_with(path, b";"):
        raise VideoError(f"{path}: cut off: no end mark after {num_packets} frames; copy it again")
    declared, tolerance = declared_end(reader, num_packets)
    if declared is not None and packets.end != NO_TIME:
        start = int(packets.pts[packets.pts != NO_TIME].min())
        tick = float(Fraction(stream.time_base.numerator, stream.time_base.denominator))
        found = (packets.end - min(start, 0)) * tick
        if found < declared - max(tolerance, 1.5 * found / num_packets):
            raise VideoError(
                f"{path}: cut off: its header says {declared:.2f} s and {found:.2f} s are there ({num_packets} "
                "frames); copy it again"
            )


def declared_end(reader: Reader, num_packets: int) -> tuple[float | None, float]:
    """Return the seconds that the header promises for the video stream, where it does, and how exact they are.

    The index of an mp4 may list frames that an edit list hides, so its length in time is compared, and only where
    frames are missing.
    """
    stream, container = reader.stream, reader.container
    name = container.format.name.split(",")[0]
    if name == "mov":
        missing = stream.frames > num_packets and stream.duration is not None
        tick = stream.time_base.numerator / stream.time_base.denominator
        return (stream.duration * tick if missing and stream.duration else None), 0.0
    parts = stream.metadata.get("DURATION", "").split(":")
    if name == "matroska" and len(parts) == 3 and "".join(parts).replace(".", "", 1).isdigit():
        return int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2]), 0.0
    alone = len(container.streams) == 1 and name in ("matroska", "flv")
    return (container.duration / 1e6 if alone and container.duration else None), 0.5


def ends_with(path: Path, mark: bytes) -> bool:
    """Whether a file ends with a mark, padding apart."""
    with open(path, "rb") as file:
        file.seek(-min(path.stat().st_size, 64), 2)
        return file.read().rstrip(b"\0").endswith(mark)


def declared_rate(stream: VideoStream) -> float:
    """Return the rate in the header, used where frame times do not tell."""
    for rate in (stream.average_rate, stream.base_rate):
        if rate is not None and rate.denominator and 0 < rate.numerator / rate.denominator <= 1000:
            return rate.numerator / rate.denominator
    return DEFAULT_FPS


def packets_are_frames(packets: Packets, container: str, codec: str, stream: VideoStream) -> bool:
    """Whether the packets alone tell the frames: one each, every time known and different, no interlaced fields."""
    pts = packets.shown_pts
    progressive = stream.codec_context.field_order in (0, 1)
    starts_whole = bool(packets.is_key[0])
    known = container in TIMED_CONTAINERS and codec in FRAME_PER_PACKET
    return known and progressive and starts_whole and is_increasing(pts)


def decoded_times(path: Path) -> Int[ndarray, "T"]:
    """Count frames by decoding them all; times that do not increase come back as they are, for the caller to see."""
    times = array("q")
    with Reader(path, VIDEO_DEMUXERS) as reader:
        for picture in decoded(reader, None):
            times.append(NO_TIME if picture.pts is None else picture.pts)
    return np.array(times, np.int64)


def decoded(reader: Reader, num_frames: int | None) -> Iterator[av.VideoFrame]:
    """Decode pictures, turning a failure half-way into an error that tells how many frames were good."""
    num_good = 0
    try:
        for picture in reader.pictures():
            yield picture
            num_good += 1
    except (av.FFmpegError, DamagedError) as error:
        of = "" if num_frames is None else f" of {num_frames}"
        raise VideoError(
            f"{reader.path}: decoding fails after {num_good}{of} good frames ({reason_of(error)}); re-encode it "
            "or cut it there"
        ) from error
