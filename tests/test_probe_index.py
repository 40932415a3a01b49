"""The index of probed files: the same answers as probing, for files that have not changed, whatever happens to it."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz_corpus import make_frames
from vidreward.data import EpisodeSet, VideoError, episodes, open_episodes, probe_index, write_video
from vidreward.data.probe import VideoProbe, probe
from vidreward.data.probe_index import Entry, ProbeIndex, StoredIndex, to_table
from vidreward.data.sources import DiskSource, VideoFootage

NUM_FILES = 25


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("kinds")
    whole = write_video(folder / "a.webm", make_frames(9, (16, 24)), 12, codec="libvpx-vp9", gop=4).read_bytes()
    other = write_video(folder / "b.mp4", make_frames(5, (24, 16)), 30).read_bytes()
    counted = write_video(folder / "c.avi", make_frames(4, (16, 16)), 10, codec="mpeg4").read_bytes()
    return {"webm": whole, "mp4": other, "avi": counted, "cut.webm": whole[: len(whole) // 2], "empty.mp4": b""}


@pytest.fixture
def folder(kinds: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDREWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(episodes, "MIN_INDEXED", 20)
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(NUM_FILES):
        kind = list(kinds)[number % len(kinds)]
        (root / f"{number}.{kind}").write_bytes(kinds[kind])
    return root


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really probed."""
    names: list[str] = []

    def note(path: Path) -> VideoProbe:
        names.append(path.name)
        return probe(path)

    monkeypatch.setattr(probe_index, "probe", note)
    return names


def index_file(folder: Path) -> Path:
    (path,) = (folder.parent / "cache").glob("*.probes")
    return path


def check_same(one: EpisodeSet, other: EpisodeSet) -> None:
    assert [episode.info for episode in one] == [episode.info for episode in other]
    assert one.quarantine == other.quarantine
    for a, b in zip(one, other, strict=True):
        assert isinstance(a.source, DiskSource)
        assert isinstance(b.source, DiskSource)
        check_same_video(footage_of(a.source).video, footage_of(b.source).video)
        assert np.array_equal(a.frames([3, 0]), b.frames([3, 0]))
    assert one.fingerprint() == other.fingerprint()


def footage_of(source: DiskSource) -> VideoFootage:
    footage = source.footage["default"]
    assert isinstance(footage, VideoFootage)
    return footage


def check_same_video(one: VideoProbe, other: VideoProbe) -> None:
    for name in VideoProbe.__slots__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and np.array_equal(a, b), name
        else:
            assert type(a) is type(b) and a == b, name


def test_the_second_opening_probes_nothing(folder: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_episodes(folder)
    assert len(probed) == NUM_FILES
    assert len(first) == NUM_FILES * 3 // 5
    check_same(first, open_episodes(folder))
    assert len(probed) == NUM_FILES
    monkeypatch.setattr(episodes, "MIN_INDEXED", 10**9)
    check_same(first, open_episodes(folder))  # and without an index all is the same


def test_changed_new_and_removed_files(folder: Path, probed: list[str], kinds: dict[str, bytes]) -> None:
    first = open_episodes(folder)
    probed.clear()
    changed = folder / "0.webm"
    status = changed.stat()
    data = bytearray(kinds["webm"])
    data[-20] ^= 1  # the same size, and the old time of modification
    changed.write_bytes(data)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "3.cut.webm").write_bytes(kinds["webm"])
    (folder / "new.mp4").write_bytes(kinds["mp4"])
    (folder / "1.mp4").unlink()
    second = open_episodes(folder)
    assert sorted(probed) == ["0.webm", "3.cut.webm", "new.mp4"]
    ids = {episode.id for episode in second}
    assert ids == {episode.id for episode in first} - {"1.mp4"} | {"3.cut.webm", "new.mp4"}
    assert second.fingerprint() != first.fingerprint()
    probed.clear()
    check_same(second, open_episodes(folder))
    assert probed == []


def test_settings_share_the_index_and_other_folders_do_not(folder: Path, probed: list[str]) -> None:
    open_episodes(folder)
    probed.clear()
    assert open_episodes(folder, size=8, fps=5)[0].frames([0]).shape == (1, 3, 8, 8)
    assert probed == []
    copy = shutil.copytree(folder, folder.with_name("copy"))
    open_episodes(copy, cache_dir=folder.parent / "elsewhere")
    assert len(probed) == NUM_FILES
    assert len(list((folder.parent / "elsewhere").iterdir())) == 1
    assert len(list((folder.parent / "cache").iterdir())) == 1


