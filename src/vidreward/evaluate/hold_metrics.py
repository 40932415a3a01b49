"""Compute HOLD's test metrics three ways: as its released code does, as its paper writes them, and corrected.

Alakuijala et al., Learning Reward Functions for Robotic Manipulation by Observing Humans (ICRA 2023), appendix,
Eq. 5, Eq. 6 and Table IV; released code (Apache-2.0) `scenic/projects/func_dist/model.py` and `model_utils.py`. All
facts and the published table: docs/methods/hold_evaluation.md.

`hold_metrics` is the released code, to compare with numbers made by it. It keeps four habits that a reader would not
expect:

1. Ranks are positions in a sort, so tied predictions are ranked by their place in the video.
2. Misclassification and hinge compare neighbouring frames only; the paper's formulas sum over all pairs.
3. Mean absolute and squared error compare the predicted time to the goal with the time that has *passed*.
4. `*_seconds` errors divide by the video's frame rate without the model's mean rate; `*_steps` errors use both.

Spearman's mean is over videos; the others are sums over all frames of all videos, divided by their number.

`measure_video` sets the three beside each other under one set of names. Every metric of a video is a sum and its
normaliser, so that videos can be averaged, or pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from vidreward.evaluate.metrics import spearman

MEAN_FPS = 11.841645719966037
"""Mean frame rate of Something-Something v2, a constant in HOLD's code."""
AS_CODED = {
    "spearman_correlation": "spearman",
    "misclassification_rate": "misclassification_adjacent",
    "mean_squared_error": "mse_raw",
    "mean_absolute_error": "mae_raw",
    "mean_squared_error_steps": "mse_steps",
    "mean_absolute_error_steps": "mae_steps",
    "mean_squared_error_seconds": "mse_seconds",
    "mean_absolute_error_seconds": "mae_seconds",
    "hinge_loss": "hinge_seconds",
}
"""Names of the released code -> names of `measure_video`. "raw" errors subtract frames of the video from frames at
the mean rate."""
_PAIRS_AT_ONCE = 1_000_000
"""Pairs of frames compared in one step, which bounds memory for long videos."""

Measures = dict[str, tuple[float, float]]
"""Metric -> (sum, normaliser) of one video, or of many added up; a normaliser of 0 is undefined."""


def argsort_ranks(values: Float[ndarray, " N"]) -> Int[ndarray, " N"]:
    """Rank from 0, ties by position.

    Example:
        >>> argsort_ranks(np.array([3.0, 1.0, 3.0])).tolist()
        [1, 0, 2]
    """
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def hold_metrics(
    predicted: Float[ndarray, " T-1"],
    *,
    frame_rate: float,
    mean_fps: float = MEAN_FPS,
    method: Literal["hold_r", "hold_c"] = "hold_r",
    predict_seconds: bool = False,
    targets: Float[ndarray, " T-1"] | None = None,
) -> dict[str, tuple[float, float]]:
    """Measure one video, in the float32 arithmetic of the original.

    Args:
        predicted: Predicted distance of frames 0..T-2 to the last frame T-1.
        frame_rate: Rate of the video.
        mean_fps: Rate in which HOLD-R counts frames.
        method: "hold_c" has no unit, so only Spearman and misclassification are defined.
        predict_seconds: Whether predictions are seconds rather than frames at `mean_fps`.
        targets: What errors are measured against, in frames; None is 0..T-2, the time passed, as the original does.

    Returns:
        Metric name -> (sum, normaliser), to be added over videos by `aggregate`.
    """
    predicted = np.asarray(predicted, np.float32)
    num = len(predicted)
    if predicted.ndim != 1 or num < 2:
        raise ValueError(f"give the predictions of at least two frames before the goal; got shape {predicted.shape}")
    rate, mean_rate = np.float32(frame_rate), np.float32(mean_fps)
    passed = np.arange(num, dtype=np.float32)
    ranks = argsort_ranks(num - passed), argsort_ranks(predicted)
    scale = mean_rate if predict_seconds else np.float32(1)
    result = {
        "spearman_correlation": (float(np.corrcoef(*ranks)[0, 1]), 1.0),
        "misclassification_rate": (float(np.sum(_falls(predicted, scale) < 0)), num - 1.0),
    }
    if method == "hold_c":
        return result
    seconds = predicted if predict_seconds else predicted / rate
    result["hinge_loss"] = (float(np.maximum(seconds[1:] - seconds[:-1], 0).sum()), num - 1.0)
    steps = predicted * rate if predict_seconds else predicted * rate / mean_rate
    target = passed if targets is None else np.asarray(targets, np.float32)
    for suffix, values, truth in (
        ("", predicted * scale, target),
        ("_steps", steps, target),
        ("_seconds", seconds, target / rate),
    ):
        error = np.abs(values - truth)
        result[f"mean_absolute_error{suffix}"] = (float(error.sum()), float(num))
        result[f"mean_squared_error{suffix}"] = (float((error**2).sum()), float(num))
    return result


