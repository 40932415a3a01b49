"""Learning curves over seeds: known answers of the statistics, what the page says, which runs are refused."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from vidreward.data.encode import write_video
from vidreward.rl.curves import (
    Curve,
    Estimate,
    aggregate,
    estimate,
    estimate_band,
    interquartile_mean,
    resample,
    steps_to,
)
from vidreward.rl.report import StepsNeeded, compare_steps, make_bands, steps_needed, write_rl_report
from vidreward.rl.results import group_by_task, read_results

HOSTILE = '</td><img src=x onerror="alert(1)">$x_1$'


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- statistics -----------------------------------------------------------------------------------------------------


def test_interquartile_mean_by_hand() -> None:
    # 8 values: two are left out at each end
    assert interquartile_mean(np.array([9.0, 1, 100, 3, -50, 4, 2, 8])) == (2 + 3 + 4 + 8) / 4
    assert interquartile_mean(np.array([5.0, 1, 3])) == 3  # a quarter of 3, rounded down, is none
    assert interquartile_mean(np.array([5.0, 0, 3, 4, 100])) == 4  # of 5, one
    np.testing.assert_array_equal(interquartile_mean(np.array([[0.0, 1, 2, 9], [4, 4, 4, 4]])), [1.5, 4])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_interquartile_mean_is_scipys_trimmed_mean(values: list[float]) -> None:
    expected = trim_mean(values, 0.25)
    assert interquartile_mean(np.array(values)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_resamples_stay_within_their_task_and_keep_runs_whole() -> None:
    tasks = [np.array([[1.0, 10], [2, 20]]), np.array([[3.0, 30], [4, 40], [5, 50]])]
    drawn = resample(tasks, rng(), 4000)
    assert drawn.shape == (4000, 2, 5)
    np.testing.assert_array_equal(drawn[:, 1], 10 * drawn[:, 0])
    assert set(np.unique(drawn[:, 0, :2])) == {1, 2}
    assert set(np.unique(drawn[:, 0, 2:])) == {3, 4, 5}
    shares = [(drawn[:, 0, 2:] == value).mean() for value in (3, 4, 5)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)


def test_interval_is_that_of_all_possible_resamples() -> None:
    # stratified: 2 runs of one task and 3 of another have 4 * 27 equally likely resamples
    first, second = np.array([0.1, 0.5]), np.array([0.2, 0.6, 0.9])
    means = [
        trim_mean([*first[list(a)], *second[list(b)]], 0.25)
        for a in itertools.product(range(2), repeat=2)
        for b in itertools.product(range(3), repeat=3)
    ]
    found = estimate([first, second], rng(), num_resamples=40_000, confidence=0.8)
    assert found.value == pytest.approx(trim_mean([0.1, 0.5, 0.2, 0.6, 0.9], 0.25))
    # distribution of a discrete statistic: the share at or below each end brackets the wanted one
    for end, share in ((found.low, 0.1), (found.high, 0.9)):
        below = np.mean(np.array(means) < end - 1e-9)
        up_to = np.mean(np.array(means) <= end + 1e-9)
        assert below - 0.01 <= share <= up_to + 0.01


def test_one_run_has_no_width() -> None:
    mean, low, high = estimate_band([np.array([[0.3, 0.7]])], rng())
    np.testing.assert_array_equal([mean, low, high], [[0.3, 0.7]] * 3)
    with pytest.raises(ValueError, match="at least one run"):
        estimate_band([], rng())


def test_curves_are_summarised_where_all_were_measured() -> None:
    one, other = (
        Curve(np.array([1, 2, 3]), np.array([0.0, 0.2, 0.4])),
        Curve(np.array([2, 3, 9]), np.array([0.6, 0, 1])),
    )
    band = aggregate([[one, other]], rng())
    assert band.steps.tolist() == [2, 3]
    np.testing.assert_allclose(band.mean, [0.4, 0.2])
    np.testing.assert_allclose([band.low, band.high], [[0.2, 0.0], [0.6, 0.4]])
    with pytest.raises(ValueError, match="never measured at the same step"):
        aggregate([[one, Curve(np.array([5]), np.array([1.0]))]], rng())
    with pytest.raises(ValueError, match="steps that rise"):
        Curve(np.array([2, 2]), np.array([0.0, 1.0]))


def test_steps_to_a_threshold() -> None:
    curve = Curve(np.array([100, 200, 300, 400]), np.array([0.1, 0.8, 0.3, 1.0]))
    assert (steps_to(curve, 0.8, 500).steps, steps_to(curve, 0.8, 500).reached) == (200, True)
    assert steps_to(curve, 0.81, 500).steps == 400
    never = steps_to(curve, 1.1, 500)
    assert (never.steps, never.reached) == (500, False)


# -- the report -----------------------------------------------------------------------------------------------------


def write_run(
    folder: Path, values: Sequence[float], *, label: str = "env reward", seed: int = 0, budget: int = 400, **more: Any
) -> Path:
    """Write the result.json of a run that was measured every 100 steps."""
    curve = [
        {
            "step": 100 * (number + 1),
            "num_episodes": 10,
            "success_any": value,
            "success_last": value / 2,
            "env_return": 50 * value,
            "reward_return": -3.5,
        }
        for number, value in enumerate(values)
    ]
    result = {
        "format": 1,
        "env": "tabletop/push",
        "label": label,
        "agent": "sac",
        "seed": seed,
        "budget": budget,
        "finished": 100 * len(values) >= budget,
        "progress": {"step": 100 * len(values), "seconds": {"update": 3.0, "environment": 1.0}},
        "curve": curve,
        "config": {"env": {"size": 64}, "agent": {"lr": 0.1}, "loop": {"steps": budget, "seed": seed}},
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result | more))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two methods, three seeds: the first needs 400, 400 and more than 400 steps, the second 100, 100 and 200."""
    for seed, values in enumerate(([0, 0, 0, 0.9], [0, 0, 0.1, 0.8], [0, 0, 0, 0.7])):
        write_run(tmp_path / "runs" / f"sparse{seed}", values, seed=seed)
    for seed, values in enumerate(([0.9, 1, 1, 1], [0.8, 0.1, 1, 1], [0.7, 1, 1, 1])):
        write_run(tmp_path / "runs" / f"hold{seed}", values, label="hold_r + env reward", seed=seed)
    return tmp_path / "runs"


