r"""Pixels: minus the distance to the goal image, pixel by pixel. Needs no training; a baseline for what does.

Paper: HOLD's "L2" baseline (Alakuijala et al., ICRA 2023, arXiv 2211.09019, Fig. 5). Original:
github.com/minttusofia/hold-policies `image_diff_sampler.py`; written anew from the facts in docs/rewards-in-rl.md.

With values in [0, 1] and both pictures cut to the square in their middle, as the original cuts them,

    score(s, g) = -sqrt(sum over pixels and channels of (s - g)^2)

so a score grows with the side of the picture. Reward: `Shaping(scale=1 / T)`; HOLD uses T = 30 (pushing) and 100
(drawer) at 48 pixels; the usual shaping here has T = 1, so compute one with `suggest_normalizer`.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor

from vidreward.reward_model import RewardConfig, RewardModel, require
from vidreward.train_config import DataConfig, FitConfig, TrainConfig, pick_preset
from vidreward.types import DataSpec, Inputs, Video


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(RewardConfig):
    """Pixels has no settings."""

    def build(self, data: DataSpec) -> Pixels:
        """Make the model; frames may have any size."""
        return Pixels()


class Pixels(RewardModel):
    """Score a frame by minus its Euclidean distance to the goal image."""

    inputs = Inputs(goal="image")

    def score(self, video: Video, *, seed: int = 0) -> Float[Tensor, "B T"]:
        """Compare every frame with the goal, 0-255 scaled to [0, 1]; each is cut to its own middle square."""
        require(video, self.inputs, "Pixels")
        assert video.goal is not None
        frames, goal = middle_square(video.frames), middle_square(video.goal[:, -1:])
        if frames.shape[-1] != goal.shape[-1]:
            raise ValueError(
                f"frames and goal are compared in squares of {frames.shape[-1]} and {goal.shape[-1]} pixels; resize "
                "the goal to the frames' size"
            )
        difference = (frames.float() - goal.float()) / 255
        return -difference.flatten(2).norm(dim=-1)


def middle_square(images: UInt8[Tensor, "... H W"]) -> UInt8[Tensor, "... S S"]:
    """Cut the square in the middle, of the shorter side.

    Example:
        >>> import torch
        >>> middle_square(torch.arange(4).view(1, 4))
        tensor([[1]])
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def recipe(preset: str = "default") -> TrainConfig:
    """Return the configuration that says at which size videos are opened; there is nothing to train."""
    presets = {
        "default": TrainConfig(
            reward=PixelsConfig(), data=DataConfig(size=64), fit=FitConfig(steps=1, batch_size=1, lr=1)
        ),
        "debug": TrainConfig(
            reward=PixelsConfig(), data=DataConfig(size=32), fit=FitConfig(steps=1, batch_size=1, lr=1)
        ),
    }
    return pick_preset(presets, preset)
