"""HOLD's table: known answers, vectors of the original, and results that survive kills and never change owner."""

from __future__ import annotations

import importlib.util
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy import ndarray
from rich.console import Console
from torch import Tensor

from clips import write_clips, write_something
from dots import dot_episodes, dot_frames
from goldens import golden
from vidreward.checkpoint import Description, save_checkpoint
from vidreward.cli import main
from vidreward.data.encode import write_video
from vidreward.data.pixels import VideoError
from vidreward.evaluate import EvaluateConfig, hold_metrics, hold_protocol
from vidreward.evaluate.hold_metrics import AS_CODED, compare_pairs, measure_video
from vidreward.evaluate.hold_protocol import evaluate_hold, predict_distances
from vidreward.evaluate.hold_table import HoldEvaluation
from vidreward.jobs import evaluate_hold_run
from vidreward.reward_model import RewardModel
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.types import DataSpec, Episode, EpisodeInfo, Inputs, Video

ROOT = Path(__file__).parents[1]
SPEC_DISTANCES = [5.0, 4.0, 4.5, 3.0, 1.0, 2.0]
QUICK = EvaluateConfig(num_resamples=200)


class ReadsDistance(RewardModel):
    """Read the distance from the episode's state, so that predictions can be chosen."""

    inputs = Inputs(state=True)

    def __init__(self, counts_frames_at: float | None) -> None:
        super().__init__()
        self.counts_frames_at = counts_frames_at

    def score(self, video: Video, *, seed: int = 0) -> Tensor:
        assert video.state is not None
        return -video.state[..., 0]


def chosen(distances: Sequence[float] | ndarray, *, id: str = "chosen", fps: float = 12.0) -> Episode:
    """Make an episode of one frame more than there are distances."""
    state = np.append(np.asarray(distances, np.float32), np.float32(0))[:, None]
    frames = np.zeros((len(state), 3, 8, 8), np.uint8)
    return Episode.from_frames(frames, id=id, fps=fps, columns={"state": state})


def evaluated(*episodes: Episode, counts_frames_at: float | None = 12.0) -> HoldEvaluation:
    return evaluate_hold(ReadsDistance(counts_frames_at), episodes, QUICK, show_progress=False)


def test_known_answers() -> None:
    found = evaluated(chosen(SPEC_DISTANCES))
    answers = {
        ("spearman", "as_coded"): 0.885714,
        ("spearman", "corrected_by_video"): 0.885714,
        ("misclassification_adjacent", "as_coded"): 0.4,
        ("misclassification_all_pairs", "paper"): 0.333333,
        ("misclassification_all_pairs", "corrected_by_frame"): 0.133333,
        ("hinge_steps", "corrected_by_frame"): 0.3,
        ("hinge_seconds", "as_coded"): 0.3 / 12,
        ("hinge_steps", "paper"): 0.25,
        ("hinge_seconds", "paper"): 0.25 / 12,
        ("mse_steps", "corrected_by_video"): 0.708333,
        ("mae_steps", "corrected_by_video"): 0.75,
        ("mae_seconds", "corrected_by_video"): 0.75 / 12,
        ("mse_steps", "as_coded"): 9.708333,
        ("mae_steps", "as_coded"): 2.75,
    }
    assert {key: found.value(*key) for key in answers} == pytest.approx(answers, abs=1e-6)


def test_corrected_times_use_both_rates() -> None:
    # 24 fps, and a model that counts at 12: half as many frames as the video has, and no error at all
    found = evaluated(chosen([2.0, 1.5, 1.0, 0.5], fps=24.0))
    for definition in ("corrected_by_video", "corrected_by_frame"):
        for metric in ("mse_steps", "mae_steps", "mse_seconds", "mae_seconds", "hinge_seconds"):
            assert found.value(metric, definition) == 0
    # as coded, raw frames are compared with the frame numbers 0..3, and seconds forget the mean rate
    assert found.value("mae_raw", "as_coded") == pytest.approx((2 + 0.5 + 1 + 2.5) / 4)
    assert found.value("mae_seconds", "as_coded") == pytest.approx((2 + 0.5 + 1 + 2.5) / 4 / 24)
    assert found.value("mae_steps", "as_coded") == pytest.approx((4 + 2 + 0 + 2) / 4)


