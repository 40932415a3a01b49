"""Run a reward model over videos: whole episodes in bounded memory, or one frame at a time.

Every path gives the same scores: a model looks at most `inputs.context` frames back, so a long episode is scored in
pieces that overlap by that much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from vidreward.reward_model import RewardModel
from vidreward.types import Episode, Video, check_frames

Precision = Literal["auto", "fp32", "bf16"]
PIXELS_PER_PIECE = 800_000
"""Pixels given to a model at once: 16 frames at 224 px; pieces of 40 were slower on a CPU."""


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which networks run: bfloat16 where it was asked for, or is fast ("auto")."""
    kind = torch.device(device).type
    enabled = precision == "bf16" or (precision == "auto" and has_fast_bf16(kind))
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


def has_fast_bf16(kind: str) -> bool:
    """Tell whether a kind of device multiplies bfloat16 natively; elsewhere it is slower than float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def score_frames(
    model: RewardModel,
    frames: UInt8[ndarray, "T 3 H W"],
    goal: UInt8[ndarray, "G 3 H W"] | None = None,
    *,
    fps: float = 10.0,
    text: str | None = None,
    state: Float[ndarray, "T S"] | None = None,
    seed: int = 0,
    precision: Precision = "auto",
) -> Float[ndarray, "T"]:
    """Score every frame of one episode held in memory.

    Args:
        model: Scored on the device it is on.
        frames: RGB 0-255, oldest first.
        goal: Goal frames of the same size, for models that need one.
        fps: Frames per second.
        text: Instruction, for models that read one.
        state: Robot state of each frame, for models that read it.
        seed: Of the noise, where a method needs some.
        precision: "auto" is bfloat16 where the processor has it.

    Raises:
        ValueError: The frames are not uint8 (T, 3, H, W), frames or goal have another size, or an input is missing.
    """
    check_frames(frames, "frames")
    piece = _piece_length(frames[0])
    pieces = (frames[start : start + piece] for start in range(0, len(frames), piece))
    return _score(model, pieces, goal, False, fps, text, state, seed, precision)


def score_episode(
    model: RewardModel,
    episode: Episode,
    *,
    goal: UInt8[ndarray, "G 3 H W"] | None = None,
    camera: str | None = None,
    seed: int = 0,
    precision: Precision = "auto",
) -> Float[ndarray, "T"]:
    """Score every frame of an episode, reading it once, piece by piece, so that memory stays bounded.

    While the model looks at a piece, a thread decodes the next. A model with codes of its own (`encode`) keeps those
    instead of frames, and takes the code of the last frame as the goal's where the episode ends in its goal.

    Args:
        model: Scored on the device it is on.
        episode: Opened at the size the model was trained on.
        goal: Used instead of the episode's own goal.
        camera: Camera to score; None is the first.
        seed: Of the noise, where a method needs some.
        precision: "auto" is bfloat16 where the processor has it.

    Returns:
        Scores (num_frames,), higher is better.
    """
    needs_goal = model.inputs.goal in ("image", "video")
    # the episode's end is read last: fetching it first would decode from the key frame before it once more
    own_goal = needs_goal and goal is None and not episode.has_goal and _encodes(model)
    own_goal = own_goal and camera in (None, episode.cameras[0])
    if needs_goal and goal is None and not own_goal:
        goal = episode.goal()
    state = episode.column("state") if model.inputs.state else None
    pieces = _read_ahead(_stack_pieces(episode.iterate(camera)))
    return _score(model, pieces, goal, own_goal, episode.fps, episode.task, state, seed, precision)


def _piece_length(frame: UInt8[ndarray, "3 H W"]) -> int:
    return max(16, PIXELS_PER_PIECE // (frame.shape[1] * frame.shape[2]))


def _stack_pieces(frames: Iterator[UInt8[ndarray, "3 H W"]]) -> Iterator[UInt8[ndarray, "T 3 H W"]]:
    """Stack single frames to the pieces that a model is given at once."""
    for first in frames:
        yield np.stack([first, *islice(frames, _piece_length(first) - 1)])


def _read_ahead(pieces: Iterator[ndarray]) -> Iterator[ndarray]:
    """Read the next piece in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next, pieces, None)
        while (piece := ahead.result()) is not None:
            ahead = pool.submit(next, pieces, None)
            yield piece


