"""Open a media file safely and hand out its packets and pictures.

A file is opened so that it can never make FFmpeg read another file or the network (no playlists, no references),
and is refused before memory is taken for a picture that is too large.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import av
from av.codec import CodecContext
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vidreward.data.pixels import MAX_PIXELS, VideoError

VIDEO_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,flv,asf,ogg,nut,mxf,ivf,h264,hevc,obu,"
    "m4v,dv,rm,webp_anim"
)
"""Containers that hold their pictures themselves; playlists and scripts that name other files are left out."""
IMAGE_DEMUXERS = "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,ppm_pipe,pgm_pipe,gif"


class DamagedError(Exception):
    """A picture was decoded with errors."""


class Reader:
    """An open file: its video stream and decoder. Use as a context manager."""

    def __init__(self, path: Path, demuxers: str = VIDEO_DEMUXERS, num_threads: int = 0) -> None:
        self.path = check_file(path)
        options = {"protocol_whitelist": "file", "format_whitelist": demuxers, "max_pixels": str(MAX_PIXELS)}
        try:
            # The "file:" prefix keeps names with a colon or a percent sign from meaning something to FFmpeg.
            self.container = av.open(f"file:{path}", options=options)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"{path}: not a video that FFmpeg can open ({error.strerror}); re-encode or remove it"
            ) from error
        try:
            self.stream = self.choose_stream()
            self.decoder = self.choose_decoder(num_threads)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def choose_stream(self) -> VideoStream:
        """Take the first video stream that is not cover art, and refuse sizes that would fill the memory."""
        streams = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{self.path}: no video stream (audio only?); remove it or give a file with pictures")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(f"{self.path}: no decoder for its codec; re-encode it, for instance as H.264")
        check_size(self.path, stream.codec_context.width, stream.codec_context.height)
        return stream

    def choose_decoder(self, num_threads: int) -> VideoCodecContext:
        """Use the stream's decoder, except for VP9 with transparency, which only libvpx reads."""
        context = self.stream.codec_context
        if self.stream.metadata.get("alpha_mode") == "1" and context.name in ("vp8", "vp9"):
            decoder = CodecContext.create("libvpx-vp9" if context.name == "vp9" else "libvpx", "r")
            assert isinstance(decoder, VideoCodecContext), context.name
            decoder.options = {"max_pixels": str(MAX_PIXELS)}
            context = decoder
        context.thread_type = "AUTO"
        context.thread_count = num_threads
        return context

    def pictures(self, damaged_before: int | None = None) -> Iterator[av.VideoFrame]:
        """Decode from the current position; a damaged picture is an error, never passed on.

        Args:
            damaged_before: After a jump, pictures before this time may be damaged, since they lean on skipped ones.
        """
        for packet in self.container.demux(self.stream):
            yield from self.decode(packet, damaged_before)

    def decode(self, packet: av.Packet, damaged_before: int | None = None) -> Iterator[av.VideoFrame]:
        """Decode the pictures that a packet completes; the empty one that ends a stream completes the last."""
        for picture in self.decoder.decode(packet):
            passed = damaged_before is not None and picture.pts is not None and picture.pts < damaged_before
            if picture.is_corrupt and not passed:
                raise DamagedError("damaged picture")
            check_size(self.path, picture.width, picture.height)
            yield picture

    def seek(self, timestamp: int) -> None:
        """Jump to the key frame at or before a time in the stream's units."""
        self.container.seek(timestamp, stream=self.stream, backward=True)
        self.decoder.flush_buffers()


def check_file(path: Path) -> Path:
    """Refuse what is not a regular file with something in it; opening a pipe or a device could wait for ever."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror}); check the name and the permissions") from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: not a regular file (a pipe, a device or a folder); give a video file")
    if status.st_size == 0:
        raise VideoError(f"{path}: empty file (0 bytes); copy it again or remove it")
    return path


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse a picture without a size or above MAX_PIXELS, before memory is taken for it."""
    if width < 1 or height < 1:
        raise VideoError(
            f"{path}: its header gives no picture size, or one over the limit of {MAX_PIXELS:,} pixels; copy the file "
            "again if it was cut off, or scale the picture down"
        )
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path}: pictures of {width}x{height} are over the limit of {MAX_PIXELS:,} pixels; scale the video down"
        )