@pytest.mark.parametrize("mode", ["holdr_steps", "holdc"])
def test_the_original_prints_the_same(mode: str) -> None:
    vectors = golden("hold_metrics/data.npz")
    episodes = [
        chosen(vectors[f"pred_{i}"], id=f"video{i}", fps=float(vectors["frame_rate"][i]))
        for i in range(len(vectors["num_frames"]))
    ]
    mean_fps = float(vectors["mean_fps"]) if mode == "holdr_steps" else None
    found = evaluated(*episodes, counts_frames_at=mean_fps)
    names = {key.split("/")[1] for key in vectors if key.startswith(f"{mode}/")}
    assert {AS_CODED[name] for name in names} == set(found.table["model"]["as_coded"])
    for name in names:
        tolerance = 1e-4 if "squared" in name else 1e-5
        expected = float(vectors[f"{mode}/{name}/final"])
        assert found.value(AS_CODED[name], "as_coded") == pytest.approx(expected, rel=tolerance, abs=1e-5), name


def test_a_model_that_counts_no_time_has_order_only() -> None:
    found = evaluated(chosen(SPEC_DISTANCES), counts_frames_at=None)
    order = {"spearman", "misclassification_adjacent", "misclassification_all_pairs"}
    for columns in found.table.values():
        assert set().union(*columns.values()) == order
    with pytest.raises(ValueError, match="no 'mse_steps' here; choose one of spearman"):
        found.value("mse_steps", "as_coded")


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.integers(-3, 3).map(float)), st.integers(1, 50))
def test_pairs_equal_a_plain_loop(values: ndarray, pairs_at_once: int) -> None:
    pairs = [(values[j], values[k]) for k in range(len(values)) for j in range(k)]
    expected = (
        sum(k > j for j, k in pairs),
        sum(k == j for j, k in pairs),
        sum(max(0.0, k - j) for j, k in pairs),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hold_metrics, "_PAIRS_AT_ONCE", pairs_at_once)
        assert compare_pairs(values) == expected


def test_videos_are_averaged_or_pooled() -> None:
    right, wrong = chosen([8, 7, 6, 5, 4, 3, 2, 1], id="right"), chosen([1, 2], id="wrong")
    found = evaluated(right, wrong)
    # wrong: errors of 1 and 1 against 2, 1; against the time passed 1 and 1; its one pair rises by 1
    expected = {
        ("spearman", "as_coded"): 0.0,
        ("spearman", "corrected_by_video"): 0.0,
        ("spearman", "corrected_by_frame"): (8 * 1 - 2 * 1) / 10,
        ("misclassification_adjacent", "as_coded"): 1 / 8,
        ("misclassification_adjacent", "corrected_by_video"): 1 / 2,
        ("misclassification_adjacent", "corrected_by_frame"): 1 / 8,
        ("misclassification_all_pairs", "paper"): 1 / 10,
        ("misclassification_all_pairs", "corrected_by_video"): 1 / 2,
        ("misclassification_all_pairs", "corrected_by_frame"): 1 / 29,
        ("mae_steps", "corrected_by_video"): (0 + 1) / 2,
        ("mae_steps", "corrected_by_frame"): 2 / 10,
        ("hinge_steps", "corrected_by_video"): 1 / 2,
        ("hinge_steps", "corrected_by_frame"): 1 / 8,
    }
    assert {key: found.value(*key) for key in expected} == pytest.approx(expected, abs=1e-6)
    # of two videos, a resample has both, or one of them twice
    spearman = found.table["model"]["corrected_by_video"]["spearman"]
    assert (spearman.low, spearman.high) == pytest.approx((-1, 1))
    assert evaluated(right, wrong) == found


def test_ties_flatter_as_coded_and_not_when_corrected() -> None:
    found = evaluated(*(chosen(np.full(9, 4.5), id=f"{i}") for i in range(3)))
    for predictor in ("model", "constant"):
        assert found.value("misclassification_adjacent", "as_coded", predictor) == 0
        assert found.value("spearman", "as_coded", predictor) == pytest.approx(-1)
        assert found.value("misclassification_all_pairs", "corrected_by_video", predictor) == 0.5
        assert found.value("misclassification_adjacent", "corrected_by_video", predictor) == 0.5
        undefined = found.table[predictor]["corrected_by_video"]["spearman"]
        assert (undefined.value, undefined.num, undefined.num_undefined) == (None, 0, 3)
    text = io.StringIO()
    found.print(Console(file=text))
    assert "model: Spearman is undefined in 3 video(s)" in text.getvalue()


def test_a_partly_undefined_spearman_is_the_mean_of_the_rest() -> None:
    found = evaluated(chosen([3, 2, 1], id="right"), chosen([2, 2, 2], id="still"))
    estimate = found.table["model"]["corrected_by_frame"]["spearman"]
    assert (estimate.value, estimate.num, estimate.num_undefined) == (1.0, 1, 1)


