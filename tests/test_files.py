"""A reader sees the old content or the new, whatever happens to the writer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidreward import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_written_text_bytes_and_json_read_back(tmp_path: Path) -> None:
    files.write_text_atomic(tmp_path / "new" / "a.txt", "\u00e9\r\n")
    files.write_bytes_atomic(tmp_path / "b.bin", b"\x00\xff")
    files.write_json_atomic(tmp_path / "c.json", {"a": [1, 0.5, None, "\u00e9"]})
    assert (tmp_path / "new" / "a.txt").read_bytes() == "\u00e9\r\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert json.loads((tmp_path / "c.json").read_text()) == {"a": [1, 0.5, None, "\u00e9"]}
    assert names(tmp_path) == ["b.bin", "c.json", "new"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_json_has_no_word_for_and_says_where(tmp_path: Path, number: float) -> None:
    files.write_json_atomic(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match=r"'metrics'\]\[1\].*null"):
        files.write_json_atomic(tmp_path / "a.json", {"metrics": [0.5, number]})
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_json_refuses_other_types(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        files.write_json_atomic(tmp_path / "a.json", {"a": Path()})
    assert names(tmp_path) == []


def test_atomic_path_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    target.write_text("old")

    def interrupted() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".mp4"
            assert target.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["clip.mp4"]


def test_atomic_path_says_when_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "a"):
        pass


def test_atomic_folder_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("one", "two"):
        with files.atomic_folder(target) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / text).write_text(text)
            assert files.is_temporary(temporary)
        assert names(target / "deep") == [text]


def test_atomic_folder_keeps_the_old_folder_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()

    def fail() -> None:
        with files.atomic_folder(target) as temporary:
            (temporary / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(target) == []
    assert names(tmp_path) == ["model"]


def test_atomic_folder_refuses_to_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match="not a folder"), files.atomic_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "mine"
    assert names(tmp_path) == ["model"]


def test_folder_is_replaced_where_the_file_system_cannot_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    test_atomic_folder_replaces_a_folder_as_a_whole(tmp_path)


def test_recover_folder_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    real_rename = os.rename

    def rename_once(source: Path, destination: Path) -> None:
        if destination == target:
            raise InterruptedError
        real_rename(source, destination)

    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", rename_once)
    with pytest.raises(InterruptedError), files.atomic_folder(target):
        pass
    monkeypatch.undo()
    assert not target.exists()
    files.recover_folder(target)
    assert names(target) == ["old"]
    files.recover_folder(target)
    assert names(target) == ["old"]


def test_remove_stale_takes_only_what_a_dead_process_of_this_machine_left(tmp_path: Path) -> None:
    mine = files.temporary_beside(tmp_path / "a.json")
    host, me = mine.name.split("~")[1:3]
    dead = tmp_path / mine.name.replace(f"~{me}~", f"~{dead_process()}~")
    elsewhere = tmp_path / dead.name.replace(f"~{host}~", "~another-machine~")
    dead.mkdir()
    (dead / "inside").touch()
    for path in (mine, elsewhere, tmp_path / "result.json", tmp_path / ".tmp"):
        path.touch()
    assert files.remove_stale(tmp_path) == [dead]
    assert names(tmp_path) == sorted([mine.name, elsewhere.name, "result.json", ".tmp"])
    assert files.remove_stale(tmp_path / "absent") == []


@pytest.mark.parametrize("name", ["\u044e" * 100 + ".mp4", "a" * 250, "line\nbreak.txt", "..x", "a.sfx_" + "x" * 40])
def test_odd_names(tmp_path: Path, name: str) -> None:
    files.write_text_atomic(tmp_path / name, "text")
    assert names(tmp_path) == [name]
    assert files.is_temporary(files.temporary_beside(tmp_path / name))


WRITER = """
import sys
from pathlib import Path
from vidreward.files import atomic_folder, write_text_atomic
folder = Path(sys.argv[1])
for i in range(10**9):
    write_text_atomic(folder / "text", str(i) * 20000)
    with atomic_folder(folder / "model") as temporary:
        for name in "abc":
            (temporary / name).write_text(str(i))
    if i == 0:
        print("ready", flush=True)
"""


@pytest.mark.slow
def test_killed_writers_leave_whole_files_and_folders(tmp_path: Path) -> None:
    for attempt in range(10):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.013 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        files.recover_folder(tmp_path / "model")
        files.remove_stale(tmp_path)
        assert names(tmp_path) == ["model", "text"]
        text = (tmp_path / "text").read_text()
        assert text == text[: len(text) // 20000] * 20000
        assert names(tmp_path / "model") == ["a", "b", "c"]
        assert len({path.read_text() for path in (tmp_path / "model").iterdir()}) == 1
