r"""HOLD-R: predict how many frames are left until the goal.

Paper: Alakuijala et al., "Learning Reward Functions for Robotic Manipulation by Observing Humans", ICRA 2023,
arXiv 2211.09019, Eq. 2. Original: github.com/minttusofia/hold-rewards, Apache-2.0; written anew from the facts in
docs/methods/hold_r.md.

A pair of frames s < g is drawn uniformly from all ordered pairs of a video, and d(s, g) is regressed on their time
apart. The raw output counts frames at the data set's mean rate; the loss rescales it to the video's own rate:

    loss = mean of (d(s, g) * fps / mean_fps - (g - s))^2          score(s, g) = -d(s, g)

Variants. `as_coded` is the released code. `fixed` draws half of the pairs with the last frame as goal, which is what
scoring asks; measures the error in units of the mean time apart of the batch, so that the loss does not grow with the
square of the video length; regresses through a Huber loss, whose gradient a long pause cannot dominate; and its recipe
does not mirror images (wrong where left and right matter).

Networks. The paper has two: a ResNet, which reads history and goal stacked on the channel axis, and a ViViT, in which
the goal is one more time step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from vidreward import processes
from vidreward.augment import HOLD, JITTER, TOP_DOWN, Augment
from vidreward.convert.flax_file import read_parameters
from vidreward.convert.vivit_init import initialise_vivit
from vidreward.nets.resnet import Depth, ResNet
from vidreward.nets.vivit import LARGE, SMALL, TINY, ViViT, ViViTConfig
from vidreward.reward_model import LearnedRewardModel, RewardConfig, require, windows
from vidreward.scoring import mean_initial_distance
from vidreward.train_config import DataConfig, FitConfig, TrainConfig, pick_preset
from vidreward.types import DataSpec, Episode, EpisodeInfo, Inputs, Pick, Video

WINDOWS_PER_PIECE = 1024
"""Windows given to the ViViT's temporal half at once, which bounds the memory that an hour of video takes."""


@dataclass(frozen=True, kw_only=True)
class HoldRConfig(RewardConfig):
    """Settings of HOLD-R; defaults are the paper's ResNet row (Table I) where the variant does not say otherwise."""

    variant: Literal["as_coded", "fixed"] = "fixed"
    """`as_coded`: the released loss; `fixed`: scaled Huber loss (see the module's text)."""
    network: Literal["resnet", "vivit"] = "resnet"
    """`resnet` reads history and goal as one image of many channels; `vivit` reads each by itself, then all in time."""
    depth: Depth = 18
    """Layers of the ResNet; the paper's is 50."""
    num_filters: int = 64
    """Width of the ResNet's stem; the stages have 1, 2, 4 and 8 times as many."""
    vivit: ViViTConfig = SMALL
    """Size of the ViViT; the paper's is `nets.vivit.LARGE`."""
    num_history: int = 1
    """State frames in front of the goal; the paper has 1 and 3."""
    last_frame_goals: float = 0.5
    """Share of pairs whose goal is the video's last frame, `fixed` only: what is asked when scoring, yet rarely drawn
    from all pairs."""
    objective: Literal["regression", "hinge"] = "regression"
    """`hinge` only asks that a later frame be nearer to the goal (the original's `hinge_loss`, unused in the paper)."""
    predict_seconds: bool = False
    """Regress seconds, without rescaling by the frame rate."""
    augment: Augment = Augment()

    def build(self, data: DataSpec) -> HoldR:
        """Make the model; frames may have any size for a ResNet, multiples of the patch for a ViViT.

        Raises:
            ValueError: The frames cannot be cut into patches.
        """
        if self.network == "vivit":
            return HoldRViViT(self, mean_fps=data.fps, frame_size=(data.height, data.width))
        return HoldR(self, mean_fps=data.fps)