def aggregate(videos: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Add (sum, normaliser) pairs over videos and divide, with the original's 1e-9 in the denominator.

    Example:
        >>> video = hold_metrics(np.array([5, 4, 4.5, 3, 1, 2]), frame_rate=12.0)
        >>> round(aggregate([video])["misclassification_rate"], 4)
        0.4
    """
    return {
        name: sum(video[name][0] for video in videos) / (sum(video[name][1] for video in videos) + 1e-9)
        for name in videos[0]
    }


def _falls(predicted: Float[ndarray, " N"], scale: np.float32) -> Float[ndarray, " N-1"]:
    """Distance of each frame minus that of the next, scaled.

    The original compiles scaling and subtraction into one fused operation, which rounds the second product and not
    the first, so that a tie can come out negative and count as an error. Float64 holds the exact product.
    """
    exact = predicted[:-1].astype(np.float64) * np.float64(scale)
    return exact - (predicted[1:] * scale).astype(np.float64)


def measure_video(
    predicted: Float[ndarray, " T-1"], *, fps: float, mean_fps: float | None = None
) -> dict[str, Measures]:
    """Measure one video as coded, by the paper's formulas, and corrected.

    Args:
        predicted: Predicted distance of frames 0..T-2 to the last frame T-1; T is at least 3.
        fps: Rate of the video.
        mean_fps: Rate in which the model counts frames; None where its distance is no time (HOLD-C), which leaves
            Spearman and misclassification.

    Example:
        >>> found = measure_video(np.array([5, 4, 4.5, 3, 1, 2]), fps=12.0, mean_fps=12.0)
        >>> found["as_coded"]["mse_steps"][0] / 6, found["corrected"]["mse_steps"][0] / 6
        (9.708333333333334, 0.7083333333333334)
    """
    coded = hold_metrics(
        predicted,
        frame_rate=fps,
        mean_fps=MEAN_FPS if mean_fps is None else mean_fps,
        method="hold_c" if mean_fps is None else "hold_r",
    )
    pairs = compare_pairs(predicted)
    return {
        "as_coded": {AS_CODED[name]: value for name, value in coded.items()},
        "paper": _paper(pairs, len(predicted), fps, mean_fps),
        "corrected": _corrected(predicted, pairs, fps, mean_fps),
    }


def compare_pairs(values: Float[ndarray, " N"]) -> tuple[int, int, float]:
    """Compare each value with every later one.

    Returns:
        Pairs in which the later is larger, pairs that are equal, and the sum of the rises.

    Example:
        >>> compare_pairs(np.array([5, 4, 4.5, 4.5]))
        (2, 1, 1.0)
    """
    values = np.asarray(values, np.float64)
    place = np.arange(len(values))
    rows = max(1, _PAIRS_AT_ONCE // len(values))
    num_larger, num_equal, rise = 0, 0, 0.0
    for start in range(0, len(values), rows):
        later = place[None] > place[start : start + rows, None]
        changes = (values[None] - values[start : start + rows, None])[later]
        num_larger += int((changes > 0).sum())
        num_equal += int((changes == 0).sum())
        rise += float(changes.clip(min=0).sum())
    return num_larger, num_equal, rise


def _paper(pairs: tuple[int, int, float], num: int, fps: float, mean_fps: float | None) -> Measures:
    """Sums over all pairs, divided by the number of frames before the goal: neither is a mean over pairs."""
    num_larger, _, rise = pairs
    result = {"misclassification_all_pairs": (float(num_larger), float(num))}  # Eq. 6
    if mean_fps is not None:
        result["hinge_seconds"] = (rise / mean_fps, float(num))  # Eq. 5
        result["hinge_steps"] = (rise * fps / mean_fps, float(num))
    return result


def _corrected(
    predicted: Float[ndarray, " N"], pairs: tuple[int, int, float], fps: float, mean_fps: float | None
) -> Measures:
    """Errors against the time that remains, mid-ranks, and ties as half an error, in float64."""
    predicted = np.asarray(predicted, np.float64)
    num = len(predicted)
    num_larger, num_equal, _ = pairs
    remaining = np.arange(num, 0, -1, dtype=np.float64)
    order = spearman(predicted, remaining)
    changes = np.diff(predicted)
    result = {
        "spearman": (0.0, 0.0) if order is None else (order * num, float(num)),
        "misclassification_adjacent": (float((changes > 0).sum() + (changes == 0).sum() / 2), num - 1.0),
        "misclassification_all_pairs": (num_larger + num_equal / 2, num * (num - 1) / 2),
    }
    if mean_fps is None:
        return result
    error = np.abs(predicted * (fps / mean_fps) - remaining)
    rise = float(changes.clip(min=0).sum()) / mean_fps
    result["hinge_seconds"], result["hinge_steps"] = (rise, num - 1.0), (rise * fps, num - 1.0)
    for unit, each in (("steps", error), ("seconds", error / fps)):
        result[f"mse_{unit}"] = (float((each**2).sum()), float(num))
        result[f"mae_{unit}"] = (float(each.sum()), float(num))
    return result
