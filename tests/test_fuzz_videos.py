"""Every hostile or broken file ends in correct frames, a clear error or a quarantine entry; the rest goes on."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from fuzz_corpus import NUM_FRAMES, frame_numbers, make_frames, write_broken, write_readable
from vidreward.data import VideoError, build_cache, open_episodes, write_video
from vidreward.data.decode import read_frames

SPEC_SIZE = (48, 64)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], dict[str, str]]:
    folder = tmp_path_factory.mktemp("corpus") / "videos"
    outside = folder.parent / "outside"
    folder.mkdir()
    outside.mkdir()
    return folder, write_readable(folder), write_broken(folder, outside)


def test_each_file_opens_or_is_quarantined(corpus: tuple[Path, dict[str, int], dict[str, str]]) -> None:
    folder, readable, broken = corpus
    episodes = open_episodes(folder, size=SPEC_SIZE)
    assert {episode.id: episode.num_frames for episode in episodes} == readable
    reasons = {entry.file: entry.reason for entry in episodes.quarantine}
    assert reasons.keys() == broken.keys()
    for name, part in broken.items():
        assert part in reasons[name], f"{name}: {reasons[name]}"
        assert str(folder) not in reasons[name]


def test_every_frame_is_the_right_one(corpus: tuple[Path, dict[str, int], dict[str, str]]) -> None:
    episodes = open_episodes(corpus[0], size=SPEC_SIZE)
    for episode in episodes:
        frames = episode.all_frames()
        upright = frames[:, :, ::-1, ::-1] if episode.id == "turned.mp4" else frames
        expected = [0] if episode.num_frames == 1 else list(range(NUM_FRAMES))
        if episode.id == "gif.gif":
            assert len(frames) == NUM_FRAMES
            continue
        assert frame_numbers(upright) == expected, episode.id
        assert np.array_equal(episode.frames([episode.num_frames - 1]), frames[-1:]), episode.id


def test_the_cache_holds_the_same_frames(corpus: tuple[Path, dict[str, int], dict[str, str]], tmp_path: Path) -> None:
    episodes = open_episodes(corpus[0], size=(24, 32))
    cached = build_cache(episodes, tmp_path)
    assert cached.quarantine == episodes.quarantine
    assert [episode.id for episode in cached] == [episode.id for episode in episodes]
    for plain, fast in zip(episodes, cached, strict=True):
        assert np.array_equal(plain.all_frames(), fast.all_frames()), plain.id


def test_random_damage_never_stops_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    frames = make_frames()
    originals = [
        write_video(tmp_path / "a.mp4", frames, 10),
        write_video(tmp_path / "a.webm", frames, 10, codec="libvpx-vp9"),
        write_video(tmp_path / "a.avi", frames, 10, codec="mpeg4"),
        write_video(tmp_path / "a.gif", frames, 10, codec="gif", pixel_format="rgb8"),
    ]
    write_video(folder / "good.mp4", frames, 10)
    for number in range(48):
        data = bytearray(originals[number % 4].read_bytes())
        for at in rng.integers(0, len(data), rng.integers(1, 30)):
            data[at] = rng.integers(0, 256)
        (folder / f"{number}{originals[number % 4].suffix}").write_bytes(data)
    episodes = open_episodes(folder, size=(24, 32))
    cached = build_cache(episodes, tmp_path / "cache")
    left_out = {entry.file for entry in cached.quarantine}
    assert "good.mp4" in {episode.id for episode in cached}
    assert len(cached) + len(left_out) == 49
    assert all(episode.all_frames().shape == (episode.num_frames, 3, 24, 32) for episode in cached)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        with pytest.raises(ValueError, match=r"(?s)no episodes\. Looked for videos.*pipe\.mp4: a pipe.*socket\.mp4"):
            open_episodes(tmp_path)
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero"), tmp_path):
        with pytest.raises(VideoError, match="not a regular file"):
            read_frames(path, [0])


def test_a_name_that_is_not_utf8_is_quarantined(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", make_frames(2), 10)
    os.link(good, os.fsencode(tmp_path) + b"/bad\xff.mp4")
    episodes = open_episodes(tmp_path)
    assert [episode.id for episode in episodes] == ["good.mp4"]
    assert [entry.reason for entry in episodes.quarantine] == ["the name is not valid UTF-8; rename the file"]
