"""Controls behave as their definitions promise: on a scorer that sees, a clock, and the blind predictors."""

import numpy as np
import pytest
from scipy import stats

from moving_dot import count_frames, dot_episode, draw_dot, labelled_episodes, see_distance
from vidreward.evaluate.controls import (
    BlindPredictors,
    WrongGoals,
    checked_scores,
    episode_rng,
    find_wrong_goals,
    measure_views,
)
from vidreward.types import Episode


@pytest.fixture
def episode() -> Episode:
    return dot_episode("one", "task", 0, "success", 20, np.random.default_rng(3))


def views(scorer, episode: Episode, **goals):
    frames, goal = episode.all_frames(), episode.goal()
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(frames)) for _ in range(20)]
    scores = scorer(frames, episode, goal)
    return measure_views(scorer, episode, frames, goal, scores, orders=orders, wrong_goals=WrongGoals(**goals))


def test_a_scorer_that_sees_content_keeps_its_value_in_every_order(episode):
    result = views(see_distance, episode, layout=draw_dot(1, 30)[None])
    assert result["reversed_spearman"] == pytest.approx(1)
    assert result["shuffled_spearman"] == pytest.approx(1)
    assert result["reversed_gap"] == pytest.approx(0, abs=1e-12)
    assert result["frozen_spearman"] is None
    assert result["goal_preference_layout"] == 1.0
    assert "goal_preference_task" not in result


def test_a_clock_is_caught_in_every_view(episode):
    result = views(count_frames, episode, layout=draw_dot(1, 30)[None], task=draw_dot(30, 1)[None])
    assert result["reversed_spearman"] == pytest.approx(-1)
    assert result["reversed_gap"] == pytest.approx(2)
    assert abs(result["shuffled_spearman"]) < 0.2
    assert result["frozen_spearman"] == pytest.approx(1)
    assert result["goal_preference_layout"] == result["goal_preference_task"] == 0.5
    assert result["wrong_goal_spearman_layout"] == pytest.approx(1)


def test_shuffled_scores_are_put_back_in_the_order_of_the_content(episode):
    """Known answer without symmetry: score = number written into the frame + place in which it is played."""
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    order = np.array([2, 5, 0, 1, 4, 3])

    def scorer(shown, episode, goal):
        return shown[:, 0, 0, 0].astype(float) + 2.5 * np.arange(len(shown))

    result = measure_views(
        scorer, episode, frames, frames[-1:], scorer(frames, episode, None), orders=[order], wrong_goals=WrongGoals()
    )
    place = np.argsort(order)  # where each frame is played
    assert result["shuffled_spearman"] == pytest.approx(
        stats.spearmanr(np.arange(6) + 2.5 * place, np.arange(6)).statistic
    )


def test_tiny_noise_on_a_frozen_video_counts_as_constant(episode):
    def noisy(frames, episode, goal):
        return see_distance(frames, episode, goal) + 1e-7 * np.arange(len(frames))

    assert views(noisy, episode)["frozen_spearman"] is None


def test_blind_predictors_know_only_length_and_rate():
    blind = BlindPredictors.of([11, 21], [10.0, 10.0], mean_fps=None, seed=0)
    scores = blind.scores(11, 10.0, "a")
    np.testing.assert_allclose(scores["clock"], np.arange(11) - 15)
    assert np.ptp(scores["constant"]) == 0
    np.testing.assert_array_equal(scores["random"], blind.scores(11, 10.0, "a")["random"])
    assert not np.array_equal(scores["random"], blind.scores(11, 10.0, "b")["random"])
    assert not np.array_equal(
        scores["random"],
        BlindPredictors.of([11, 21], [10.0] * 2, mean_fps=None, seed=1).scores(11, 10.0, "a")["random"],
    )


def test_blind_predictors_tell_time_in_the_models_rate():
    blind = BlindPredictors.of([21, 21], [20.0, 20.0], mean_fps=10.0, seed=0)
    scores = blind.scores(21, 20.0, "a")
    np.testing.assert_allclose(-scores["clock"], np.arange(20, -1, -1) / 2)
    np.testing.assert_allclose(-scores["constant"], 5.0)


def test_wrong_goals_come_from_another_layout_and_another_task():
    episodes = labelled_episodes(num_tasks=2, num_layouts=3)
    goals = {(e.task, e.info.metadata["layout"]): e.goal() for e in episodes}
    for episode in episodes:
        found = find_wrong_goals(
            episode, episode.goal(), episodes, layout_column="layout", rng=episode_rng(0, "views", episode.id)
        )
        own = episode.info.metadata["layout"]
        assert any(
            np.array_equal(found.layout, goal) for (t, lay), goal in goals.items() if t == episode.task and lay != own
        )
        assert any(np.array_equal(found.task, goal) for (t, _), goal in goals.items() if t != episode.task)


def test_a_failure_without_a_goal_never_serves_as_one_nor_does_another_size():
    rng = np.random.default_rng(0)
    episode = dot_episode("a", "t", 0, "success", 8, rng)
    failed = dot_episode("b", "t", 1, "stops", 8, rng)
    failed = Episode(failed.info, failed.source)  # its goal is now just its last frame
    small = Episode.from_frames(np.zeros((4, 3, 8, 8), np.uint8), id="c", fps=10, task="t", success=True)
    same = Episode.from_frames(episode.all_frames(), id="d", fps=10, task="t", success=True, goal=episode.goal())
    found = find_wrong_goals(episode, episode.goal(), [episode, failed, small, same], layout_column="layout", rng=rng)
    assert found == WrongGoals()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((20, 1)), r"returned shape \(20, 1\) for 20 frames"),
        (np.zeros(19), r"returned shape \(19,\)"),
        (np.r_[np.zeros(7), np.nan, np.zeros(12)], "score of frame 7 is nan"),
        (np.r_[np.zeros(7), np.inf, np.zeros(12)], "score of frame 7 is inf"),
    ],
)
def test_bad_scores_name_the_episode(episode, scores, message):
    with pytest.raises(ValueError, match=f"'one'.*{message}"):
        checked_scores(scores, episode, 20)
