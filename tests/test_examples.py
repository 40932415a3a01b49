"""The examples: a user's own reward model, and agents of other libraries that train on a video reward."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import stable_baselines3
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

EXAMPLES = Path(__file__).parents[1] / "examples"
MY_REWARD = EXAMPLES / "my_reward.py"


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.parametrize("algorithm", ["SAC", pytest.param("PPO", marks=pytest.mark.slow)])  # PPO takes 8192 steps
def test_stable_baselines_trains_on_a_video_reward(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_example("sb3_with_video_reward").main("pixels", algorithm, 120)
    trained = getattr(stable_baselines3, algorithm).load(tmp_path / f"{algorithm}_push.zip")
    assert trained.num_timesteps >= 120
    assert trained.predict(np.zeros(23))[0].shape == (3,)


def test_ppo_in_one_function_trains_on_a_video_reward(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    load_example("cleanrl_with_video_reward").main("pixels", num_updates=2, num_steps=101)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(float(line.split("reward ")[1].split()[0]) < 0 for line in lines)


def test_the_training_examples_are_short() -> None:
    assert len((EXAMPLES / "sb3_with_video_reward.py").read_text().splitlines()) < 30
    tree = ast.parse((EXAMPLES / "cleanrl_with_video_reward.py").read_text())
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    first, last = main.body[1], main.body[-1]  # after the docstring
    assert (last.end_lineno or 0) - first.lineno + 1 < 30
