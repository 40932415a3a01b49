"""Rewards against the original's samplers: every case, labelled after the fact and paid step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from goldens import golden
from replay import Playback, Replay, play
from vidreward.reward_model import RewardModel, require, windows
from vidreward.rl.reward import Reward, RewardMix, RewardTerm, Shaping, SubGoals, TimeIndexedGoals
from vidreward.rl.wrapper import VideoReward
from vidreward.types import Inputs, Video

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


def playback(data: dict[str, Any]) -> Playback:
    """Frames 0, 1, 2, ... up to the horizon, with the recorded rewards."""
    num_steps = min(int(data["horizon"]), len(data["reward"]))
    goal = pictures([GOAL + k for k in range(int(data["num_goals"]))])
    return Playback(frames=pictures(list(range(num_steps + 1))), rewards=data["env_reward"][:num_steps], goal=goal)


@pytest.mark.parametrize("case", [case for case in CASES if case != "eval_mode"])  # labels are for training
def test_label(case: str) -> None:
    data = case_data(case)
    reward = make_reward(data)
    num_steps = len(data["reward"])
    rewards, stages, counters = [], [], []
    while sum(map(len, rewards)) < num_steps:
        played = playback(data)
        keep = min(len(played.rewards), num_steps - sum(map(len, rewards)))
        trace = reward.trace(played.episode())
        rewards.append(trace.reward[:keep])
        stages.append(trace.next_goal[1 : keep + 1] + 1)
        counters.append(trace.counter[1 : keep + 1])
    np.testing.assert_allclose(np.concatenate(rewards), data["reward"], rtol=1e-5, atol=1e-6)
    if isinstance(reward.mix.goals, SubGoals):
        np.testing.assert_array_equal(np.concatenate(stages), data["stage_after"])
        np.testing.assert_array_equal(np.concatenate(counters), data["counter_after"])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("case", CASES)
def test_video_reward(case: str, mode: AutoresetMode) -> None:
    data = case_data(case)
    reward = make_reward(data)
    num_steps, horizon = len(data["reward"]), int(data["horizon"])
    num_resets = (num_steps - 1) // horizon if mode == AutoresetMode.NEXT_STEP else 0
    vector = SyncVectorEnv([lambda: Replay([playback(data)])], autoreset_mode=mode)
    env = VideoReward(vector, reward, evaluation=bool(data["eval_mode"]))
    env.reset()
    steps = play(env, num_steps + num_resets)[0]
    np.testing.assert_allclose([step["reward"] for step in steps], data["reward"], rtol=1e-5, atol=1e-6)
    model = reward.terms[0].model
    assert isinstance(model, Table)
    # the original looks at a reset frame only for a difference; here it is always scored
    calls = [(seen, goal) for seen, goal in model.calls if data["subtract_prev_distance"] or seen[-1] > 0]
    calls = calls[: len(data["model_call_goal"])]  # its next reset is not part of the record
    np.testing.assert_array_equal([seen for seen, _ in calls], data["model_call_state_frames"])
    first = 0 if data["time_indexed"] else 1
    np.testing.assert_array_equal([goal + first for _, goal in calls], data["model_call_goal"])
