"""make_env: names, settings, both autoreset modes, processes; every world keeps the same contract."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from vidreward.envs import AUTORESET, WORLDS, find_env, make_env
from vidreward.envs.pixel_env import PixelEnv

EXAMPLES = {
    "tabletop": ("tabletop/push", {"size": 48}),
    "metaworld": ("metaworld/window-close-v3", {"size": 32, "layouts": (0,)}),
    "hold": ("hold/drawer-open", {"size": 32}),
    "adroit": ("adroit/door", {"size": 32}),
    "kitchen": ("kitchen/microwave+kettle", {"size": 32}),
    "dmc": ("dmc/cartpole-swingup", {"size": 32}),
}
EXTRAS = {
    "metaworld": "metaworld",
    "hold": "metaworld",
    "adroit": "gymnasium_robotics",
    "kitchen": "gymnasium_robotics",
    "dmc": "dm_control",
}
WITH_GOAL = ("tabletop", "metaworld", "hold", "kitchen")
HEAVY = ("adroit", "kitchen", "dmc")
SHAPE = "ignore:Setting the shape on a NumPy array:DeprecationWarning"
"""What dm_control does in its own code."""


def needs(world: str) -> None:
    if world in EXTRAS and importlib.util.find_spec(EXTRAS[world]) is None:
        pytest.skip(f"{EXTRAS[world]} is not installed")


@pytest.mark.filterwarnings(SHAPE)
@pytest.mark.parametrize(
    "world", [pytest.param(world, marks=pytest.mark.slow if world in HEAVY else ()) for world in WORLDS]
)
def test_every_world_keeps_the_contract(world: str) -> None:
    needs(world)
    name, settings = EXAMPLES[world]
    env = find_env(name)(**settings, max_steps=5, action_repeat=2)
    assert isinstance(env, PixelEnv)
    first, info = env.reset(seed=3)
    assert env.observation_space.contains(first)
    assert set(first) == {"pixels", "state"}
    assert not info["success"]
    assert ("goal" in info) == (world in WITH_GOAL)
    if "goal" in info:
        assert info["goal"].shape == (1, *first["pixels"].shape)
        assert info["goal"].dtype == np.uint8
        assert (info["goal"][0] != first["pixels"]).any()
    np.testing.assert_array_equal(env.action_space.low, -1.0)
    np.testing.assert_array_equal(env.action_space.high, 1.0)
    action, seen = env.action_space.sample(), []
    for ended in (False, False, True):
        observation, _, terminated, truncated, info = env.step(action)
        assert not terminated
        assert truncated == ended
        assert isinstance(info["success"], bool)
        assert env.observation_space.contains(observation)
        seen.append(observation["state"])
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(again["state"], first["state"])
    np.testing.assert_array_equal(again["pixels"], first["pixels"])
    np.testing.assert_array_equal(np.stack([env.step(action)[0]["state"] for _ in range(3)]), seen)
    frame = env.render()
    assert frame.shape == (settings["size"], settings["size"], 3)
    np.testing.assert_array_equal(frame.transpose(2, 0, 1), env.image())
    env.close()


def test_pixels_and_goals_may_be_left_out() -> None:
    env = make_env("tabletop/reach", 2, pixels=False, goals=False)
    observation, info = env.reset(seed=0)
    assert set(observation) == set(env.single_observation_space.spaces) == {"state"}
    assert "goal" not in info
    with_pixels, _ = make_env("tabletop/reach", 2).reset(seed=0)
    np.testing.assert_array_equal(with_pixels["state"], observation["state"])


def test_action_repeat_adds_rewards_up_and_draws_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env, single = find_env("tabletop/push")(action_repeat=4), find_env("tabletop/push")()
    assert env.metadata["render_fps"] == 2.5
    drawn = []
    monkeypatch.setattr(env, "image", lambda: drawn.append(1) or np.zeros((3, 64, 64), np.uint8))
    paid = iter([0.0, 1.0, 1.0, 0.0])
    real = env.advance
    monkeypatch.setattr(env, "advance", lambda action: (next(paid), *real(action)[1:]))
    env.reset(seed=1)
    single.reset(seed=1)
    drawn.clear()
    observation, reward, *_ = env.step(np.array([0.3, -0.2, 1.0]))
    for _ in range(4):
        expected, *_ = single.step(np.array([0.3, -0.2, 1.0]))
    np.testing.assert_array_equal(observation["state"], expected["state"])
    assert reward == 2.0
    assert len(drawn) == 1


def play(num_steps: int, **settings: Any) -> list[tuple[dict[str, ndarray], dict[str, Any], ndarray]]:
    env = make_env("tabletop/push", 2, max_steps=3, size=32, **settings)
    observation, info = env.reset(seed=4)
    log = [(observation, info, np.zeros(2, bool))]
    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        observation, _, _, truncated, info = env.step(rng.uniform(-1, 1, (2, 3)).astype(np.float32))
        log.append((observation, info, truncated))
    env.close()
    return log


def test_autoreset_in_the_same_step_and_in_the_next() -> None:
    same, following = play(5, autoreset="same_step"), play(5, autoreset="next_step")
    assert [row[2].all() for row in same] == [False, False, False, True, False, False]
    assert [row[2].all() for row in following] == [False, False, False, True, False, False]
    observation, info, _ = same[3]
    last = info["final_obs"][0]
    np.testing.assert_array_equal(last["pixels"], following[3][0]["pixels"][0])
    assert "success" in info["final_info"]
    assert info["goal"].shape == (2, 1, 3, 32, 32)
    np.testing.assert_array_equal(observation["pixels"], following[4][0]["pixels"])  # the new episode's first
    np.testing.assert_array_equal(info["goal"], following[4][1]["goal"])
    assert "final_obs" not in following[3][1]
    assert set(AUTORESET) == {"same_step", "next_step"}


@pytest.mark.slow
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("name", ["tabletop/push", "hold/pushing", "metaworld/drawer-close-v3"])
def test_processes_do_the_same(name: str, autoreset: Any) -> None:
    needs(name.partition("/")[0])
    logs = []
    for asynchronous in (False, True):
        env = make_env(name, 2, asynchronous=asynchronous, autoreset=autoreset, size=32, max_steps=3)
        rng, log = np.random.default_rng(0), [env.reset(seed=4)[0]]
        for _ in range(5):
            log.append(env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))[0])
        env.close()
        logs.append(log)
    for one, other in zip(*logs, strict=True):
        for key in ("pixels", "state"):
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tabletob/push", {}, "no world 'tabletob'; did you mean 'tabletop'"),
        ("nothing", {}, "there are tabletop, metaworld, hold, adroit, kitchen, dmc"),
        ("tabletop", {}, "name a task of 'tabletop'"),
        ("tabletop/pusch", {}, "did you mean 'push'"),
        ("tabletop/push", {"sise": 64}, "no setting of tabletop/push 'sise'; did you mean 'size'"),
        ("tabletop/push", {"autoreset": "never"}, "there are same_step, next_step"),
        ("tabletop/push", {"num_envs": 0}, "num_envs must be at least 1"),
        ("metaworld/nothing", {}, "there are assembly-v3, .*window-open-v3"),
        ("metaworld/drawer-open", {}, "did you mean 'drawer-open-v3'"),
        ("hold/push", {}, "did you mean 'pushing'"),
        ("hold/pushing", {"spred": 0.0}, "did you mean 'spread'"),
        ("adroit/doors", {}, "did you mean 'door'"),
        ("kitchen/kettle+oven", {}, "no kitchen task 'oven'"),
        ("dmc/walker_walk", {}, "did you mean 'walker-walk'"),
    ],
)
def test_mistakes_are_explained(name: str, settings: dict[str, Any], message: str) -> None:
    needs(name.partition("/")[0])
    with pytest.raises(ValueError, match=message):
        make_env(name, **settings)


def test_a_missing_world_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ImportError, match=r"pip install 'vidreward\[metaworld\]'"):
        make_env("metaworld/drawer-open-v3")


@pytest.mark.slow
def test_drawing_first_and_learning_later_does_not_crash() -> None:
    needs("metaworld")
    code = """
