"""Wrong use of each command: exit status 2 and one message that says what was given, what is valid, what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clips import write_clips
from dots import dot_frames
from vidreward.cli import main
from vidreward.data.encode import write_video

MY_REWARD = Path(__file__).parents[1] / "examples" / "my_reward.py"
DEBUG = ["--preset", "debug", "--fit.steps", "2", "--reward.depth", "14"]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make good videos, bad ones, good runs and bad ones; tests run in this folder."""
    folder = tmp_path_factory.mktemp("cli")
    write_clips(folder / "videos", 4)
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "torn.mp4").write_bytes(b"torn" * 30)
    write_video(folder / "still" / "one.mp4", dot_frames(1, np.random.default_rng(0)), 10)
    (folder / "text.png").write_text("no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("VIDREWARD_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("COLUMNS", "300")
        assert run("train", "hold_c", *DEBUG, "--data", "videos", "--out", "run") == 0
        assert run("train", MY_REWARD, *DEBUG, "--data", "videos", "--out", "order") == 0
        newest = folder / "run" / "checkpoints" / "step-00000002"
        shutil.copytree(newest, folder / "torn")
        (folder / "torn" / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:500])
        shutil.copytree(newest, folder / "newer")
        header = json.loads((newest / "config.json").read_text())
        (folder / "newer" / "config.json").write_text(json.dumps({**header, "format": 99}))
        yield folder


TRAIN = "train hold_c --preset debug --out new"
SCORE = "score run videos --out scored"
WRONG = {
    "trian": ["no command 'trian'", "did you mean 'train'"],
    "train hold_x --data videos": ["no reward model 'hold_x'", "did you mean 'hold_r'"],
    "train nothing_like --data videos": ["no reward model", "hold_c, hold_r", "or give a file"],
    "train pixels --data videos": ["nothing to train", "vidreward score"],
    "train absent.py --data videos": ["absent.py does not exist", "Python file"],
    "train hold_c --preset debgu --data videos": ["no preset 'debgu'", "did you mean 'debug'"],
    "train hold_c --preset debug --config run/config.json": ["--preset and --config"],
    "train hold_r --config run/config.json": ["run of 'hold_c', not of 'hold_r'"],
    "train hold_c --config absent.json": ["absent.json is not readable", "config.json of a run"],
    "train hold_c --config run/checkpoints/step-00000002/config.json": ["is not the config.json of a run"],
    f"{TRAIN}": ["no videos given", "--data FOLDER"],
    f"{TRAIN} --data absent": ["absent does not exist", "folder of videos"],
    f"{TRAIN} --data empty": ["empty: no episodes", "mp4"],
    f"{TRAIN} --data broken": ["broken: no episodes", "torn.mp4"],
    f"{TRAIN} --data still": ["still: 1 episodes", "at least two"],
    f"{TRAIN} --data videos --data.tasks juggle": ["no task juggle in videos", "metadata.csv"],
    f"{TRAIN} --data videos --data.camera left": ["no camera 'left'", "default"],
    f"{TRAIN} --data videos --data.validation 1.5": ["more than 0 and less than 1; got 1.5"],
    f"{TRAIN} --data videos --data.size 0": ["size must be", "got (0, 0)"],
    f"{TRAIN} --data videos --data.crop 0.5 0 0.2 1": ["crop must have", "got (0.5"],
    f"{TRAIN} --data videos --fit.device nonsense": ["no device 'nonsense'", "auto, cpu"],
    f"{TRAIN} --data videos --fit.steps 0": ["fit.steps must be at least 1; got 0"],
    f"{TRAIN} --data videos --fit.weight-decay 0.1": ["no effect with adam; use --fit.optimizer adamw"],
    f"{TRAIN} --data videos --fit.stepz 3": ["--fit.stepz", "--fit.steps"],
    f"{TRAIN} --data videos --reward.depth 19": ["19", "14"],
    f"{TRAIN} --data videos --reward.num-filters -2": ["no model can be built", "num_filters=-2"],
    "train hold_c --data videos --out text.png": ["text.png is a file", "another --out"],
    "train hold_c --data videos --out text.png/run": ["text.png is a file", "another --out"],
    "score absent videos": ["absent is not there", "vidreward train"],
    "score empty videos": ["empty is not a checkpoint", "no model.safetensors"],
    "score text.png videos": ["text.png is a file"],
    "score owner/name videos": ["owner/name is no folder here", "Hub"],
    "score torn videos": ["model.safetensors is damaged"],
    "score newer videos": ["format 99 is not 1", "version"],
    "score order videos": ["'my_reward' is not one of vidreward's", "--model-file"],
    "score order videos --model-file absent.py": ["absent.py does not exist"],
    "score run absent": ["absent does not exist"],
    "score run empty": ["empty: no episodes"],
    "score run broken": ["torn.mp4"],
    f"{SCORE} --goal absent.png": ["absent.png", "cannot be read"],
    f"{SCORE} --goal text.png": ["the goal is no picture", "png or jpg"],
    f"{SCORE} --goal videos/clip0.mp4": ["the goal is no picture"],
    f"score order videos --model-file {MY_REWARD} --goal text.png": ["looks at no goal", "leave out --goal"],
    f"{SCORE} --device nonsense": ["no device 'nonsense'"],
    f"{SCORE} --camera left": ["no camera 'left'"],
    "score run videos --out text.png/scored": ["text.png is a file"],
    "evaluate run": ["--data"],
    "evaluate run --data absent": ["absent does not exist"],
    "evaluate absent --data videos": ["absent is not there"],
    "evaluate run --data broken": ["torn.mp4"],
    "evaluate run --data videos --unseen-tasks juggle": ["no task juggle in videos"],
    "evaluate run --data videos --group-by colour": ["colour"],
    "evaluate run --data videos --device nonsense": ["no device 'nonsense'"],
    "evaluate run --data videos --out text.png": ["text.png is a file"],
    "inspect absent": ["absent does not exist"],
    "inspect empty": ["empty: no episodes"],
    "inspect broken": ["torn.mp4"],
}


