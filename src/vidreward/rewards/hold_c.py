r"""HOLD-C: distance to the goal in an embedding learned by time-contrastive triplets.

Paper: Alakuijala et al., "Learning Reward Functions for Robotic Manipulation by Observing Humans", ICRA 2023,
arXiv 2211.09019, section III-C. Original: github.com/minttusofia/hold-rewards, Apache-2.0; written anew from the facts
in docs/methods/hold_c.md.

For one clip with embeddings $e_i$, a positive $p$ at most `positive_radius` from the anchor $a$, and the nearest
negative $n$ that is still farther than $p$ (semi-hard; the farthest negative where there is none):

    loss = sum over positive pairs (a, p) of max(0, margin + |e_a - e_p|^2 - |e_a - e_n|^2)
    score(s, g) = -|f(s) - f(g)|

Variants. `as_coded` is the released code: windows of 32 consecutive frames (shorter videos are tiled, the copies
count as negatives), radii of 2 and 4 frames, statistics of each clip apart, the sum over pairs, mirror images.
`fixed` keeps the hinge and the mining and removes the traps: no other copy of a tiled clip is a negative, pairs are
averaged, images are not mirrored, and statistics are those of the whole batch, as in scoring. And it has several time
scales: as coded, only frames up to 5 apart are ever compared, so that frames far apart stay unordered (the paper
reports 0.62 Spearman). Here clips span a random part of the video, up to all of it, and the loss is the mean over
radii of 2, 4 and 8 frames (negatives beyond 4, 8 and 16).

Networks. The paper has a ResNet, trained from nothing, and a ViT, from weights of ImageNet-21k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vidreward.augment import HOLD, JITTER, TOP_DOWN, Augment
from vidreward.convert.vit_init import initialise_vit
from vidreward.nets.resnet import Depth, ResNet
from vidreward.nets.vit import BASE, SMALL, TINY, ViT, ViTConfig
from vidreward.reward_model import LearnedRewardModel, RewardConfig, require
from vidreward.scoring import mean_initial_distance
from vidreward.train_config import DataConfig, FitConfig, TrainConfig, pick_preset
from vidreward.types import DataSpec, Episode, EpisodeInfo, Inputs, Pick, Video


@dataclass(frozen=True, kw_only=True)
class HoldCConfig(RewardConfig):
    """Settings of HOLD-C; defaults are the released configuration's where the variant does not say otherwise."""

    variant: Literal["as_coded", "fixed"] = "fixed"
    """`as_coded`: the released code; `fixed`: its traps removed (see the module's text)."""
    network: Literal["resnet", "vit"] = "resnet"
    """The paper has both; its policies learned better from the ResNet."""
    depth: Depth = 18
    """Layers of the ResNet; the paper's is 50."""
    num_filters: int = 64
    """Width of the ResNet's stem; the stages have 1, 2, 4 and 8 times as many."""
    vit: ViTConfig = SMALL
    """Size of the ViT; the paper does not say which it used, `nets.vit.BASE` is likely."""
    embedding_dim: int = 32
    """Width of the embedding, which is not normalised."""
    num_frames: int = 32
    """Frames in a clip."""
    positive_radius: int = 2
    """Frames this far from the anchor, or nearer, are positives."""
    negative_radius: int = 4
    """Frames farther than this are negatives; those between are neither."""
    scales: tuple[int, ...] = (1, 2, 4)
    """Factors on both radii, `fixed` only; as coded there is one scale."""
    margin: float = 0.2
    """How much farther a negative must be, in squared units of the embedding."""
    augment: Augment = Augment()

    def build(self, data: DataSpec) -> HoldC:
        """Make the model; frames may have any size for a ResNet, multiples of the patch for a ViT.

        Raises:
            ValueError: The frames cannot be cut into patches.
        """
        return HoldC(self, frame_size=(data.height, data.width))


