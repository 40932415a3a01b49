"""Gather what the HTML report shows of each episode: curve, small video, film strip, and what is wrong with it."""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.data.encode import write_video
from vidreward.evaluate.metrics import order_metrics, spearman
from vidreward.evaluate.outputs import ScoredEpisode
from vidreward.evaluate.summary import NO_TASK

VIDEO_SIDE = 320
"""Longest side of an embedded video, in pixels."""
VIDEO_FRAMES = 900
"""Frames of an embedded video at most; longer episodes are thinned."""
CURVE_POINTS = 4000
"""Points of a curve at most; longer episodes are thinned."""
FILM_PICTURES = 10
FILM_WIDTH = 96
_READ_FRAMES = 64


@dataclass(frozen=True)
class Trouble:
    """How wrong the scores of an episode are, from 0 (nothing) to 1, and in what way."""

    size: float
    reason: str


def find_trouble(scored: Sequence[ScoredEpisode]) -> list[Trouble]:
    """Rate each episode by its worst aspect, so that a report can begin with what deserves a look.

    Aspects: how far a demonstration's scores are from the order of time; how many episodes of the same task and of
    the other outcome end on the wrong side of this one; how far scores are from the order of true progress.
    """
    finals: dict[tuple[str, bool], list[float]] = {}
    for item in scored:
        if item.episode.success is not None:
            key = (item.episode.task or NO_TASK, item.episode.success)
            finals.setdefault(key, []).append(float(item.scores[-1]))
    return [_trouble(item, finals) for item in scored]


def _trouble(item: ScoredEpisode, finals: dict[tuple[str, bool], list[float]]) -> Trouble:
    episode, last = item.episode, float(item.scores[-1])
    aspects = []
    order = order_metrics(item.scores)["spearman"]
    if episode.success is not False and episode.num_frames > 1:
        text = "constant scores" if order is None else f"value-order correlation {order + 0.0:.2f}"
        aspects.append(Trouble(0.5 if order is None else (1 - order) / 2, text))
    if episode.success is not None:
        others = np.array(finals.get((episode.task or NO_TASK, not episode.success), []))
        if len(others):
            wrong = others > last if episode.success else others < last
            share = float(np.mean(wrong + 0.5 * (others == last)))
            side = "failures end above it" if episode.success else "successes end below it"
            aspects.append(Trouble(share, f"{share:.0%} of the task's {side}"))
    if item.progress is not None:
        correlation = spearman(item.scores, item.progress)
        if correlation is not None:
            aspects.append(Trouble((1 - correlation) / 2, f"correlation with true progress {correlation + 0.0:.2f}"))
    return max(aspects, key=lambda aspect: aspect.size, default=Trouble(0.0, "nothing to compare with"))


def episode_data(item: ScoredEpisode, trouble: Trouble, *, with_video: bool) -> dict[str, Any]:
    """Gather one episode as plain JSON values."""
    episode = item.episode
    stride = math.ceil(episode.num_frames / CURVE_POINTS)
    film, video = film_and_video(item, with_video=with_video)
    return {
        "id": episode.id,
        "task": episode.task,
        "success": episode.success,
        "failure": _failure(item),
        "fps": episode.fps,
        "numFrames": episode.num_frames,
        "stride": stride,
        "scoreName": item.score_name,
        "scores": _numbers(item.scores[::stride]),
        "rewards": None if item.rewards is None else _numbers(item.rewards[::stride]),
        "progress": None if item.progress is None else _numbers(np.asarray(item.progress, np.float64)[::stride]),
        "trouble": trouble.size,
        "why": trouble.reason,
        "film": film,
        "filmPictures": FILM_PICTURES,
        "goal": goal_picture(item),
        "video": video,
    }


def film_and_video(item: ScoredEpisode, *, with_video: bool) -> tuple[str, str | None]:
    """Make a film strip and, where wanted, a small video of an episode, reading its frames once.

    Returns:
        Film: pictures side by side, each from the middle of an equal share of the episode; base64 JPEG.
        Video: a small mp4 (H.264, which every browser plays), base64.
    """
    episode = item.episode
    stride = math.ceil(episode.num_frames / VIDEO_FRAMES)
    shown = range(0, episode.num_frames, stride)
    places = (np.arange(FILM_PICTURES) + 0.5) / FILM_PICTURES * (episode.num_frames - 1)
    wanted = [shown[min(len(shown) - 1, round(place / stride))] for place in places]
    pictures: dict[int, ndarray] = {}
    video = None
    if with_video:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "episode.mp4"
            frames = _shrunk(item, shown, set(wanted), pictures)
            write_video(path, frames, episode.fps / stride, crf=25, gop=12)
            video = base64.b64encode(path.read_bytes()).decode("ascii")
    else:
        for number, frame in zip(wanted, episode.frames(wanted), strict=True):
            pictures[number] = _film_picture(frame)
    return _jpeg(np.concatenate([pictures[number] for number in wanted], axis=1)), video


def goal_picture(item: ScoredEpisode) -> str | None:
    """Encode the last goal frame as a small JPEG, base64; None where the goal is only the episode's own end."""
    if not item.episode.has_goal:
        return None
    goal = item.episode.goal()[-1].transpose(1, 2, 0)
    return _jpeg(_resize(goal, min(1.0, 1.5 * FILM_WIDTH / max(goal.shape[:2]))))


def _jpeg(picture: UInt8[ndarray, "H W 3"]) -> str:
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert encoded
    return base64.b64encode(data.tobytes()).decode("ascii")


def _shrunk(
    item: ScoredEpisode, numbers: range, wanted: set[int], pictures: dict[int, ndarray]
) -> Iterator[UInt8[ndarray, "3 H W"]]:
    """Yield frames at the size of the embedded video; those wanted for the film strip are kept in passing."""
    for start in range(0, len(numbers), _READ_FRAMES):
        some = numbers[start : start + _READ_FRAMES]
        for number, frame in zip(some, item.episode.frames(some), strict=True):
            if number in wanted:
                pictures[number] = _film_picture(frame)
            scale = min(1.0, VIDEO_SIDE / max(frame.shape[1:]))
            yield np.ascontiguousarray(_resize(frame.transpose(1, 2, 0), scale).transpose(2, 0, 1))


def _film_picture(frame: UInt8[ndarray, "3 H W"]) -> UInt8[ndarray, "h w 3"]:
    return _resize(frame.transpose(1, 2, 0), FILM_WIDTH / frame.shape[2])


def _resize(picture: UInt8[ndarray, "H W 3"], scale: float) -> UInt8[ndarray, "h w 3"]:
    if scale == 1.0:
        return picture
    size = (max(2, round(picture.shape[1] * scale)), max(2, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def _numbers(values: Float[ndarray, " T"]) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def _failure(item: ScoredEpisode) -> str | None:
    kind = item.episode.info.metadata.get("failure")
    return str(kind) if item.episode.success is False and kind not in (None, "") else None