def test_controls_know_the_mean_length_only() -> None:
    found = evaluated(*(chosen(np.arange(10, 0, -1), id=f"{i}") for i in range(3)))
    assert found.value("mse_steps", "corrected_by_video", "clock") == 0  # all videos are as long as their mean
    # as coded, the clock is compared with its own mirror image: |9 - 2t| + 1 on average 5.2 of t = 0..9
    assert found.value("mae_steps", "as_coded", "clock") == pytest.approx(np.abs(10 - 2 * np.arange(10)).mean())
    # the constant says 5 where 10..1 are right: variance 8.25 and an offset of half a frame
    assert found.value("mse_steps", "corrected_by_video", "constant") == pytest.approx(8.25 + 0.25)
    assert found.value("mse_steps", "as_coded", "constant") == pytest.approx(8.25 + 0.25)


@pytest.mark.parametrize("num_history", [1, 3])
def test_every_frame_is_measured_against_the_last(num_history: int) -> None:
    torch.manual_seed(0)
    model = HoldR(HoldRConfig(depth=14, num_filters=16, num_history=num_history), mean_fps=12.0).eval()
    episode = dot_episodes(1, lengths=(7, 8))[0]
    frames = torch.from_numpy(episode.all_frames())
    index = torch.tensor([[max(0, t - back) for back in reversed(range(num_history))] for t in range(6)])
    with torch.inference_mode():
        expected = model.distance(frames[index], frames[-1:].expand(6, 1, -1, -1, -1))
    np.testing.assert_allclose(predict_distances(model, episode), expected.numpy(), atol=1e-5)
    other = episode.with_goal(episode.frames([0]))
    np.testing.assert_array_equal(predict_distances(model, other), predict_distances(model, episode))


def test_hold_c_is_measured_by_its_plain_distance() -> None:
    torch.manual_seed(0)
    model = HoldC(HoldCConfig(depth=14, num_filters=16)).eval()
    episode = dot_episodes(1, lengths=(7, 8))[0].with_goal(np.zeros((1, 3, 32, 32), np.uint8))
    with torch.inference_mode():
        embeddings = model.encode(torch.from_numpy(episode.all_frames()))
    expected = (embeddings[:-1] - embeddings[-1]).norm(dim=-1)
    np.testing.assert_allclose(predict_distances(model, episode), expected.numpy(), atol=1e-4)


class BreaksOff:
    """Pixels of a file that can be opened and not be read to its end."""

    def read(self, indices: Sequence[int], camera: str) -> ndarray:
        raise VideoError("broken.mp4: frame 5 is damaged; re-encode or remove it")

    def iterate(self, camera: str) -> Iterator[ndarray]:
        yield np.zeros((3, 8, 8), np.uint8)
        raise VideoError("broken.mp4: frame 5 is damaged; re-encode or remove it")


def test_videos_without_metrics_are_named() -> None:
    info = EpisodeInfo(id="broken.mp4", num_frames=9, fps=12.0)
    broken = Episode(info, BreaksOff(), columns={"state": np.zeros((9, 1), np.float32)})
    found = evaluated(chosen([1], id="short"), broken, chosen(SPEC_DISTANCES))
    assert found.num_videos == 1
    assert found.num_frames == {"mean": 7.0, "std": 0.0, "min": 7, "max": 7}
    assert found.left_out == {
        "short": "2 frame(s); the metrics need at least 3",
        "broken.mp4": "broken.mp4: frame 5 is damaged; re-encode or remove it",
    }
    with pytest.raises(ValueError, match=r"no video can be measured \(short: 2 frame"):
        evaluated(chosen([1], id="short"))
    with pytest.raises(ValueError, match="not finite"):
        evaluated(chosen([1, np.nan, 2]))
    with pytest.raises(ValueError, match="open the videos with camera='top'"):
        evaluate_hold(ReadsDistance(12.0), [chosen(SPEC_DISTANCES)], EvaluateConfig(camera="top"), show_progress=False)


