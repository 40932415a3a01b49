"""The contract, on every file of rewards/: a new reward model is tested by being there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from dots import dot_episodes, dot_frames
from replay import Playback, Replay, play
from vidreward.checkpoint import Description, load, save_checkpoint
from vidreward.data.sampler import SampledFrames
from vidreward.evaluate.metrics import spearman
from vidreward.log import Logger
from vidreward.reward_model import LearnedRewardModel, RewardModel
from vidreward.rewards import available, load_module
from vidreward.rl.reward import Reward, RewardTerm, usual_shaping
from vidreward.rl.wrapper import VideoReward
from vidreward.scoring import StreamingScorer, score_episode, score_frames
from vidreward.train import fit
from vidreward.train_config import TrainConfig
from vidreward.types import DataSpec, Video

SIZE = 32
SPEC = DataSpec(height=SIZE, width=SIZE, fps=10.0, tasks=("cross",))
OTHER_NETWORKS = ["hold_c/debug_vit", "hold_r/debug_vivit"]
"""Presets with another network than the model's `debug`, which are held to the same contract."""


def debug_recipe(name: str) -> TrainConfig:
    name, _, preset = name.partition("/")
    return load_module(name).recipe(preset or "debug")


def build(name: str, seed: int = 0) -> RewardModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = debug_recipe(name).reward.build(SPEC)
    # heads that start at zero would make every score equal and every check pass
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def fake_video(model: RewardModel, num_rows: int, num_frames: int, seed: int = 0) -> Video:
    rng = np.random.default_rng(seed)
    frames = torch.from_numpy(rng.integers(0, 256, (num_rows, num_frames, 3, SIZE, SIZE), dtype=np.uint8))
    goals = torch.from_numpy(rng.integers(0, 256, (num_rows, 4, 3, SIZE, SIZE), dtype=np.uint8))
    video = Video.from_frames(frames)
    if model.inputs.goal == "image":
        video = replace(video, goal=goals[:, :1])
    if model.inputs.goal == "video":
        video = replace(video, goal=goals)
    if model.inputs.goal == "state":
        video = replace(video, goal_state=torch.zeros(num_rows, SPEC.state_dim))
    if model.inputs.text:
        video = replace(video, text=("cross",) * num_rows)
    if model.inputs.state:
        video = replace(video, state=torch.zeros(num_rows, num_frames, SPEC.state_dim))
    return video


LEARNERS = [name for name in available() if isinstance(build(name), LearnedRewardModel)] + OTHER_NETWORKS


