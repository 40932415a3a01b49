"""The configuration of a training run: which videos, which model, how to train."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vidreward.log import Backend
from vidreward.optimizers import OptimizerName
from vidreward.reward_model import RewardConfig
from vidreward.scoring import Precision


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which videos to read, and how to make frames of them."""

    path: Annotated[str, tyro.conf.arg(name="data", prefix_name=False, metavar="PATH")] = ""
    """Folder of videos (or of image folders, or Something-Something v2)."""
    size: int = 64
    """Side of the square training frames, in pixels."""
    resize: Literal["squash", "crop"] = "squash"
    """`squash` keeps the whole picture, `crop` the aspect ratio (shorter side to size, then the centre)."""
    load_size: int | None = None
    """Shorter side of the frames that are read, for a margin: training cuts a random `size` out of them, scoring the
    centre (HOLD reads 288 for 256). None reads frames of `size`."""
    crop: tuple[float, float, float, float] | None = None
    """Part of the picture to use: left, top, right, bottom as fractions; drops insets and borders."""
    camera: str | None = None
    """Camera of recordings with several; the first by default."""
    fps: float | None = None
    """Resample to this frame rate; the videos' own by default."""
    tasks: tuple[str, ...] | None = None
    """Train on these tasks only."""
    successes_only: bool = True
    """Leave out episodes that are known to have failed: their last frame is not a goal."""
    validation: float = 0.1
    """Share of the episodes held out for validation."""
    cache_dir: Path | None = None
    """Where decoded frames are kept; $VIDREWARD_CACHE or ~/.cache/vidreward by default."""
    cache_gb: float = 20.0
    """Largest cache of decoded frames to make, in gigabytes (10^9 bytes); where they take more, each step decodes what
    it needs from the videos, and so does 0."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to train."""

    steps: int
    """Updates."""
    batch_size: int
    """Episodes in a batch."""
    lr: float
    """Peak learning rate; half a cosine to 0 after the warm-up."""
    warmup_steps: int = 0
    optimizer: OptimizerName = "adam"
    weight_decay: float = 0.0
    """For adamw only."""
    grad_clip: float | None = None
    """Largest norm of the gradient."""
    clip_per_process: bool = False
    """Clip each process's gradient before the mean over processes, as HOLD does, rather than the mean."""
    seed: int = 0
    device: str = "auto"
    """`auto` takes a GPU when there is one."""
    precision: Precision = "auto"
    """`auto` is bfloat16 where the processor multiplies it natively."""
    compile: bool = False
    """Compile the model's loss with torch.compile: minutes at the start, then faster steps."""
    log_every: int = 20
    val_every: int = 500
    val_episodes: int = 32
    """Held-out episodes looked at in each validation."""
    checkpoint_every: int = 500
    num_workers: int | None = None
    """Threads that read batches ahead; by default one from a cache, and as many as there are cores from videos."""
    log: tuple[Backend, ...] = ()
    """Where numbers go besides the terminal and log.jsonl."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "log_every",
            "val_every",
            "val_episodes",
            "checkpoint_every",
            "num_workers",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"fit.{name} must be at least 1; got {value}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"fit.lr must be more than 0; got {self.lr}")
        if min(self.warmup_steps, self.weight_decay, self.seed) < 0:
            raise ValueError(
                f"fit.warmup_steps ({self.warmup_steps}), fit.weight_decay ({self.weight_decay}) and fit.seed "
                f"({self.seed}) must be at least 0"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(
                f"fit.weight_decay {self.weight_decay:g} has no effect with {self.optimizer}; use --fit.optimizer adamw"
            )
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"fit.grad_clip must be more than 0, or None for no limit; got {self.grad_clip}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run depends on; written to the run's config.json."""

    reward: RewardConfig
    data: DataConfig = field(default_factory=DataConfig)
    fit: FitConfig
    init_from: str | None = None
    """Weights to start from: a run or checkpoint of vidreward, or what the model knows to read (HOLD-R: a ViViT
    checkpoint of scenic; HOLD-C: a timm model's name or file)."""
    out: Path = Path("runs/mine")
    """Folder of the run; the same command on the same folder goes on where it was interrupted."""


def pick_preset(presets: Mapping[str, TrainConfig], name: str) -> TrainConfig:
    """Return the recipe of this name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        offer = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no preset {name!r}; {offer}there are {', '.join(presets)}")
    return presets[name]


def ignored_settings(config: TrainConfig) -> list[str]:
    """Say which settings have no effect beside the others, and how to give them one."""
    fit = config.fit
    said = []
    if fit.warmup_steps >= fit.steps:
        said.append(
            f"fit.lr is never reached: the warm-up takes {fit.warmup_steps} of {fit.steps} steps; "
            "lower --fit.warmup-steps"
        )
    return said
