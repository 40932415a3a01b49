"""`vidreward rl` and `rl-report` end to end, and every mistake that is told before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clips import write_picture
from vidreward.checkpoint import Description, save_checkpoint
from vidreward.cli import main
from vidreward.data.encode import write_video
from vidreward.data.episodes import open_episodes
from vidreward.log import read_log
from vidreward.rewards.hold_c import HoldCConfig
from vidreward.rl.rl_config import EnvConfig, PayConfig, RlConfig, find_presets, load_agent
from vidreward.rl.setup import prepare, see_beginnings
from vidreward.types import DataSpec

TINY = [
    *("--steps", 40, "--eval-every", 20, "--eval-episodes", 2, "--eval-videos", 1, "--checkpoint-every", 20),
    *("--log-every", 10, "--env.max-steps", 10, "--env.size", 32, "--replay-gb", 0.1),
]
SAC = ["--agent.start-steps", 10, "--agent.update-after", 10, "--agent.hidden-dims", 8, "--agent.batch-size", 8]


def run(*words: object) -> int:
    """Run the command line in this process; returns its exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def write_model(folder: Path, *, camera: str = "default", size: int = 32) -> Path:
    """Write a checkpoint of a small HOLD-C, as training leaves it."""
    config = HoldCConfig(depth=14, num_filters=4, num_frames=8)
    data = DataSpec(height=size, width=size, fps=10.0, cameras=(camera,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = config.build(data)
    description = Description(reward="hold_c", config=config, data=data, preprocessing={"size": size})
    save_checkpoint(folder, model, description, provenance={})
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a reward model and a finished run that it pays."""
    folder = tmp_path_factory.mktemp("rl")
    write_model(folder / "hold")
    words = ["--reward", folder / "hold", "--normalizer", 5, *TINY, *SAC]
    assert run("rl", "tabletop/reach", *words, "--out", folder / "run") == 0
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    assert isinstance(result, dict)
    return result


# -- end to end -----------------------------------------------------------------------------------------------------


def test_a_run_leaves_everything(place: Path) -> None:
    result = result_of(place / "run")
    assert (result["env"], result["label"], result["seed"]) == ("tabletop/reach", "hold + env reward", 0)
    assert [score["step"] for score in result["curve"]] == [20, 40]
    assert all(score["reward_return"] < 0 <= score["success_last"] <= score["success_any"] for score in result["curve"])
    assert result["normalizers"] == {"hold": 5}
    assert result["finished"]
    assert result["progress"]["num_updates"] == 31
    assert {"act", "update", "environment", "reward", "evaluation"} <= set(result["progress"]["seconds"])
    video = open_episodes(place / "run" / "videos" / "step-000000040" / "episode-0.mp4")[0]
    assert video.num_frames == 11
    names = {name for line in read_log(place / "run" / "log.jsonl") for name in line}
    assert {"train/success", "eval/success_any", "eval/reward_return", "train/return/hold", "train/return/env"} <= names
    config = json.loads((place / "run" / "config.json").read_text())
    assert (config["kind"], config["agent_name"], config["agent"]["hidden_dims"]) == ("policy", "sac", [8])


def test_the_same_command_again_leaves_a_finished_run_alone(place: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "run" / "checkpoints").rglob("*") if path.is_file()}
    curve = result_of(place / "run")["curve"]
    words = ["--reward", place / "hold", "--normalizer", 5, *TINY, *SAC]
    assert run("rl", "tabletop/reach", *words, "--out", place / "run") == 0
    assert {path: path.read_bytes() for path in before} == before
    assert result_of(place / "run")["curve"] == curve


def test_eval_only(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--reward", place / "hold", "--normalizer", 5, *TINY, *SAC, "--out", place / "run"]
    assert run("rl", "tabletop/reach", *words, "--eval-only", "--eval-episodes", 3) == 0
    assert "over 3 episodes" in capsys.readouterr().out
    assert json.loads((place / "run" / "evaluation" / "evaluation.json").read_text())["step"] == 40
    assert (place / "run" / "evaluation" / "episode-0.mp4").is_file()
    words[-1] = place / "new"
    assert run("rl", "tabletop/reach", *words, "--eval-only") == 2
    assert "train first" in capsys.readouterr().err
    assert not (place / "new").exists()


def test_report_of_runs(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "--agent", "random", "--eval-videos", 0]
    assert run("rl", "tabletop/reach", *words, "--out", tmp_path / "random") == 0
    assert result_of(tmp_path / "random")["label"] == "random"
    assert run("rl-report", place / "run", tmp_path / "random", "--out", tmp_path / "page.html") == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text()
    assert "hold + env reward" in text
    assert "<video" in text
    assert (tmp_path / "page.png").is_file()


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["--eval-videos", 0], "env reward"),
        (["--reward", "oracle", "--env-weight", 0, "--eval-videos", 0], "oracle"),
        (
            ["--reward", "pixels", "oracle", "--reward-weight", 0.5, "--normalizer", "initial"],
            "pixels + oracle + env reward",
        ),
        (["--reward", "pixels", "--difference", "--agent.observation", "pixels"], "pixels + env reward"),
    ],
)
def test_every_reward_under_the_same_switch(tmp_path: Path, words: list[object], label: str) -> None:
    assert run("rl", "tabletop/reach", *TINY, *SAC, *words, "--out", tmp_path) == 0
    result = result_of(tmp_path)
    assert result["label"] == label
    assert len(result["curve"]) == 2
    has_video = (tmp_path / "videos").exists()
    assert has_video == ("--eval-videos" not in words)


def test_pixels_of_drqv2(tmp_path: Path) -> None:
    words = ["--agent", "drqv2", "--agent.hidden-dim", 8, "--agent.batch-size", 4, "--agent.start-steps", 10]
    words += ["--agent.update-after", 30, "--agent.update-every", 10, "--eval-videos", 0]
    assert run("rl", "tabletop/reach", *TINY, *words, "--out", tmp_path) == 0
    assert result_of(tmp_path)["progress"]["num_updates"] == 2


def test_goal_pictures_and_a_demonstration(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (6, 3, 32, 32)).astype(np.uint8)
    video = write_video(tmp_path / "demo.mp4", frames, 10)
    picture = write_picture(tmp_path / "goal.png", frames[0])
    other = write_picture(tmp_path / "end.png", frames[1])
    base = config_of(tmp_path / "run", PayConfig(reward=("pixels",)))
    for pay, shape in (
        (PayConfig(reward=("pixels",), goal=(picture,)), (1, 3, 32, 32)),
        (PayConfig(reward=("pixels",), goal=(video,), follow=True, distance="sq_eucl_huber"), (6, 3, 32, 32)),
        (PayConfig(reward=("pixels",), goal=(picture, other), subgoal_threshold=1.0), (2, 3, 32, 32)),
    ):
        with prepare(replace(base, pay=pay), "sac") as made:
            assert made.goal is not None
            assert made.goal.shape == shape
            assert made.payer.in_stages == (len(made.goal) > 1)


def config_of(out: Path, pay: PayConfig, **env: Any) -> RlConfig:
    return RlConfig(
        env=EnvConfig(**{"name": "tabletop/reach", "size": 32, **env}), agent=load_agent("sac"), pay=pay, out=out
    )


def test_initial_normalizer_pays_a_third_for_first_frames(tmp_path: Path) -> None:
    config = config_of(tmp_path, PayConfig(reward=("pixels",), normalizer="initial"), num_envs=3)
    with prepare(config, "sac") as made:
        first = [(e.frames([0])[0] / 255, e.goal()[0] / 255) for e in see_beginnings(made.env, config, None)]
        distances = [np.sqrt(((frame - goal) ** 2).sum()) for frame, goal in first]
        assert len(distances) == 18  # at least 16, three at a time
        assert made.normalizers["pixels"] == pytest.approx(3 * np.mean(distances), rel=1e-5)
        assert len({round(distance, 6) for distance in distances}) == 18
        shaping = made.payer.reward.terms[0].pays.shaping
    assert np.mean([shaping.scale * distance for distance in distances]) == pytest.approx(1 / 3, rel=1e-5)


# -- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tabletop/rech"], "did you mean 'reach'"),
        (["tabeltop/reach"], "did you mean 'tabletop'"),
        (["tabletop"], "name a task"),
        (["tabletop/reach", "--agent", "sacc"], "did you mean 'sac'"),
        (["tabletop/reach", "--preset", "nothing"], "no preset of sac 'nothing'"),
        (["tabletop/reach", "--env.settings", "embodyment=hand"], "did you mean 'embodiment'"),
        (["tabletop/reach", "--env.settings", "hand"], "NAME=VALUE"),
        (["tabletop/reach", "--env.camera", "sidde"], "did you mean 'side'"),
        (["tabletop/reach", "--reward", "no/such/run"], "no/such/run is not there"),
        (["tabletop/reach", "--env-weight", "0"], "nothing is paid"),
        (["tabletop/reach", "--reward", "{hold}"], "pictures are 64x64 and hold was trained on 32x32"),
        (["tabletop/reach", "--reward", "{side}", "--env.size", "32"], "camera is 'top' and side was trained on"),
        (["tabletop/reach", "--reward", "pixels", "--env.settings", "pixels=false"], "observation['pixels']"),
        (["tabletop/reach", "--reward", "pixels", "--env.settings", "goals=false"], "give --goal PICTURE"),
        (["tabletop/reach", "--reward", "pixels", "--subgoal-threshold", "1"], "tabletop/reach gives one"),
        (["tabletop/reach", "--reward", "pixels", "--goal", "{hold}/config.json"], "the goal cannot be read"),
        (["tabletop/reach", "--goal", "goal.png"], "--goal has no effect"),
        (["tabletop/reach", "--reward", "{run}"], "is a policy that `vidreward rl` trained"),
        (["tabletop/reach", "--reward", "{run}/checkpoints/step-000000040"], "is a policy that `vidreward rl` trained"),
        (["tabletop/reach", "--agent", "drqv2", "--agent.observation", "state"], "DrQ-v2 learns from pictures"),
        (["tabletop/reach", "--steps", "0"], "steps must be at least 1"),
        (["tabletop/reach", "--replay-gb", "0.0001"], "the limit is 0.00 GB"),
        (["tabletop/reach", "--normalizer", "-1"], "must be more than 0"),
        (["--steps", "5"], "name an environment first"),
    ],
)
def test_mistakes_are_told_before_the_first_step(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    if not (place / "side").exists():
        write_model(place / "side", camera="side")
    names = {"hold": place / "hold", "side": place / "side", "run": place / "run"}
    assert run("rl", *(word.format(**names) for word in words), "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_kind_is_not_gone_on_with(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--reward", place / "hold", "--normalizer", 5, *TINY, "--out", place / "run"]
    assert run("rl", "tabletop/reach", *words, *SAC, "--agent.lr", 0.1) == 2
    assert "agent.lr was 0.0003, is 0.1" in capsys.readouterr().err
    assert run("rl", "tabletop/reach", *words, "--agent", "random") == 2
    assert "agent_name was 'sac', is 'random'" in capsys.readouterr().err
    assert run("rl", "tabletop/push", *words, *SAC) == 2
    assert "env.name was 'tabletop/reach', is 'tabletop/push'" in capsys.readouterr().err
    words[-1] = place / "hold"
    assert run("rl", "tabletop/reach", *words, *SAC) == 2
    assert "something else than a policy's run" in capsys.readouterr().err


def test_other_weights_in_the_same_folder_are_noticed(place: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "out", PayConfig(reward=(str(write_model(tmp_path / "hold")),)))
    with prepare(config, "sac") as made:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "config.json").write_text(json.dumps(dict(made.saving.config)))
    with prepare(config, "sac"):
        pass
    model = HoldCConfig(depth=14, num_filters=4, num_frames=8).build(DataSpec(height=32, width=32, fps=10.0))
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    data = DataSpec(height=32, width=32, fps=10.0)
    description = Description(
        reward="hold_c",
        config=HoldCConfig(depth=14, num_filters=4, num_frames=8),
        data=data,
        preprocessing={"size": 32},
    )
    save_checkpoint(tmp_path / "hold", model, description, provenance={})
    with pytest.raises(ValueError, match=r"rewards\.hold was '\w{16}', is"), prepare(config, "sac"):
        pass


def damage_agent(folder: Path) -> None:
    (folder / "agent.safetensors").write_bytes(b"nothing")


def damage_state(folder: Path) -> None:
    (folder / "state.json").write_text("{")


def claim_another_agent(folder: Path) -> None:
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | {"agent": "drqv2"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_agent, "agent.safetensors is damaged"),
        (damage_state, "state.json is damaged"),
        (claim_another_agent, "is a checkpoint of 'drqv2', not of 'sac'"),
    ],
)
def test_damaged_checkpoints_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    words = ["tabletop/reach", *TINY, *SAC, "--eval-videos", 0, "--out", tmp_path]
    assert run("rl", *words) == 0
    damage(tmp_path / "checkpoints" / (tmp_path / "last").read_text().strip())
    capsys.readouterr()
    assert run("rl", *words) == 2
    assert said in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rl", "--help") == 0
    said = capsys.readouterr().out
    for option in ("--agent NAME", "--preset NAME", "--eval-only", "--reward-weight", "--env-weight", "--agent.lr"):
        assert option in said


def test_presets_are_the_agents_recipes() -> None:
    from vidreward.rl import sac

    assert find_presets(sac)["hold"] == "recipe_hold"
    assert not load_agent("sac", "hold").bootstrap_on_timeout
    assert load_agent("sac").bootstrap_on_timeout
