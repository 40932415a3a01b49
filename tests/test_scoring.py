"""Scoring: streaming, pieces, memory, precision, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import vidreward.scoring
from dots import dot_episodes, dot_frames
from vidreward.reward_model import RewardModel, windows
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.scoring import StreamingScorer, device_of, mean_initial_distance, score_episode, score_frames
from vidreward.types import Episode, Inputs, Video


class Brightness(RewardModel):
    """Score a frame by the mean brightness of the last `context` frames, and its number: no weights, known answers."""

    def __init__(self, context: int | None = 1) -> None:
        super().__init__()
        self.inputs = Inputs(context=context)

    def score(self, video: Video, *, seed: int = 0) -> Float[Tensor, "B T"]:
        bright = video.frames.float().mean((2, 3, 4))
        num_frames = bright.shape[1]
        back = windows(num_frames, self.inputs.context or num_frames)
        return bright[:, back].mean(-1) + 1000 * video.index


def hold_r(num_history: int = 1) -> HoldR:
    return made(lambda: HoldR(HoldRConfig(depth=14, num_filters=4, num_history=num_history), mean_fps=10.0))


def hold_c() -> HoldC:
    return made(lambda: HoldC(HoldCConfig(depth=14, num_filters=4, embedding_dim=4)))


def made[M: RewardModel](make: Callable[[], M]) -> M:
    """Make the same model each time, every weight moved: a fresh head may be zero and give all frames one score."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def counting_frames(num_frames: int, size: int = 8) -> np.ndarray:
    """Make frame t of brightness t."""
    return np.broadcast_to(np.arange(num_frames, dtype=np.uint8)[:, None, None, None], (num_frames, 3, size, size))


# --- known answers ---------------------------------------------------------------------------------------------------


def test_scores_are_in_order_and_numbered() -> None:
    scores = score_frames(Brightness(), counting_frames(5), precision="fp32")
    assert scores.tolist() == [0, 1001, 2002, 3003, 4004]


def test_context_looks_back_over_the_border_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidreward.scoring, "PIXELS_PER_PIECE", 1)  # the smallest piece: 16 frames
    frames = counting_frames(50)
    scores = score_episode(Brightness(context=3), Episode.from_frames(frames, id="a", fps=10.0), precision="fp32")
    expected = [1000 * t + (max(t - 2, 0) + max(t - 1, 0) + t) / 3 for t in range(50)]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("make", [hold_c, hold_r, lambda: hold_r(3)], ids=["hold_c", "hold_r", "hold_r_3"])
