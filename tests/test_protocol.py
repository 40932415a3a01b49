"""The whole evaluation on episodes with known truth: values, controls, intervals, groups, files."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from moving_dot import FAILURES, count_frames, labelled_episodes, see_distance
from vidreward.evaluate import EvaluateConfig, combine, evaluate, read_evaluation
from vidreward.evaluate.bootstrap import draw
from vidreward.types import Episode

QUICK = EvaluateConfig(num_resamples=200)
NOT_GIVEN_AWAY = (
    "success_auroc",
    "success_auroc_gain",
    "success_gap",
    "progress_spearman_pooled",
    "reversed_spearman",
    "shuffled_spearman",
)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return labelled_episodes()


@pytest.fixture(scope="module")
def seen(episodes):
    config = dataclasses.replace(QUICK, unseen_tasks=("task1",), group_by=("colour",))
    return evaluate(see_distance, episodes, config, show_progress=False)


def noisy(level: float, seed: int = 0):
    def score(frames, episode, goal):
        noise = np.random.default_rng([seed, len(episode.id), *map(ord, episode.id)]).normal(size=len(frames))
        return see_distance(frames, episode, goal) + level * noise

    return score


def test_a_scorer_that_sees_beats_every_blind_control(seen):
    for name in NOT_GIVEN_AWAY:
        assert seen.comparisons[name].beats, name
        assert name not in seen.flags
    assert seen.value("success_auroc") == 1.0
    assert seen.value("spearman") == pytest.approx(1.0)
    assert seen.value("progress_spearman_pooled") > 0.9
    assert seen.overall.macro["frozen_spearman"].value is None
    assert seen.overall.macro["frozen_spearman"].num_undefined == 6


def test_a_clock_in_disguise_is_flagged_everywhere(episodes):
    result = evaluate(count_frames, episodes, QUICK, show_progress=False)
    assert result.value("spearman") == pytest.approx(1.0)
    for name in NOT_GIVEN_AWAY:
        assert not result.comparisons[name].beats, name
        assert "does not beat" in result.flags[name]
    assert "by definition" in result.flags["spearman"]
    assert result.value("success_auroc") == result.controls["clock"].macro["success_auroc"].value


def test_a_constant_scorer_is_undefined_and_counted(episodes):
    result = evaluate(lambda frames, episode, goal: np.full(len(frames), 0.3), episodes, QUICK, show_progress=False)
    for name in ("spearman", "kendall_tau_b", "misclassification_adjacent", "misclassification_all_pairs", "hinge"):
        estimate = result.overall.macro[name]
        assert (estimate.value, estimate.num, estimate.num_undefined) == (None, 0, 6)
        assert (estimate.low, estimate.high) == (None, None)
        assert "undefined" in result.flags[name]
        assert not result.comparisons[name].beats
    assert result.value("success_auroc") == 0.5
    assert result.value("success_dprime") is None


def test_values_are_the_mean_over_tasks_of_plain_arithmetic(episodes):
    """Recompute a few numbers by hand: macro over tasks, demonstrations only, pooled beside it."""
    scorer = noisy(6.0)
    result = evaluate(scorer, episodes[:-1], QUICK, show_progress=False)  # tasks of unequal size
    rows = {row["id"]: row for row in result.episodes}
    by_task = {}
    for row in rows.values():
        if row["success"]:
            by_task.setdefault(row["task"], []).append(row["values"]["model"]["spearman"])
    means = [np.mean(values) for values in by_task.values()]
    assert result.value("spearman") == pytest.approx(np.mean(means))
    assert result.tasks["task0"].macro["spearman"].value == pytest.approx(means[0])
    assert result.overall.pooled["spearman"].value == pytest.approx(np.mean(np.concatenate(list(by_task.values()))))
    last = {key: row["scores"][-1] for key, row in rows.items()}
    aucs = []
    for task in ("task0", "task1"):
        won = [last[key] for key, row in rows.items() if row["task"] == task and row["success"]]
        lost = [last[key] for key, row in rows.items() if row["task"] == task and not row["success"]]
        aucs.append(np.mean([w > other for w in won for other in lost]))
    assert result.value("success_auroc") == pytest.approx(np.mean(aucs))


def test_groups_and_failure_types(seen, episodes):
    assert set(seen.groups) == {"colour", "split"}
    assert seen.groups["split"]["unseen"].macro["spearman"].value == seen.tasks["task1"].macro["spearman"].value
    assert set(seen.failures) == set(FAILURES)
    stops = seen.failures["stops"]
    assert (stops.num_successes, stops.num_failures) == (6, 6)
    assert stops.macro["success_auroc"].value == 1.0


def test_the_bootstrap_says_what_it_draws():
    few, many = labelled_episodes(num_tasks=4, num_layouts=1), labelled_episodes(num_tasks=5, num_layouts=1)
    assert "within each of 4 task" in evaluate(see_distance, few, QUICK, show_progress=False).overall.bootstrap
    result = evaluate(noisy(4.0), many, QUICK, show_progress=False)
    assert "cluster bootstrap over 5 tasks" in result.overall.bootstrap
    estimate = result.overall.macro["spearman"]
    task_values = [summary.macro["spearman"].value for summary in result.tasks.values()]
    draws = np.random.default_rng(1).choice(task_values, (4000, 5)).mean(1)
    assert estimate.low == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
    assert estimate.high == pytest.approx(np.quantile(draws, 0.975), abs=0.02)


def test_resamples_keep_the_size_of_each_task():
    resamples = draw(["b", "a", "a", "b", "a"], 50, np.random.default_rng(0))
    assert resamples.unit == "episodes"
    np.testing.assert_array_equal(resamples.episode_weights[:, [1, 2, 4]].sum(1), 3)
    np.testing.assert_array_equal(resamples.episode_weights[0], 1)
    assert len(np.unique(resamples.episode_weights, axis=0)) > 5


def test_intervals_cover_the_truth():
    """The mean Spearman over many episodes lies in about 95 of 100 intervals made from few."""
    rng = np.random.default_rng(0)
    population = rng.beta(5, 2, 4000)
    covered = 0
    for number in range(200):
        sample = rng.choice(population, 25)
        weights = draw(["t"] * 25, 400, np.random.default_rng(number)).episode_weights[1:]
        low, high = np.quantile(weights @ sample / 25, [0.025, 0.975])
        covered += low <= population.mean() <= high
    assert 176 <= covered <= 198


def test_a_model_that_predicts_time(episodes):
    """Perfect remaining time: no error; the controls count down from the mean length as well as they can."""
    config = dataclasses.replace(QUICK, predicts_time=True, mean_fps=20.0)

    def remaining(frames, episode, goal):
        return -np.arange(len(frames) - 1, -1, -1) * 2.0  # frames at 20 fps, of videos at 10

    result = evaluate(remaining, episodes, config, show_progress=False)
    assert result.value("mae_steps") == pytest.approx(0)
    assert result.value("mae_seconds") == pytest.approx(0)
    assert result.value("mae_steps_reversed_targets") > 3
    assert 0.3 < result.controls["clock"].macro["mae_steps"].value < 4
    assert result.controls["constant"].macro["mae_steps"].value > result.controls["clock"].macro["mae_steps"].value
    assert "mae_steps" not in result.controls["random"].macro
    assert result.comparisons["mae_steps"].beats


def test_what_is_not_known_is_left_out_with_the_reason(episodes):
    bare = [Episode.from_frames(e.all_frames(), id=e.id, fps=e.fps) for e in episodes if e.success]
    result = evaluate(see_distance, bare, QUICK, show_progress=False)
    assert result.omitted["success_auroc"] == "no episode has a recorded outcome"
    assert result.omitted["progress_spearman"] == "no episode has a column of true progress"
    assert result.omitted["mae_steps"] == "the model does not predict time"
    assert "goal_preference_task" in result.omitted
    assert result.value("spearman") == pytest.approx(1)
    with pytest.raises(ValueError, match="left out: no episode has a recorded outcome"):
        result.value("success_auroc")
    with pytest.raises(ValueError, match="there is no metric 'accuracy'"):
        result.value("accuracy")


def test_failures_without_goal_images_are_noted(episodes):
    ungoaled = [Episode(e.info, e.source, columns=e.columns) for e in episodes]
    result = evaluate(see_distance, ungoaled, QUICK, show_progress=False)
    assert "12 of 12 failed episodes come without a goal image" in result.notes[1]
    assert "6 of 6 episodes that did not fail come without a goal image" in result.notes[0]


def test_one_frame_episodes_are_counted_not_crashed_on(episodes):
    one = Episode.from_frames(episodes[0].frames([0]), id="single", fps=10, task="task0", success=True)
    result = evaluate(see_distance, [*episodes, one], QUICK, show_progress=False)
    assert result.overall.macro["spearman"].num_undefined == 1


def test_limiting_views_takes_tasks_in_turn(episodes):
    shown = []

    def scorer(frames, episode, goal):
        shown.append(episode.id)
        return see_distance(frames, episode, goal)

    result = evaluate(scorer, episodes, dataclasses.replace(QUICK, max_control_episodes=2), show_progress=False)
    viewed = {name for name in shown if shown.count(name) > 1}
    assert {name[:2] for name in viewed} == {"t0", "t1"}
    assert len(viewed) == 2
    assert result.overall.macro["reversed_spearman"].num == 2
    assert result.overall.macro["spearman"].num == 6


def test_json_is_strict_and_reads_back_the_same(seen, tmp_path):
    path = seen.write(tmp_path / "runs" / "evaluation.json")
    text = path.read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    again = read_evaluation(path)
    assert again.overall == seen.overall
    assert again.controls == seen.controls
    assert again.comparisons == seen.comparisons
    assert combine([again]).overall == seen.overall
    assert [p.name for p in path.parent.iterdir()] == ["evaluation.json"]
    broken = tmp_path / "broken.json"
    broken.write_text(text[:100])
    with pytest.raises(ValueError, match="is not JSON"):
        read_evaluation(broken)
    broken.write_text("{}")
    with pytest.raises(ValueError, match="not an evaluation"):
        read_evaluation(broken)


def test_the_same_call_gives_the_same_numbers_in_any_order(episodes):
    forwards = evaluate(noisy(3.0), episodes, QUICK, show_progress=False)
    backwards = evaluate(noisy(3.0), episodes[::-1], QUICK, show_progress=False)
    assert evaluate(noisy(3.0), episodes, QUICK, show_progress=False).overall == forwards.overall
    for name, estimate in forwards.overall.macro.items():
        if name not in ("goal_preference_layout", "wrong_goal_spearman_layout", "wrong_goal_spearman_task"):
            assert backwards.overall.macro[name].value == pytest.approx(estimate.value), name


def test_the_table_prints_values_and_warnings(episodes):
    tagged = [
        Episode(dataclasses.replace(e.info, metadata={"[red]kind": "[blue]a"}), e.source, columns=e.columns)
        for e in episodes
    ]
    config = dataclasses.replace(QUICK, group_by=("[red]kind",))
    result = evaluate(count_frames, tagged, config, name="[bold]my model[/bold]", show_progress=False)
    console = Console(width=140, record=True, file=io.StringIO())
    result.print(console)
    text = console.export_text()
    assert "[bold]my model[/bold]" in text
    assert "does not beat the clock" in text
    assert "NO *" in text
    assert "By [red]kind" in text
    assert "[blue]a" in text


def test_combining_seeds_averages_them_and_widens_the_interval(episodes):
    runs = [evaluate(noisy(5.0, seed), episodes, QUICK, show_progress=False) for seed in range(3)]
    result = combine(runs)
    values = [run.value("spearman") for run in runs]
    assert result.seeds["spearman"] == tuple(values)
    assert result.value("spearman") == pytest.approx(np.mean(values))
    estimate = result.overall.macro["spearman"]
    assert estimate.low <= min(estimate.high, result.value("spearman"))
    assert "two-level bootstrap over 3 seeds" in result.overall.bootstrap
    assert set(result.failures) == set(FAILURES)
    spread = combine([runs[0], evaluate(noisy(50.0), episodes, QUICK, show_progress=False)])
    one = runs[0].overall.macro["spearman"]
    wide = spread.overall.macro["spearman"]
    assert wide.high - wide.low > 2 * (one.high - one.low)


def test_combining_refuses_other_episodes_or_settings(episodes):
    first = evaluate(see_distance, episodes, QUICK, show_progress=False)
    with pytest.raises(ValueError, match="other episodes"):
        combine([first, evaluate(see_distance, episodes[1:], QUICK, show_progress=False)])
    other = dataclasses.replace(QUICK, seed=1)
    with pytest.raises(ValueError, match="other settings"):
        combine([first, evaluate(see_distance, episodes, other, show_progress=False)])
    with pytest.raises(ValueError, match="no evaluation"):
        combine([])


def test_bad_input_is_refused(episodes):
    def run(episodes, **settings):
        return evaluate(see_distance, episodes, dataclasses.replace(QUICK, **settings), show_progress=False)

    with pytest.raises(ValueError, match="no episode"):
        run([])
    with pytest.raises(ValueError, match="two episodes have the id 't0-l0-success'"):
        run([episodes[0], episodes[0]])
    with pytest.raises(ValueError, match=r"unseen_tasks \['pour'\] do not occur.*task0"):
        run(episodes, unseen_tasks=("pour",))
    with pytest.raises(ValueError, match=r"cannot group by \['size'\].*colour"):
        run(episodes, group_by=("size",))
    with pytest.raises(ValueError, match="needs mean_fps"):
        run(episodes, predicts_time=True)
    with pytest.raises(ValueError, match="num_resamples"):
        run(episodes, num_resamples=0)
    broken = Episode.from_frames(
        episodes[0].all_frames(), id="x", fps=10, columns={"progress": np.full(episodes[0].num_frames, np.nan)}
    )
    with pytest.raises(ValueError, match=r"'x'.*'progress' must hold one finite number"):
        run([broken])
    with pytest.raises(ValueError, match=r"'t0-l0-success'.*not finite"):
        evaluate(lambda f, e, g: np.full(len(f), np.nan), episodes, QUICK, show_progress=False)