def write_checkpoint(folder: Path, seed: int) -> Path:
    config, data = HoldRConfig(depth=14, num_filters=16), DataSpec(height=32, width=32, fps=10.0)
    torch.manual_seed(seed)
    description = Description(reward="hold_r", config=config, data=data, preprocessing={"size": 32})
    save_checkpoint(folder, config.build(data), description, provenance={"seed": seed})
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one architecture, five videos, one too short and one broken."""
    folder = tmp_path_factory.mktemp("hold")
    write_clips(folder / "videos", 5)
    write_video(folder / "videos" / "short.mp4", dot_frames(2, np.random.default_rng(0)), 10)
    (folder / "videos" / "torn.mp4").write_bytes(b"torn" * 30)
    write_checkpoint(folder / "first", 1)
    write_checkpoint(folder / "second", 2)
    return folder


def run(place: Path, model: str, out: Path, videos: str = "videos") -> HoldEvaluation:
    return evaluate_hold_run(place / model, place / videos, QUICK, out=out)[0]


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every video that is really predicted."""
    names: list[str] = []

    def note(model: RewardModel, episode: Episode) -> ndarray:
        names.append(episode.id)
        return predict_distances(model, episode)

    monkeypatch.setattr(hold_protocol, "predict_distances", note)
    return names


def test_an_interrupted_evaluation_ends_with_the_same_files(place: Path, tmp_path: Path, predicted: list[str]) -> None:
    found = run(place, "first", tmp_path)
    assert set(found.left_out) == {"short.mp4", "torn.mp4"}
    rows, table = tmp_path / "hold_videos.jsonl", tmp_path / "hold.json"
    whole, summary = rows.read_bytes(), table.read_bytes()
    lines = whole.splitlines(keepends=True)
    names = [json.loads(line)["id"] for line in lines]
    assert names == predicted == [f"clip{i}.mp4" for i in range(5)]
    two = len(lines[0]) + len(lines[1])
    for cut, num_left in ((0, 5), (1, 5), (len(lines[0]), 4), (two - 1, 4), (two + 100, 3), (len(whole), 0)):
        rows.write_bytes(whole[:cut])
        table.unlink()
        predicted.clear()
        assert run(place, "first", tmp_path) == found
        assert predicted == names[5 - num_left :]
        assert rows.read_bytes() == whole
        assert table.read_bytes() == summary


def test_a_checkpoint_never_gets_the_numbers_of_another(place: Path, tmp_path: Path, predicted: list[str]) -> None:
    apart = [run(place, model, tmp_path / model) for model in ("first", "second")]
    assert apart[0].table["model"] != apart[1].table["model"]
    assert apart[0].checkpoint != apart[1].checkpoint
    predicted.clear()
    together = [run(place, model, tmp_path / "both") for model in ("first", "second", "first")]
    assert len(predicted) == 10  # the third run finds what the first left
    assert [each.table for each in together] == [apart[0].table, apart[1].table, apart[0].table]
    rows = [(tmp_path / name / "hold_videos.jsonl").read_bytes() for name in ("first", "second", "both")]
    assert rows[0] + rows[1] == rows[2]


def test_the_content_decides_not_the_path(place: Path, tmp_path: Path, predicted: list[str]) -> None:
    write_checkpoint(tmp_path / "model", 1)
    videos = write_clips(tmp_path / "videos", 3)
    before = evaluate_hold_run(tmp_path / "model", videos, QUICK, out=tmp_path / "out")[0]
    assert before.checkpoint == run(place, "first", tmp_path / "same").checkpoint  # the same weights elsewhere
    predicted.clear()
    write_video(videos / "clip1.mp4", dot_frames(9, np.random.default_rng(9)), 10)
    evaluate_hold_run(tmp_path / "model", videos, QUICK, out=tmp_path / "out")
    assert predicted == ["clip1.mp4"]
    write_checkpoint(tmp_path / "model", 3)
    predicted.clear()
    after = evaluate_hold_run(tmp_path / "model", videos, QUICK, out=tmp_path / "out")[0]
    assert len(predicted) == 3
    assert after.checkpoint != before.checkpoint


def test_rows_are_sums_that_give_the_table(place: Path, tmp_path: Path) -> None:
    found = run(place, "first", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "hold_videos.jsonl").read_text().splitlines()]
    for row in rows:
        measures = measure_video(np.array(row["predictions"]), fps=row["fps"], mean_fps=10.0)
        assert row["measures"]["corrected"]["mse_steps"] == pytest.approx(measures["corrected"]["mse_steps"])
    sums, normalisers = np.array([row["measures"]["as_coded"]["mse_steps"] for row in rows]).sum(0)
    assert found.value("mse_steps", "as_coded") == pytest.approx(sums / normalisers)
    written = json.loads((tmp_path / "hold.json").read_text())
    assert written["table"]["model"]["as_coded"]["mse_steps"]["value"] == found.value("mse_steps", "as_coded")
    assert (written["num_videos"], written["fps"]["mean"], written["checkpoint"]) == (5, 10.0, found.checkpoint)