class HoldC(LearnedRewardModel):
    """Score a frame by minus its Euclidean distance to the goal in the learned embedding."""

    inputs = Inputs(goal="image")
    network: ResNet | ViT

    def __init__(self, config: HoldCConfig, *, frame_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.config = config
        self.augment = config.augment
        if config.network == "vit":
            assert frame_size is not None, "a ViT is made for one frame size"
            self.network = ViT(config.vit, frame_size=frame_size, num_outputs=config.embedding_dim)
        else:
            self.network = ResNet(config.depth, num_outputs=config.embedding_dim, num_filters=config.num_filters)
        self.register_buffer("normalizer", torch.tensor(1.0))
        self.normalizer: Tensor

    def sample(self, episode: EpisodeInfo, rng: np.random.Generator) -> dict[str, Pick]:
        """Draw a window; a shorter video is tiled, frame i mod its length (docs/methods/hold_c.md).

        `fixed` spreads the frames evenly over a random part of the video that is at least as long.
        """
        size, length = self.config.num_frames, episode.num_frames
        if length < size:
            return {"clip": Pick(index=[i % length for i in range(size)])}
        span = size if self.config.variant == "as_coded" else int(rng.integers(size, length + 1))
        start = int(rng.integers(length - span + 1))
        return {"clip": Pick(index=[start + round(i * (span - 1) / (size - 1)) for i in range(size)])}

    def loss(
        self, batch: Mapping[str, Video] | None, agent: Mapping[str, Video] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Sum (as coded) or average (fixed) the triplet hinge over each clip's positive pairs, then over clips."""
        assert batch is not None
        clip = batch["clip"]
        num_clips, num_frames = clip.index.shape
        fixed = self.config.variant == "fixed"
        images = clip.frames.flatten(0, 1)
        if isinstance(self.network, ResNet):
            embeddings = self.network(images, num_clips=None if fixed else num_clips)
        else:  # has no statistics over images
            embeddings = self.network(images)
        embeddings = embeddings.unflatten(0, (num_clips, num_frames))
        sequences, timesteps = clip_ids(clip.index)
        per_pair = []
        for scale in self.config.scales if fixed else (1,):
            total, num_positives = triplet_loss(
                embeddings,
                timesteps,
                sequences,
                positive_radius=scale * self.config.positive_radius,
                negative_radius=scale * self.config.negative_radius,
                margin=self.config.margin,
                as_coded=not fixed,
            )
            per_pair.append((total / num_positives.clamp(min=1)).mean())
        loss = torch.stack(per_pair).mean() if fixed else total.mean()
        spread = embeddings.detach().flatten(0, 1).std(0).mean()
        return loss, {"triplet_loss_per_pair": per_pair[0].detach(), "embedding_std": spread}

    def encode(self, frames: UInt8[Tensor, "M 3 H W"]) -> Float[Tensor, "M D"]:
        """Embed frames."""
        return self.network(frames)

    def score_codes(
        self, codes: Float[Tensor, "B T D"], goal_codes: Float[Tensor, "B G D"] | None, video: Video, *, seed: int = 0
    ) -> Float[Tensor, "B T"]:
        """Return minus the (not squared) distance to the goal's embedding."""
        require(video, self.inputs, "HOLD-C")
        assert goal_codes is not None
        return -(codes - goal_codes[:, -1:]).norm(dim=-1)

    def score(self, video: Video, *, seed: int = 0) -> Float[Tensor, "B T"]:
        """Embed every frame and the goal once, and compare (docs/methods/hold_c.md)."""
        require(video, self.inputs, "HOLD-C")
        assert video.goal is not None
        num_rows, num_frames = video.frames.shape[:2]
        images = torch.cat([video.frames, video.goal[:, -1:]], 1)
        codes = self.encode(images.flatten(0, 1)).unflatten(0, (num_rows, num_frames + 1))
        return self.score_codes(codes[:, :-1], codes[:, -1:], video, seed=seed)

    def calibrate(self, episodes: Sequence[Episode]) -> None:
        """Set HOLD's T so that the first frame's |distance| / T is about 1/3 (docs/methods/hold_c.md)."""
        self.normalizer.fill_(3 * mean_initial_distance(self, episodes))

    def initialise(self, source: str) -> None:
        """Start from a vision transformer of timm's, as HOLD from one trained on ImageNet-21k; the head stays as it is.

        Args:
            source: Name of a model in timm, or a file of its weights (.safetensors, .pth, or .npz of the original
                authors), with this ViT's width, depth and patch.

        Raises:
            ValueError: The network is a ResNet (HOLD trains it from nothing), or the weights do not fit.
        """
        if isinstance(self.network, ResNet):
            super().initialise(source)
        else:
            initialise_vit(self.network, source)


def clip_ids(index: Int[Tensor, "B n"]) -> tuple[Int[Tensor, "B n"], Int[Tensor, "B n"]]:
    """Tell the copies of a tiled clip apart: sequence number and time of each frame (docs/methods/hold_c.md)."""
    restart = torch.zeros_like(index)
    restart[:, 1:] = (index[:, 1:] <= index[:, :-1]).to(index.dtype)
    return restart.cumsum(1), index - index[:, :1]


def triplet_loss(
    embeddings: Float[Tensor, "B n D"],
    timesteps: Int[Tensor, "B n"],
    sequences: Int[Tensor, "B n"],
    *,
    positive_radius: int,
    negative_radius: int,
    margin: float,
    as_coded: bool = True,
) -> tuple[Float[Tensor, "B"], Int[Tensor, "B"]]:
    """Sum the semi-hard triplet hinge over all ordered positive pairs of each clip (docs/methods/hold_c.md).

    Args:
        embeddings: Of the n frames of each clip.
        timesteps: Frame number of each, in any offset.
        sequences: Which copy of a tiled clip each frame belongs to.
        positive_radius: Largest time apart of a positive pair (same copy).
        negative_radius: Frames farther apart than this are negatives.
        margin: In squared embedding units.
        as_coded: Every frame of another copy is a negative, even the same picture, and an anchor without negatives
            counts with a negative distance of 0. Otherwise time alone tells negatives, and such anchors are left out.

    Returns:
        Sum over pairs (B,), and the number of pairs (B,).
    """
    apart = (timesteps[:, :, None] - timesteps[:, None]).abs()
    same = sequences[:, :, None] == sequences[:, None]
    diagonal = torch.eye(apart.shape[1], dtype=torch.bool, device=apart.device)
    positive = same & (apart <= positive_radius) & ~diagonal
    negative = apart > negative_radius
    if as_coded:
        negative = negative | ~same
    else:
        positive = positive & negative.any(-1, keepdim=True)
    distance = (embeddings[:, :, None] - embeddings[:, None]).square().sum(-1)  # (B, a, p or k)
    # nearest negative beyond the positive, per (a, p): (B, a, p, k)
    beyond = negative[:, :, None] & (distance[:, :, None] > distance[:, :, :, None])
    nearest = distance[:, :, None].masked_fill(~beyond, torch.inf).amin(-1)
    row_minimum = distance.amin(-1, keepdim=True)  # what the reference leaves where an anchor has no negative
    farthest = torch.where(negative, distance, row_minimum).amax(-1, keepdim=True)
    chosen = torch.where(beyond.any(-1), nearest, farthest)
    hinge = (margin + distance - chosen).clamp(min=0)
    return (hinge * positive).sum((1, 2)), positive.sum((1, 2))


def recipe(preset: str = "default") -> TrainConfig:
    """Return a complete configuration.

    `default` is for small images on a CPU, `topdown` the same for a camera that looks straight down, `vit` has a small
    ViT. `paper` and `paper_vit` are the rows of the paper's Table II, `released` is the released configuration
    (docs/methods/hold_c.md). `debug` and `debug_vit` run in seconds.
    """
    default = TrainConfig(
        reward=HoldCConfig(num_filters=16, augment=JITTER),
        data=DataConfig(size=64),
        fit=FitConfig(steps=1500, batch_size=4, lr=2e-3, warmup_steps=50),
    )
    presets = {
        "default": default,
        "topdown": replace(default, reward=HoldCConfig(num_filters=16, augment=TOP_DOWN)),
        **_published(),
        "debug": TrainConfig(
            reward=HoldCConfig(depth=14, num_filters=16, embedding_dim=8, num_frames=12),
            data=DataConfig(size=32),
            fit=FitConfig(steps=100, batch_size=4, lr=1e-3, warmup_steps=5, val_every=50, checkpoint_every=50),
        ),
        "vit": replace(
            default,
            reward=HoldCConfig(network="vit", augment=JITTER),
            fit=replace(default.fit, steps=1000, lr=5e-4, warmup_steps=100),
        ),
        "debug_vit": TrainConfig(
            reward=HoldCConfig(network="vit", vit=TINY, embedding_dim=8, num_frames=12),
            data=DataConfig(size=32),
            fit=FitConfig(steps=120, batch_size=4, lr=2e-3, warmup_steps=5, val_every=50, checkpoint_every=50),
        ),
    }
    return pick_preset(presets, preset)


def _published() -> dict[str, TrainConfig]:
    """Return the published configurations; an epoch has the 168,913 training videos, in `released` 68,913 as coded."""
    data = DataConfig(size=256, resize="crop", load_size=288)
    resnet = HoldCConfig(variant="as_coded", depth=50, augment=HOLD)
    fit = FitConfig(steps=2_111_400, batch_size=8, lr=1e-4, warmup_steps=10_557)
    return {
        "paper": TrainConfig(reward=resnet, data=data, fit=fit),
        "paper_vit": TrainConfig(
            reward=replace(resnet, network="vit", vit=BASE),
            data=data,
            fit=replace(fit, steps=105_570),
            init_from="vit_base_patch16_224.augreg_in21k",
        ),
        "released": TrainConfig(
            reward=resnet,
            data=data,
            fit=replace(fit, steps=6_891_300, batch_size=1, warmup_steps=34_456, precision="fp32"),
        ),
    }
