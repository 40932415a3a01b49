"""Compute HOLD's test metrics exactly as its released code does, to compare with numbers made by that code.

Alakuijala et al., Learning Reward Functions for Robotic Manipulation by Observing Humans (ICRA 2023); released code
(Apache-2.0) `scenic/projects/func_dist/model.py` and `model_utils.py`. For measuring a model, use `metrics`: what
follows keeps four habits of that code that a reader would not expect.

1. Ranks are positions in a sort, so tied predictions are ranked by their place in the video.
2. Misclassification and hinge compare neighbouring frames only; the paper's formulas sum over all pairs.
3. Mean absolute and squared error compare the predicted time to the goal with the time that has *passed*.
4. `*_seconds` errors divide by the video's frame rate without the model's mean rate; `*_steps` errors use both.

Spearman's mean is over videos; the others are sums over all frames of all videos, divided by their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

MEAN_FPS = 11.841645719966037
"""Mean frame rate of Something-Something v2, a constant in HOLD's code."""


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
