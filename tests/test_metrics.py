"""Known answers, cross-checks with SciPy and scikit-learn, and properties of every metric."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from vidreward.evaluate import metrics
from vidreward.evaluate.hold_metrics import aggregate, argsort_ranks, hold_metrics

GOLDEN = Path(__file__).parent / "golden" / "hold_metrics" / "data.npz"
SPEC_DISTANCES = np.array([5, 4, 4.5, 3, 1, 2])
ties = hnp.arrays(np.float64, st.integers(2, 40), elements=st.integers(-4, 4).map(float))
smooth = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(-50, 50, width=32))


@given(ties, st.randoms(use_true_random=False))
def test_rank_correlations_equal_scipy_with_ties(first, random):
    second = np.array(random.choices(first.tolist(), k=len(first)))
    ours = metrics.spearman(first, second), metrics.kendall_tau_b(first, second), metrics.pearson(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert ours == (None, None, None)
        return
    theirs = [
        stats.spearmanr(first, second).statistic,
        stats.kendalltau(first, second).statistic,
        stats.pearsonr(first, second).statistic,
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@given(smooth)
def test_midranks_equal_scipy(values):
    np.testing.assert_array_equal(metrics.midranks(values), stats.rankdata(values))


@pytest.mark.parametrize("distinct", [10**6, 20])
def test_long_sequences_take_the_fast_count_and_agree_with_all_pairs(distinct):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, distinct, 900).astype(float), rng.integers(0, distinct, 900).astype(float)
    plain = np.sum(np.sign(first[:, None] - first) * np.sign(second[:, None] - second)) / 2
    assert len(first) > metrics._DIRECT_PAIRS
    assert metrics._net_concordance(first, second) == pytest.approx(plain, abs=1e-6)


@given(ties)
def test_all_pairs_misclassification_counts_ties_as_half(scores):
    ours = metrics.order_metrics(scores)["misclassification_all_pairs"]
    if np.ptp(scores) == 0:
        assert ours is None
        return
    errors = [
        0.5 if scores[j] == scores[k] else float(scores[j] > scores[k]) for k in range(len(scores)) for j in range(k)
    ]
    assert ours == pytest.approx(np.mean(errors), abs=1e-12)


@given(smooth)
def test_reversal_flips_every_order_metric(scores):
    forwards, backwards = metrics.order_metrics(scores), metrics.order_metrics(scores[::-1])
    if np.ptp(scores) == 0:
        assert set(forwards.values()) == {None}
        return
    for name in ("spearman", "kendall_tau_b", "pearson"):
        assert forwards[name] == pytest.approx(-backwards[name], abs=1e-9)
    total = forwards["misclassification_all_pairs"] + backwards["misclassification_all_pairs"]
    assert total == pytest.approx(1)


@given(ties)
def test_rank_metrics_ignore_increasing_transformations(scores):
    plain, bent = metrics.order_metrics(scores), metrics.order_metrics(np.exp(scores) + 5)
    for name in ("spearman", "kendall_tau_b", "misclassification_adjacent", "misclassification_all_pairs"):
        assert plain[name] == (None if plain[name] is None else pytest.approx(bent[name]))
    scaled = metrics.order_metrics(3 * scores - 7)["hinge"]
    assert plain["hinge"] == (None if scaled is None else pytest.approx(scaled))


def test_known_answers_of_the_paper_example():
    scores = -SPEC_DISTANCES
    result = metrics.order_metrics(scores)
    assert result["spearman"] == pytest.approx(0.885714, abs=1e-6)
    assert result["misclassification_adjacent"] == pytest.approx(0.4)
    assert result["misclassification_all_pairs"] == pytest.approx(2 / 15)
    assert result["hinge"] == pytest.approx((0.5 + 1.0) / 5 / SPEC_DISTANCES.std())
    errors = metrics.time_errors(np.append(SPEC_DISTANCES, 0), fps=12.0, mean_fps=12.0)
    assert errors["mse_steps"] == pytest.approx(0.70833, abs=1e-5)
    assert errors["mae_steps"] == pytest.approx(0.75)
    assert errors["mse_steps_reversed_targets"] == pytest.approx(9.70833, abs=1e-5)
    assert errors["mae_steps_reversed_targets"] == pytest.approx(2.75)
    assert errors["mae_seconds"] == pytest.approx(0.75 / 12)
    assert errors["hinge_seconds"] == pytest.approx(0.3 / 12)


def test_time_errors_convert_the_rate_the_model_counts_in():
    perfect = np.arange(9, -1, -1) / 30 * 10  # time left in frames at 10 fps, for a video at 30 fps
    errors = metrics.time_errors(perfect, fps=30.0, mean_fps=10.0)
    assert errors["mae_steps"] == pytest.approx(0)
    assert errors["mae_seconds"] == pytest.approx(0)
    off = metrics.time_errors(perfect + 1, fps=30.0, mean_fps=10.0)
    assert off["mae_steps"] == pytest.approx(3)
    assert off["mae_seconds"] == pytest.approx(0.1)


def test_one_frame_or_constant_scores_are_undefined():
    assert set(metrics.order_metrics(np.ones(1)).values()) == {None}
    assert set(metrics.order_metrics(np.full(9, 0.3)).values()) == {None}
    assert set(metrics.time_errors(np.ones(1), fps=10, mean_fps=10).values()) == {None}


outcomes = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30)


@given(outcomes)
def test_roc_and_precision_recall_equal_sklearn_with_ties_and_weights(rows):
    values, positive, counts = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.stack([np.ones(len(rows)), counts])
    ours = metrics.auroc(values, positive, weights), metrics.auprc(values, positive, weights)
    for number, weight in enumerate(weights):
        if (weight[positive].sum() == 0) or (weight[~positive].sum() == 0):
            assert np.isnan(ours[0][number])
            assert np.isnan(ours[1][number])
            continue
        repeated = np.repeat(np.arange(len(rows)), weight.astype(int))  # what a weight means: drawn that often
        assert ours[0][number] == pytest.approx(roc_auc_score(positive[repeated], values[repeated]))
        assert ours[1][number] == pytest.approx(average_precision_score(positive[repeated], values[repeated]))


@given(outcomes)
def test_auroc_of_negated_scores_is_the_complement(rows):
    values, positive, _ = (np.array(column) for column in zip(*rows, strict=True))
    if positive.any() and not positive.all():
        assert metrics.auroc(-values, positive)[0] == pytest.approx(1 - metrics.auroc(values, positive)[0])


def test_constant_predictor_knows_nothing_of_outcomes():
    positive = np.array([True, False, False, True, False])
    assert metrics.auroc(np.ones(5), positive)[0] == 0.5
    assert metrics.auprc(np.ones(5), positive)[0] == pytest.approx(metrics.prevalence(positive)[0])
    assert np.isnan(metrics.outcome_gap(np.full(5, 0.1), positive)[0])


def test_outcome_gap_known_answer_and_invariance():
    values, positive = np.array([1.0, 3.0, 0.0, 0.0]), np.array([True, True, False, False])
    assert metrics.outcome_gap(values, positive)[0] == pytest.approx(2 / np.sqrt(0.5))
    assert metrics.outcome_gap(1e6 + 5 * values, positive)[0] == pytest.approx(2 / np.sqrt(0.5))
    assert metrics.outcome_gap(values, positive, scale=4.0)[0] == pytest.approx(0.5)


@given(st.integers(0, 10_000))
def test_pooled_correlation_of_a_resample_equals_repeating_its_frames(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, 5)
    item = np.repeat(np.arange(5), lengths)
    first, second = rng.integers(0, 6, len(item)).astype(float), rng.integers(0, 4, len(item)).astype(float)
    weights = np.stack([np.ones(5), rng.multinomial(5, np.full(5, 0.2))])
    for ranked, reference in ((True, metrics.spearman), (False, metrics.pearson)):
        ours = metrics.pooled_correlation(first, second, item, weights, ranked=ranked)
        for value, weight in zip(ours, weights, strict=True):
            frames = np.concatenate([np.flatnonzero(item == e) for e in np.repeat(np.arange(5), weight.astype(int))])
            expected = reference(first[frames], second[frames])
            assert np.isnan(value) if expected is None else value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("holdr_steps", {}),
        ("holdr_seconds", {"predict_seconds": True}),
        ("holdc", {"method": "hold_c"}),
        ("holdr_steps_remaining", {}),
    ],
)
def test_golden_hold_metrics(mode, options):
    golden = np.load(GOLDEN)
    videos = []
    for number, num_frames in enumerate(golden["num_frames"]):
        remaining = np.arange(num_frames - 1, 0, -1) if mode.endswith("remaining") else None
        videos.append(
            hold_metrics(
                golden[f"pred_{number}"],
                frame_rate=golden["frame_rate"][number],
                mean_fps=golden["mean_fps"],
                targets=remaining,
                **options,
            )
        )
        ranks = argsort_ranks(golden[f"pred_{number}"])
        np.testing.assert_array_equal(ranks, golden[f"ranking_pred_{number}"])
    names = {key.split("/")[1] for key in golden.files if key.startswith(f"{mode}/")}
    if not mode.endswith("remaining"):
        assert names == set(videos[0])
    for name in names:
        tolerance = 1e-4 if "squared" in name else 1e-5
        for number, video in enumerate(videos):
            expected = golden[f"{mode}/{name}/value_{number}"], golden[f"{mode}/{name}/norm_{number}"]
            np.testing.assert_allclose(video[name], expected, rtol=tolerance, atol=1e-5, err_msg=f"{name} {number}")
        final = aggregate(videos)[name]
        np.testing.assert_allclose(final, golden[f"{mode}/{name}/final"], rtol=tolerance, atol=1e-5, err_msg=name)


def test_hold_metrics_known_answers():
    result = aggregate([hold_metrics(SPEC_DISTANCES, frame_rate=1.0, mean_fps=1.0)])
    assert result["spearman_correlation"] == pytest.approx(0.885714, abs=1e-6)
    assert result["misclassification_rate"] == pytest.approx(0.4)
    assert result["hinge_loss"] == pytest.approx(0.3)
    assert result["mean_squared_error"] == pytest.approx(9.70833, abs=1e-5)
    correct = hold_metrics(SPEC_DISTANCES, frame_rate=1.0, mean_fps=1.0, targets=np.arange(6, 0, -1))
    assert aggregate([correct])["mean_squared_error"] == pytest.approx(0.70833, abs=1e-5)
    with pytest.raises(ValueError, match="at least two frames"):
        hold_metrics(np.ones(1), frame_rate=1.0)


def test_a_million_frames_are_quick():
    rng = np.random.default_rng(0)
    episodes = rng.normal(size=(5000, 200))
    start = time.process_time()
    for scores in episodes:
        metrics.order_metrics(scores)
    many = time.process_time() - start
    start = time.process_time()
    metrics.order_metrics(episodes.ravel())
    one = time.process_time() - start
    print(f"1M frames: {many:.2f} s as 5000 episodes, {one:.2f} s as one")
    assert many < 8  # about 2 s on an idle core; the bound only catches a return to quadratic Python
    assert one < 8