def test_results_of_other_versions_do_not_count(
    folder: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_episodes(folder)
    monkeypatch.setattr(probe_index, "PROBE_VERSION", -1)
    open_episodes(folder)
    assert len(probed) == 2 * NUM_FILES
    assert capsys.readouterr().err == ""


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "cut off":
        del data[len(data) // 2 :]
    elif kind == "empty":
        data.clear()
    elif kind == "text":
        data[:] = b"no index at all" * 100
    elif kind == "flipped data":
        data[60] ^= 255
    elif kind == "flipped footer":
        data[-3] ^= 255
    path.write_bytes(data)
    table = pa.table({"path": ["0.webm"]})
    if kind == "other columns":
        pyarrow.parquet.write_table(table.replace_schema_metadata({"versions": probe_index.versions()}), path)
    elif kind == "a folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "kind", ["cut off", "empty", "text", "flipped data", "flipped footer", "other columns", "a folder"]
)
def test_a_damaged_index_is_said_and_made_again(
    folder: Path, probed: list[str], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    first = open_episodes(folder)
    path = index_file(folder)
    damage(path, kind)
    probed.clear()
    check_same(first, open_episodes(folder))
    assert len(probed) == NUM_FILES
    assert f"{path}: damaged" in capsys.readouterr().err
    if kind != "a folder":
        probed.clear()
        check_same(first, open_episodes(folder))
        assert probed == []


def test_a_folder_that_cannot_be_written_to_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "cache").write_text("a file")
    assert len(open_episodes(folder)) == NUM_FILES * 3 // 5
    said = capsys.readouterr().err
    assert "not written" in said
    assert "probed again" in said


def test_what_may_pass_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> VideoProbe:
        if path.name == "0.webm":
            raise VideoError(f"{path}: the network is away") from OSError(errno.EIO, "Input/output error")
        return probe(path)

    with monkeypatch.context() as patch:
        patch.setattr(probe_index, "probe", fail)
        quarantine = open_episodes(folder).quarantine
    assert [entry.reason for entry in quarantine if entry.file == "0.webm"] == ["the network is away"]
    assert "0.webm" in {episode.id for episode in open_episodes(folder)}


def test_an_interrupted_opening_keeps_what_it_found(folder: Path, probed: list[str]) -> None:
    def interrupt(path: Path) -> VideoProbe:
        if len(probed) == NUM_FILES // 2:
            raise KeyboardInterrupt
        probed.append(path.name)
        return probe(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_index, "probe", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_episodes(folder)
    before = len(probed)
    open_episodes(folder)
    assert len(probed) == NUM_FILES == len(set(probed))
    assert before == NUM_FILES // 2


def test_several_may_open_at_once(folder: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(lambda _: open_episodes(folder), range(3)))
    for other in (*opened[1:], open_episodes(folder)):
        check_same(opened[0], other)
    assert [path.name for path in (folder.parent / "cache").iterdir()] == [index_file(folder).name]


def test_small_folders_leave_no_trace(folder: Path) -> None:
    for number in range(6):
        next(iter(sorted(folder.glob(f"{number}.*")))).unlink()
    open_episodes(folder)
    assert not (folder.parent / "cache").exists()


def test_a_long_opening_is_saved_on_the_way(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_index, "SECONDS_BETWEEN_SAVES", 0.0)
    index = ProbeIndex(folder, tmp_path / "cache")
    for number, path in enumerate(sorted(folder.glob("*.mp4"))[:3]):
        if path.stat().st_size:
            index.probe(path)
            index.save_now_and_then()
        stored = probe_index.read_index(index.path)
        assert stored is not None
        assert stored.table.num_rows == len(index._found) >= min(number, 1)


finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.integers(-(2**63), 2**63 - 1)


@given(
    entries=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.tuples(
            st.lists(finite, min_size=1, max_size=6), st.booleans(), st.lists(numbers, max_size=4), st.text("ab")
        ),
        max_size=5,
    )
)
def test_every_entry_comes_back_as_it_was(entries: dict[str, tuple[list[float], bool, list[int], str]]) -> None:
    given_entries: dict[str, Entry] = {}
    for place, (name, (times, is_timed, keys, reason)) in enumerate(entries.items()):
        video = VideoProbe(
            num_frames=len(times),
            fps=12.5,
            width=place,
            height=3,
            codec="vp9",
            duration=0.1,
            times=np.array(times),
            pts=np.arange(len(times)) if is_timed else None,
            keys=np.array(keys[: len(keys) // 2 * 2], np.int64).reshape(-1, 2),
        )
        usable = not reason
        given_entries[name] = Entry(
            stamp=(place, 2**62, -1), content="ab" * usable, video=video if usable else None, reason=reason or None
        )
    stored = StoredIndex(to_table(given_entries))
    assert stored.entry("?" * 99) is None
    for name, entry in given_entries.items():
        found = stored.entry(name)
        assert found is not None
        assert (found.stamp, found.content, found.reason) == (entry.stamp, entry.content, entry.reason)
        assert (found.video is None) == (entry.video is None)
        if entry.video is not None and found.video is not None:
            check_same_video(entry.video, found.video)
