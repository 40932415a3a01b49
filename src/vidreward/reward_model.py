"""The contract of a reward model: `score` for everyone, `sample` and `loss` for those that learn.

Two words are kept apart everywhere. A *score* is what a model says about a frame (higher is better); a
*reward* is what an agent is paid after difference, normalisation, scale and mixing.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from vidreward.augment import Augment
from vidreward.types import DataSpec, Episode, EpisodeInfo, Inputs, Pick, Video


@dataclass(frozen=True, kw_only=True)
class Online:
    """How reinforcement learning goes on training a model: `updates` steps of `loss` every `every` env steps."""

    every: int
    updates: int
    pretrain: int = 0


class RewardConfig(abc.ABC):
    """Frozen dataclass beside each model; every field is written to the checkpoint's config.json."""

    @abc.abstractmethod
    def build(self, data: DataSpec) -> RewardModel:
        """Make the model, freshly initialised, for frames of this size and rate."""


class RewardModel(nn.Module, abc.ABC):
    """Score frames of videos: all it takes to be used by reinforcement learning."""

    inputs: Inputs
    counts_frames_at: float | None = None
    """Frame rate at which minus the score counts the frames left to the goal; None where a score is no time."""
    frame_size: tuple[int, int] | None = None
    """Height and width of the frames it was trained on; scoring refuses others. None: never trained, takes any."""

    @abc.abstractmethod
    def score(self, video: Video, *, seed: int = 0) -> Float[Tensor, "B T"]:
        """Score each frame; higher is better.

        Causal: the score at t depends on no frame after t, nor on one more than `inputs.context` back. Noise,
        where a method needs it, is a function of (seed, frame index), so streaming, batch and reload agree.
        """

    def encode(self, frames: UInt8[Tensor, "M 3 H W"]) -> Tensor:
        """Compute what can be reused whatever the goal and the neighbours; plain frames unless a model does better.

        Returns:
            Codes (M, ...), one row a frame.
        """
        return frames

    def score_codes(
        self, codes: Tensor, goal_codes: Tensor | None, video: Video, *, seed: int = 0
    ) -> Float[Tensor, "B T"]:
        """Score from codes (B, T, ...) and goal codes (B, G, ...) made by `encode`; equal to `score`.

        `video` gives the rest (index, length, fps, text, state); its pixels are not read.
        """
        return self.score(replace(video, frames=codes, goal=goal_codes), seed=seed)


class LearnedRewardModel(RewardModel):
    """A reward model that `fit` can train."""

    online: ClassVar[Online | None] = None
    """How reinforcement learning goes on training it; None: it stays as it is."""
    learns: ClassVar[Literal["order", "density", "novelty"]] = "order"
    """What training improves; the contract suite checks it."""
    augment: Augment = Augment()
    """What `fit` does to its frames, from the model's config."""

    @abc.abstractmethod
    def sample(self, episode: EpisodeInfo, rng: np.random.Generator) -> dict[str, Pick]:
        """Choose, in one episode, what `loss` needs: name -> frames. Every call gives the same names and lengths."""

    @abc.abstractmethod
    def loss(
        self, batch: Mapping[str, Video] | None, agent: Mapping[str, Video] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Compute the loss to minimise, and scalars to log.

        Args:
            batch: For each name of `sample`, the frames of B episodes; None for a bonus without demonstrations.
            agent: The same, from the agent's own episodes (online models only).
        """

    def initialise(self, source: str) -> None:
        """Start from weights that others published, as far as they fit; called once, before the first step.

        Args:
            source: A file or a name that this model knows to read.

        Raises:
            ValueError: There are none for this model, or these do not fit.
        """
        raise ValueError(
            f"{type(self).__name__} has no published weights to start from; leave out --init-from {source}, or give a "
            "run or checkpoint of vidreward"
        )

    def calibrate(self, episodes: Sequence[Episode]) -> None:
        """Set statistics kept as buffers from training episodes; `fit` calls it last."""


def windows(num_frames: int, context: int, device: torch.device | None = None) -> Int[Tensor, "T context"]:
    """Index the last `context` frames up to each frame, repeating frame 0 before the episode began.

    Example:
        >>> windows(3, 2).tolist()
        [[0, 0], [0, 1], [1, 2]]
    """
    ends = torch.arange(num_frames, device=device)[:, None]
    return (ends + torch.arange(1 - context, 1, device=device)).clamp(min=0)


def require(video: Video, inputs: Inputs, model: str) -> None:
    """Raise a clear error when a batch lacks what a model reads.

    Raises:
        ValueError: Names the missing goal, text or state and says how to give it.
    """
    missing = {
        "goal": (inputs.goal in ("image", "video") and video.goal is None, "a goal image (--goal IMAGE, or goal=)"),
        "goal_state": (inputs.goal == "state" and video.goal_state is None, "a goal state (goal_state=)"),
        "text": (inputs.text and video.text is None, "an instruction (text=)"),
        "state": (inputs.state and video.state is None, "the robot's state (state=)"),
    }
    for name, (absent, how) in missing.items():
        if absent:
            raise ValueError(f"{model} needs {name} and the video has none; give {how}")
