"""Order: score a later frame higher than an earlier one, without a goal. A whole reward model in one file.

For frames s < t of one video: loss = log(1 + exp(score(s) - score(t))), the pairwise logistic loss.

Use it without installing anything:
    vidreward train examples/my_reward.py --data videos/ --out runs/order
    vidreward evaluate runs/order --data heldout/ --model-file examples/my_reward.py
    vidreward score runs/order clip.mp4 --model-file examples/my_reward.py --out scored/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vidreward.augment import Augment
from vidreward.nets.resnet import Depth, ResNet
from vidreward.reward_model import LearnedRewardModel, RewardConfig
from vidreward.train_config import DataConfig, FitConfig, TrainConfig, pick_preset
from vidreward.types import DataSpec, EpisodeInfo, Inputs, Pick, Video


@dataclass(frozen=True, kw_only=True)
class OrderConfig(RewardConfig):
    """Settings of Order."""

    depth: Depth = 18
    """Layers of the ResNet."""
    augment: Augment = Augment()

    def build(self, data: DataSpec) -> Order:
        """Make the model; frames may have any size."""
        return Order(self)


class Order(LearnedRewardModel):
    """Score a frame by how late in the task it looks."""

    def __init__(self, config: OrderConfig) -> None:
        super().__init__()
        self.config = config
        self.augment = config.augment
        self.inputs = Inputs()  # the frame alone: no earlier frames, no goal
        self.network = ResNet(config.depth, num_outputs=1)

    def sample(self, episode: EpisodeInfo, rng: np.random.Generator) -> dict[str, Pick]:
        """Draw two different frames of the video, every pair equally likely."""
        earlier, later = sorted(rng.choice(episode.num_frames, size=2, replace=episode.num_frames < 2).tolist())
        return {"earlier": Pick(index=[earlier]), "later": Pick(index=[later])}

    def loss(
        self, batch: Mapping[str, Video] | None, agent: Mapping[str, Video] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Ask that the later frame score higher.

        Both go through the network together: batch normalisation of all the later frames by themselves would subtract
        what makes them different.
        """
        assert batch is not None
        frames = torch.cat([batch["earlier"].frames, batch["later"].frames])
        earlier, later = self.network(frames[:, 0])[:, 0].chunk(2)
        gain = later - earlier
        return F.softplus(-gain).mean(), {"misordered": (gain < 0).float().mean()}

    def score(self, video: Video, *, seed: int = 0) -> Float[Tensor, "B T"]:
        """Return the network's output for each frame."""
        return self.network(video.frames.flatten(0, 1)).view(video.frames.shape[:2])


def recipe(preset: str = "default") -> TrainConfig:
    """Return a complete configuration: `default`, or `debug`, which takes seconds."""
    presets = {
        "default": TrainConfig(
            reward=OrderConfig(augment=Augment(zoom=(1.0, 1.25), brightness=0.3, contrast=0.3)),
            data=DataConfig(size=64),
            fit=FitConfig(steps=2000, batch_size=64, lr=3e-4, warmup_steps=100),
        ),
        "debug": TrainConfig(
            reward=OrderConfig(depth=14),
            data=DataConfig(size=32),
            fit=FitConfig(steps=60, batch_size=8, lr=1e-3, warmup_steps=3),
        ),
    }
    return pick_preset(presets, preset)