import torch
from vidreward.envs import make_env
env = make_env("hold/pushing", size=16, goals=False)
env.reset(seed=0)
weights = torch.nn.Parameter(torch.ones(3))
weights.sum().backward()
torch.optim.Adam([weights]).step()
import torch._dynamo
env.step(env.action_space.sample())
env.close()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("task", ["door", "hammer", "pen", "relocate"])
def test_every_adroit_task_runs(task: str) -> None:
    needs("adroit")
    env = find_env(f"adroit/{task}")(size=32)
    env.reset(seed=0)
    assert np.isfinite(env.step(env.action_space.sample())[4]["dense_reward"])
    env.close()


@pytest.mark.slow
def test_kitchen_goal_shows_only_its_tasks_done() -> None:
    needs("kitchen")
    env = find_env("kitchen/microwave")(size=64)
    first, info = env.reset(seed=0)
    changed = np.abs(info["goal"][0].astype(int) - first["pixels"]).max(0) > 30
    assert 0.005 < changed.mean() < 0.3
    kitchen = env._env
    kitchen.data.qpos[22] = -0.75
    _, reward, _, _, info = env.step(np.zeros(9))
    assert reward == 1.0
    assert info["success"]
    env.close()


@pytest.mark.slow
@pytest.mark.filterwarnings(SHAPE)
def test_dmc_rewards_cameras_and_actions() -> None:
    needs("dmc")
    env = find_env("dmc/pendulum-swingup")(size=32)
    env.reset(seed=0)
    env._env.physics.named.data.qpos["hinge"] = 0.0  # upright
    _, reward, _, _, info = env.step(np.zeros(1))
    assert reward == info["dense_reward"] == 1.0
    assert info["success"]
    env.close()
    with pytest.raises(ValueError, match="has cameras 0 to"):
        find_env("dmc/walker-walk")(camera=9)
    with pytest.raises(ValueError, match="side, back"):
        find_env("dmc/walker-walk")(camera="front")
