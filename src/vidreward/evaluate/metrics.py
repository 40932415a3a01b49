"""Measure how well scores order, detect and track: every formula of `evaluate`, on plain arrays.

Scores are higher-is-better, one a frame. A metric that has no answer (a constant predictor has no rank
correlation, an outcome of one kind no ROC curve) is undefined: None for one episode, NaN in a batch of resamples.
It is never replaced by 0 or 1, because either would reward or punish a predictor that says nothing.

Statistics of a set of episodes take `weights` (R, N), one row a bootstrap resample, how often each item was drawn;
without weights there is one row of ones, so point estimates and resamples run through the same code.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import stats

_DIRECT_PAIRS = 512
"""Up to this length all pairs are compared at once; above it SciPy's O(n log n) count is faster (tested equal)."""
_CHUNK_ELEMENTS = 2_000_000
"""Resamples x frames held at once while re-ranking resamples."""


def midranks(values: Float[ndarray, " N"]) -> Float[ndarray, " N"]:
    """Rank from 1; equal values share the mean of their ranks.

    Example:
        >>> midranks(np.array([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    order, group, starts = _tie_groups(values)
    ends = np.append(starts[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = ((starts + ends + 1) / 2)[group]
    return ranks


def pearson(first: Float[ndarray, " N"], second: Float[ndarray, " N"]) -> float | None:
    """Correlate two sequences linearly; None when either is constant or shorter than two."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(first) < 2 or _constant(first) or _constant(second):
        return None
    first, second = _centred(first), _centred(second)
    correlation = (first @ second) / math.sqrt((first @ first) * (second @ second))
    return float(np.clip(correlation, -1.0, 1.0))


def spearman(first: Float[ndarray, " N"], second: Float[ndarray, " N"]) -> float | None:
    """Correlate the mid-ranks of two sequences; None when either is constant or shorter than two.

    Example:
        >>> spearman(np.array([1.0, 9.0, 4.0]), np.arange(3)), spearman(np.ones(3), np.arange(3))
        (0.5, None)
    """
    return pearson(midranks(first), midranks(second))


