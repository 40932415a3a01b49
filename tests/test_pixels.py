"""The distance in pixels: the original's rewards, and a reward without training on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import ndarray

import vidreward
from clips import write_clips
from dots import dot_episodes
from goldens import golden
from vidreward.jobs import open_like_training, score_videos, train
from vidreward.rewards.pixels import Pixels, recipe
from vidreward.rl.reward import Reward, RewardMix, RewardTerm, Shaping, SubGoals
from vidreward.scoring import score_episode
from vidreward.types import Episode, Video

DATA = golden("hold_reward/l2_pixels.npz")


def images(name: str) -> ndarray:
    """Return the recorded pictures as uint8, channels first: (T, 3, H, W)."""
    recorded = DATA[name] if DATA[name].ndim == 4 else DATA[name][None]
    times = int(DATA[f"{name.split('/')[0]}/upsample"])
    levels = np.rint(recorded * 255).astype(np.uint8)
    np.testing.assert_array_equal((levels / 255).astype(np.float32), recorded)
    return levels.repeat(times, 1).repeat(times, 2).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("case", ["push", "drawer"])
def test_rewards_equal_the_originals(case: str) -> None:
    threshold = float(DATA[f"{case}/subtask_threshold"])
    goals, pictures = None, images(f"{case}/goal_1")
    if not np.isnan(threshold):
        cost = float(DATA[f"{case}/subtask_cost"])
        goals = SubGoals(threshold=threshold, cost=cost, variant="as_coded")
        pictures = np.concatenate([pictures, images(f"{case}/goal_2")])
    term = RewardTerm(model=Pixels(), shaping=Shaping(scale=1 / float(DATA[f"{case}/T"])))
    episode = Episode.from_frames(images(f"{case}/frames"), id=case, fps=10, goal=pictures)
    trace = Reward(RewardMix(terms=(term,), goals=goals)).trace(episode)
    np.testing.assert_allclose(trace.reward, DATA[f"{case}/reward"], rtol=1e-5, atol=1e-6)
    if goals is not None:
        np.testing.assert_array_equal(trace.next_goal[1:] + 1, DATA[f"{case}/stage_after"])


def test_wide_pictures_are_cut_to_their_middle_square() -> None:
    frames, goal = images("dvd_crop/frames"), images("dvd_crop/goal_1")
    assert (frames.shape[2:], goal.shape[2:]) == ((120, 180), (120, 120))
    video = Video.from_frames(torch.from_numpy(frames)[None], goal=torch.from_numpy(goal)[None])
    rewards = Pixels().score(video)[0, 1:] / float(DATA["dvd_crop/T"])
    np.testing.assert_allclose(rewards, DATA["dvd_crop/reward"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="squares of 120 and 60"):
        Pixels().score(replace(video, goal=video.goal[..., :60]))


def test_called_by_name(tmp_path: Path) -> None:
    model = vidreward.load("pixels")
    assert isinstance(model, Pixels)
    assert model.frame_size is None
    episode = dot_episodes(1)[0]
    scores = score_episode(model, episode)
    assert scores[0] < scores[-1] == 0
    np.testing.assert_allclose(Reward(RewardTerm(model="pixels")).label(episode), scores[1:], rtol=1e-5)
    videos = write_clips(tmp_path / "videos", 1, num_frames=6)
    opened = open_like_training("pixels", videos)
    assert opened[0].frames([0]).shape == (1, 3, 64, 64)
    report = score_videos("pixels", [videos], out=tmp_path / "scored", device="cpu")
    assert report.exists()


def test_there_is_nothing_to_train(tmp_path: Path) -> None:
    write_clips(tmp_path / "videos")
    config = recipe("debug")
    config = replace(
        config, data=replace(config.data, path=str(tmp_path / "videos"), cache_dir=tmp_path), out=tmp_path / "run"
    )
    with pytest.raises(ValueError, match=r"nothing to train.*vidreward score"):
        train(config, reward="pixels", quiet=True)