class HoldR(LearnedRewardModel):
    """Score a frame by minus the predicted time from it to the goal."""

    network: ResNet | ViViT

    def __init__(self, config: HoldRConfig, *, mean_fps: float, network: ViViT | None = None) -> None:
        super().__init__()
        assert (network is not None) == (config.network == "vivit"), "HoldRConfig.build makes the class that fits"
        self.config = config
        self.augment = config.augment
        self.inputs = Inputs(context=config.num_history, goal="image")
        self.counts_frames_at = None if config.predict_seconds else mean_fps
        num_images = config.num_history + 1
        self.network = network or ResNet(
            config.depth, num_images=num_images, num_outputs=1, num_filters=config.num_filters
        )
        self.register_buffer("mean_fps", torch.tensor(mean_fps))
        self.register_buffer("normalizer", torch.tensor(1.0))
        self.mean_fps: Tensor
        self.normalizer: Tensor

    def sample(self, episode: EpisodeInfo, rng: np.random.Generator) -> dict[str, Pick]:
        """Draw a pair s < g uniformly over all ordered pairs, and the frames up to s (docs/methods/hold_r.md).

        The hinge objective draws s < middle < g, uniformly over all such triples.
        """
        if self.config.objective == "hinge":
            s, middle, g = draw_ordered(episode.num_frames, 3, rng)
            return {"state": self._history(s), "middle": self._history(middle), "goal": Pick(index=[g])}
        s, g = draw_ordered(episode.num_frames, 2, rng)
        if self.config.variant == "fixed" and rng.random() < self.config.last_frame_goals:
            s, g = int(rng.integers(episode.num_frames)), episode.num_frames - 1
        return {"state": self._history(s), "goal": Pick(index=[g])}

    def _history(self, s: int) -> Pick:
        return Pick(index=[max(0, s - back) for back in reversed(range(self.config.num_history))])

    def loss(
        self, batch: Mapping[str, Video] | None, agent: Mapping[str, Video] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Compare the predicted with the true time apart."""
        assert batch is not None
        state, goal = batch["state"], batch["goal"]
        if self.config.objective == "hinge":
            # one pass: batch statistics of two passes would tell the halves apart
            frames = torch.cat([state.frames, batch["middle"].frames])
            rate = state.fps / self.mean_fps
            earlier, later = self.distance(frames, torch.cat([goal.frames, goal.frames])).chunk(2)
            # a sum over all processes' rows, whose gradients will be averaged
            loss = processes.parts_of_batch() * pairwise_hinge(earlier * rate, later * rate)
            return loss, {"misordered": (later > earlier).float().mean()}
        prediction = self.distance(state.frames, goal.frames)
        steps = (goal.index[:, -1] - state.index[:, -1]).float()
        loss, error = time_loss(
            prediction,
            steps,
            state.fps,
            self.mean_fps,
            seconds=self.config.predict_seconds,
            variant=self.config.variant,
        )
        return loss, {"time_error": error.detach().abs().mean(), "mean_time_apart": steps.mean()}

    def distance(self, frames: Tensor, goal: Tensor) -> Float[Tensor, "B"]:
        """Predict the time from the last of `frames` (B, num_history, 3, H, W) to `goal` (B, G, 3, H, W)."""
        return self.network(torch.cat([frames, goal[:, -1:]], 1).flatten(1, 2))[:, 0]

    def score(self, video: Video, *, seed: int = 0) -> Float[Tensor, "B T"]:
        """Return minus the predicted distance, in frames at the mean rate; frame 0 is repeated before the start."""
        require(video, self.inputs, "HOLD-R")
        assert video.goal is not None
        num_rows, num_frames = video.frames.shape[:2]
        index = windows(num_frames, self.config.num_history, video.frames.device)
        histories = video.frames[:, index].flatten(0, 1)
        goals = video.goal[:, None, -1:].expand(-1, num_frames, -1, -1, -1, -1).flatten(0, 1)
        return -self.distance(histories, goals).view(num_rows, num_frames)

    def calibrate(self, episodes: Sequence[Episode]) -> None:
        """Set HOLD's T so that the first frame's |distance| / T is about 1/3 (docs/methods/hold_r.md)."""
        self.normalizer.fill_(3 * mean_initial_distance(self, episodes))


class HoldRViViT(HoldR):
    """HOLD-R with a ViViT, whose spatial half reads each frame by itself: scoring encodes frames and goal once.

    A ResNet cannot be split like this: its first convolution sums over the stacked frames, and all that follows is not
    linear.
    """

    network: ViViT

    def __init__(self, config: HoldRConfig, *, mean_fps: float, frame_size: tuple[int, int]) -> None:
        network = ViViT(config.vivit, num_frames=config.num_history + 1, frame_size=frame_size)
        super().__init__(config, mean_fps=mean_fps, network=network)

    def distance(self, frames: Tensor, goal: Tensor) -> Float[Tensor, "B"]:
        """Predict the time from the last of `frames` (B, num_history, 3, H, W) to `goal` (B, G, 3, H, W)."""
        return self.network(torch.cat([frames, goal[:, -1:]], 1))[:, 0]

    def encode(self, frames: UInt8[Tensor, "M 3 H W"]) -> Float[Tensor, "M D"]:
        """Make each frame's token."""
        return self.network.encode_frames(frames)

    def score_codes(
        self, codes: Float[Tensor, "B T D"], goal_codes: Float[Tensor, "B G D"] | None, video: Video, *, seed: int = 0
    ) -> Float[Tensor, "B T"]:
        """Slide a window over the tokens; only the temporal half runs."""
        require(video, self.inputs, "HOLD-R")
        assert goal_codes is not None
        num_rows, num_frames = codes.shape[:2]
        index = windows(num_frames, self.config.num_history, codes.device)
        goals = goal_codes[:, None, -1:].expand(-1, num_frames, -1, -1)
        tokens = torch.cat([codes[:, index], goals], 2).flatten(0, 1)  # (B * T, num_history + 1, D)
        distances = torch.cat([self.network.decide(piece) for piece in tokens.split(WINDOWS_PER_PIECE)])
        return -distances.view(num_rows, num_frames)

    def score(self, video: Video, *, seed: int = 0) -> Float[Tensor, "B T"]:
        """Return minus `distance` of every window, encoding each frame and the goal once."""
        require(video, self.inputs, "HOLD-R")
        assert video.goal is not None
        num_rows, num_frames = video.frames.shape[:2]
        images = torch.cat([video.frames, video.goal[:, -1:]], 1)
        codes = self.encode(images.flatten(0, 1)).unflatten(0, (num_rows, num_frames + 1))
        return self.score_codes(codes[:, :-1], codes[:, -1:], video, seed=seed)

    def initialise(self, source: str) -> None:
        """Start from a ViViT that scenic trained to classify videos (docs/methods/hold_r.md); the head stays at zero.

        Args:
            source: Checkpoint file of scenic, of a factorised encoder with these widths and depths.

        Raises:
            ValueError: The file is damaged, or its arrays do not fit.
        """
        params, _, _ = read_parameters(Path(source))
        initialise_vivit(self.network, params, source)


def draw_ordered(num_frames: int, num_drawn: int, rng: np.random.Generator) -> list[int]:
    """Draw increasing frame numbers, every such set equally likely; they repeat only in a video that is too short."""
    return sorted(rng.choice(num_frames, size=num_drawn, replace=num_frames < num_drawn).tolist())


def pairwise_hinge(
    earlier: Float[Tensor, "B"], later: Float[Tensor, "B"], mask: Float[Tensor, "B"] | None = None
) -> Float[Tensor, ""]:
    """Sum how much farther from the goal the later frame of each pair was predicted to be (docs/methods/hold_r.md)."""
    farther = (later - earlier).clamp(min=0)
    return (farther if mask is None else farther * mask).sum()


def time_loss(
    prediction: Float[Tensor, "B"],
    steps: Float[Tensor, "B"],
    fps: Float[Tensor, "B"],
    mean_fps: Tensor,
    *,
    seconds: bool = False,
    variant: Literal["as_coded", "fixed"] = "as_coded",
    mask: Float[Tensor, "B"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B"]]:
    """Compute HOLD-R's regression loss (docs/methods/hold_r.md).

    Args:
        prediction: Raw outputs: frames at the mean rate, or seconds.
        steps: True time apart, in frames of each video.
        fps: Frame rate of each video.
        mean_fps: Mean frame rate of the data set.
        seconds: Whether outputs are seconds.
        variant: Squared error, or Huber in units of the mean time apart.
        mask: 1 for rows that count, 0 for padding; all count by default.

    Returns:
        The loss, and the signed errors (B,) in frames of each video (seconds with `seconds`).
    """
    target = steps / fps if seconds else steps
    error = (prediction if seconds else prediction * fps / mean_fps) - target
    weights = torch.ones_like(error) if mask is None else mask
    if variant == "as_coded":
        each = error.square()
    else:
        scaled = error / processes.batch_mean(target.mean()).clamp(min=1e-6)
        each = F.huber_loss(scaled, torch.zeros_like(scaled), reduction="none")
    return (each * weights).sum() / (weights.sum() + 1e-8), error


def recipe(preset: str = "default") -> TrainConfig:
    """Return a complete configuration.

    `default` is for small images on a CPU, `topdown` the same for a camera that looks straight down, `vivit` the same
    with a small ViViT. `paper` and `paper_vivit` are the rows of the paper's Table I, `released` is the released
    configuration (docs/methods/hold_r.md). `debug` and `debug_vivit` run in seconds.
    """
    default = TrainConfig(
        reward=HoldRConfig(num_filters=16, augment=JITTER),
        data=DataConfig(size=64),
        fit=FitConfig(steps=3000, batch_size=64, lr=2e-3, warmup_steps=50),
    )
    presets = {
        "default": default,
        "topdown": replace(default, reward=HoldRConfig(num_filters=16, augment=TOP_DOWN)),
        **_published(),
        "debug": TrainConfig(
            reward=HoldRConfig(depth=14, num_filters=16),
            data=DataConfig(size=32),
            fit=FitConfig(steps=150, batch_size=16, lr=2e-3, warmup_steps=5, val_every=75, checkpoint_every=75),
        ),
        "vivit": replace(
            default,
            reward=HoldRConfig(network="vivit", num_history=3, augment=JITTER),
            fit=replace(default.fit, steps=2000, batch_size=16, lr=5e-4, warmup_steps=200),
        ),
        "debug_vivit": TrainConfig(
            reward=HoldRConfig(network="vivit", vivit=TINY, num_history=2),
            data=DataConfig(size=32),
            fit=FitConfig(steps=300, batch_size=24, lr=2e-3, warmup_steps=5, val_every=150, checkpoint_every=150),
        ),
    }
    return pick_preset(presets, preset)


def _published() -> dict[str, TrainConfig]:
    """Return the published configurations; an epoch has the 168,913 training videos, in `released` 68,913 as coded."""
    data = DataConfig(size=256, resize="crop", load_size=288)
    vivit = HoldRConfig(variant="as_coded", network="vivit", vivit=LARGE, num_history=3, augment=HOLD)
    fit = FitConfig(
        steps=52_780,
        batch_size=64,
        lr=0.1,
        warmup_steps=6_595,
        optimizer="momentum_bf16",
        grad_clip=1.0,
        clip_per_process=True,
    )
    return {
        "paper": TrainConfig(
            reward=HoldRConfig(variant="as_coded", depth=50, augment=HOLD),
            data=data,
            fit=FitConfig(steps=527_800, batch_size=32, lr=3e-4),
        ),
        "paper_vivit": TrainConfig(reward=vivit, data=data, fit=fit),
        "released": TrainConfig(
            reward=vivit,
            data=data,
            fit=replace(fit, steps=172_280, batch_size=8, warmup_steps=21_535, precision="fp32"),
        ),
    }
