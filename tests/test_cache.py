"""The frame cache: same frames, never stale, never half, whatever is killed, damaged or changed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fuzz_corpus import encode, make_frames
from vidreward.data import EpisodeSet, build_cache, open_episodes, write_video
from vidreward.data import cache as cache_module
from vidreward.data import worker as worker_module
from vidreward.data.cache_file import CachedSource, is_whole
from vidreward.data.worker import Worker, WorkerError

SPEC = {"size": (16, 24)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    for number in range(4):
        write_video(root / f"{number}.mp4", make_frames(8 + number, (32, 48)), 10)
    picture = make_frames(1, (32, 48))[0].transpose(1, 2, 0)
    encode(root / "goal.png", "png", "rgb24", [picture], container_format="image2")
    rows = [{"file_name": f"{number}.mp4"} for number in range(3)]
    rows[0] |= {"goal": "goal.png", "cameras": {"top": "0.mp4", "again": "0.mp4"}}
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"file_name": "3.mp4"}]))
    return root


def sources(episodes: EpisodeSet) -> list[CachedSource]:
    found = [episode.source for episode in episodes]
    assert all(isinstance(source, CachedSource) for source in found)
    return found  # type: ignore[return-value]


def content(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.iterdir()}


def check_equal(episodes: EpisodeSet, cached: EpisodeSet) -> None:
    assert [episode.info for episode in episodes] == [episode.info for episode in cached]
    for plain, fast in zip(episodes, cached, strict=True):
        for camera in plain.cameras:
            assert np.array_equal(plain.all_frames(camera), fast.all_frames(camera))
        assert fast.has_goal == plain.has_goal
        assert np.array_equal(plain.goal(), fast.goal())


def test_cached_episodes_equal_decoded_ones(folder: Path, tmp_path: Path) -> None:
    episodes = open_episodes(folder, **SPEC)
    cached = build_cache(episodes, tmp_path / "cache", num_workers=1)
    check_equal(episodes, cached)
    assert cached.fingerprint() == episodes.fingerprint()
    assert cached.data_spec() == episodes.data_spec()
    assert np.array_equal(cached[0].frames([5, 0, 5]), episodes[0].frames([5, 0, 5]))
    assert len({source.path for source in sources(cached)}) == 4
    assert build_cache(cached, tmp_path / "cache", num_workers=1).episodes == cached.episodes


def test_a_second_build_decodes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_cache(open_episodes(folder, **SPEC), tmp_path / "cache", num_workers=1)
    before = content(tmp_path / "cache")

    def no_start() -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(worker_module, "start", no_start)
    episodes = open_episodes(folder, **SPEC)
    check_equal(episodes, build_cache(episodes, tmp_path / "cache"))
    assert content(tmp_path / "cache") == before


def test_settings_and_content_name_the_files(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    seen: set[str] = set()
    for settings in (
        SPEC,
        {"size": (24, 16)},
        {**SPEC, "resize": "crop"},
        {**SPEC, "fps": 5.0},
        {**SPEC, "crop": (0, 0, 1, 0.5)},
    ):
        cached = build_cache(open_episodes(folder, **settings), cache, num_workers=1)
        names = {source.path.name for source in sources(cached)}
        assert not names & seen
        seen |= names


def test_a_changed_file_is_decoded_anew_even_with_the_old_times(folder: Path, tmp_path: Path) -> None:
    path = folder / "1.mp4"
    build_cache(open_episodes(folder, **SPEC), tmp_path / "cache", num_workers=1)
    status = path.stat()
    data = path.read_bytes()
    write_video(path, make_frames(9, (32, 48))[::-1].copy(), 10)
    path.write_bytes(path.read_bytes().ljust(len(data), b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    episodes = open_episodes(folder, **SPEC)
    cached = build_cache(episodes, tmp_path / "cache", num_workers=1)
    check_equal(episodes, cached)
    assert np.array_equal(cached[1].frames([0]), episodes[1].frames([0]))


def test_a_file_that_changes_after_opening_is_quarantined(folder: Path, tmp_path: Path) -> None:
    episodes = open_episodes(folder, **SPEC)
    write_video(folder / "1.mp4", make_frames(4, (32, 48)), 10)
    (folder / "2.mp4").unlink()
    cached = build_cache(episodes, tmp_path / "cache", num_workers=1)
    assert [episode.id for episode in cached] == ["0.mp4", "3.mp4"]
    reasons = {entry.file: entry.reason for entry in cached.quarantine}
    assert "changed while it was read" in reasons["1.mp4"]
    assert "cannot be read any more" in reasons["2.mp4"]


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "flipped pixel":
        data[-100] ^= 1
    elif kind == "flipped header":
        data[40] ^= 1
    elif kind == "cut off":
        del data[-1:]
    elif kind == "too long":
        data += b"\0"
    elif kind == "empty":
        data.clear()
    else:
        data = bytearray(4096)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["flipped pixel", "flipped header", "cut off", "too long", "empty", "zeros"])
def test_a_damaged_cache_file_is_made_again(folder: Path, tmp_path: Path, kind: str) -> None:
    cache = tmp_path / "cache"
    episodes = open_episodes(folder, **SPEC)
    first = build_cache(episodes, cache, num_workers=1)
    before = content(cache)
    victim = sources(first)[2]
    first[2].all_frames()
    damage(victim.path, kind)
    assert not is_whole(victim.path, victim.layout)
    check_equal(episodes, build_cache(episodes, cache, num_workers=1))
    assert content(cache) == before


def test_a_file_under_a_wrong_name_is_made_again(folder: Path, tmp_path: Path) -> None:
    episodes = open_episodes(folder, **SPEC)
    first, second = sources(build_cache(episodes, tmp_path / "cache", num_workers=1))[1:3]
    first.path.write_bytes(second.path.read_bytes())
    check_equal(episodes, build_cache(episodes, tmp_path / "cache", num_workers=1))


def test_the_limit_is_checked_before_decoding(folder: Path, tmp_path: Path) -> None:
    episodes = open_episodes(folder, **SPEC)
    with pytest.raises(
        ValueError, match=r"4 episodes at 16x24 take 0\.000 GB decoded, over the limit of 1e-05 GB; open"
    ):
        build_cache(episodes, tmp_path / "cache", limit_gb=1e-5)
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_is_said_before_decoding(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"free some space, or give another cache folder"):
        build_cache(open_episodes(folder, **SPEC), tmp_path / "cache", num_workers=1)


def test_the_variable_chooses_the_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDREWARD_CACHE", str(tmp_path / "elsewhere"))
    build_cache(open_episodes(folder, **SPEC))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 4


def test_reading_after_the_cache_was_deleted_says_so(folder: Path, tmp_path: Path) -> None:
    cached = build_cache(open_episodes(folder, **SPEC), tmp_path / "cache", num_workers=1)
    sources(cached)[0].path.unlink()
    with pytest.raises(ValueError, match="deleted while in use"):
        cached[0].frames([0])


def test_equal_files_share_one_cache_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, make_frames(5, (32, 48)), 10)
    episodes = open_episodes(tmp_path / "videos")
    cached = build_cache(episodes, tmp_path / "cache", num_workers=1)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    check_equal(episodes, cached)


BAD_WORKER = """
    import os, sys, time
    from vidreward.data import worker
    good = worker.answer
    def answer(job):
        name = os.path.basename(next(iter(job["cameras"].values()))["files"][0])
        if name == "1.mp4":
            os.kill(os.getpid(), 11)
        if name == "2.mp4":
            time.sleep(600)
        return good(job)
    worker.answer = answer
    worker.main()
