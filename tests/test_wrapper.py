"""VideoReward: equal to labels in both autoreset modes, sync and async; what it says; what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replay import Playback, Replay, play
from vidreward.envs import make_env
from vidreward.reward_model import RewardModel, require, windows
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rl.reward import LoadedTerm, Reward, RewardMix, RewardTerm, Shaping, SubGoals, TimeIndexedGoals
from vidreward.rl.wrapper import VideoReward
from vidreward.types import DataSpec, Inputs, Video

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


class Level(RewardModel):
    """Minus the distance of the last frames' mean grey level to the goal's; counts the calls and rows it gets."""

    def __init__(self, inputs: Inputs | None = None) -> None:
        super().__init__()
        self.inputs = Inputs(context=3, goal="image") if inputs is None else inputs
        self.batches: list[int] = []
        self.goals_encoded = 0

    def score(self, video: Video, *, seed: int = 0) -> Tensor:
        require(video, self.inputs, "Level")
        self.batches.append(len(video.frames))
        levels = video.frames.float().mean((2, 3, 4))
        if self.inputs.context is None:
            levels = levels.cumsum(1) / torch.arange(1, levels.shape[1] + 1)
        else:
            levels = levels[:, windows(levels.shape[1], self.inputs.context)].mean(-1)
        goal = 0.0 if video.goal is None else video.goal.float().mean((1, 2, 3, 4))[:, None]
        state = 0.0 if video.state is None else video.state[..., 0]
        text = 0.0 if video.text is None else torch.tensor([[float(len(each))] for each in video.text])
        return -(levels - goal).abs() - 0.25 + state + text


def grey(levels: list[int], size: int = 4) -> np.ndarray:
    return np.array(levels, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, size, size + 1), np.uint8)


def playback(levels: list[int], *, goal: list[int], terminates: bool = False) -> Playback:
    rng = np.random.default_rng(len(levels))
    rewards, states = rng.random(len(levels) - 1), rng.random((len(levels), 2)).astype(np.float32)
    return Playback(frames=grey(levels), rewards=rewards, goal=grey(goal), states=states, terminates=terminates)


def vector(rows: list[list[Playback]], mode: AutoresetMode = MODES[0], **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda row=row: Replay(row, **kwargs) for row in rows], autoreset_mode=mode)


def expected(reward: Reward, row: list[Playback], num_steps: int, text: str | None = None) -> list[dict[str, float]]:
    """What labels say of the first steps of the episodes of one row, played again and again."""
    steps: list[dict[str, float]] = []
    while len(steps) < num_steps:
        for played in row:
            trace = reward.trace(played.episode(text), terminated=played.terminates)
            for t in range(len(played.rewards)):
                said = {"reward": float(trace.reward[t]), "env_reward": float(played.rewards[t])}
                said |= {f"reward/{name}": float(values[t]) for name, values in trace.terms.items()}
                said |= {f"score/{name}": float(values[t + 1]) for name, values in trace.scores.items()}
                steps.append(said)
    return steps[:num_steps]


def assert_equal_to_labels(env: VideoReward, rows: list[list[Playback]], num_steps: int = 40) -> None:
    env.reset()
    for row, steps in zip(rows, play(env, num_steps), strict=True):
        assert len(steps) >= num_steps // 3
        for step, label in zip(steps, expected(env.video_reward, row, len(steps)), strict=True):
            step.pop("goal_index")
            assert step == pytest.approx(label, abs=1e-5)


ROWS = [
    [playback([0, 9, 10, 11, 20, 30, 29, 30], goal=[10, 20, 30]), playback([30, 3], goal=[4, 5, 6], terminates=True)],
    [playback([50, 40, 31, 30, 30, 22, 20, 18, 10, 9, 0], goal=[30, 20, 10], terminates=True)],
    [playback([7, 8, 9], goal=[9, 9, 8]), playback([1, 1, 1, 1, 2], goal=[1, 2, 2])],
]
MIXES = {
    "cumulative": RewardMix(env_weight=0.5, env_offset=0.1),
    "sub-goals": RewardMix(goals=SubGoals(threshold=2, hold_steps=2, cost=5), env_weight=1.0),
    "sub-goals as coded": RewardMix(goals=SubGoals(threshold=2, hold_steps=1, cost=5, variant="as_coded")),
    "time-indexed": RewardMix(goals=TimeIndexedGoals()),
    "time-indexed as coded": RewardMix(goals=TimeIndexedGoals(variant="as_coded")),
    "replaced": RewardMix(env_weight=2.0, env_replace_threshold=3.0),
}


# --- equal to labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MIXES)
def test_equal_to_labels(name: str, mode: AutoresetMode, difference: bool) -> None:
    shaping = Shaping(baseline=True, clip=True, scale=0.1, difference=difference)
    mix = replace(MIXES[name], terms=(RewardTerm(model=Level(), name="level", weight=2.0, shaping=shaping),))
    assert_equal_to_labels(VideoReward(vector(ROWS, mode), Reward(mix)), ROWS)


@pytest.mark.parametrize("context", [1, 2, None])
@pytest.mark.parametrize("goal", ["none", "image", "video"])
def test_every_kind_of_model(context: int | None, goal: Any) -> None:
    model = Level(Inputs(context=context, goal=goal, state=True, text=True))
    terms = (RewardTerm(model=model, name="one", shaping=Shaping()), RewardTerm(model=Level(), name="two"))
    env = VideoReward(vector(ROWS), Reward(RewardMix(terms=terms)), text="abc")
    env.reset()
    for row, steps in zip(ROWS, play(env, 25), strict=True):
        for step, label in zip(steps, expected(env.video_reward, row, len(steps), "abc"), strict=True):
            step.pop("goal_index")
            assert step == pytest.approx(label, abs=1e-5)


def test_channels_last_and_processes() -> None:
    rows = ROWS[:2]
    make = [partial(Replay, row, channels_last=True) for row in rows]
    for env in (
        SyncVectorEnv(make, autoreset_mode=MODES[0]),
        AsyncVectorEnv(make, autoreset_mode=MODES[0], context="spawn"),
        AsyncVectorEnv(make[:1], autoreset_mode=MODES[1], context="spawn"),
    ):
        wrapped = VideoReward(env, Reward(RewardTerm(model=Level())))
        assert_equal_to_labels(wrapped, rows[: env.num_envs], 15)
        wrapped.close()


@settings(max_examples=15)
@given(
    episodes=st.lists(
        st.tuples(st.lists(st.integers(0, 60), min_size=2, max_size=6), st.booleans()), min_size=1, max_size=3
    ),
    terminal=st.sampled_from(["keep", "zero"]),
    discount=st.sampled_from([1.0, 0.9]),
    mode=st.sampled_from(MODES),
)
def test_differences_telescope(episodes: Any, terminal: Any, discount: float, mode: AutoresetMode) -> None:
    row = [playback(levels, goal=[30], terminates=ends) for levels, ends in episodes]
    shaping = Shaping(baseline=True, difference=True, terminal=terminal, discount=discount)
    env = VideoReward(vector([row], mode), Reward(RewardTerm(model=Level(), name="level", shaping=shaping)))
    _, info = env.reset()
    start, steps = float(info["score/level"][0]), play(env, 30)[0]
    for played in row:
        num_steps = len(played.rewards)
        own, steps = steps[:num_steps], steps[num_steps:]
        first = np.mean(np.abs(played.frames[0].astype(float) - 30))
        end = 0.0 if played.terminates and terminal == "zero" else own[-1]["score/level"] + 0.25
        total = sum(discount**t * step["reward"] for t, step in enumerate(own))
        assert total == pytest.approx(discount**num_steps * end + first, abs=1e-5)
    assert start == pytest.approx(-np.mean(np.abs(row[0].frames[0].astype(float) - 30)) - 0.25)


# --- what it does and says -------------------------------------------------------------------------------------------


def test_one_forward_pass_a_step_and_a_goal_is_encoded_once() -> None:
    class Coded(HoldC):
        encoded: list[int] = []  # noqa: RUF012

        def encode(self, frames: Tensor) -> Tensor:
            self.encoded.append(len(frames))
            return super().encode(frames)

    one = Playback(frames=np.zeros((4, 3, 32, 32), np.uint8), rewards=[0.0] * 3, goal=np.ones((1, 3, 32, 32), np.uint8))
    model = Coded(HoldCConfig(depth=14, num_filters=4))
    env = VideoReward(vector([[one]] * 3), Reward(RewardTerm(model=model)))
    env.reset()
    assert model.encoded == [1, 3]  # the goal that all share, then all reset frames
    model.encoded.clear()
    for _ in range(3):
        env.step(env.action_space.sample())
    assert model.encoded == [3, 3, 6]  # in the last step also the first frames of the next episodes


def test_info_and_evaluation() -> None:
    mix = RewardMix(terms=(RewardTerm(model=Level(), name="level"),), env_weight=1.0)
    env = VideoReward(vector(ROWS), Reward(mix), evaluation=True)
    _, info = env.reset()
    assert info["score/level"].shape == (3,)
    assert not np.isnan(info["score/level"]).any()
    _, rewards, _, truncated, info = env.step(env.action_space.sample())
    np.testing.assert_array_equal(rewards, [row[0].rewards[0] for row in ROWS])
    np.testing.assert_array_equal(rewards, info["env_reward"])
    for name in ("env_reward", "score/level", "reward/level", "reward/env", "goal_index"):
        assert info[f"_{name}"].all()
    assert info["frame"].tolist() == [1, 1, 1]
    assert not truncated.any()


def test_goals_for_policies() -> None:
    goals = SubGoals(threshold=2, hold_steps=1)
    env = VideoReward(vector(ROWS[:1]), Reward(RewardMix(terms=(RewardTerm(model=Level()),), goals=goals)))
    env.reset()
    shown = []
    for _ in range(4):
        shown.append(int(env.goals[0, 0, 0, 0]))
        env.step(env.action_space.sample())
    assert shown == [10, 10, 10, 20]  # the mean of three frames is near 10 after the third step
    assert env.goals.shape == (1, 3, 4, 5)


def test_a_goal_from_an_array_or_a_function() -> None:
    seen = []

    def from_info(info: Any) -> np.ndarray:
        seen.append(sorted(info))
        return grey([9])

    for goal in (grey([9]), grey([9])[0], from_info):
        env = VideoReward(vector(ROWS), Reward(RewardTerm(model=Level(), shaping=Shaping())), goal=goal)
        _, info = env.reset()
        np.testing.assert_allclose(info["score/Level"], [-9.25, -41.25, -2.25])
    assert seen == [["goal"]] * 3


def test_some_environments_are_reset_alone() -> None:
    model = Level(Inputs(context=None, goal="image"))
    env = VideoReward(vector(ROWS), Reward(RewardTerm(model=model, name="a")), goal=grey([0]))
    env.reset()
    env.step(env.action_space.sample())
    _, info = env.reset(options={"reset_mask": np.array([False, False, True])})
    np.testing.assert_allclose(info["score/a"], [np.nan, np.nan, -1.25])  # the second episode of the third row
    _, _, _, _, info = env.step(env.action_space.sample())
    np.testing.assert_allclose(info["score/a"], [-np.mean([0, 9, 10]) - 0.25, -np.mean([50, 40, 31]) - 0.25, -1.25])


def test_the_tabletop_world_pays_as_its_frames_are_labelled() -> None:
    torch.manual_seed(0)
    model = HoldC(HoldCConfig(depth=14, num_filters=4))
    mix = RewardMix(terms=(RewardTerm(model=model, name="hold_c"),), env_weight=1.0)
    reward = Reward(mix, precision="fp32")
    env = VideoReward(make_env("tabletop/push", num_envs=2, size=32, max_steps=6), reward)
    observation, info = env.reset(seed=0)
    frames, goals = [observation["pixels"]], info["goal"]
    paid = []
    for _ in range(6):
        observation, rewards, _, truncated, info = env.step(env.action_space.sample())
        paid.append(rewards)
        last = np.stack([final["pixels"] for final in info["final_obs"]]) if truncated.all() else observation["pixels"]
        frames.append(last)
    for row in range(2):
        own = np.stack([frame[row] for frame in frames])
        played = Playback(frames=own, rewards=[0.0] * 6, goal=goals[row])
        np.testing.assert_allclose(reward.label(played.episode()), [each[row] for each in paid], rtol=1e-4, atol=1e-4)
    env.close()


# --- refused before the first step -----------------------------------------------------------------------------------


def with_data(reward: Reward, data: DataSpec) -> Reward:
    reward.terms = [LoadedTerm(pays=t.pays, model=t.model, scorer=t.scorer, data=data) for t in reward.terms]
    return reward


def make_reward(**inputs: Any) -> Reward:
    return Reward(RewardTerm(model=Level(Inputs(**inputs)), name="level"))


def trained_at(size: tuple[int, int]) -> Reward:
    reward = make_reward()
    reward.terms[0].model.frame_size = size
    return reward


class NoPixels(gymnasium.Env[np.ndarray, int]):
    observation_space = spaces.Box(0, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)  # type: ignore[assignment]


def hiding() -> VectorEnv[Any, Any, Any]:
    env = vector(ROWS)
    del env.metadata["autoreset_mode"]
    return env


WITHOUT_GOAL = [[Playback(frames=grey([1, 2, 3]), rewards=[0.0, 0.0])]]
SPEC = DataSpec(height=4, width=5, fps=10.0, cameras=("top", "side"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VideoReward(SyncVectorEnv([NoPixels]), make_reward()), "AddRenderObservation"),
        (lambda: VideoReward(hiding(), make_reward()), "does not say how it resets"),
        (lambda: VideoReward(vector(ROWS, AutoresetMode.DISABLED), make_reward()), "DISABLED"),
        (lambda: VideoReward(vector(ROWS), trained_at((8, 8))), "4x5 and level was trained on 8x8"),
        (lambda: VideoReward(vector(ROWS, camera="under"), with_data(make_reward(), SPEC)), "'under'.*'top'"),
        (lambda: VideoReward(vector(ROWS, camera="side"), with_data(make_reward(), SPEC)), "'side'.*'top'"),
        (lambda: VideoReward(vector(WITHOUT_GOAL), make_reward(state=True)), "state"),
        (lambda: VideoReward(vector(ROWS), make_reward(goal="state")), "goal state"),
        (lambda: VideoReward(vector(WITHOUT_GOAL), make_reward(goal="image")).reset(), r"info\['goal'\]"),
        (
            lambda: VideoReward(vector(ROWS), make_reward(goal="image"), goal=lambda info: None).reset(),  # type: ignore
            "returned none",
        ),
        (
            lambda: VideoReward(vector(ROWS), make_reward(goal="image"), goal=grey([1], size=6)).reset(),
            "goal is 6x7.*4x5",
        ),
        (
            lambda: VideoReward(vector(ROWS), make_reward(goal="image"), goal=grey([1]).astype(float)).reset(),
            "uint8",
        ),
        (lambda: VideoReward(vector(ROWS), make_reward(text=True)).reset(), "instruction"),
        (lambda: VideoReward(vector(ROWS), make_reward()).step(np.zeros(3, int)), r"call reset\(\)"),
        (lambda: VideoReward(vector(ROWS), make_reward()).goals, "reset"),
    ],
)
def test_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_known_cameras_pass() -> None:
    for camera, any_camera in (("top", False), ("under", True), (None, False)):
        VideoReward(vector(ROWS, camera=camera), with_data(make_reward(), SPEC), any_camera=any_camera)
    default = replace(SPEC, cameras=("default",))
    VideoReward(vector(ROWS, camera="under"), with_data(make_reward(), default))


def test_another_frame_rate_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="10 frames a second and level was trained at 30"):
        VideoReward(vector(ROWS), with_data(make_reward(), replace(SPEC, fps=30.0)))


def test_a_hidden_last_frame_is_refused() -> None:
    class Hiding(SyncVectorEnv[Any, Any]):
        def step(self, actions: Any) -> Any:
            *rest, info = super().step(actions)
            info.pop("final_obs", None)
            return (*rest, info)

    env = VideoReward(Hiding([lambda: Replay(ROWS[2])], autoreset_mode=MODES[0]), make_reward())
    env.reset()
    env.step(np.zeros(1, int))
    with pytest.raises(ValueError, match="final_obs"):
        env.step(np.zeros(1, int))


def test_demonstrations_of_different_length_are_refused() -> None:
    rows, count = WITHOUT_GOAL * 2, iter((1, 2))
    env = VideoReward(vector(rows), make_reward(goal="video"), goal=lambda info: grey([1] * next(count)))
    with pytest.raises(ValueError, match="one length"):
        env.reset()