@pytest.fixture(params=[*available(), *OTHER_NETWORKS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> str:
    """Name of a model that learns; the others have only a score."""
    return request.param


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_score_is_finite_and_per_frame(name: str, num_frames: int) -> None:
    model = build(name)
    with torch.inference_mode():
        score = model.score(fake_video(model, 2, num_frames))
    assert score.shape == (2, num_frames)
    assert torch.isfinite(score).all()


def test_score_is_causal(name: str) -> None:
    model = build(name)
    video = fake_video(model, 1, 8)
    changed = video.frames.clone()
    changed[:, 5:] = 255 - changed[:, 5:]
    with torch.inference_mode():
        before, after = model.score(video), model.score(replace(video, frames=changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:]), "the score does not look at the frame it scores"


def test_score_is_honest_about_context(name: str) -> None:
    model = build(name)
    context = model.inputs.context
    if context is None:
        return
    video = fake_video(model, 1, context + 5)
    changed = video.frames.clone()
    changed[:, 0] = 255 - changed[:, 0]
    with torch.inference_mode():
        before, after = model.score(video), model.score(replace(video, frames=changed))
    torch.testing.assert_close(before[:, context:], after[:, context:])


def test_batch_rows_do_not_mix(name: str) -> None:
    model = build(name)
    video = fake_video(model, 2, 4)
    with torch.inference_mode():
        both = model.score(video)
        swapped = model.score(
            replace(
                video,
                frames=video.frames.flip(0),
                goal=None if video.goal is None else video.goal.flip(0),
            )
        )
    torch.testing.assert_close(both, swapped.flip(0), rtol=1e-4, atol=1e-5)


def test_codes_streaming_and_pieces_equal_score(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    video = fake_video(model, 1, 40)
    frames, goal = video.frames[0].numpy(), None if video.goal is None else video.goal[0].numpy()
    with torch.inference_mode():
        whole = model.score(video)
        codes = model.encode(video.frames.flatten(0, 1))[None]
        goal_codes = None if video.goal is None else model.encode(video.goal.flatten(0, 1))[None]
        torch.testing.assert_close(model.score_codes(codes, goal_codes, video), whole, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("vidreward.scoring.PIXELS_PER_PIECE", 16 * SIZE * SIZE)
    pieces = score_frames(model, frames, goal, text="cross", precision="fp32")
    np.testing.assert_allclose(pieces, whole[0], rtol=1e-4, atol=1e-4)
    scorer = StreamingScorer(model, goal=goal, text="cross", precision="fp32")
    for _ in range(2):
        scorer.reset()
        streamed = [scorer.push(frame) for frame in frames]
        np.testing.assert_allclose(streamed, whole[0], rtol=1e-4, atol=1e-4)


def test_missing_goal_is_named(name: str) -> None:
    model = build(name)
    video = fake_video(model, 1, 3)
    missing = {"goal": video.goal, "text": video.text, "state": video.state}
    for field, value in missing.items():
        if value is not None:
            with pytest.raises(ValueError, match=field):
                model.score(replace(video, **{field: None}))


def test_loss_reaches_every_parameter(learner: str) -> None:
    model = build(learner)
    assert isinstance(model, LearnedRewardModel)
    model.train()
    batch = SampledFrames(dot_episodes(6), model, 3, seed=0).batch(0)
    loss, scalars = model.loss(batch.videos)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(value.numel() == 1 and not value.requires_grad for value in scalars.values())
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, f"no gradient reaches {without}"
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 50])
def test_sample_copes_with_any_length(learner: str, num_frames: int) -> None:
    model = build(learner)
    assert isinstance(model, LearnedRewardModel)
    rng = np.random.default_rng(0)
    episodes = dot_episodes(1, lengths=(num_frames, num_frames + 1)) + dot_episodes(1, lengths=(9, 10))
    for _ in range(20):
        picks = [model.sample(episode.info, rng) for episode in episodes]
        assert picks[0].keys() == picks[1].keys()
        for pick in picks[0].values():
            assert all(0 <= i < num_frames for i in pick.index)
    loss, _ = model.train().loss(SampledFrames(episodes, model, 2, seed=0).batch(0).videos)
    assert torch.isfinite(loss)


def test_save_and_load_give_the_same_scores(name: str, tmp_path: Path) -> None:
    model = build(name)
    config = debug_recipe(name).reward
    description = Description(reward=name.partition("/")[0], config=config, data=SPEC, preprocessing={"size": SIZE})
    save_checkpoint(tmp_path / "model", model, description, provenance={"step": 0})
    loaded = load(tmp_path / "model")
    video = fake_video(model, 2, 5)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.score(video), model.score(video), rtol=0, atol=0)


def test_fitting_improves_what_the_model_learns(learner: str) -> None:
    recipe = debug_recipe(learner)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = recipe.reward.build(SPEC)
    assert isinstance(model, LearnedRewardModel)
    assert model.learns == "order", "this suite knows how to check order; extend it for densities and novelty"
    fit(model, dot_episodes(24), replace(recipe.fit, device="cpu"), Logger(None, quiet=True))
    held_out = dot_episodes(6, seed=1)
    orders = [spearman(score_episode(model, e), np.arange(e.num_frames)) or 0.0 for e in held_out]
    assert np.mean(orders) > 0.8, orders


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_video_reward_stream_and_label_agree(name: str, mode: AutoresetMode, difference: bool) -> None:
    model = build(name)
    shaping = replace(usual_shaping(model), difference=difference)
    reward = Reward(RewardTerm(model=model, name="term", shaping=shaping), precision="fp32")
    playbacks = [playback(model, num_frames, seed) for seed, num_frames in enumerate((7, 4))]
    vector = SyncVectorEnv([lambda: Replay(playbacks), lambda: Replay(playbacks[::-1])], autoreset_mode=mode)
    env = VideoReward(vector, reward, text="cross")
    env.reset()
    for row, steps in enumerate(play(env, 12)):
        traces = [reward.trace(played.episode("cross")) for played in playbacks[:: 1 - 2 * row]]
        streamed = [stream(model, played) for played in playbacks[:: 1 - 2 * row]]
        num_steps = len(steps)
        rewards = np.concatenate([trace.reward for trace in traces] * 2)[:num_steps]
        scores = np.concatenate([trace.scores["term"][1:] for trace in traces] * 2)[:num_steps]
        np.testing.assert_allclose(np.concatenate([each[1:] for each in streamed] * 2)[:num_steps], scores, 1e-4, 1e-4)
        np.testing.assert_allclose([step["score/term"] for step in steps], scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose([step["reward"] for step in steps], rewards, rtol=1e-4, atol=2e-4)


def playback(model: RewardModel, num_frames: int, seed: int) -> Playback:
    video = fake_video(model, 1, num_frames, seed)
    return Playback(
        frames=video.frames[0].numpy(),
        rewards=[0.0] * (num_frames - 1),
        goal=None if video.goal is None else video.goal[0].numpy(),
        states=None if video.state is None else video.state[0].numpy(),
    )


def stream(model: RewardModel, played: Playback) -> list[float]:
    scorer = StreamingScorer(model, goal=played.goal, text="cross", precision="fp32")
    states = [None] * len(played.frames) if played.states is None else played.states
    return [scorer.push(frame, state) for frame, state in zip(played.frames, states, strict=True)]


def test_dots_are_seen_by_nobody_who_looks_away() -> None:
    frames = dot_frames(10, np.random.default_rng(0))
    assert (frames[0] != frames[-1]).any()
