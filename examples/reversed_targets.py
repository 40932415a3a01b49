"""Show that HOLD's published errors fit targets that run the wrong way, on predictors that see no video.

python examples/reversed_targets.py

HOLD-R predicts the time left until a video's last frame. Its test code compares that with the time passed. Here are
videos as long as those of Something-Something v2 (45 frames on average) and two kinds of predictors: one that always
says the mean time left, and calibrated ones (the time left is right on average, given what they say) whose predictions
correlate with the time left as much as HOLD-R's do. Each is measured against the time left and the time passed.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from vidreward.evaluate.hold_metrics import measure_video

NUM_VIDEOS = 500
MEAN_LENGTH = 45
FPS = 12.0
METRICS = (("corrected", "mse_steps"), ("corrected", "mae_steps"), ("as_coded", "mse_steps"), ("as_coded", "mae_steps"))
ROW = "{:16s} {:8s} {:>9s} {:>9s} {:>10s}   {:>9s} {:>10s}"
HEAD = ("predictor", "lengths", "Spearman", *("MSE", "mean error") * 2)
PUBLISHED = ("HOLD-R, Table IV", "about 45", "0.67-0.71", "", "", "482-514", "17.3-18.1")


def predict(remaining: list[ndarray], correlation: float, rng: np.random.Generator) -> list[ndarray]:
    """Predict the time left with a given correlation, calibrated; without correlation that is its mean.

    Of all predictions with this correlation, these have the least squared error: a slope of correlation^2 towards the
    mean, and noise for the rest.
    """
    everything = np.concatenate(remaining)
    mean, spread = everything.mean(), everything.std()
    noise = spread * correlation * np.sqrt(1 - correlation**2)
    return [mean + correlation**2 * (each - mean) + rng.normal(0, noise, len(each)) for each in remaining]


def measure(predicted: list[ndarray]) -> dict[tuple[str, str], float]:
    """Pool each metric over the videos."""
    videos = [measure_video(each, fps=FPS, mean_fps=FPS) for each in predicted]
    found = {}
    for definition, metric in (("corrected", "spearman"), *METRICS):
        sums, normalisers = np.array([video[definition][metric] for video in videos]).sum(0)
        found[definition, metric] = sums / normalisers if normalisers else np.nan
    return found


def main(num_videos: int = NUM_VIDEOS) -> None:
    """Print a row for each length distribution and predictor."""
    print(f"{'against the time left':>57s}   {'against the time passed':>20s}")
    print(ROW.format(*HEAD))
    for spread in (8, 12):
        rng = np.random.default_rng(0)
        lengths = rng.normal(MEAN_LENGTH, spread, num_videos).round().clip(3).astype(int)
        remaining = [np.arange(length - 1, 0, -1.0) for length in lengths]
        for correlation in (0.0, 0.65, 0.7, 0.75):
            found = measure(predict(remaining, correlation, rng))
            name = f"correlated {correlation:.2f}" if correlation else "constant"
            order = f"{found['corrected', 'spearman']:.2f}" if correlation else "undefined"
            errors = [f"{found[metric]:.{places}f}" for metric, places in zip(METRICS, (0, 1, 0, 1), strict=True)]
            print(ROW.format(name, f"{MEAN_LENGTH} +- {spread}", order, *errors))
    print(ROW.format(*PUBLISHED))


if __name__ == "__main__":
    main()
