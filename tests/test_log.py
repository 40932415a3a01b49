"""What the logger keeps, what it prints, and what a killed run leaves."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidreward import log as log_module
from vidreward.log import Logger, read_log, to_floats


def records(folder: Path) -> list[tuple[int, dict[str, object]]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line.pop("step"), {k: v for k, v in line.items() if k != "time"}) for line in lines]


def write(folder: Path, steps: range, start_step: int = 0) -> None:
    with Logger(folder, quiet=True) as log:
        log.start(100, start_step, "train")
        for step in steps:
            log.scalars(step, {"train/loss": step / 2})


def test_numbers_and_tensors_are_kept_by_name(tmp_path: Path) -> None:
    with Logger(tmp_path, quiet=True) as log:
        log.start(10, 0, "train")
        loss = torch.tensor(0.25, requires_grad=True)
        log.scalars(1, {"a": loss, "b": 3, "c": torch.tensor([7]), "d": torch.tensor(0.5, dtype=torch.bfloat16)})
        log.scalars(2, {"a": float("nan"), "b": torch.tensor(float("inf"))})
        log.message("validated")
    assert records(tmp_path) == [
        (1, {"a": 0.25, "b": 3.0, "c": 7.0, "d": 0.5}),
        (2, {"a": None, "b": None}),
        (0, {"message": "validated"}),
    ]
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 0]


def test_order_of_names_is_kept() -> None:
    assert list(to_floats({"z": 1, "a": torch.tensor(2.0), "m": 3})) == ["z", "a", "m"]
    assert to_floats({}) == {}


@pytest.mark.parametrize("shape", [(2,), (0,), (3, 1)])
def test_more_than_one_number_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'train/loss' has shape .*mean"):
        to_floats({"train/loss": torch.zeros(shape)})


def test_resuming_drops_later_and_half_written_lines(tmp_path: Path) -> None:
    write(tmp_path, range(1, 9))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "train/lo')
    write(tmp_path, range(6, 8), start_step=5)
    assert [step for step, _ in records(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_fresh_start_keeps_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    write(tmp_path, range(0, 9))
    write(tmp_path, range(0, 2))
    assert [step for step, _ in records(tmp_path)] == [0, 1]


def test_a_second_bar_in_one_run_keeps_the_lines_of_the_first(tmp_path: Path) -> None:
    with Logger(tmp_path, quiet=True) as log:
        for description in ("cache", "train"):
            log.start(5, 0, description)
            log.scalars(5, {description: 1.0})
    assert len(records(tmp_path)) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from vidreward.log import Logger
log = Logger(Path(sys.argv[1]), quiet=True)
log.start(100, 0, "train")
for step in range(1, 8):
    log.scalars(step, {"loss": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_its_lines(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert [step for step, _ in records(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_without_a_terminal_each_tenth_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Logger(None) as log:
        log.start(1000, 0, "train")
        for step in range(1, 1001):
            log.step(step)
            if step == 100:
                log.scalars(step, {"train/loss": 0.125})
        log.message("[bold]as it is[/bold]")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 1000 steps, 0 done"
    assert [line.split(" (")[0] for line in lines[1:11]] == [f"train: {n}/1000" for n in range(100, 1001, 100)]
    assert "steps/s" in lines[1]
    assert "left" in lines[1]
    assert lines[2].endswith("train/loss 0.125")
    assert lines[11:] == ["[bold]as it is[/bold]"]


def test_without_a_terminal_slow_steps_are_lines_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now)
    with Logger(None) as log:
        log.start(1000, 500, "train")
        for step in range(501, 513):
            now += 4
            log.step(step)
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines[0] == "train: 503/1000 (50 %), 0.25 steps/s, 0:33:08 left"
    assert len(lines) == 4


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Logger(tmp_path, quiet=True) as log:
        log.start(1, 0, "train")
        log.step(1)
        log.message("text")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with Logger(tmp_path) as log:
        log.start(10, 0, "train")
        log.scalars(4, {"train/loss": 0.125})
        log.step(4)
    output = capsys.readouterr().err
    assert "4/10" in output
    assert "train/loss 0.125" in output


def test_use_before_start_is_a_clear_error() -> None:
    log = Logger(None, quiet=True)
    with pytest.raises(RuntimeError, match=r"Logger\.start"):
        log.step(1)
    log.close()
    log.close()


def test_a_folder_without_room_for_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        Logger(tmp_path / "file", quiet=True).start(1, 0, "train")


def test_backends_are_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="tensorboard, wandb"):
        Logger(tmp_path, backends=("comet",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give dir"):
        Logger(None, backends=("tensorboard",))
    monkeypatch.setattr(log_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'vidreward\[wandb\]'"):
        Logger(tmp_path, backends=("wandb",))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_numbers_and_forgets_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps, start_step in ((range(1, 7), 0), (range(4, 6), 3)):
        with Logger(tmp_path, backends=("tensorboard",), quiet=True) as log:
            log.start(10, start_step, "train")
            for step in steps:
                log.scalars(step, {"train/loss": torch.tensor(step / 4)})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(n, n / 4) for n in range(1, 6)]


@pytest.mark.slow
def test_wandb_offline_run_is_continued_under_its_name(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for start_step in (0, 1):
        with Logger(tmp_path, backends=("wandb",), quiet=True) as log:
            log.start(2, start_step, "train")
            log.scalars(start_step + 1, {"train/loss": 0.5})
    identity = (tmp_path / "wandb_id").read_text()
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{identity}"))) in (1, 2)