def test_training_videos_are_not_measured(place: Path, tmp_path: Path) -> None:
    write_something(tmp_path / "ssv2")
    found = evaluate_hold_run(place / "first", tmp_path / "ssv2", QUICK, out=tmp_path / "out")[0]
    rows = [json.loads(line) for line in (tmp_path / "out" / "hold_videos.jsonl").read_text().splitlines()]
    assert {Path(row["id"]).stem for row in rows} == {"1003", "1007"}
    assert (found.num_videos, found.settings["splits"]) == (2, ["validation"])
    assert len(found.left_out) == 3


def test_damaged_lines_are_named(place: Path, tmp_path: Path) -> None:
    run(place, "first", tmp_path)
    rows = tmp_path / "hold_videos.jsonl"
    for line in (b"[]", b"{}", b'{"checkpoint": 1', b"\x00\x00"):
        rows.write_bytes(b"\n".join([*rows.read_bytes().splitlines()[:1], line, b""]))
        with pytest.raises(ValueError, match=r"hold_videos.jsonl, line 2 is damaged"):
            run(place, "first", tmp_path)


def test_an_interrupt_says_how_far_it_came(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def interrupt(model: RewardModel, episode: Episode) -> ndarray:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(episode.id)
        return predict_distances(model, episode)

    monkeypatch.setattr(hold_protocol, "predict_distances", interrupt)
    assert command(place, "first", "--out", tmp_path) == 130
    assert "interrupted at video 3 of 6; the same command goes on from there" in capsys.readouterr().err
    assert len((tmp_path / "hold_videos.jsonl").read_bytes().splitlines()) == 2
    assert not (tmp_path / "hold.json").exists()


def command(place: Path, model: str, *words: object) -> int:
    words = ("evaluate", place / model, "--data", place / "videos", "--protocol", "hold", *words)
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_the_command_prints_what_was_measured(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(place, "first", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "hold.json").read_text())
    estimate = found["table"]["model"]["as_coded"]["spearman"]
    assert f"{estimate['value']:#.4g} [{estimate['low']:#.4g}, {estimate['high']:#.4g}]" in printed
    for text in ("MSE, steps", "hinge, seconds", "constant", "torn.mp4: not a video", "short.mp4: 2 frame(s)"):
        assert text in printed, text
    assert "…" not in printed, "no cell is cut off"
    assert command(place, "first", "--out", tmp_path, "--group-by", "task") == 2
    assert "leave out --group-by" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_same_files(place: Path, tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "videos", 30, num_frames=40)
    words: list[str | Path] = [sys.executable, "-m", "vidreward", "evaluate", place / "first"]
    words += ["--data", videos, "--protocol", "hold"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*words, "--out", whole], check=True, capture_output=True)
    rows = killed / "hold_videos.jsonl"
    num_kills = 0
    for num_lines in (1, 8, 20):
        process = subprocess.Popen([*words, "--out", killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (rows.exists() and rows.read_bytes().count(b"\n") >= num_lines):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        num_kills += process.wait() == -signal.SIGKILL
    assert num_kills >= 2, "the kills must hit evaluations that are under way"
    subprocess.run([*words, "--out", killed], check=True, capture_output=True)
    for name in ("hold_videos.jsonl", "hold.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.fixture(scope="module")
def reversed_targets() -> ModuleType:
    path = ROOT / "examples" / "reversed_targets.py"
    spec = importlib.util.spec_from_file_location("reversed_targets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_the_example_prints(
    reversed_targets: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    reversed_targets.main()
    printed = capsys.readouterr().out
    assert printed in (ROOT / "docs" / "methods" / "hold_evaluation.md").read_text()


def test_published_errors_fit_the_reversed_targets_only(reversed_targets: ModuleType) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.normal(45, 10, 300).round().clip(3).astype(int)
    remaining = [np.arange(length - 1, 0, -1.0) for length in lengths]
    predicted = reversed_targets.predict(remaining, 0.72, rng)
    together, truth = np.concatenate(predicted), np.concatenate(remaining)
    assert np.corrcoef(together, truth)[0, 1] == pytest.approx(0.72, abs=0.02)
    assert np.polyfit(together, truth, 1) == pytest.approx([1, 0], abs=0.7)  # calibrated
    found = reversed_targets.measure(predicted)
    constant = reversed_targets.measure(reversed_targets.predict(remaining, 0.0, rng))
    assert 0.65 < found["corrected", "spearman"] < 0.75
    assert found["corrected", "mse_steps"] < constant["corrected", "mse_steps"] < 240
    assert 430 < found["as_coded", "mse_steps"] < 550
    assert 17 < found["as_coded", "mae_steps"] < 19