def _encodes(model: RewardModel) -> bool:
    """Whether a model has codes of its own, much smaller than frames, so that those of a whole episode can be kept."""
    return type(model).encode is not RewardModel.encode


def _score(
    model: RewardModel,
    pieces: Iterator[UInt8[ndarray, "T 3 H W"]],
    goal: UInt8[ndarray, "G 3 H W"] | None,
    own_goal: bool,
    fps: float,
    text: str | None,
    state: ndarray | None,
    seed: int,
    precision: Precision,
) -> Float[ndarray, "T"]:
    """Score consecutive pieces of one episode; with `own_goal` its last frame is the goal."""
    device = device_of(model)
    was_training = model.training
    model.eval()

    def video(frames: Tensor, start: int, goal_frames: Tensor | None) -> Video:
        stop = start + len(frames)
        return Video(
            frames=frames[None],
            index=torch.arange(start, stop, device=device)[None],
            length=torch.tensor([len(frames)], device=device),
            fps=torch.tensor([fps], device=device),
            goal=goal_frames,
            text=None if text is None else (text,),
            state=None if state is None else torch.as_tensor(state[start:stop]).float().to(device)[None],
        )

    try:
        with torch.inference_mode(), autocast(device, precision):
            goal_frames = None if goal is None else torch.from_numpy(np.ascontiguousarray(goal)).to(device)[None]
            chunks = (_to_device(model, piece, device, goal_frames) for piece in pieces)
            if _encodes(model):
                codes = torch.cat([model.encode(chunk) for chunk in chunks])[None]
                goal_codes = codes[:, -1:] if own_goal else None
                goal_codes = goal_codes if goal_frames is None else model.encode(goal_frames[0])[None]
                no_pixels = torch.zeros((codes.shape[1], 3, 0, 0), dtype=torch.uint8, device=device)
                whole = video(no_pixels, 0, no_pixels[None, -1:] if own_goal else goal_frames)
                scores = [model.score_codes(codes, goal_codes, whole, seed=seed)[0]]
            else:
                scores = [
                    model.score(video(frames, start, goal_frames), seed=seed)[0, back:]
                    for frames, start, back in _overlapping(chunks, model.inputs.context)
                ]
    finally:
        model.train(was_training)
    return torch.cat(scores).float().cpu().numpy()


def _to_device(
    model: RewardModel, frames: ndarray, device: torch.device, goal: Tensor | None
) -> UInt8[Tensor, "T 3 H W"]:
    chunk = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
    _check_sizes(model, chunk, goal)
    return chunk


def _overlapping(chunks: Iterator[Tensor], context: int | None) -> Iterator[tuple[Tensor, int, int]]:
    """Put before each chunk the frames its first score looks back on.

    Returns:
        Frames, the number of the first of them in the episode, and how many of them were scored before.
    """
    if context is None:
        yield torch.cat(list(chunks)), 0, 0
        return
    num_done = 0
    past: Tensor | None = None
    for chunk in chunks:
        frames = chunk if past is None else torch.cat([past, chunk])
        back = len(frames) - len(chunk)
        yield frames, num_done - back, back
        num_done += len(chunk)
        past = frames[len(frames) - min(len(frames), context - 1) :]


def _check_sizes(model: RewardModel, frames: Tensor, goal: Tensor | None) -> None:
    height, width = frames.shape[-2:]
    trained_on = model.frame_size
    if trained_on is not None and trained_on != (height, width):
        raise ValueError(
            f"the frames are {height}x{width} and the model was trained on {trained_on[0]}x{trained_on[1]}; "
            "open the videos with vidreward.jobs.open_like_training, or resize the frames"
        )
    if goal is not None and goal.shape[-3:] != frames.shape[-3:]:
        raise ValueError(
            f"the goal is {goal.shape[-2]}x{goal.shape[-1]} and the frames are {height}x{width}; "
            "resize the goal to the frames' size"
        )