def test_pieces_of_any_size_give_the_same_scores(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = make()
    episode = Episode.from_frames(dot_frames(70, np.random.default_rng(0)), id="a", fps=10.0)
    whole = score_episode(model, episode, precision="fp32")
    assert np.ptp(whole) > 0
    for frames_at_once in (16, 31):
        monkeypatch.setattr(vidreward.scoring, "PIXELS_PER_PIECE", frames_at_once * 32 * 32)
        np.testing.assert_allclose(score_episode(model, episode, precision="fp32"), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [hold_c, lambda: hold_r(3)], ids=["hold_c", "hold_r_3"])
def test_streaming_equals_score_and_starts_afresh(make) -> None:  # type: ignore[no-untyped-def]
    model = make()
    first, second = dot_episodes(2)
    goal = first.goal()
    scorer = StreamingScorer(model, goal=goal, fps=10.0, precision="fp32")
    for episode in (first, second, first):
        streamed = [scorer.push(frame) for frame in episode.all_frames()]
        expected = score_episode(model, episode, goal=goal, precision="fp32")
        np.testing.assert_allclose(streamed, expected, rtol=1e-4, atol=1e-5)
        scorer.reset()


def test_streaming_keeps_all_frames_where_the_context_is_unbounded() -> None:
    frames = counting_frames(20)
    scorer = StreamingScorer(Brightness(context=None), precision="fp32")
    streamed = [scorer.push(frame) for frame in frames]
    np.testing.assert_allclose(streamed[0], 0)
    assert streamed[-1] > streamed[0]


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = hold_c().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score_episode(model, dot_episodes(1)[0])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bf16_is_close_to_fp32() -> None:
    episode = dot_episodes(1)[0]
    for model, size in (
        (hold_r(), np.abs(score_episode(hold_r(), episode)).max()),
        (hold_c(), float(hold_c().encode(torch.from_numpy(episode.all_frames())).detach().norm(dim=-1).max())),
    ):
        fp32 = score_episode(model, episode, precision="fp32")
        bf16 = score_episode(model, episode, precision="bf16")
        assert not np.array_equal(fp32, bf16)
        assert np.abs(fp32 - bf16).max() < 0.02 * size


def test_memory_format_does_not_change_scores() -> None:
    model, episode = hold_c(), dot_episodes(1)[0]
    before = score_episode(model, episode, precision="fp32")
    model.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(score_episode(model, episode, precision="fp32"), before, rtol=1e-4, atol=1e-5)


def test_device_of() -> None:
    assert device_of(Brightness()) == torch.device("cpu")
    assert device_of(hold_c()) == torch.device("cpu")
    assert device_of(hold_c().to("meta")) == torch.device("meta")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_wrong_frames_are_refused() -> None:
    frames = dot_frames(4, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"the goal is 16x16 and the frames are 32x32.*resize"):
        score_frames(hold_c(), frames, frames[-1:, :, :16, :16])
    with pytest.raises(ValueError, match="uint8"):
        score_frames(hold_c(), frames.astype(np.float32), frames[-1:])
    with pytest.raises(ValueError, match="uint8"):
        score_frames(hold_c(), frames.transpose(0, 2, 3, 1), frames[-1:])
    with pytest.raises(ValueError, match="goal"):
        score_frames(hold_c(), frames)
    scorer = StreamingScorer(hold_c(), goal=frames[-1:])
    with pytest.raises(ValueError, match="the goal is 32x32 and the frames are 16x16"):
        scorer.push(frames[0, :, :16, :16])


def test_frames_of_another_size_than_in_training_are_refused() -> None:
    model, frames = hold_c(), dot_frames(4, np.random.default_rng(0))
    model.frame_size = (64, 64)
    with pytest.raises(ValueError, match=r"frames are 32x32 and the model was trained on 64x64.*open_like_training"):
        score_frames(model, frames, frames[-1:])
    with pytest.raises(ValueError, match="trained on 64x64"):
        StreamingScorer(model, goal=frames[-1:]).push(frames[0])


# --- memory ----------------------------------------------------------------------------------------------------------

LONG = """
import resource, sys
import numpy as np
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.scoring import score_episode
from vidreward.types import Episode, EpisodeInfo
class Source:
    def read(self, indices, camera):
        return np.full((len(indices), 3, 32, 32), indices[0] % 256, np.uint8)
    def iterate(self, camera):
        return (np.full((3, 32, 32), number % 256, np.uint8) for number in range(self.num_frames))
    def __init__(self, num_frames):
        self.num_frames = num_frames
model = HoldC(HoldCConfig(depth=14, num_filters=2, embedding_dim=2))
def run(num_frames):
    info = EpisodeInfo(id="long", num_frames=num_frames, fps=10.0)
    assert len(score_episode(model, Episode(info, Source(num_frames)), precision="fp32")) == num_frames
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = run(20_000)
print((run(40_000) - before) / 1024)
"""


@pytest.mark.slow
def test_memory_of_a_long_video_is_bounded() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LONG], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 25, f"{done.stdout} MB more for 20,000 more frames, which hold 61 MB"


def test_an_episode_of_one_frame_has_a_score() -> None:
    one = Episode.from_frames(dot_frames(1, np.random.default_rng(0)), id="one", fps=10.0)
    assert score_episode(hold_c(), one).shape == (1,)


def test_mean_initial_distance_uses_each_goal() -> None:
    model, episodes = hold_c(), dot_episodes(3)
    expected = -np.mean([score_episode(model, episode)[0] for episode in episodes])
    assert mean_initial_distance(model, episodes) == pytest.approx(expected, rel=0.05)
    assert mean_initial_distance(model, episodes[:1]) > 0