@pytest.mark.parametrize("words", WRONG, ids=lambda words: words.replace(str(MY_REWARD), "my_reward.py"))
def test_wrong_use_is_explained(place: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    before = sorted(path.name for path in place.iterdir())
    assert run(*words.split()) == 2
    said = " ".join(capsys.readouterr().err.split())
    for part in WRONG[words]:
        assert part in said, said
    assert "Traceback" not in said
    assert sorted(path.name for path in place.iterdir()) == before, "a refused command leaves nothing behind"


def test_a_one_frame_video_is_scored_and_evaluated(place: Path, tmp_path: Path) -> None:
    assert run("score", "run", "still", "--out", tmp_path) == 0
    assert (tmp_path / "plots" / "one.png").is_file()
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2


def test_settings_without_effect_are_said(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "videos", "--fit.warmup-steps", "9", "--out", tmp_path / "run"]
    assert run("train", "hold_c", *DEBUG, *words) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: fit.lr is never reached: the warm-up takes 9 of 2 steps; lower --fit.warmup-steps" in said


def test_quarantined_files_are_named_last(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "videos", tmp_path / "mixed")
    shutil.copy(place / "broken" / "torn.mp4", tmp_path / "mixed")
    assert run("train", "hold_c", *DEBUG, "--data", tmp_path / "mixed", "--out", tmp_path / "run") == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert "1 files were left out" in " ".join(lines[-3:])
    assert "torn.mp4" in " ".join(lines[-3:])


def test_version_and_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"vidreward {version('vidreward')}"
    assert run() == 0
    assert "score" in capsys.readouterr().out
    assert run("train") == 2
    assert "hold_c, hold_r" in capsys.readouterr().out
    assert run("train", "--help") == 0


@pytest.mark.parametrize("words", ["['--help']", "['train', '--help']", "['--version']"])
def test_help_does_not_wait_for_torch(words: str) -> None:
    code = (
        f"import sys\nfrom vidreward.cli import main\n"
        f"try: main({words})\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'av', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
