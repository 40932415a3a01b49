"""Score many running episodes against goals of their own, all of them in one forward pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from vidreward.reward_model import RewardModel
from vidreward.scoring import PIXELS_PER_PIECE, Precision, autocast, device_of, has_fast_bf16
from vidreward.types import Video

Goal = UInt8[ndarray, "G 3 H W"]


@dataclass
class Run:
    """One running episode: its goals, and what is left of the frames that its next score looks back on."""

    goal_codes: Tensor | None
    """(K, G, ...): K goals to choose from, each of G frames."""
    fps: float
    text: str | None
    codes: deque[Tensor]
    states: deque[Tensor]
    num_frames: int = 0


@dataclass
class _Rows:
    """What one forward pass looks at: the last frames up to the scored one, one row a score."""

    codes: list[Tensor] = field(default_factory=list)
    """(T, ...) each; T may differ."""
    first: list[int] = field(default_factory=list)
    """Number in the episode of each row's first frame."""
    goals: list[Tensor] = field(default_factory=list)
    """(G, ...) each."""
    states: list[Tensor] = field(default_factory=list)
    """(T, S) each."""
    fps: list[float] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)


class GoalScorer:
    """Score frames of running episodes as they come; equal to scoring each episode by itself.

    Each frame and each goal is encoded once; a goal that stays the same is not encoded again.

    Args:
        model: Scored on the device it is on, in evaluation mode.
        precision: "auto" is bfloat16 where the processor has it.
    """

    def __init__(self, model: RewardModel, *, precision: Precision = "auto") -> None:
        self.model = model
        self.needs_goal = model.inputs.goal in ("image", "video")
        self._device = device_of(model)
        # asking the processor takes a third of a millisecond, so it is asked once
        fast = precision == "auto" and has_fast_bf16(self._device.type)
        self._precision: Precision = "bf16" if fast else "fp32" if precision == "auto" else precision
        self._known_goals: dict[bytes, Tensor] = {}

    def begin(
        self, goals: Sequence[Goal | None], *, fps: float, texts: Sequence[str | None], choose: bool = False
    ) -> list[Run]:
        """Start episodes that have seen no frame yet; their goals are encoded together.

        Args:
            goals: Goal frames of each; None for models that look at none.
            fps: Frames per second.
            texts: Instruction of each, for models that read one.
            choose: Each goal frame is a goal of its own, of which `push` chooses one; otherwise all are one goal.
        """
        context = self.model.inputs.context
        runs = []
        for codes, text in zip(self._encode_goals(goals), texts, strict=True):
            goal_codes = None if codes is None else codes[:, None] if choose else codes[None]
            runs.append(Run(goal_codes, fps, text, codes=deque(maxlen=context), states=deque(maxlen=context)))
        return runs

    def _encode_goals(self, goals: Sequence[Goal | None]) -> list[Tensor | None]:
        """Encode the goals that the last call did not have, in one batch."""
        keys = [goal.tobytes() if goal is not None and self.needs_goal else None for goal in goals]
        wanted = {key: goal for key, goal in zip(keys, goals, strict=True) if key is not None and goal is not None}
        new = {key: goal for key, goal in wanted.items() if key not in self._known_goals}
        if new:
            codes = self.encode(np.concatenate(list(new.values()))).split([len(goal) for goal in new.values()])
            self._known_goals |= dict(zip(new, codes, strict=True))
        self._known_goals = {key: self._known_goals[key] for key in wanted}
        return [None if key is None else self._known_goals[key] for key in keys]

    def encode(self, frames: UInt8[ndarray, "M 3 H W"]) -> Tensor:
        """Encode frames, all at once."""
        self._evaluate()
        with torch.inference_mode(), autocast(self._device, self._precision):
            return self.model.encode(torch.from_numpy(np.ascontiguousarray(frames)).to(self._device))

    def _evaluate(self) -> None:
        if self.model.training:  # a model that goes on learning is put back by its trainer
            self.model.eval()

    def push(
        self,
        runs: Sequence[Run],
        frames: UInt8[ndarray, "M 3 H W"],
        goals: Sequence[int],
        states: Float[ndarray, "M S"] | None = None,
    ) -> Float[ndarray, "M"]:
        """Add one frame to each of M different episodes and score it.

        Args:
            runs: The episodes.
            frames: Their next frames.
            goals: Which of its goals each frame is compared with.
            states: Robot states, for models that read them.
        """
        rows = _Rows()
        for run, code, goal in zip(runs, self.encode(frames), goals, strict=True):
            run.codes.append(code)
            run.num_frames += 1
            rows.codes.append(torch.stack(list(run.codes)))
            rows.first.append(run.num_frames - len(run.codes))
            rows.fps.append(run.fps)
            rows.texts.append(run.text)
            if run.goal_codes is not None:
                rows.goals.append(run.goal_codes[goal])
        if states is not None and self.model.inputs.state:
            for run, state in zip(runs, torch.as_tensor(states).float().to(self._device), strict=True):
                run.states.append(state)
                rows.states.append(torch.stack(list(run.states)))
        return self._score(rows)

    def goal_scores(self, runs: Sequence[Run]) -> list[Float[ndarray, "K"]]:
        """Score the last frame of each goal of each episode against that goal itself: minus HOLD's d(g, g)."""
        rows = _Rows()
        for run in runs:
            assert run.goal_codes is not None
            for codes in run.goal_codes:
                rows.codes.append(codes[-1:])
                rows.first.append(0)
                rows.goals.append(codes)
                rows.fps.append(run.fps)
                rows.texts.append(run.text)
        num_goals = [len(run.goal_codes) for run in runs if run.goal_codes is not None]
        return np.split(self._score(rows), np.cumsum(num_goals)[:-1])

    def score_pairs(
        self,
        run: Run,
        frames: UInt8[ndarray, "T 3 H W"],
        pairs: Sequence[tuple[int, int]],
        states: Float[ndarray, "T S"] | None = None,
    ) -> Float[ndarray, "P"]:
        """Score chosen frames of a whole episode, each against one of its goals: pairs of frame and goal numbers."""
        piece = max(16, PIXELS_PER_PIECE // (frames.shape[2] * frames.shape[3]))
        codes = torch.cat([self.encode(frames[i : i + piece]) for i in range(0, len(frames), piece)])
        context = self.model.inputs.context or len(frames)
        scores = []
        for start in range(0, len(pairs), piece):
            rows = _Rows()
            for frame, goal in pairs[start : start + piece]:
                begin = max(0, frame + 1 - context)
                rows.codes.append(codes[begin : frame + 1])
                rows.first.append(begin)
                rows.fps.append(run.fps)
                rows.texts.append(run.text)
                if run.goal_codes is not None:
                    rows.goals.append(run.goal_codes[goal])
                if states is not None and self.model.inputs.state:
                    rows.states.append(torch.as_tensor(states[begin : frame + 1]).float().to(self._device))
            scores.append(self._score(rows))
        return np.concatenate(scores)

    def _score(self, rows: _Rows) -> Float[ndarray, "M"]:
        """Score the last frame of each row in one forward pass."""
        codes, length = _pad(rows.codes)
        num_rows, num_frames = codes.shape[:2]
        first = torch.tensor(rows.first, device=self._device)
        steps = torch.arange(num_frames, device=self._device)
        video = Video(
            frames=torch.zeros((num_rows, num_frames, 3, 0, 0), dtype=torch.uint8, device=self._device),
            index=first[:, None] + torch.minimum(steps, length[:, None] - 1),
            length=length,
            fps=torch.tensor(rows.fps, device=self._device),
        )
        goal_codes = None
        if rows.goals:
            if len({len(goal) for goal in rows.goals}) > 1:
                raise ValueError(
                    "the goal videos of these environments differ in length, and are scored in one batch; give "
                    "demonstrations of one length"
                )
            goal_codes = torch.stack(rows.goals)
            no_pixels = torch.zeros((num_rows, goal_codes.shape[1], 3, 0, 0), dtype=torch.uint8, device=self._device)
            video = replace(video, goal=no_pixels)
        if all(text is not None for text in rows.texts):
            video = replace(video, text=tuple(text for text in rows.texts if text is not None))
        if rows.states:
            video = replace(video, state=_pad(rows.states)[0])
        self._evaluate()
        with torch.inference_mode(), autocast(self._device, self._precision):
            scores = self.model.score_codes(codes, goal_codes, video)
        rows_of = torch.arange(num_rows, device=self._device)
        return scores[rows_of, length - 1].float().cpu().numpy()


def _pad(rows: Sequence[Tensor]) -> tuple[Tensor, Int[Tensor, "B"]]:
    """Stack rows (T, ...) of different T, repeating the last frame; returns (B, T, ...) and the true lengths.

    A score depends on no later frame, so what stands behind a row's end does not matter.
    """
    length = torch.tensor([len(row) for row in rows], device=rows[0].device)
    longest = max(len(row) for row in rows)
    if all(len(row) == longest for row in rows):
        return torch.stack(list(rows)), length
    padded = [torch.cat([row, row[-1:].expand(longest - len(row), *row.shape[1:])]) for row in rows]
    return torch.stack(padded), length
