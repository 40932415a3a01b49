"""The Stable-Baselines3 adapter: last observations, time-outs, infos, seeds; its agents train on a video reward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from replay import Playback, Replay
from vidreward.envs import make_env
from vidreward.integrations.sb3 import SB3VecEnv
from vidreward.rl.reward import Reward, RewardMix, RewardTerm
from vidreward.rl.wrapper import VideoReward


def playback(levels: list[int], *, terminates: bool = False) -> Playback:
    frames = np.array(levels, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    states = np.array(levels, dtype=np.float32)[:, None]
    rewards = [float(level) for level in levels[1:]]
    return Playback(frames=frames, rewards=rewards, goal=frames[-1:], states=states, terminates=terminates)


def adapted(observe: str | None = "state", mode: AutoresetMode = AutoresetMode.SAME_STEP) -> SB3VecEnv:
    rows = [[playback([1, 2, 3]), playback([7, 8])], [playback([4, 5, 6, 9], terminates=True)]]
    env = SyncVectorEnv([lambda row=row: Replay(row) for row in rows], autoreset_mode=mode)
    mix = RewardMix(terms=(RewardTerm(model="pixels"),), env_weight=0.5)
    return SB3VecEnv(VideoReward(env, Reward(mix)), observe=observe)


def test_steps_and_ends() -> None:
    env = adapted()
    assert env.reset().tolist() == [[1], [4]]
    assert env.reset_infos[0]["goal"].shape == (1, 3, 8, 8)
    pixel = np.sqrt(3 * 64) / 255  # the distance of one grey level
    expected = [
        ([[2], [5]], [1 - pixel, 2.5 - 4 * pixel], [False, False]),
        ([[7], [6]], [1.5, 3 - 3 * pixel], [True, False]),
        ([[1], [4]], [4, 4.5], [True, True]),
    ]
    for number, (observation, rewards, done) in enumerate(expected):
        seen, paid, ended, infos = env.step(np.zeros(2, int))
        assert seen.tolist() == observation
        assert paid.dtype == np.float32
        np.testing.assert_allclose(paid, rewards, rtol=1e-6)
        assert ended.tolist() == done
        assert [info["env_reward"] for info in infos] == [[2, 5], [3, 6], [8, 9]][number]
        assert [info["frame"] for info in infos] == [[1, 1], [2, 2], [1, 3]][number]
        assert all(isinstance(info["score/pixels"], float) for info in infos)
    assert [info["terminal_observation"].tolist() for info in infos] == [[8], [9]]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False]
    assert "goal" not in infos[0]
    assert env.reset_infos[0]["goal"].max() == 3


def test_whole_observations_keep_their_parts() -> None:
    env = adapted(observe=None)
    assert {name: part.shape for name, part in env.reset().items()} == {"pixels": (2, 3, 8, 8), "state": (2, 1)}
    for _ in range(2):
        _, _, _, infos = env.step(np.zeros(2, int))
    assert infos[0]["terminal_observation"]["pixels"].max() == 3


def test_seeds_and_attributes() -> None:
    env = SB3VecEnv(make_env("tabletop/push", num_envs=2, size=32), observe="state")
    env.seed(3)
    first = env.reset()
    assert not np.array_equal(first, env.reset())
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    assert env.get_attr("task") == ["push", "push"]
    env.set_attr("max_steps", 7, indices=1)
    assert env.get_attr("max_steps", indices=[1]) == [7]
    assert env.env_method("progress", indices=0)[0][0] == 0
    assert env.render_mode == "rgb_array"
    assert env.render().shape == (64, 32, 3)
    env.set_options([{"layout": 1}, {}])
    with pytest.raises(ValueError, match="one set of reset options"):
        env.reset()
    env.close()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="SAME_STEP"):
        adapted(mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="no 'sound'; it has pixels, state"):
        adapted(observe="sound")


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_agents_train(algorithm: Any) -> None:
    reward = Reward(RewardTerm(model="pixels"))
    env = VecMonitor(
        SB3VecEnv(VideoReward(make_env("tabletop/reach", num_envs=2, max_steps=8), reward), observe="state")
    )
    short = (
        {"learning_starts": 16, "batch_size": 16, "train_freq": 4}
        if algorithm is SAC
        else {"n_steps": 16, "batch_size": 16}
    )
    agent = algorithm("MlpPolicy", env, seed=0, device="cpu", **short)
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.learn(48)
    after = list(agent.policy.parameters())
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    assert len(returns) >= 4
    assert all(value < 0 for value in returns), "paid by the distance, not by the environment"
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=2, warn=False)
    assert mean < 0