def device_of(model: RewardModel) -> torch.device:
    """Return the device of a model's parameters or buffers; the CPU when it has none."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


class StreamingScorer:
    """Score a video frame by frame as it arrives; equal to `score` on the whole sequence.

    Each frame is encoded once; only the codes of the last `inputs.context` frames are kept (all of them where the
    context is None).

    Args:
        model: Scored on the device it is on, in evaluation mode.
        goal: Goal frames (G, 3, H, W), for models that need them.
        fps: Frames per second.
        text: Instruction, for models that read one.
        seed: Of the noise, where a method needs some.
        precision: "auto" is bfloat16 where the processor has it.

    Example:
        >>> from vidreward.rewards.hold_c import HoldCConfig, HoldC
        >>> frames = np.zeros((3, 3, 32, 32), np.uint8)
        >>> scorer = StreamingScorer(HoldC(HoldCConfig(depth=14)), goal=frames[-1:])
        >>> [scorer.push(frame) == 0 for frame in frames]
        [True, True, True]
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        goal: UInt8[ndarray, "G 3 H W"] | None = None,
        fps: float = 10.0,
        text: str | None = None,
        seed: int = 0,
        precision: Precision = "auto",
    ) -> None:
        self.model = model.eval()
        self.fps = fps
        self.text = text
        self.seed = seed
        self.precision = precision
        self._device = device_of(model)
        self._goal = None if goal is None else torch.from_numpy(np.ascontiguousarray(goal)).to(self._device)
        self._goal_codes = None if self._goal is None else self._encode(self._goal)[None]
        self.reset()

    def reset(self) -> None:
        """Begin another episode with the same goal."""
        self._codes: deque[Tensor] = deque(maxlen=self.model.inputs.context)
        self._states: deque[Tensor] = deque(maxlen=self.model.inputs.context)
        self._num_frames = 0

    def push(self, frame: UInt8[ndarray, "3 H W"], state: Float[ndarray, "S"] | None = None) -> float:
        """Return the score of the next frame.

        Raises:
            ValueError: The frame is not uint8 (3, H, W), or has another size than the goal or the training frames.
        """
        check_frames(frame[None], "frame")
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self._device)[None]
        _check_sizes(self.model, pixels, self._goal)
        self._codes.append(self._encode(pixels))
        if state is not None:
            self._states.append(torch.as_tensor(state).float().to(self._device)[None])
        self._num_frames += 1
        codes = torch.cat(list(self._codes))[None]
        num_kept = codes.shape[1]
        video = Video(
            frames=torch.zeros((1, num_kept, 3, 0, 0), dtype=torch.uint8, device=self._device),
            index=torch.arange(self._num_frames - num_kept, self._num_frames, device=self._device)[None],
            length=torch.tensor([num_kept], device=self._device),
            fps=torch.tensor([self.fps], device=self._device),
            goal=None if self._goal is None else self._goal[None],
            text=None if self.text is None else (self.text,),
            state=torch.cat(list(self._states))[None] if self._states else None,
        )
        with torch.inference_mode(), autocast(self._device, self.precision):
            return float(self.model.score_codes(codes, self._goal_codes, video, seed=self.seed)[0, -1])

    def _encode(self, frames: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(self._device, self.precision):
            return self.model.encode(frames)


def mean_initial_distance(model: RewardModel, episodes: Sequence[Episode], most: int = 64) -> float:
    """Average minus the score of the first frame over at most `most` episodes, each with its own goal."""
    chosen = episodes[:: max(1, len(episodes) // most)][:most]
    scores = [float(score_frames(model, e.frames([0]), e.goal(), fps=e.fps)[0]) for e in chosen]
    return max(-float(np.mean(scores)), 1e-6)
