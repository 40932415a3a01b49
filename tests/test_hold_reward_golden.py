"""Rewards against the original's samplers: every case, labelled after the fact and paid step by step."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from goldens import golden
from vidreward.reward_model import RewardModel, require, windows
from vidreward.rl.reward import Reward, RewardMix, RewardTerm, Shaping, SubGoals, TimeIndexedGoals
from vidreward.rl.wrapper import VideoReward
from vidreward.types import Episode, Inputs, Video

DATA = golden("hold_reward/data.npz")
CASES = [str(case) for case in DATA["cases"]]
GOAL = 100
"""Grey level of the first goal's picture; frame k has level k."""


def case_data(case: str) -> dict[str, Any]:
    return {key.removeprefix(f"{case}/"): value for key, value in DATA.items() if key.startswith(f"{case}/")}


def pictures(levels: list[int]) -> np.ndarray:
    return np.array(levels, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8)


class Table(RewardModel):
    """Score pictures by their grey level from the recorded model outputs, noting what was looked at."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__()
        self.inputs = Inputs(context=int(data["history"]), goal="image")
        self.table, self.baseline = data["distance_table"], data["baseline"]
        self.calls: list[tuple[list[int], int]] = []

    def score(self, video: Video, *, seed: int = 0) -> Tensor:
        require(video, self.inputs, "Table")
        assert video.goal is not None
        levels, goals = video.frames[..., 0, 0, 0].long(), video.goal[:, -1, 0, 0, 0].long() - GOAL
        history = windows(levels.shape[1], self.inputs.context or 1)
        scores = torch.zeros(levels.shape)
        for row, t in np.ndindex(*levels.shape):
            goal, seen = int(goals[row]), levels[row, history[t]].tolist()
            at_goal = seen[-1] >= GOAL
            assert not at_goal or set(seen) == {goal + GOAL}, "a baseline repeats the goal as history"
            distance = self.baseline[goal] if at_goal else self.table[goal, seen[-1]]
            scores[row, t] = -float(distance)
            if not at_goal and t == video.length[row] - 1:
                self.calls.append((seen, goal))
        return scores


def optional(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def make_reward(data: dict[str, Any]) -> Reward:
    goals: SubGoals | TimeIndexedGoals | None = None
    if data["time_indexed"]:
        goals = TimeIndexedGoals(variant="as_coded")
    elif not np.isnan(data["subtask_threshold"]):
        goals = SubGoals(
            threshold=float(data["subtask_threshold"]),
            cost=float(data["subtask_cost"]),
            hold_steps=int(data["subtask_hold_steps"]),
            variant="as_coded",
        )
    shaping = Shaping(
        baseline=True,
        clip=True,
        scale=1 / float(data["T"]),
        normalizer_less_baseline=bool(data["subtract_baseline_from_normalizer"]),
        difference=bool(data["subtract_prev_distance"]),
    )
    term = RewardTerm(model=Table(data), name="table", weight=float(data["distance_reward_weight"]), shaping=shaping)
    mix = RewardMix(
        terms=(term,),
        env_weight=float(data["env_reward_weight"]),
        env_replace_threshold=optional(data["env_reward_replace_threshold"]),
        goals=goals,
    )
    return Reward(mix, precision="fp32")


class Replay(gymnasium.Env[dict[str, np.ndarray], int]):
    """Show frames 0, 1, 2, ... with the recorded rewards, and begin again at the horizon."""

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012

    def __init__(self, data: dict[str, Any]) -> None:
        self.rewards, self.horizon = data["env_reward"], int(data["horizon"])
        self.goal = pictures([GOAL + k for k in range(int(data["num_goals"]))])
        self.observation_space = spaces.Dict({"pixels": spaces.Box(0, 255, (3, 2, 2), np.uint8)})  # type: ignore
        self.action_space = spaces.Discrete(1)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.frame = 0
        return {"pixels": pictures([0])[0]}, {"goal": self.goal}

    def step(self, action: int) -> Any:
        self.frame += 1
        reward = float(self.rewards[self.frame - 1])
        return {"pixels": pictures([self.frame])[0]}, reward, False, self.frame == self.horizon, {}


@pytest.mark.parametrize("case", [case for case in CASES if case != "eval_mode"])  # labels are for training
def test_label(case: str) -> None:
    data = case_data(case)
    reward, horizon = make_reward(data), int(data["horizon"])
    num_steps = len(data["reward"])
    rewards, stages, counters = [], [], []
    for start in range(0, num_steps, horizon):
        steps = min(horizon, num_steps - start)
        goal = pictures([GOAL + k for k in range(int(data["num_goals"]))])
        columns = {"reward": np.append(data["env_reward"][:steps], 0.0)}
        episode = Episode.from_frames(
            pictures(list(range(steps + 1))), id=f"{start}", fps=10, columns=columns, goal=goal
        )
        trace = reward.trace(episode)
        np.testing.assert_allclose(trace.reward, sum(reward.label_terms(episode).values()))
        rewards.append(trace.reward)
        stages.append(trace.next_goal[1:] + 1)
        counters.append(trace.counter[1:])
    np.testing.assert_allclose(np.concatenate(rewards), data["reward"], rtol=1e-5, atol=1e-6)
    if isinstance(reward.mix.goals, SubGoals):
        np.testing.assert_array_equal(np.concatenate(stages), data["stage_after"])
        np.testing.assert_array_equal(np.concatenate(counters), data["counter_after"])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("case", CASES)
def test_video_reward(case: str, mode: AutoresetMode) -> None:
    data = case_data(case)
    reward = make_reward(data)
    env = VideoReward(
        SyncVectorEnv([lambda: Replay(data)], autoreset_mode=mode), reward, evaluation=bool(data["eval_mode"])
    )
    model = reward.terms[0].model
    assert isinstance(model, Table)
    env.reset()
    rewards, stages, counters, ended, calls = [], [], [], [], []
    was_reset = False
    # the original only looks at a reset frame for a difference; here it is always scored
    calls += model.calls if data["subtract_prev_distance"] else []
    while len(rewards) < len(data["reward"]):
        model.calls.clear()
        running = env._episodes[0]
        _, paid, _, truncated, _ = env.step(np.zeros(1, int))
        if was_reset:
            assert paid[0] == 0, "no reward for the step in which NEXT_STEP resets"
            calls += model.calls if data["subtract_prev_distance"] else []
            was_reset = False
            continue
        rewards.append(float(paid[0]))
        ended.append(bool(truncated[0]))
        assert running is not None
        stages.append(running.account.goal + 1)
        counters.append(running.account.counter)
        more = model.calls if data["subtract_prev_distance"] else model.calls[:1]
        calls += more
        was_reset = mode == AutoresetMode.NEXT_STEP and bool(truncated[0])
    np.testing.assert_allclose(rewards, data["reward"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ended, data["terminal"])
    if isinstance(reward.mix.goals, SubGoals):
        np.testing.assert_array_equal(stages, data["stage_after"])
        np.testing.assert_array_equal(counters, data["counter_after"])
    calls = calls[: len(data["model_call_goal"])]  # the original's next reset is not part of the record
    np.testing.assert_array_equal([seen for seen, _ in calls], data["model_call_state_frames"])
    first = 1 if isinstance(reward.mix.goals, SubGoals) or data["num_goals"] == 1 else 0
    np.testing.assert_array_equal([goal + first for _, goal in calls], data["model_call_goal"])
