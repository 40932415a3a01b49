"""The example of a user's own reward model trains, and its checkpoint loads only with its file named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dots import dot_episodes
from vidreward.checkpoint import Description, load, save_checkpoint
from vidreward.evaluate.metrics import spearman
from vidreward.log import Logger
from vidreward.reward_model import LearnedRewardModel
from vidreward.rewards import load_module
from vidreward.scoring import score_episode
from vidreward.train import fit
from vidreward.types import DataSpec

MY_REWARD = Path(__file__).parents[1] / "examples" / "my_reward.py"


def test_my_reward_learns_order_and_is_saved(tmp_path: Path) -> None:
    recipe = load_module(MY_REWARD).recipe("debug")
    spec = DataSpec(height=32, width=32, fps=10.0)
    torch.manual_seed(0)
    model = recipe.reward.build(spec)
    assert isinstance(model, LearnedRewardModel)
    with Logger(None, quiet=True) as log:
        fit(model, dot_episodes(16), recipe.fit, log)
    held_out = dot_episodes(4, seed=1)
    scores = [score_episode(model, episode) for episode in held_out]
    orders = [spearman(values, np.arange(len(values))) or 0.0 for values in scores]
    assert np.mean(orders) > 0.8, orders

    description = Description(reward=str(MY_REWARD), config=recipe.reward, data=spec, preprocessing={})
    save_checkpoint(tmp_path / "order", model, description, provenance={})
    again = load(tmp_path / "order", model_file=MY_REWARD)
    assert np.array_equal(score_episode(again, held_out[0]), scores[0])


def test_an_unknown_preset_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="debug"):
        load_module(MY_REWARD).recipe("debgu")