def text_of(page: str) -> str:
    """Return the page's text, cells apart."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " | ", re.sub(r"<style.*?</style>", "", page))))


def test_report_says_steps_needed_and_how_many_reached(runs: Path, tmp_path: Path) -> None:
    page, picture = write_rl_report(tmp_path / "out" / "report.html", [runs])
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = text_of(page.read_text())
    table = text[text.index("Steps to success_any of 0.8") : text.index("At the end")]
    row = r"env reward \| \| 400 \| \| 400 to 400 \| \| 2 of 3; the others count as their budget \| \| \| "
    assert re.search(row, table), table
    # (100 + 100 + 200) / 3: of three values, a quarter is none
    row = r"hold_r \+ env reward \| \| 133 \| \| 100 to 200 \| \| 3 of 3 \| \| at least 3 "
    assert re.search(row, table), table
    end = text[text.index("At the end") :]
    assert "100% (100% to 100%)" in end
    assert "80% (70% to 90%)" in end
    assert "75%" in end  # three of the four seconds are updates
    assert "100 " in end  # steps a second


def test_bounds_of_the_ratio() -> None:
    def need(steps: float, reached: int) -> StepsNeeded:
        return StepsNeeded(Estimate(steps, steps, steps), reached, 5)

    assert compare_steps(need(100, 5), need(1000, 5)) == "10"
    assert compare_steps(need(100, 5), need(1000, 2)) == "at least 10"
    assert compare_steps(need(100, 4), need(1000, 5)) == "at most 10"
    assert compare_steps(need(100, 4), need(1000, 0)) == "about 10"
    assert compare_steps(need(1000, 0), need(1000, 5)) == "never reached"


def test_metric_and_threshold_are_the_users(runs: Path) -> None:
    groups = group_by_task(read_results([runs]))
    methods = groups["tabletop/push"]
    need = steps_needed(methods["hold_r + env reward"], "success_last", 0.5, 0)
    assert (need.steps.value, need.num_reached) == (pytest.approx((200 + 300 + 200) / 3), 3)
    assert steps_needed(methods["env reward"], "env_return", 40, 0).num_reached == 2


def test_page_is_self_contained_and_safe(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", [0.5, 0.6], label=HOSTILE, budget=400)
    write_run(tmp_path / "b", [0.5, 0.6, 0.7, 0.8], env="tabletop/reach")
    frames = np.random.default_rng(0).integers(0, 255, (5, 3, 32, 32)).astype(np.uint8)
    write_video(first / "videos" / "step-000000200" / "episode-0.mp4", frames, 10)
    page, _ = write_rl_report(tmp_path / "report.html", [first, tmp_path / "b"])
    text = page.read_text()
    assert "<img src=x" not in text
    assert html.escape(HOSTILE, quote=True) in text
    assert "default-src 'none'" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert text.count("<video") == 1
    assert "not finished yet: seed 0" in text
    assert "<script" not in text


def test_several_tasks_are_put_together_where_a_method_did_all(tmp_path: Path) -> None:
    for number, task in enumerate(("tabletop/push", "tabletop/reach")):
        write_run(tmp_path / f"a{number}", [number, 1.0], env=task, budget=200)
    write_run(tmp_path / "b", [0.2, 0.4], label="other", budget=200)
    bands = make_bands(group_by_task(read_results([tmp_path])), 0)
    assert list(bands) == ["tabletop/push", "tabletop/reach", "all tasks"]
    assert list(bands["all tasks"]) == ["env reward"]
    assert set(bands["all tasks"]["env reward"]) == {"success_any", "success_last"}
    np.testing.assert_allclose(bands["all tasks"]["env reward"]["success_any"].mean, [0.5, 1.0])


def test_runs_that_do_not_belong_together_are_refused(runs: Path, tmp_path: Path) -> None:
    other = write_run(
        tmp_path / "other",
        [0, 0, 0, 0],
        seed=7,
        config={"env": {"size": 64}, "agent": {"lr": 0.5}, "loop": {"steps": 400}},
    )
    with pytest.raises(ValueError, match=r"agent\.lr was 0\.1, is 0\.5.*--label"):
        read_results([runs, other])
    shutil.rmtree(other)
    twin = write_run(tmp_path / "twin", [0, 0, 0, 0], seed=2)
    with pytest.raises(ValueError, match="same seed, 2"):
        read_results([runs, twin])
    assert len(read_results([runs, runs / "sparse0"])) == 6  # named twice, read once


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no result.json"),
        ("{", "not readable"),
        ("[]", "not the result.json"),
        ('{"format": 1, "curve": []}', "not evaluated yet"),
        ('{"format": 1, "curve": [{"step": 1}]}', "damaged|needs"),
        ('{"format": 9, "curve": [1]}', "not the result.json"),
    ],
)
def test_bad_results_are_named(tmp_path: Path, content: str | None, said: str) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run" / "result.json").write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        read_results([tmp_path / "run"])
    assert str(tmp_path / "run") in str(error.value)
