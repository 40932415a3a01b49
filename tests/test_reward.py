"""From scores to rewards: known answers, telescoping, sub-goals, mixes, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from dots import dot_episodes, dot_frames
from vidreward.checkpoint import Description, save_checkpoint
from vidreward.config import from_json, to_json
from vidreward.reward_model import RewardModel, windows
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.rl.reward import (
    Reward,
    RewardMix,
    RewardTerm,
    Shaping,
    SubGoals,
    TimeIndexedGoals,
    label,
    suggest_normalizer,
    usual_shaping,
)
from vidreward.scoring import score_episode, score_frames
from vidreward.types import DataSpec, Episode, Inputs, Video

HOLD = Shaping(baseline=True, clip=True, scale=1 / 5)


class Level(RewardModel):
    """Minus the distance between the mean grey levels of the last frames and of the goal, plus a floor at the goal."""

    def __init__(self, *, context: int = 1, floor: float = 0.0, goal: bool = True) -> None:
        super().__init__()
        self.inputs = Inputs(context=context, goal="image" if goal else "none")
        self.floor = floor
        self.register_buffer("score_mean", torch.tensor(-4.0))
        self.register_buffer("score_std", torch.tensor(2.0))

    def score(self, video: Video, *, seed: int = 0) -> Tensor:
        levels = video.frames.float().mean((2, 3, 4))
        levels = levels[:, windows(levels.shape[1], self.inputs.context or 1)].mean(-1)
        goal = 0.0 if video.goal is None else video.goal[:, -1:].float().mean((2, 3, 4))
        return -(levels - goal).abs() - self.floor


def grey(levels: list[int]) -> np.ndarray:
    return np.array(levels, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)


def episode(levels: list[int], goal: list[int] | None = None, reward: list[float] | None = None) -> Episode:
    columns = None if reward is None else {"reward": np.array(reward)}
    return Episode.from_frames(
        grey(levels), id="grey", fps=10, columns=columns, goal=None if goal is None else grey(goal)
    )


def known(scores: np.ndarray, shaping: Shaping, goal_score: float = 0.0, *, terminated: bool = False) -> np.ndarray:
    """Pay scores that are given, against a goal with a score of its own."""
    reward = Reward(RewardTerm(model=Level(floor=-goal_score), name="level", shaping=shaping))
    one = Episode.from_frames(np.zeros((len(scores), 3, 1, 1), np.uint8), id="known", fps=10)
    return reward.trace(one, scores={"level": np.asarray(scores)}, terminated=terminated).reward


# --- one term --------------------------------------------------------------------------------------------------------


def test_worked_example() -> None:
    scores = -np.array([6, 5, 5.5, 3])  # distances; the goal's own is 0.5, T is 5
    np.testing.assert_allclose(known([0, *scores], HOLD, -0.5), [-1.1, -0.9, -1.0, -0.5])
    np.testing.assert_allclose(known(scores, replace(HOLD, difference=True), -0.5), [0.2, -0.1, 0.5])
    np.testing.assert_allclose(known(scores, Shaping()), [-5, -5.5, -3])
    np.testing.assert_allclose(known(scores, Shaping(difference=True, discount=0.5)), [3.5, 2.25, 4.0])


def test_clipping_pays_no_more_than_the_goal() -> None:
    assert known([0.0, -0.1, -3.0], Shaping(baseline=True, clip=True), -1.0).tolist() == [0.0, -2.0]


def test_normalizer_less_baseline_is_one_at_that_distance() -> None:
    shaping = replace(HOLD, normalizer_less_baseline=True)
    np.testing.assert_allclose(known([0, -5, -0.5, -2.75], shaping, -0.5), [-1.0, 0.0, -0.5])
    with pytest.raises(ValueError, match=r"6.*reaches the normalizer 5"):
        known([0, -7], shaping, -6)


def test_standardizing_uses_the_models_statistics() -> None:
    assert known([0, -4, -6, 0], Shaping(standardize=True, scale=0.5)).tolist() == [0.0, -0.5, 1.0]
    with pytest.raises(ValueError, match="score_mean"):
        Reward(RewardTerm(model=hold_c(), shaping=Shaping(standardize=True)))


def test_distances_are_those_of_the_embeddings() -> None:
    model, one = hold_c(), dot_episodes(1)[0]
    with torch.inference_mode():
        codes = model.encode(torch.from_numpy(one.all_frames())).double()
    squared = (codes - codes[-1]).square().sum(-1)
    distances = {
        "eucl": squared.sqrt(),
        "sq_eucl": squared,
        "sq_eucl_huber": 0.005 * squared + 0.02 * (0.2 + squared).sqrt() - 0.02 * 0.2**0.5,
    }
    assert 0.02 * 0.2**0.5 == pytest.approx(0.00894, abs=1e-5)
    for name, distance in distances.items():
        reward = Reward(RewardTerm(model=model, shaping=Shaping(distance=name, baseline=True)), precision="fp32")
        np.testing.assert_allclose(reward.label(one), -distance[1:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="minus a distance"):
        known([0.0, 1.0], Shaping(distance="sq_eucl"))


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("terminal", ["keep", "zero"])
@given(
    scores=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-100, 100)),
    goal=st.floats(-100, 0, width=32),
    discount=st.sampled_from([1.0, 0.99, 0.5]),
    clip=st.booleans(),
    scale=st.floats(0.01, 1),
)
def test_differences_telescope(
    terminal: str, terminated: bool, scores: np.ndarray, goal: float, discount: float, clip: bool, scale: float
) -> None:
    shaping = Shaping(baseline=True, clip=clip, difference=True, scale=scale, discount=discount, terminal=terminal)
    rewards = known(scores, shaping, goal, terminated=terminated)
    potentials = scale * (np.minimum(scores - goal, 0) if clip else scores - goal)
    num_steps = len(scores) - 1
    end = 0.0 if terminated and terminal == "zero" else potentials[-1]
    expected = discount**num_steps * end - potentials[0] if num_steps else 0.0
    assert rewards.shape == (num_steps,)
    assert (rewards * discount ** np.arange(num_steps)).sum() == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=25), st.sampled_from(["as_coded", "fixed"]))
def test_differences_telescope_over_sub_goals(levels: list[int], variant: str) -> None:
    shaping = Shaping(baseline=True, clip=True, difference=True, scale=0.1)
    goals = SubGoals(threshold=3, hold_steps=2, cost=7, variant=variant)
    reward = Reward(RewardMix(terms=(RewardTerm(model=Level(), shaping=shaping),), goals=goals))
    trace = reward.trace(episode(levels, goal=[20, 30, 10]))
    left = 2 - trace.goal
    potentials = 0.1 * (trace.scores["Level"] - 7 * left)
    assert trace.reward.sum() == pytest.approx(potentials[-1] - potentials[0], abs=1e-6)


def test_label_subtracts_the_goals_own_score() -> None:
    model, one = made(HoldR(HoldRConfig(depth=14, num_filters=4), mean_fps=10.0)), dot_episodes(1)[0]
    model.normalizer.fill_(4.0)
    assert usual_shaping(model) == Shaping(baseline=True, clip=True, scale=0.25)
    assert usual_shaping(Level(goal=False)) == Shaping()
    scores = score_episode(model, one)
    goal = score_frames(model, one.goal(), one.goal())[0]
    expected = np.minimum(scores[1:] - goal, 0) / 4
    np.testing.assert_allclose(label(model, one), expected, atol=1e-3)
    np.testing.assert_allclose(label(model, one, scores=scores), expected, atol=1e-3)
    assert label(model, Episode.from_frames(dot_frames(1, np.random.default_rng(0)), id="1", fps=10)).shape == (0,)


def test_normalizer_makes_the_first_reward_a_third() -> None:
    model, episodes = made(HoldR(HoldRConfig(depth=14, num_filters=4), mean_fps=10.0)), dot_episodes(5)
    plain = Shaping(baseline=True, clip=False)
    normalizer = suggest_normalizer(model, episodes, plain)
    first = [
        score_frames(model, e.frames([0]), e.goal())[0] - score_frames(model, e.goal(), e.goal())[0] for e in episodes
    ]
    assert np.abs(first).mean() / normalizer == pytest.approx(1 / 3, rel=1e-3)
    assert suggest_normalizer(Level(), [episode([10, 0]), episode([20, 0])]) == pytest.approx(45)
    with pytest.raises(ValueError, match="already at their goals"):
        suggest_normalizer(Level(), [episode([7, 7])])
    with pytest.raises(ValueError, match="no episodes"):
        suggest_normalizer(Level(), [])


def hold_c() -> HoldC:
    return made(HoldC(HoldCConfig(depth=14, num_filters=4, embedding_dim=4)))


def made[M: RewardModel](model: M) -> M:
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


# --- goals that follow each other ------------------------------------------------------------------------------------

THREE = [10, 20, 30]


def sub_goal_reward(shaping: Shaping, replace_below: float | None = None, **settings: object) -> Reward:
    term = RewardTerm(model=Level(), name="level", shaping=shaping)
    goals = SubGoals(**{"threshold": 2, "hold_steps": 2, "cost": 5, **settings})  # type: ignore[arg-type]
    return Reward(RewardMix(terms=(term,), goals=goals, env_weight=1.0, env_replace_threshold=replace_below))


def test_three_sub_goals_by_hand() -> None:
    levels = [0, 9, 10, 12, 20, 20, 29, 30, 5]
    trace = sub_goal_reward(Shaping(baseline=True, clip=True)).trace(episode(levels, THREE, [0.0] * 9))
    assert trace.goal.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert trace.next_goal.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert trace.counter.tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 0]
    # distance to the current goal, and 5 for each one after it
    expected = [-(1 + 10), -(0 + 10), -(8 + 5), -(0 + 5), -(0 + 5), -1, 0, -25]
    np.testing.assert_allclose(trace.reward, expected)


def test_the_reset_frame_counts_as_coded_with_differences_only() -> None:
    levels, shaping = [10, 10, 20, 20, 30], Shaping(baseline=True, clip=True)
    difference = replace(shaping, difference=True)
    goals = {
        name: sub_goal_reward(how, variant=variant).trace(episode(levels, THREE, [0.0] * 5)).goal.tolist()
        for name, how, variant in (
            ("cumulative", shaping, "as_coded"),
            ("as_coded", difference, "as_coded"),
            ("fixed", difference, "fixed"),
        )
    }
    assert goals == {"cumulative": [0, 0, 0, 0, 0], "as_coded": [0, 0, 1, 1, 2], "fixed": [0, 0, 0, 0, 0]}


def test_success_is_near_the_last_goal_only() -> None:
    one = episode([0, 10, 10, 20, 20, 30, 26], THREE, [9.0] * 7)
    shaping = Shaping(baseline=True, clip=True)
    fixed = sub_goal_reward(shaping, 3.0, cost=0).label_terms(one)["env"]
    coded = sub_goal_reward(shaping, 3.0, cost=0, variant="as_coded").label_terms(one)["env"]
    with_cost = sub_goal_reward(shaping, 3.0, variant="as_coded").label_terms(one)["env"]
    assert fixed.tolist() == [0, 0, 0, 0, 1, 0]
    assert coded.tolist() == [1, 1, 1, 1, 1, 0]
    assert with_cost.tolist() == fixed.tolist()  # as coded, the cost keeps early goals from counting


@pytest.mark.parametrize(("variant", "at"), [("fixed", [0, 1, 2, 2, 2]), ("as_coded", [0, 0, 1, 2, 2])])
@pytest.mark.parametrize("context", [1, 2])
def test_time_indexed_goals(variant: str, at: list[int], context: int) -> None:
    model, levels = Level(context=context), [3, 14, 26, 30, 35]
    term = RewardTerm(model=model, name="level", shaping=Shaping(baseline=True))
    trace = Reward(RewardMix(terms=(term,), goals=TimeIndexedGoals(variant=variant))).trace(episode(levels, THREE))
    assert trace.goal.tolist() == at
    seen = [np.mean(levels[max(0, t + 1 - context) : t + 1]) if t else levels[0] for t in range(5)]
    expected = [-abs(level - THREE[k]) for level, k in zip(seen, at, strict=True)]
    np.testing.assert_allclose(trace.scores["level"], expected)
    np.testing.assert_allclose(trace.reward, expected[1:])


# --- mixes -----------------------------------------------------------------------------------------------------------


def test_terms_and_the_environments_reward_are_weighted() -> None:
    one = episode([10, 12, 16, 20], reward=[1.0, 0.0, 2.0, 7.0])  # the last row's reward is of a step never taken
    mix = RewardMix(
        terms=(
            RewardTerm(model=Level(), name="to goal", weight=0.5),
            RewardTerm(model=Level(goal=False), name="dark", weight=-2.0, shaping=Shaping(difference=True)),
        ),
        env_weight=3.0,
        env_offset=-1.0,
    )
    terms = Reward(mix).label_terms(one)
    assert {name: values.tolist() for name, values in terms.items()} == {
        "to goal": [-4.0, -2.0, 0.0],
        "dark": [4.0, 8.0, 8.0],
        "env": [2.0, -1.0, 5.0],
    }
    assert Reward(mix).label(one).tolist() == [2.0, 5.0, 13.0]
    assert Reward(RewardMix(env_weight=1.0)).label(one).tolist() == [1.0, 0.0, 2.0]
    with pytest.raises(ValueError, match="no column reward"):
        Reward(mix).label(episode([1, 2]))


def test_a_model_on_disk_pays_as_in_memory(tmp_path: Path) -> None:
    model, one = hold_c(), dot_episodes(1)[0]
    config = HoldCConfig(depth=14, num_filters=4, embedding_dim=4)
    spec = DataSpec(height=32, width=32, fps=10.0)
    save_checkpoint(
        tmp_path / "run", model, Description(reward="hold_c", config=config, data=spec, preprocessing={}), provenance={}
    )
    term = RewardTerm(model=str(tmp_path / "run"), weight=2.0)
    reward = Reward(term, device="cpu")
    assert reward.terms[0].name == "run"
    assert reward.terms[0].data == spec
    np.testing.assert_array_equal(reward.label(one), 2 * label(model, one))


def test_a_mix_is_read_from_the_command_line_and_from_json() -> None:
    mix = RewardMix(terms=(RewardTerm(model="runs/x", shaping=HOLD),), goals=SubGoals(threshold=1.0), env_weight=1.0)
    assert from_json(RewardMix, json.loads(json.dumps(to_json(mix)))) == mix
    term = tyro.cli(RewardTerm, args=["--model", "runs/x", "--weight", "2"])
    assert term == RewardTerm(model="runs/x", weight=2.0)
    with pytest.raises(TypeError, match="HoldC"):
        to_json(RewardTerm(model=hold_c()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shaping(scale=0), "scale"),
        (lambda: Shaping(discount=0.9), "difference"),
        (lambda: Shaping(terminal="zero"), "difference"),
        (lambda: Shaping(difference=True, discount=1.5), "discount"),
        (lambda: Shaping(standardize=True, baseline=True), "baseline"),
        (lambda: Shaping(huber=(-1, 0, 0)), "huber"),
        (lambda: SubGoals(threshold=0), "threshold"),
        (lambda: Reward(RewardTerm(model=Level(goal=False), shaping=HOLD)), "no goal"),
        (lambda: Reward(RewardTerm(model=Level(), name="env")), "env"),
        (lambda: Reward(RewardMix(terms=(RewardTerm(model=Level()),) * 2)), "different names"),
        (lambda: Reward(RewardMix(terms=(RewardTerm(model=Level(goal=False)),), goals=TimeIndexedGoals())), "goal"),
        (lambda: Reward(RewardMix(env_replace_threshold=1.0)), "exactly one"),
        (
            lambda: Reward(
                RewardMix(
                    terms=(RewardTerm(model=Level(), name="a"), RewardTerm(model=Level(), name="b")),
                    goals=SubGoals(threshold=1),
                )
            ),
            "has 2",
        ),
        (lambda: Reward(RewardTerm(model="no/such/run")), "no/such/run"),
    ],
)
def test_wrong_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
