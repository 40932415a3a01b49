"""What the commands do, from Python: outputs that never overwrite each other, videos opened as in training."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest

import vidreward
from clips import write_clips, write_outcomes
from dots import dot_frames
from vidreward.data.encode import write_video
from vidreward.data.episodes import open_episodes
from vidreward.evaluate import EvaluateConfig
from vidreward.jobs import (
    evaluate_run,
    evaluation_folder,
    file_names,
    named_apart,
    open_like_training,
    score_videos,
    train,
)
from vidreward.rewards.hold_c import recipe
from vidreward.run_config import check_config, check_out
from vidreward.scoring import score_episode
from vidreward.train_config import TrainConfig

EXAMPLES = Path(__file__).parents[1] / "examples"


def debug_config(videos: Path, out: Path, **data: object) -> TrainConfig:
    config = recipe("debug")
    data = {"path": str(videos), **data}
    return replace(config, data=replace(config.data, **data), fit=replace(config.fit, steps=2), out=out)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("jobs")
    write_clips(folder / "videos", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDREWARD_CACHE", str(folder / "cache"))
        train(debug_config(folder / "videos", folder / "run"), reward="hold_c", quiet=True)
        yield folder


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_videos_of_one_name_do_not_overwrite_each_other(place: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/same.mp4", "b/same.mp4", "b/same.webm", "b/deep/same.mp4"):
        codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        write_video(tmp_path / name, dot_frames(5 + len(name), rng), 10, codec=codec)
    given = [tmp_path / "a", tmp_path / "b", tmp_path / "b" / "same.mp4"]  # the last is in a folder given before
    score_videos(place / "run", given, out=tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    counts = {name: sum(row["episode"] == name for row in rows) for name in {row["episode"] for row in rows}}
    expected = ("a/same.mp4", "b/same.mp4", "b/same.webm", "b/deep/same.mp4")
    assert counts == {name: 5 + len(name) for name in expected}
    for kind, ending in (("plots", "png"), ("videos", "mp4")):
        made = sorted(str(p.relative_to(tmp_path / "out" / kind)) for p in (tmp_path / "out" / kind).rglob("*.*"))
        stems = ("a/same", "b/deep/same", "b/same.mp4", "b/same.webm")
        assert made == [f"{stem}.{ending}" for stem in stems]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in expected)


def test_file_names_are_different() -> None:
    ids = ["x.mp4", "x.webm", "take.1", "take.2", "a/x.mp4", "y"]
    assert file_names(ids) == ["x.mp4", "x.webm", "take.1", "take.2", "a/x", "y"]
    assert len(set(file_names(["x", "x.mp4", "x.mp4.mp4"]))) == 3


def test_one_folder_and_one_file_keep_their_short_names(place: Path) -> None:
    folder, file = (open_episodes(path) for path in (place / "videos", place / "videos" / "clip2.mp4"))
    assert [episode.id for episode in named_apart([folder])] == [f"clip{i}.mp4" for i in range(4)]
    assert [episode.id for episode in named_apart([file])] == ["clip2.mp4"]
    assert len(named_apart([file, folder, file])) == 4


def test_renamed_episodes_keep_goal_and_truth(tmp_path: Path) -> None:
    opened = open_episodes(write_outcomes(tmp_path / "videos"))
    for before, after in zip(opened, named_apart([opened, opened]), strict=True):
        assert (after.task, after.success, after.has_goal) == (before.task, before.success, before.has_goal)
        assert np.array_equal(after.column("progress"), before.column("progress"))
        assert np.array_equal(after.goal(), before.goal())


def test_videos_open_as_in_training(place: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "wide.mp4", dot_frames(30, np.random.default_rng(0), 64)[:, :, :40], 20)
    config = debug_config(
        place / "videos", tmp_path / "run", size=16, resize="crop", crop=(0.0, 0.0, 0.5, 1.0), fps=5.0
    )
    train(config, reward="hold_c", quiet=True)
    opened = open_like_training(tmp_path / "run", tmp_path / "wide.mp4")
    same = open_episodes(tmp_path / "wide.mp4", size=16, resize="crop", crop=(0.0, 0.0, 0.5, 1.0), fps=5.0)
    assert opened[0].fps == 5.0
    assert opened[0].num_frames < 30
    assert np.array_equal(opened[0].all_frames(), same[0].all_frames())
    assert len(score_episode(vidreward.load(tmp_path / "run"), opened[0])) == opened[0].num_frames
    with pytest.raises(ValueError, match="trained on 16x16"):
        score_episode(vidreward.load(tmp_path / "run"), open_episodes(tmp_path / "wide.mp4")[0])


def test_a_run_goes_on_with_settings_that_change_no_weight(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = debug_config(place / "videos", place / "run")
    monkeypatch.chdir(place)
    for path in ("videos", "./videos/", "run/../videos"):
        check_config(replace(config, data=replace(config.data, path=path, cache_gb=3.0)), "hold_c")
    check_config(replace(config, fit=replace(config.fit, num_workers=2, log_every=7, log=("tensorboard",))), "hold_c")
    with pytest.raises(ValueError, match=r"data.path was .*videos', is .*other'"):
        check_config(replace(config, data=replace(config.data, path="other")), "hold_c")
    with pytest.raises(ValueError, match=r"fit.seed was 0, is 1"):
        check_config(replace(config, fit=replace(config.fit, seed=1)), "hold_c")


def test_refused_training_leaves_no_folder(place: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        train(debug_config(tmp_path / "absent", tmp_path / "run"), reward="hold_c", quiet=True)
    train(debug_config(place / "videos", tmp_path / "run"), reward="hold_c", quiet=True)  # not held against the run


def test_a_name_may_have_a_dash(place: Path, tmp_path: Path) -> None:
    train(debug_config(place / "videos", tmp_path / "run"), reward="hold-c", quiet=True)
    assert vidreward.load(tmp_path / "run").frame_size == (32, 32)


def test_changed_videos_are_refused(place: Path, tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "videos", 4)
    train(debug_config(videos, tmp_path / "run"), reward="hold_c", quiet=True)
    write_video(videos / "clip1.mp4", dot_frames(9, np.random.default_rng(9)), 10)
    with pytest.raises(ValueError, match="trained on other videos"):
        train(debug_config(videos, tmp_path / "run"), reward="hold_c", quiet=True)


def test_where_evaluations_go(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluation_folder(place / "run") == place / "run" / "evaluation"
    assert evaluation_folder("owner/name") == Path("runs/owner/name/evaluation")
    data = write_outcomes(tmp_path / "heldout")
    _, report = evaluate_run(place / "run", data, EvaluateConfig(num_resamples=20), out=tmp_path / "here")
    assert report == tmp_path / "here" / "report.html"
    assert json.loads((tmp_path / "here" / "evaluation.json").read_text())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="no permission"):
        check_out(tmp_path / "a" / "b")


def test_example_score_a_video(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_example("score_a_video").main(str(place / "run"), str(place / "videos" / "clip1.mp4"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 12
    assert all(abs(float(words[3]) - float(words[5])) < 0.05 for words in lines)


def test_example_train_on_my_videos(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = write_outcomes(tmp_path / "heldout")
    load_example("train_on_my_videos").main(str(place / "videos"), str(held_out), str(tmp_path / "run"), "debug")
    assert "report:" in capsys.readouterr().out
    assert (tmp_path / "run" / "evaluation" / "report.html").is_file()


@pytest.mark.parametrize("name", ["score_a_video", "train_on_my_videos"])
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 30
