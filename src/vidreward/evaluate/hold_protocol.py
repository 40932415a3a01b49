"""Evaluate a model as HOLD's authors did: every frame of a video against its last one.

Alakuijala et al., Learning Reward Functions for Robotic Manipulation by Observing Humans (ICRA 2023), appendix and
Table IV. The goal is the last frame, distances are those of frames 0 to T-2, frames before the first repeat it, and
nothing is subtracted or clipped. The formulas are in `hold_metrics`; docs/methods/hold_evaluation.md has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vidreward.data.pixels import VideoError
from vidreward.evaluate.bootstrap import draw
from vidreward.evaluate.config import EvaluateConfig
from vidreward.evaluate.controls import CONTROLS, BlindPredictors, checked_scores
from vidreward.evaluate.hold_metrics import Measures, measure_video
from vidreward.evaluate.hold_store import VideoResults, video_key
from vidreward.evaluate.hold_table import HoldEvaluation
from vidreward.evaluate.result import to_plain
from vidreward.evaluate.summary import MODEL, Estimate, from_replicates
from vidreward.reward_model import RewardModel
from vidreward.scoring import score_episode
from vidreward.types import Episode

MIN_FRAMES = 3
"""Frames of the shortest video whose metrics are defined: two predictions make one pair."""
_SOURCES = {
    "as_coded": ("as_coded", False),
    "paper": ("paper", False),
    "corrected_by_video": ("corrected", True),
    "corrected_by_frame": ("corrected", False),
}
"""Column of the table -> which measures of a video, and whether videos count alike; else their sums are pooled."""


def evaluate_hold(
    model: RewardModel,
    episodes: Sequence[Episode],
    config: EvaluateConfig,
    *,
    name: str = MODEL,
    results: VideoResults | None = None,
    left_out: Mapping[str, str] | None = None,
    show_progress: bool = True,
) -> HoldEvaluation:
    """Measure a model by HOLD's protocol, beside controls that see no content.

    Args:
        model: Minus its score is the distance; times are measured where it says in which rate it counts frames.
        episodes: Videos; each one's last frame is its goal, whatever goal it came with.
        config: Seed, resamples and confidence of the intervals; its other settings are for `evaluate`.
        name: What is evaluated, for the title.
        results: Where predictions are kept as they are made, and taken from where they were made before.
        left_out: Files that could not be opened -> why; videos that are too short or cannot be read are added.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: No video is left, a distance is not finite, or the configuration asks for groups or for a camera
            that is not the first.
        KeyboardInterrupt: Says how far it came.
    """
    for setting in ("unseen_tasks", "group_by"):
        if getattr(config, setting):
            raise ValueError(f"HOLD's protocol has no groups; leave out --{setting.replace('_', '-')}")
    if not all(config.camera in (None, episode.cameras[0]) for episode in episodes):
        raise ValueError(f"the first camera is measured; open the videos with camera={config.camera!r}")
    omitted = dict(left_out or {})
    measured: list[Episode] = []
    predictions: list[ndarray] = []
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, TimeRemainingColumn(), disable=not show_progress) as progress:
        task = progress.add_task("evaluate: videos", total=len(episodes))
        for number, episode in enumerate(episodes):
            try:
                if episode.num_frames < MIN_FRAMES:
                    omitted[episode.id] = f"{episode.num_frames} frame(s); the metrics need at least {MIN_FRAMES}"
                else:
                    predictions.append(_predict(model, episode, results))
                    measured.append(episode)
            except VideoError as error:
                omitted[episode.id] = str(error)
            except KeyboardInterrupt as interrupt:
                kept = "" if results is None else "; the same command goes on from there"
                raise KeyboardInterrupt(f"interrupted at video {number + 1} of {len(episodes)}{kept}") from interrupt
            progress.advance(task)
    if not measured:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in list(omitted.items())[:5])
        raise ValueError(f"no video can be measured ({reasons}); give videos of at least {MIN_FRAMES} frames")
    return _summarise(model, measured, predictions, config, name=name, results=results, left_out=omitted)


def predict_distances(model: RewardModel, episode: Episode) -> Float[ndarray, " T-1"]:
    """Predict the distance of every frame but the last to the last.

    In float32, whatever the processor has: bfloat16 makes neighbouring frames equal, which changes every metric of
    order.
    """
    ending = Episode(episode.info, episode.source, columns=episode.columns)  # without the goal it came with
    scores = checked_scores(score_episode(model, ending, precision="fp32"), episode, episode.num_frames)
    return -scores[:-1]


def _predict(model: RewardModel, episode: Episode, results: VideoResults | None) -> Float[ndarray, " T-1"]:
    """Take what was predicted before, or predict and keep it."""
    if results is None:
        return predict_distances(model, episode)
    key = video_key(episode)
    found = results.find(key, episode.num_frames)
    if found is not None:
        return found
    predicted = predict_distances(model, episode)
    measures = measure_video(predicted, fps=episode.fps, mean_fps=model.counts_frames_at)
    row = {"video": key, "id": episode.id, "num_frames": episode.num_frames, "fps": episode.fps}
    results.append({**row, "predictions": to_plain(predicted), "measures": to_plain(measures)})
    return predicted


def _summarise(
    model: RewardModel,
    episodes: Sequence[Episode],
    predictions: Sequence[Float[ndarray, " T-1"]],
    config: EvaluateConfig,
    *,
    name: str,
    results: VideoResults | None,
    left_out: Mapping[str, str],
) -> HoldEvaluation:
    """Measure the model and the controls on the same videos and the same resamples."""
    mean_fps = model.counts_frames_at
    lengths, rates = [episode.num_frames for episode in episodes], [episode.fps for episode in episodes]
    blind = BlindPredictors.of(lengths, rates, mean_fps=mean_fps, seed=config.seed)
    measures: dict[str, list[dict[str, Measures]]] = {predictor: [] for predictor in (MODEL, *CONTROLS)}
    for episode, predicted in zip(episodes, predictions, strict=True):
        scores = blind.scores(episode.num_frames, episode.fps, episode.id)
        distances = {MODEL: predicted, **{control: -scores[control][:-1] for control in CONTROLS}}
        for predictor, values in distances.items():
            measures[predictor].append(measure_video(values, fps=episode.fps, mean_fps=mean_fps))
    rng = np.random.default_rng(config.seed)
    weights = draw([""] * len(episodes), config.num_resamples, rng, unit="episodes").episode_weights
    splits = sorted({str(episode.info.metadata.get("split", "unnamed")) for episode in episodes})
    settings = {key: getattr(config, key) for key in ("seed", "num_resamples", "confidence", "camera")}
    return HoldEvaluation(
        name=name,
        checkpoint=None if results is None else results.checkpoint,
        num_videos=len(episodes),
        left_out=left_out,
        fps={"mean": float(np.mean(rates)), "min": min(rates), "max": max(rates)},
        num_frames={
            "mean": float(np.mean(lengths)),
            "std": float(np.std(lengths)),
            "min": min(lengths),
            "max": max(lengths),
        },
        counts_frames_at=mean_fps,
        settings={**settings, "splits": splits},
        versions={package: version(package) for package in ("vidreward", "torch", "av", "numpy")},
        bootstrap=f"bootstrap over {len(episodes)} videos, the frames of a video drawn together",
        table={key: _estimates(videos, weights, config.confidence) for key, videos in measures.items()},
    )


def _estimates(
    videos: Sequence[Mapping[str, Measures]], weights: Float[ndarray, "R N"], confidence: float
) -> dict[str, dict[str, Estimate]]:
    """Average the measures of videos under every definition: definition -> metric -> estimate."""
    table = {}
    for column, (source, by_video) in _SOURCES.items():
        names = list(videos[0][source])
        pairs = np.array([[video[source][metric] for metric in names] for video in videos])  # (N, M, 2)
        defined = pairs[..., 1] > 0
        if by_video:
            ratios = np.divide(pairs[..., 0], pairs[..., 1], out=np.zeros(defined.shape), where=defined)
            pairs = np.stack([ratios, defined], axis=-1)
        sums, normalisers = weights @ pairs[..., 0], weights @ pairs[..., 1]  # (R, M)
        replicates = np.divide(sums, normalisers, out=np.full(sums.shape, np.nan), where=normalisers > 0)
        counts = defined.sum(0)
        table[column] = {
            metric: from_replicates(
                replicates[:, i], confidence, num=int(counts[i]), num_undefined=len(videos) - int(counts[i])
            )
            for i, metric in enumerate(names)
        }
    return table
