"""Recording: what is written, exact resume, refusals."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidreward.data.episodes import open_episodes
from vidreward.envs.record import RecordConfig, record_episodes
from vidreward.envs.tabletop_experts import FAILURES

CONFIG = RecordConfig(tasks=("reach", "push"), embodiment="gripper", num_episodes=4, failures=0.5, num_workers=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_episodes(tmp_path_factory.mktemp("recorded") / "videos", CONFIG)


def test_recording_opens_with_its_truth(recorded: Path) -> None:
    episodes = open_episodes(recorded)
    assert len(episodes) == 8
    assert not episodes.quarantine
    assert sorted({str(e.task) for e in episodes}) == ["push", "reach"]
    assert [e.success for e in episodes].count(True) == 4
    for episode in episodes:
        progress = episode.column("progress")
        assert progress is not None
        assert len(progress) == episode.num_frames
        assert episode.has_goal
        failure = episode.info.metadata["failure"]
        assert (failure is None) == episode.success
        assert failure is None or failure in FAILURES
        if episode.success:
            assert progress[-1] == pytest.approx(1)
        state, action = episode.column("state"), episode.column("action")
        assert state is not None and action is not None
        assert state.shape == (episode.num_frames, 23)
        assert action.shape == (episode.num_frames, 3)
        assert json.loads(str(episode.info.metadata["layout"]))["task"] == episode.task


def test_recording_again_changes_nothing(recorded: Path) -> None:
    before = contents(recorded)
    record_episodes(recorded, replace(CONFIG, num_workers=2))
    assert contents(recorded) == before


def test_another_recording_in_the_same_folder_is_refused(recorded: Path) -> None:
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        record_episodes(recorded, replace(CONFIG, seed=1))
    with pytest.raises(ValueError, match="not empty"):
        record_episodes(recorded.parent, CONFIG)


def test_two_cameras(tmp_path: Path) -> None:
    record_episodes(tmp_path / "v", RecordConfig(tasks=("reach",), num_episodes=1, cameras=("top", "side")))
    (episode,) = open_episodes(tmp_path / "v")
    assert episode.cameras == ("top", "side")
    assert np.abs(episode.frames([0], "top").astype(int) - episode.frames([0], "side")).mean() > 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "minecraft"}, "tabletop, metaworld"),
        ({"failures": 2.0}, "between 0 and 1"),
        ({"tasks": ("fly",)}, "reach, push"),
    ],
)
def test_wrong_settings_are_explained(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record_episodes(tmp_path / "v", RecordConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.slow
def test_killed_recording_ends_with_the_same_files(tmp_path: Path) -> None:
    words = ["record", "--tasks", "reach", "push", "--num-episodes", "12", "--failures", "0.25", "--seed", "5"]
    command = [sys.executable, "-m", "vidreward", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, env=env)
    longest = time.monotonic() - started
    rng = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.DEVNULL, env=env)
        time.sleep(rng.uniform(0.3, 0.9) * longest)
        process.kill()
        process.wait()
    subprocess.run([*command, str(tmp_path / "cut")], check=True, capture_output=True, env=env)
    whole, cut = contents(tmp_path / "whole"), contents(tmp_path / "cut")
    assert {name: data for name, data in cut.items() if ".tmp~" not in name} == whole


@pytest.mark.slow
def test_metaworld_is_recorded_the_right_way_up(tmp_path: Path) -> None:
    pytest.importorskip("metaworld", reason="the metaworld extra is not installed")
    config = RecordConfig(env="metaworld", tasks=("drawer-open-v3",), num_episodes=1, size=96, num_workers=1)
    record_episodes(tmp_path / "v", config)
    (episode,) = open_episodes(tmp_path / "v")
    assert episode.success
    assert 15 <= episode.num_frames <= 260
    first, last = episode.frames([0, episode.num_frames - 1]).astype(int)
    assert np.abs(first - last).mean() > 1
    # upright: the wall above is flat, the wooden table below is not
    assert first[:, :20].std((1, 2)).mean() < first[:, -40:].std((1, 2)).mean()
