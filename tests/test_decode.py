"""Decoding: exact frames, the same by number as in one pass, and errors that say what to do."""

import resource
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz_corpus import (
    MATRICES,
    NUM_FRAMES,
    SIZE,
    channels_last,
    encode,
    frame_numbers,
    make_frames,
    set_display_matrix,
    set_gif_size,
    set_png_size,
    truncate,
)
from vidreward.data import decode
from vidreward.data.decode import FrameSpec, VideoError, iter_frames, probe, read_frames, read_image
from vidreward.data.encode import write_video

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
B_FRAMES = {"x264-params": "keyint=6:bframes=3:b-pyramid=normal"}
KINDS = {
    "b_frames.mp4": ("libx264", "yuv420p", B_FRAMES),
    "b_frames.mkv": ("libx264", "yuv420p", B_FRAMES),
    "open_gop.mp4": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=6:bframes=3"}),
    "open_gop_hevc.mkv": ("libx265", "yuv420p", {"x265-params": "log-level=error:keyint=6:open-gop=1:bframes=3"}),
    "short_gop.mp4": ("libx264", "yuv420p", {"x264-params": "keyint=3:min-keyint=3:bframes=2"}),
    "rolling_refresh.mp4": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=8"}),
    "fields.mp4": ("libx264", "yuv420p", {"x264-params": "interlaced=1:keyint=6"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "6", "lag-in-frames": "10", "auto-alt-ref": "1"}),
    "av1.mp4": ("libsvtav1", "yuv420p", {"g": "8", "preset": "10"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "6", "bf": "2"}),
    "transport.ts": ("libx264", "yuv420p", B_FRAMES),
    "gif.gif": ("gif", "rgb8", {}),
    "png.mov": ("png", "rgb24", {}),
    "raw.h264": ("libx264", "yuv420p", B_FRAMES),
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    pictures = channels_last(make_frames())
    for name, (codec, pixel_format, options) in KINDS.items():
        container_format = "h264" if name.endswith(".h264") else None
        encode(folder / name, codec, pixel_format, pictures, options=options, container_format=container_format)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_frames_by_number_equal_one_pass(kinds: Path, name: str) -> None:
    video = probe(kinds / name)
    one_pass = np.stack(list(iter_frames(kinds / name)))
    assert video.num_frames == len(one_pass) == NUM_FRAMES
    assert frame_numbers(one_pass) == list(range(NUM_FRAMES))
    assert one_pass.shape[2:] == (video.height, video.width) == SIZE
    for number in range(NUM_FRAMES):
        assert np.array_equal(read_frames(kinds / name, [number], video=video)[0], one_pass[number])
    shuffled = np.random.default_rng(0).integers(0, NUM_FRAMES, 40).tolist()
    assert np.array_equal(read_frames(kinds / name, shuffled, video=video), one_pass[shuffled])


@pytest.mark.parametrize(
    "name", ["b_frames.mp4", "b_frames.mkv", "open_gop_hevc.mkv", "vp9.webm", "av1.mp4", "png.mov"]
)
def test_seeking_does_not_fall_back_to_a_full_pass(kinds: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video = probe(kinds / name)
    assert len(video.keys) > 1

    def no_pass(*_: object) -> None:
        raise AssertionError("read from the start")

    monkeypatch.setattr(decode, "pass_frames", no_pass)
    for number in (NUM_FRAMES - 1, 13, 0):
        assert frame_numbers(read_frames(kinds / name, [number], video=video)) == [number]


def test_lossless_frames_come_back_exactly(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 31, 45), np.uint8)
    write_video(tmp_path / "a.mkv", frames, 10, codec="ffv1", pixel_format="bgr0")
    assert np.array_equal(read_frames(tmp_path / "a.mkv", range(5)), frames)


@given(st.lists(st.integers(0, NUM_FRAMES - 1), max_size=12))
def test_any_request_equals_indexing(lossless: Path, indices: list[int]) -> None:
    assert np.array_equal(read_frames(lossless, indices), make_frames()[indices])


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lossless") / "a.mkv"
    return write_video(path, make_frames(), 10, codec="ffv1", pixel_format="bgr0", gop=5)


def test_numbers_outside_the_video_are_refused(lossless: Path) -> None:
    for indices in ([NUM_FRAMES], [-1]):
        with pytest.raises(IndexError, match=r"frames 0\.\.23"):
            read_frames(lossless, indices)


def test_variable_rate_keeps_each_time(tmp_path: Path) -> None:
    times = [0, 10, 100, 110, 300]
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p", channels_last(make_frames(5)), times=times)
    video = probe(path)
    assert video.times.tolist() == pytest.approx([t / 600 for t in times])
    assert video.fps == pytest.approx(4 / (300 / 600))


def test_times_that_start_late_or_early_count_from_the_first_frame(tmp_path: Path) -> None:
    pictures = channels_last(make_frames(6))
    for name, start in (("late.mkv", 6000), ("late.mp4", 6000)):
        path = encode(tmp_path / name, "libx264", "yuv420p", pictures, times=[start + 20 * k for k in range(6)])
        assert probe(path).times == pytest.approx(np.arange(6) / 30, abs=1e-3)


def test_an_edit_list_hides_the_frames_it_cuts(tmp_path: Path) -> None:
    source = encode(tmp_path / "a.mp4", "libx264", "yuv420p", channels_last(make_frames()), options={"bf": "0"})
    target = tmp_path / "cut.mp4"
    with (
        av.open(str(source)) as reading,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as writing,
    ):
        stream = reading.streams.video[0]
        copy = writing.add_stream_from_template(stream)
        shift = round(5 / 30 / float(stream.time_base))
        for packet in reading.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                writing.mux(packet)
    frames = np.stack(list(iter_frames(target)))
    assert frame_numbers(frames) == list(range(5, NUM_FRAMES))
    assert np.array_equal(read_frames(target, [12, 3]), frames[[12, 3]])


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_and_mirroring_are_undone(tmp_path: Path, name: str) -> None:
    frames = make_frames(4)
    plain = write_video(tmp_path / "plain.mp4", frames, 10)
    stored = np.stack(list(iter_frames(plain)))
    expected = {
        "quarter": np.rot90(stored, -1, axes=(2, 3)),
        "half": np.rot90(stored, 2, axes=(2, 3)),
        "three_quarters": np.rot90(stored, 1, axes=(2, 3)),
        "mirrored": stored[..., ::-1],
        "upside_down": stored[..., ::-1, :],
        "transposed": stored.transpose(0, 1, 3, 2),
    }[name]
    path = set_display_matrix(plain, tmp_path / "turned.mp4", MATRICES[name])
    video = probe(path)
    assert (video.height, video.width) == expected.shape[2:]
    assert np.array_equal(np.stack(list(iter_frames(path))), expected)
    assert np.array_equal(read_frames(path, [2]), expected[2:3])


def test_transparency_is_put_on_black(tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[...] = (200, 100, 50, 255)
    picture[:, 16:, 3] = 0
    picture[16:, :16, 3] = 128
    for name, codec, pixel_format in (("a.mov", "png", "rgba"), ("a.webm", "libvpx-vp9", "yuva420p")):
        options = {"auto-alt-ref": "0", "crf": "4", "b": "0"} if codec == "libvpx-vp9" else {}
        path = encode(tmp_path / name, codec, pixel_format, [picture] * 3, source_format="rgba", options=options)
        frame = read_frames(path, [1])[0].astype(int)
        assert np.abs(frame[:, 4, 4] - [200, 100, 50]).max() <= 4
        assert np.abs(frame[:, 28, 4] - [100, 50, 25]).max() <= 4
        assert frame[:, 4, 28].max() <= 2


def test_grey_becomes_three_equal_channels_and_ten_bits_become_eight(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))
    grey = encode(tmp_path / "grey.mkv", "ffv1", "gray", [ramp] * 2, source_format="gray")
    assert np.array_equal(read_frames(grey, [0])[0], np.stack([ramp] * 3))
    deep = encode(
        tmp_path / "deep.mkv", "ffv1", "gray16le", [ramp.astype(np.uint16) * 257] * 2, source_format="gray16le"
    )
    assert np.abs(read_frames(deep, [0])[0].astype(int) - ramp).max() <= 1


def test_full_range_and_limited_range_give_the_same_colours(tmp_path: Path) -> None:
    frames = make_frames(2)
    limited = write_video(tmp_path / "a.mkv", frames, 10, codec="ffv1", pixel_format="yuv444p")
    full = write_video(tmp_path / "b.mov", frames, 10, codec="mjpeg", pixel_format="yuvj444p")
    assert np.abs(read_frames(limited, [1]).astype(int) - frames[1]).max() <= 4
    assert np.abs(read_frames(full, [1]).astype(int) - frames[1]).mean() <= 4


def test_resizing_averages_and_crops(tmp_path: Path) -> None:
    frames = np.zeros((1, 3, 40, 80), np.uint8)
    frames[:, 0, :, :40] = 240
    frames[:, 1, :20] = 120
    path = write_video(tmp_path / "a.mkv", frames, 10, codec="ffv1", pixel_format="bgr0")
    squashed = read_frames(path, [0], FrameSpec(size=(2, 2)))[0]
    assert squashed[0, 0].tolist() == pytest.approx([240, 0], abs=60)
    assert (squashed[0, :, 0] > squashed[0, :, 1]).all()
    assert (squashed[1, 0] > squashed[1, 1]).all()
    centre = read_frames(path, [0], FrameSpec(size=(20, 20), resize="crop"))[0]
    assert centre[0, 10, :9].min() > 230
    assert centre[0, 10, 11:].max() < 10
    left = read_frames(path, [0], FrameSpec(crop=(0.0, 0.0, 0.5, 0.5)))[0]
    assert left.shape == (3, 20, 40)
    assert left.min(axis=(1, 2)).tolist() == left.max(axis=(1, 2)).tolist() == [240, 120, 0]


@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.tuples(*[st.floats(0, 1) for _ in range(4)]),
)
def test_a_crop_keeps_at_least_one_pixel(size: tuple[int, int], out: tuple[int, int], edges: tuple[float, ...]) -> None:
    left, right = sorted(edges[:2])
    top, bottom = sorted(edges[2:])
    if left == right or top == bottom:
        with pytest.raises(ValueError, match="left < right"):
            FrameSpec(crop=(left, top, right, bottom))
        return
    spec = FrameSpec(crop=(left, top, right, bottom))
    height, width = spec.output_size(*size)
    assert 1 <= height <= size[0]
    assert 1 <= width <= size[1]
    assert FrameSpec(size=out, crop=spec.crop).output_size(*size) == out


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"size": (0, 4)}, {"size": (20000, 4)}, {"resize": "stretch"}, {"crop": (0, 0, 2, 1)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FrameSpec(**wrong)


def test_a_huge_header_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.png", "png", "rgb24", [np.zeros((8, 8, 3), np.uint8)], container_format="image2")
    image = set_png_size(small, tmp_path / "bomb.png", 10_000, 10_000)
    gif = write_video(tmp_path / "a.gif", make_frames(2), 10, codec="gif", pixel_format="rgb8")
    video = set_gif_size(gif, tmp_path / "bomb.gif", 10_000, 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError, match="64,000,000 pixels"):
        probe(video)
    with pytest.raises(VideoError, match="64,000,000 pixels"):
        read_image(image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_memory_stays_bounded_for_a_long_video(tmp_path: Path) -> None:
    frame = make_frames(2, (96, 96))
    path = write_video(tmp_path / "long.mp4", (frame[k % 2] for k in range(3000)), 30, codec="mpeg4")
    code = (
        "import resource, sys\n"
        "from vidreward.data.decode import iter_frames, probe, read_frames\n"
        "path = sys.argv[1]\n"
        "list(zip(range(50), iter_frames(path)))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert sum(1 for _ in iter_frames(path)) == probe(path).num_frames == 3000\n"
        "assert read_frames(path, [2999]).shape == (1, 3, 96, 96)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 30_000, "kilobytes; all frames decoded would be 81,000"


def test_reading_too_much_at_once_is_refused(lossless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_READ_BYTES", 100_000)
    with pytest.raises(VideoError, match=r"24 frames of 48x64 need .* smaller size"):
        read_frames(lossless, range(NUM_FRAMES))


def test_a_cut_file_tells_how_many_frames_are_good(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", make_frames(50), 30)
    with pytest.raises(VideoError, match=r"b\.mp4: cut off or damaged: \d+ of 50 frames are whole; copy it again"):
        probe(truncate(whole, tmp_path / "b.mp4"))


def test_damage_inside_is_an_error_and_never_fewer_frames(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", make_frames(50), 30)
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    at, size = packets[30]
    data[at : at + size] = bytes(size)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    good = []
    with pytest.raises(VideoError, match=r"decoding fails after \d+ of 50 good frames"):
        good.extend(iter_frames(damaged))
    assert 0 < len(good) < 50
    assert frame_numbers(np.stack(good), 50) == list(range(len(good)))
    with pytest.raises(VideoError, match="good frames"):
        read_frames(damaged, [49, 35])


def test_a_file_that_changes_while_open_is_noticed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", make_frames(), 10)
    video = probe(path)
    write_video(path, make_frames(), 25)
    with pytest.raises(VideoError, match="changed"):
        list(iter_frames(path, video=video))


def test_images_respect_orientation(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = channels_last(make_frames(1))[0]
    image = image_module.fromarray(pixels)
    exif = image.getexif()
    exif[0x112] = 6
    image.save(tmp_path / "turned.png")
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert np.array_equal(read_image(tmp_path / "turned.png"), pixels.transpose(2, 0, 1))
    turned = read_image(tmp_path / "turned.jpg").astype(int)
    assert np.abs(turned - np.rot90(pixels.transpose(2, 0, 1), -1, axes=(1, 2))).mean() < 4


def test_writing_pads_odd_sizes_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    frames = make_frames(size=(47, 63))
    first = write_video(tmp_path / "a.mp4", frames, 29.97)
    second = write_video(tmp_path / "b.mp4", iter(frames), 29.97)
    assert first.read_bytes() == second.read_bytes()
    video = probe(first)
    assert (video.height, video.width) == (48, 64)
    assert video.fps == pytest.approx(29.97, rel=1e-4)
    assert frame_numbers(read_frames(first, range(NUM_FRAMES))[..., :47, :63]) == list(range(NUM_FRAMES))


def test_writing_fails_clearly_and_leaves_nothing(tmp_path: Path) -> None:
    frames = make_frames(3)
    for match, arguments in (
        ("no frames", (frames[:0], 10)),
        ("fps must be", (frames, 0)),
        ("uint8 array", (frames.astype(float), 10)),
        ("frame 1 has shape", ([frames[0], frames[1][:, :8]], 10)),
    ):
        with pytest.raises(ValueError, match=match):
            write_video(tmp_path / "a.mp4", *arguments)
    with pytest.raises(ValueError, match="choose a codec"):
        write_video(tmp_path / "a.webm", frames, 10)
    with pytest.raises(ValueError, match="choose a codec"):
        write_video(tmp_path / "a.mp4", frames, 10, codec="nonsense")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not on this machine")
def test_real_clips_agree_by_number_and_in_one_pass() -> None:
    for path in (CLIPS / "robot_fries" / "web_UVD_full_failure_3.mp4", *(CLIPS / "sim_kitchen").glob("*.mp4")):
        spec = FrameSpec(size=(64, 64))
        one_pass = np.stack(list(iter_frames(path, spec)))
        chosen = np.random.default_rng(0).integers(0, len(one_pass), 6)
        assert np.array_equal(read_frames(path, chosen.tolist(), spec), one_pass[chosen])
