"""The benchmarks run, and both sides of each do the same work; how fast is for `make bench`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vidreward.data import open_episodes
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.scoring import score_episode, score_frames

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = (48, 64)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_plain_loop_gives_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from networks import PlainNetwork
    from scoring_speed import build_model, score_one_by_one
    from videos import make_video

    path = make_video(tmp_path, num_frames=12, height=32, width=32)
    model = build_model(CPU)
    for block in model.network.blocks():
        torch.nn.init.ones_(block.bn2.weight)  # random weights start as a network without its blocks
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    episode = open_episodes(path, size=32)[0]
    frames = torch.from_numpy(episode.all_frames())
    plain = PlainNetwork(model.network).eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(frames), model.network(frames), rtol=1e-3, atol=1e-3)
        monkeypatch.setattr("vidreward.nets.resnet.FOLD_FROM", 0)
        torch.testing.assert_close(plain(frames), model.network(frames), rtol=1e-3, atol=1e-3)
    scores = score_episode(model, episode, precision="fp32")
    by_hand = score_one_by_one(path, plain, 32, 12)
    # the loop's pixels differ by a few levels: another conversion from the video's colours, another resize
    assert np.corrcoef(by_hand, scores)[0, 1] > 0.98
    assert np.abs(by_hand).mean() == pytest.approx(np.abs(scores).mean(), rel=0.15)


@pytest.mark.parametrize("num_history", [0, 1, 3])
def test_one_pass_equals_scoring_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_history: int) -> None:
    from scoring_speed import build_model
    from videos import make_video

    path = make_video(tmp_path, num_frames=40, height=32, width=32)
    model = HoldR(HoldRConfig(depth=14, num_history=num_history), mean_fps=30) if num_history else build_model(CPU)
    episode = open_episodes(path)[0]
    frames = episode.all_frames()
    whole = score_frames(model, frames, frames[-1:], fps=episode.fps, precision="fp32")
    monkeypatch.setattr("vidreward.scoring.PIXELS_PER_PIECE", 0)  # pieces of 16 frames
    np.testing.assert_allclose(score_episode(model, episode, precision="fp32"), whole, rtol=1e-4, atol=1e-4)
    other = score_frames(model, frames, frames[:1], fps=episode.fps, precision="fp32")
    given = score_episode(model, episode, goal=frames[:1], precision="fp32")
    np.testing.assert_allclose(given, other, rtol=1e-4, atol=1e-4)


def test_every_measurement_runs(tmp_path: Path) -> None:
    from data_speed import one_pass, resizing, sampling
    from measure import machine, write
    from scoring_speed import against_loop, against_parts

    ratios = [
        against_loop(tmp_path, CPU, size=32, source=SMALL, num_frames=16, num_plain=2, num_repetitions=1),
        against_parts(tmp_path, CPU, size=32, source=SMALL, num_frames=16, num_repetitions=1),
        sampling(tmp_path, source=SMALL, size=32, num_videos=2, num_frames=16, batch_size=2, num_repetitions=1),
        one_pass(tmp_path, source=SMALL, size=32, num_frames=16, num_reads=2, num_repetitions=1),
        resizing(tmp_path, by="PIL", source=SMALL, size=32, num_frames=16, num_repetitions=1),
        resizing(tmp_path, by="torch", source=SMALL, size=32, num_frames=16, num_repetitions=1),
    ]
    for result in ratios:
        assert math.isfinite(result.ratio), result
        assert 0 < result.lowest <= result.ratio <= result.highest, result
        assert all(rate > 0 for rate in result.rates.values()), result
    write(ratios, machine(CPU), tmp_path / "out" / "speed.json")
    assert (tmp_path / "out" / "speed.json").read_text().startswith("{")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hold_c", "hold_r"])
def test_training_steps_run(method: str) -> None:
    from training_speed import training_step

    result = training_step(CPU, method=method, size=32, batch_size=2, num_episodes=2, num_frames=40, num_repetitions=1)
    assert 0 < result.ratio < math.inf


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hold_c", "hold_r"])
def test_training_loops_run(tmp_path: Path, method: str) -> None:
    from training_speed import training_loop

    small = {"size": 32, "source": SMALL, "batch_size": 2, "num_episodes": 2, "num_frames": 40}
    # no processes: a test has threads, and must not fork
    result = training_loop(tmp_path, CPU, method=method, **small, num_steps=1, num_workers=0, num_repetitions=1)  # type: ignore[arg-type]
    assert 0 < result.ratio < math.inf


@pytest.mark.parametrize("method", ["hold_c", "hold_r"])
def test_what_a_reward_adds_is_measured(method: str) -> None:
    from reward_overhead import reward_overhead

    result = reward_overhead(CPU, method=method, num_envs=2, size=32, num_steps=3, num_repetitions=1)
    assert 0 < result.ratio < math.inf
    assert set(result.rates) == {"bare", "VideoReward"}


def test_ratio_is_the_median_of_neighbouring_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    import measure

    clock = iter(float(t) for t in [0, 4, 4, 6, 6, 7, 7, 13, 13, 16, 16, 19])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    ratio = measure.compare(
        "a", ("slow", lambda: 12), ("fast", lambda: 12), unit="frames", target=None, num_repetitions=3
    )
    # slow then fast: 4 s and 2 s; fast then slow: 1 s and 6 s; slow then fast: 3 s and 3 s
    assert (ratio.ratio, ratio.lowest, ratio.highest) == (2.0, 1.0, 6.0)
    assert ratio.rates == {"slow": 3.0, "fast": 6.0}


@pytest.mark.parametrize("piece", ["hold_c_resnet50", "hold_r_vivit_l"])
def test_training_for_the_gpu_runs_in_miniature(tmp_path: Path, piece: str) -> None:
    from gpu_train import GpuConfig, main

    path = main(GpuConfig(piece=piece, seconds=0.5, device="cpu", tiny=True, out=tmp_path))
    result = json.loads(path.read_text())
    images_in_a_step = {"hold_c_resnet50": 2 * 6, "hold_r_vivit_l": 2 * 4}[piece]
    assert result["images_per_second"] == pytest.approx(images_in_a_step * result["steps_per_second"])
    assert 0 < result["share_of_matrix_rate"] < 1
    assert 0 <= result["share_of_time_waiting_for_data"] < 1
    assert result["slower_than_without_reading"] < 1
    assert ("rate_beside_plain_batch_norm" in result) == (piece == "hold_c_resnet50")