"""


def test_a_crash_or_a_hang_takes_one_file_and_the_run_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(BAD_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    monkeypatch.setattr(worker_module, "start", start)
    monkeypatch.setattr(cache_module, "MIN_TIMEOUT", 4.0)
    monkeypatch.setattr(cache_module, "FRAME_TIMEOUT", 0.0)
    episodes = open_episodes(folder, **SPEC)
    cached = build_cache(episodes, tmp_path / "cache", num_workers=1)
    check_equal(episodes.filter(lambda e: e.id in ("0.mp4", "3.mp4")), cached.filter(lambda _: True))
    reasons = {entry.file: entry.reason for entry in cached.quarantine}
    assert reasons["1.mp4"] == "decoding crashed (signal 11); re-encode or remove the file"
    assert reasons["2.mp4"].startswith("decoding took more than 4 s and was stopped")


def test_workers_that_cannot_start_are_no_fault_of_the_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match=r"a decoding process cannot start \(exit status 1\)"):
        build_cache(open_episodes(folder, **SPEC), tmp_path / "cache", num_workers=1)


def test_when_nothing_can_be_decoded_the_error_says_why(folder: Path, tmp_path: Path) -> None:
    episodes = open_episodes(folder, **SPEC)
    for path in folder.glob("*.mp4"):
        path.unlink()
    with pytest.raises(ValueError, match=r"(?s)no episode is left.*0\.mp4: cannot be read any more"):
        build_cache(episodes, tmp_path / "cache", num_workers=1)


def test_a_worker_can_be_killed_from_outside_and_used_again(folder: Path) -> None:
    worker = Worker()
    try:
        job = {"target": "/nonexistent/x", "key": "", "content_key": "", "cameras": {}, "goal": None}
        spec = {"size": None, "resize": "squash", "crop": None}
        missing = {"default": {"files": ["/nonexistent/v.mp4"], "kind": "VideoFootage", "fps": None, "rate": None}}
        answer = worker.run({**job, "spec": spec, "cameras": missing}, timeout=60)
        assert "cannot be read" in answer["error"]
        threading.Timer(0.2, worker.kill).start()
        time.sleep(0.4)
        with pytest.raises(WorkerError, match="signal 9"):
            worker.run({**job, "spec": spec, "cameras": missing}, timeout=60)
        assert "error" in worker.run({**job, "spec": spec, "cameras": missing}, timeout=60)
    finally:
        worker.close()


BUILD = """
    import sys
    from pathlib import Path
    from vidreward.data import build_cache, open_episodes
    build_cache(open_episodes(sys.argv[1], size=(16, 24)), Path(sys.argv[2]), num_workers=2)
