"""The whole command line, end to end, on tiny videos."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from clips import write_clips, write_outcomes, write_picture, write_something
from vidreward.cli import main
from vidreward.data.episodes import open_episodes

MY_REWARD = Path(__file__).parents[1] / "examples" / "my_reward.py"
QUICK = ["--preset", "debug", "--fit.steps", "6", "--fit.checkpoint-every", "2", "--fit.val-every", "3"]


def run(*words: object) -> int:
    """Run the command line in this process; returns its exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def weights(folder: Path) -> dict[str, np.ndarray]:
    newest = folder / "checkpoints" / (folder / "last").read_text().strip()
    return load_file(newest / "model.safetensors")


def strict_json(path: Path) -> object:
    """Parse JSON, refusing NaN and Infinity, which are not JSON."""

    def refuse(name: str) -> object:
        raise AssertionError(f"{path} holds {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def check_scores(folder: Path, num_frames: dict[str, int]) -> None:
    """Check the tables and pictures of `vidreward score`."""
    table = pq.read_table(folder / "scores.parquet")
    assert table.column_names == ["episode", "frame", "time", "score", "reward"]
    rows = table.to_pylist()
    for name, count in num_frames.items():
        mine = [row for row in rows if row["episode"] == name]
        assert [row["frame"] for row in mine] == list(range(count)), name
        assert all(np.isfinite(row["score"]) for row in mine)
        assert [row["reward"] is None for row in mine] == [True] + [False] * (count - 1)
        stem = name.removesuffix(".mp4")
        assert (folder / "plots" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert len(open_episodes(folder / "videos" / f"{stem}.mp4")[0].all_frames()) == count
    assert len(rows) == sum(num_frames.values())
    lines = (folder / "scores.csv").read_text().splitlines()
    assert lines[0].replace('"', "") == "episode,frame,time,score,reward"
    assert len(lines) == len(rows) + 1
    assert "<html" in (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder with videos to train on, held-out videos with their truth, and a trained run of each method."""
    folder = tmp_path_factory.mktemp("smoke")
    write_clips(folder / "videos")
    write_outcomes(folder / "heldout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDREWARD_CACHE", str(folder / "cache"))
        for name in ("hold_c", "hold_r"):
            assert run("train", name, *QUICK, "--data", folder / "videos", "--out", folder / name) == 0
        yield folder


def test_inspect(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", place / "heldout", "--out", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "success" in said
    assert "failure" in said


@pytest.mark.parametrize("name", ["hold_c", "hold_r"])
def test_train_writes_a_run(place: Path, name: str) -> None:
    settings = strict_json(place / name / "config.json")
    assert isinstance(settings, dict)
    assert settings["reward_model"] == name
    assert settings["fit"]["steps"] == 6
    assert (place / name / "last").read_text().strip() == "step-00000006"
    lines = [json.loads(line) for line in (place / name / "log.jsonl").read_text().splitlines()]
    assert any("train/loss" in line for line in lines)
    assert any("val/value_order_correlation" in line for line in lines)
    newest = place / name / "checkpoints" / "step-00000006"
    for file in ("config.json", "provenance.json", "training_state/state.json"):
        strict_json(newest / file)


def test_train_says_what_next(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "hold_c", *QUICK, "--data", place / "videos", "--out", place / "hold_c") == 0
    assert f"vidreward evaluate {place / 'hold_c'}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hold_c", "hold_r"])
def test_evaluate(place: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(place / name, tmp_path / "run")
    assert run("evaluate", tmp_path / "run", "--data", place / "heldout", "--group-by", "failure") == 0
    result = strict_json(tmp_path / "run" / "evaluation" / "evaluation.json")
    text = json.dumps(result)
    for metric in ("auroc", "spearman", "kendall", "clock", "shuffled", "turns round"):
        assert metric in text.lower(), metric
    assert "<html" in (tmp_path / "run" / "evaluation" / "report.html").read_text()


def test_score_a_folder_a_file_and_a_goal(place: Path, tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "two", 2, seed=3)
    goal = write_picture(tmp_path / "goal.png", open_episodes(videos)[1].all_frames()[3])
    assert run("score", place / "hold_c", videos, "--out", tmp_path / "folder") == 0
    check_scores(tmp_path / "folder", {"clip0.mp4": 12, "clip1.mp4": 12})
    assert run("score", place / "hold_r", videos / "clip1.mp4", "--out", tmp_path / "file") == 0
    check_scores(tmp_path / "file", {"clip1.mp4": 12})
    assert run("score", place / "hold_c", videos / "clip1.mp4", "--goal", goal, "--out", tmp_path / "goal") == 0
    check_scores(tmp_path / "goal", {"clip1.mp4": 12})
    scores = pq.read_table(tmp_path / "goal" / "scores.parquet")["score"].to_numpy()
    # HOLD-C's distance to the goal itself is 0, whatever it learned, but for float32's last bits
    assert scores[3] == scores.max() == pytest.approx(0, abs=1e-6)
    assert scores[0] < -1e-3
    rows = pq.read_table(tmp_path / "folder" / "scores.parquet").to_pylist()
    own = [row["score"] for row in rows if row["episode"] == "clip1.mp4"]
    assert own[-1] == max(own) == 0 > own[0]


def test_a_config_reruns_identically(place: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run("train", "hold_c", "--config", place / "hold_c" / "config.json", "--out", again) == 0
    first, second = weights(place / "hold_c"), weights(again)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert strict_json(again / "config.json") == strict_json(place / "hold_c" / "config.json")


def test_other_settings_in_the_same_folder_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "--data", place / "videos", "--out", place / "hold_c"]
    assert run("train", "hold_c", *words, "--fit.lr", "0.5", "--reward.margin", "0.3") == 2
    said = capsys.readouterr().err
    assert "fit.lr was 0.001, is 0.5" in said
    assert "reward.margin was 0.2, is 0.3" in said
    assert run("train", "hold_r", *words) == 2
    assert "reward_model was 'hold_c', is 'hold_r'" in capsys.readouterr().err


def test_an_interrupted_run_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vidreward.log

    step = vidreward.log.Logger.step

    def interrupt(self: vidreward.log.Logger, done: int) -> None:
        step(self, done)
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    words = ("train", "hold_c", *QUICK, "--data", place / "videos", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(vidreward.log.Logger, "step", interrupt)
        assert run(*words) == 130
    assert (tmp_path / "run" / "last").read_text().strip() in ("step-00000003", "step-00000004")
    assert run(*words) == 0
    whole, cut = weights(place / "hold_c"), weights(tmp_path / "run")
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") in (0, 1)
    assert "torch" in capsys.readouterr().out


# --- the installed command -------------------------------------------------------------------------------------------


def command(*words: object, cache: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "VIDREWARD_CACHE": str(cache), "COLUMNS": "200"}
    installed = Path(sys.executable).with_name("vidreward")
    return subprocess.run(
        [str(installed), *map(str, words)], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], *([verb, "--help"] for verb in ("demo", "doctor", "inspect", "record", "train"))]
    + [["convert", "--help"], ["score", "--help"], ["evaluate", "--help"], ["train", "hold_r", "--help"]],
    ids=" ".join,
)
def test_help_of_the_installed_command(words: list[str], tmp_path: Path) -> None:
    done = command(*words, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vidreward" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_interrupt_and_resume_of_the_installed_command(tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "videos")
    words = ["train", "hold_c", "--preset", "debug", "--fit.steps", "150", "--data", videos]
    assert command(*words, "--out", tmp_path / "whole", cache=tmp_path / "cache").returncode == 0
    env = {**os.environ, "OMP_NUM_THREADS": "1", "VIDREWARD_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("vidreward")), *map(str, words), "--out", str(tmp_path / "cut")],
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "/150 (" in line:
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    done = command(*words, "--out", tmp_path / "cut", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


@pytest.mark.slow
def test_exit_statuses_of_the_installed_command(tmp_path: Path) -> None:
    done = command("inspect", tmp_path / "nowhere", cache=tmp_path)
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert command("train", cache=tmp_path).returncode == 2
    videos = write_clips(tmp_path / "videos")
    words = ["train", "hold_r", *QUICK, "--data", videos, "--out", tmp_path / "run"]
    done = command(*words, "--fit.lr", "1e30", "--fit.warmup-steps", "1", cache=tmp_path / "cache")
    assert done.returncode == 1, done.stderr  # the loss is not finite: the episodes are named, no traceback
    assert "clip" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_something_something_and_a_model_of_ones_own(tmp_path: Path) -> None:
    data, out, cache = write_something(tmp_path / "ssv2"), tmp_path / "run", tmp_path / "cache"
    done = command("train", "hold_c", *QUICK, "--data", data, "--out", out, cache=cache)
    assert done.returncode == 0, done.stderr
    for words in (["score", out, data, "--out", tmp_path / "scored"], ["evaluate", out, "--data", data]):
        later = command(*words, cache=cache)
        assert later.returncode == 0, later.stderr
        for name in ("2000", "2001", "2002"):
            assert any(name in line for line in later.stderr.splitlines()[-4:]), later.stderr
    for name in ("2000", "2001", "2002"):
        assert any(name in line for line in done.stderr.splitlines()[-4:]), done.stderr
    assert len(set(pq.read_table(tmp_path / "scored" / "scores.parquet")["episode"].to_pylist())) == 8

    mine = ["--model-file", MY_REWARD]
    done = command("train", MY_REWARD, *QUICK[:4], "--data", data, "--out", tmp_path / "order", cache=cache)
    assert done.returncode == 0, done.stderr
    assert (
        command("score", tmp_path / "order", data / "1000.webm", *mine, "--out", tmp_path / "s", cache=cache).returncode
        == 0
    )
    assert command("evaluate", tmp_path / "order", "--data", data, *mine, cache=cache).returncode == 0
    refused = command("score", tmp_path / "order", data, "--out", tmp_path / "s", cache=cache)
    assert refused.returncode == 2
    assert "--model-file" in refused.stderr