def kendall_tau_b(first: Float[ndarray, " N"], second: Float[ndarray, " N"]) -> float | None:
    """Compare the order of all pairs, corrected for ties in both (tau-b); None when either is constant."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(first) < 2 or _constant(first) or _constant(second):
        return None
    pairs = len(first) * (len(first) - 1) / 2
    untied = math.sqrt((pairs - _tied_pairs(first)) * (pairs - _tied_pairs(second)))
    return float(np.clip(_net_concordance(first, second) / untied, -1.0, 1.0))


def order_metrics(scores: Float[ndarray, " T"]) -> dict[str, float | None]:
    """Compare the scores of one episode with the passing of time, in all the ways the field does.

    Returns:
        spearman: Value-order correlation, Spearman of score and frame number with mid-ranks.
        kendall_tau_b: The same over pairs of frames, corrected for tied scores.
        pearson: Linear correlation of score and frame number.
        misclassification_adjacent: Share of neighbouring frames whose score falls; a tie is no error (as HOLD codes).
        misclassification_all_pairs: Share of all pairs in the wrong order; a tie is half an error.
        hinge: Mean fall between neighbouring frames, in standard deviations of the episode's scores.
        All are None when the scores are constant or the episode has one frame.
    """
    scores = np.asarray(scores, np.float64)
    names = (
        "spearman",
        "kendall_tau_b",
        "pearson",
        "misclassification_adjacent",
        "misclassification_all_pairs",
        "hinge",
    )
    if len(scores) < 2 or _constant(scores):
        return dict.fromkeys(names)
    time = np.arange(len(scores), dtype=np.float64)
    pairs = len(scores) * (len(scores) - 1) / 2
    net = _net_concordance(scores, time)
    changes = np.diff(scores)
    values = (
        pearson(midranks(scores), time),
        float(np.clip(net / math.sqrt(pairs * (pairs - _tied_pairs(scores))), -1.0, 1.0)),
        pearson(scores, time),
        float(np.mean(changes < 0)),
        float((1 - net / pairs) / 2),
        float(np.maximum(-changes, 0).mean() / scores.std()),
    )
    return dict(zip(names, values, strict=True))


def time_errors(
    predicted: Float[ndarray, " T"], *, fps: float, mean_fps: float, goal_frame: int | None = None
) -> dict[str, float | None]:
    """Compare predicted times to the goal with the true ones, in the video's frames (steps) and in seconds.

    Args:
        predicted: Time to the goal in frames at `mean_fps` (what HOLD-R predicts), one a frame.
        fps: Rate of this video.
        mean_fps: Rate the model counts in.
        goal_frame: Frame number that reaches the goal; None is the last one. Frames before it are compared.

    Returns:
        mae_steps, mse_steps, mae_seconds, mse_seconds against the time that remains, and the same names with
        `_reversed_targets` against the time that has passed: what HOLD's published test code compares with, so only
        those can be set beside the figures of its Table IV. hinge_seconds is the mean rise of the predicted time
        between neighbours. All None when no frame comes before the goal.
    """
    end = len(predicted) - 1 if goal_frame is None else goal_frame
    steps = np.asarray(predicted, np.float64)[:end] * (fps / mean_fps)
    names = [f"{kind}_{unit}" for unit in ("steps", "seconds") for kind in ("mae", "mse")]
    if end < 1:
        return dict.fromkeys([*names, *(f"{name}_reversed_targets" for name in names), "hinge_seconds"])
    passed = np.arange(end, dtype=np.float64)
    errors: dict[str, float | None] = {}
    for suffix, target in (("", end - passed), ("_reversed_targets", passed)):
        difference = np.abs(steps - target)
        for unit, scaled in (("steps", difference), ("seconds", difference / fps)):
            errors[f"mae_{unit}{suffix}"] = float(scaled.mean())
            errors[f"mse_{unit}{suffix}"] = float((scaled**2).mean())
    rises = np.maximum(np.diff(steps / fps), 0)
    errors["hinge_seconds"] = float(rises.mean()) if len(rises) else None
    return errors


def auroc(
    values: Float[ndarray, " N"], positive: Bool[ndarray, " N"], weights: Float[ndarray, "R N"] | None = None
) -> Float[ndarray, " R"]:
    """Chance that a positive outranks a negative, ties counting half; NaN without both kinds.

    Example:
        >>> auroc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False])).tolist()
        [0.75]
    """
    positives, negatives = _by_value(values, positive, weights)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def auprc(
    values: Float[ndarray, " N"], positive: Bool[ndarray, " N"], weights: Float[ndarray, "R N"] | None = None
) -> Float[ndarray, " R"]:
    """Average precision: area under precision over recall, without interpolation; NaN without both kinds.

    A predictor that knows nothing gets the prevalence, the share of positives, so print that beside it.
    """
    positives, negatives = _by_value(-np.asarray(values, np.float64), positive, weights)
    found = np.cumsum(positives, axis=1)
    precision = _ratio(found, found + np.cumsum(negatives, axis=1))
    area = (np.nan_to_num(precision) * positives).sum(1)
    area[negatives.sum(1) == 0] = np.nan
    return _ratio(area, positives.sum(1))


def prevalence(positive: Bool[ndarray, " N"], weights: Float[ndarray, "R N"] | None = None) -> Float[ndarray, " R"]:
    """Share of positives."""
    weights = _weights(weights, len(positive))
    return _ratio(weights @ positive, weights.sum(1))


def outcome_gap(
    values: Float[ndarray, " N"],
    positive: Bool[ndarray, " N"],
    weights: Float[ndarray, "R N"] | None = None,
    *,
    scale: float | None = None,
) -> Float[ndarray, " R"]:
    """Mean of the positives minus mean of the negatives, normalised; NaN without both kinds or without a scale.

    Args:
        values: One number an episode.
        positive: Which succeeded.
        weights: Bootstrap counts.
        scale: What one unit is. None: the spread within each kind, sqrt((var+ + var-) / 2), which makes it d-prime.
    """
    weights = _weights(weights, len(values))
    values = np.asarray(values, np.float64)
    extent = float(np.ptp(values))
    if extent == 0:
        return np.full(len(weights), np.nan)
    values = (values - values.min()) / extent
    means, variances = [], []
    for kind in (positive, ~positive):
        chosen = weights * kind
        total = chosen.sum(1)
        mean = _ratio(chosen @ values, total)
        means.append(mean)
        variances.append(_ratio((chosen * (values - mean[:, None]) ** 2).sum(1), total))
    if scale is not None:
        return _ratio(means[0] - means[1], np.full(len(weights), scale / extent))
    variance = (variances[0] + variances[1]) / 2
    variance[variance < 1e-24] = 0  # rounding of kinds that are constant: no spread to measure in
    return _ratio(means[0] - means[1], np.sqrt(variance))


def weighted_mean(values: Float[ndarray, " N"], weights: Float[ndarray, "R N"] | None = None) -> Float[ndarray, " R"]:
    """Mean of the defined values; NaN where none was drawn."""
    values = np.asarray(values, np.float64)
    defined = np.isfinite(values)
    weights = _weights(weights, len(values))[:, defined]
    return _ratio(weights @ values[defined], weights.sum(1))


def pooled_correlation(
    first: Float[ndarray, " F"],
    second: Float[ndarray, " F"],
    item: Int[ndarray, " F"],
    weights: Float[ndarray, "R N"],
    *,
    ranked: bool,
) -> Float[ndarray, " R"]:
    """Correlate the frames of many episodes as one sample, for each resample of episodes.

    Args:
        first: One value a frame.
        second: The other value a frame.
        item: Episode number of each frame, an index into the columns of `weights`.
        weights: Bootstrap counts of the episodes.
        ranked: Spearman (mid-ranks, made anew in every resample) or Pearson.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(first) < 2 or _constant(first) or _constant(second):
        return np.full(len(weights), np.nan)
    ties = [_tie_groups(values) for values in (first, second)]
    result = []
    for start in range(0, len(weights), rows := max(1, _CHUNK_ELEMENTS // len(first))):
        frame_weights = np.asarray(weights[start : start + rows], np.float64)[:, item]  # (r, F)
        if ranked:
            x, y = (_weighted_midranks(frame_weights, *tie) for tie in ties)
        else:
            x, y = np.broadcast_to(first, frame_weights.shape), np.broadcast_to(second, frame_weights.shape)
        result.append(_weighted_pearson(x, y, frame_weights))
    return np.concatenate(result)


def _weighted_midranks(weights: ndarray, order: ndarray, group: ndarray, starts: ndarray) -> ndarray:
    """Mid-ranks of frames that occur `weights` times, (r, F), up to a constant that correlation ignores."""
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(mass, axis=1) - mass / 2
    result = np.empty_like(weights)
    result[:, order] = ranks[:, group]
    return result


def _weighted_pearson(x: ndarray, y: ndarray, weights: ndarray) -> ndarray:
    total = weights.sum(1, keepdims=True)
    x = x - (x * weights).sum(1, keepdims=True) / total
    y = y - (y * weights).sum(1, keepdims=True) / total
    weighted_x = x * weights
    covariance = (weighted_x * y).sum(1)
    spread = np.sqrt((weighted_x * x).sum(1) * (y * y * weights).sum(1))
    return np.clip(_ratio(covariance, spread), -1.0, 1.0)


def _tie_groups(values: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Sort values: their order, the tie group of each sorted place, and the place where each group starts."""
    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values)[order]
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return order, np.cumsum(new) - 1, np.flatnonzero(new)


def _by_value(values: ndarray, positive: ndarray, weights: ndarray | None) -> tuple[ndarray, ndarray]:
    """Weights of positives and of negatives at each distinct value, from low to high, (R, distinct)."""
    order, _, starts = _tie_groups(np.asarray(values, np.float64))
    drawn = _weights(weights, len(order))[:, order]
    kind = np.asarray(positive, bool)[order]
    return np.add.reduceat(drawn * kind, starts, axis=1), np.add.reduceat(drawn * ~kind, starts, axis=1)


def _net_concordance(first: ndarray, second: ndarray) -> float:
    """Pairs in the same order minus pairs in opposite order."""
    num = len(first)
    if num <= _DIRECT_PAIRS:
        same = np.sign(first[:, None] - first[None]) * np.sign(second[:, None] - second[None])
        return float(same.sum() / 2)
    pairs = num * (num - 1) / 2
    tau_b = stats.kendalltau(first, second, variant="b", method="asymptotic").statistic
    return float(tau_b) * math.sqrt((pairs - _tied_pairs(first)) * (pairs - _tied_pairs(second)))


def _tied_pairs(values: ndarray) -> float:
    _, _, starts = _tie_groups(values)
    counts = np.diff(np.append(starts, len(values))).astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


def _constant(values: ndarray) -> bool:
    return bool(np.all(values == values[0]))


def _centred(values: ndarray) -> ndarray:
    """Centre on 0 and bring into [-1, 1], so that squares of tiny and huge values do not under- or overflow."""
    centred = values - values.mean()
    return centred / np.abs(centred).max()


def _weights(weights: ndarray | None, num: int) -> ndarray:
    return np.ones((1, num)) if weights is None else np.asarray(weights, np.float64)


def _ratio(numerator: ndarray, denominator: ndarray) -> ndarray:
    """Divide, NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    return np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