"""


def start_build(folder: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(BUILD), str(folder), str(cache)])


def test_two_builds_at_once_do_not_disturb_each_other(folder: Path, tmp_path: Path) -> None:
    episodes = open_episodes(folder, **SPEC)
    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(build_cache, episodes, tmp_path / "cache", num_workers=1) for _ in range(2)]
    for build in builds:
        check_equal(episodes, build.result())
    build_cache(episodes, tmp_path / "alone", num_workers=1)
    assert content(tmp_path / "cache") == content(tmp_path / "alone")


@pytest.mark.slow
def test_two_programs_at_once_do_not_disturb_each_other(folder: Path, tmp_path: Path) -> None:
    builds = [start_build(folder, tmp_path / "cache") for _ in range(2)]
    assert [build.wait() for build in builds] == [0, 0]
    build_cache(open_episodes(folder, **SPEC), tmp_path / "alone")
    assert content(tmp_path / "cache") == content(tmp_path / "alone")


def final_names(cache: Path) -> list[str]:
    """List what a reader would take for finished; temporary names are hidden."""
    return [path.name for path in cache.glob("[!.]*.frames")] if cache.exists() else []


def wait_for_files(build: subprocess.Popen[bytes], cache: Path, num_files: int) -> None:
    while build.poll() is None and (not cache.exists() or len(final_names(cache)) < num_files):
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_build_continues_to_identical_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for number in range(24):
        write_video(folder / f"{number}.mp4", make_frames(60 + number, (96, 128)), 10)
    episodes = open_episodes(folder, **SPEC)
    assert start_build(folder, tmp_path / "whole").wait() == 0
    expected = content(tmp_path / "whole")
    rng = np.random.default_rng(0)
    num_partial = 0
    for trial in range(10):
        cache = tmp_path / f"killed{trial}"
        build = start_build(folder, cache)
        wait_for_files(build, cache, int(rng.integers(0, 20)))
        time.sleep(rng.uniform(0, 0.05))
        build.send_signal(signal.SIGKILL)
        build.wait()
        finished = set(final_names(cache))
        num_partial += len(finished) < len(expected)
        for name in finished:
            assert (cache / name).read_bytes() == expected[name], "a file under its final name is whole"
        cached = build_cache(episodes, cache)
        check_equal(episodes, cached)
        assert {name: (cache / name).read_bytes() for name in final_names(cache)} == expected
    assert num_partial >= 5, "the kills must hit builds that are under way"
