"""Train: a step, and a whole loop from files on disk, against the same written the obvious way."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from measure import Ratio, compare
from networks import PlainNetwork
from plain_training import PlainLoop, write_jpegs
from videos import make_frames, make_video
from vidreward.data import build_cache, open_episodes
from vidreward.data.sampler import SampledFrames
from vidreward.optimizers import make_optimizer
from vidreward.reward_model import LearnedRewardModel
from vidreward.rewards import hold_c, hold_r
from vidreward.scoring import has_fast_bf16
from vidreward.train import train_step
from vidreward.train_config import FitConfig, TrainConfig
from vidreward.types import DataSpec, Episode

RECIPES = {"hold_c": hold_c.recipe, "hold_r": hold_r.recipe}


def training_step(
    device: torch.device,
    *,
    method: str,
    size: int = 64,
    batch_size: int | None = None,
    num_episodes: int = 8,
    num_frames: int = 60,
    num_steps: int = 1,
    num_repetitions: int = 5,
) -> Ratio:
    """Measure whole steps of a method's default recipe with 64 filters: augmentation, forward, backward, optimizer.

    The plain side has the same model, batch and optimizer; only its network is torchvision's, float32 and contiguous.
    """
    recipe: TrainConfig = RECIPES[method]()
    fit = replace(recipe.fit, batch_size=batch_size or recipe.fit.batch_size)
    torch.manual_seed(0)
    reward = replace(recipe.reward, num_filters=64)  # ResNet-18 at its usual width
    model = reward.build(DataSpec(height=size, width=size, fps=30.0)).to(device)
    plain = copy.deepcopy(model)
    plain.network = PlainNetwork(plain.network).to(device)
    rng = np.random.default_rng(0)
    episodes = [
        Episode.from_frames(np.stack(list(make_frames(num_frames, size, size, rng))), id=str(number), fps=30)
        for number in range(num_episodes)
    ]
    batch = SampledFrames(episodes, model, fit.batch_size, seed=0).batch(0)
    num_images = sum(int(video.length.sum()) for video in batch.videos.values())
    # an image of HOLD-R's network is a stacked pair
    num_images = fit.batch_size if method == "hold_r" else num_images

    def steps(trained: LearnedRewardModel, config: FitConfig) -> int:
        for step in range(num_steps):
            train_step(trained, optimizers[id(trained)], batch, config, step)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return num_steps * num_images

    model.to(memory_format=torch.channels_last)
    optimizers = {id(m): make_optimizer(m.parameters(), fit.optimizer, lr=fit.lr) for m in (model, plain)}
    return compare(
        f"training step of {method} at {size} px, batch {fit.batch_size}, against float32 contiguous",
        ("float32", lambda: steps(plain, replace(fit, precision="fp32"))),
        ("library", lambda: steps(model, replace(fit, precision="auto"))),
        unit="images",
        target=1.6 if has_fast_bf16(device.type) else None,
        num_repetitions=num_repetitions,
    )


def training_loop(
    folder: Path,
    device: torch.device,
    *,
    method: str,
    size: int = 64,
    source: tuple[int, int] = (240, 426),
    batch_size: int | None = None,
    num_episodes: int = 8,
    num_frames: int = 60,
    num_steps: int = 4,
    num_workers: int | None = None,
    num_repetitions: int = 3,
) -> Ratio:
    """Measure training a ResNet-18 from files on disk: reading, augmentation, forward, backward, optimiser.

    The library reads its cache, made before; the plain loop JPEG pictures of the videos' size, with a DataLoader of as
    many processes as there are cores. Both have the same network, loss, kinds of augmentation and batch size.
    """
    recipe: TrainConfig = RECIPES[method]()
    fit = replace(recipe.fit, batch_size=batch_size or recipe.fit.batch_size)
    videos = folder / f"clips of {source[0]}"
    for seed in range(num_episodes):
        make_video(videos, num_frames=num_frames, height=source[0], width=source[1], seed=seed)
    episodes = list(build_cache(open_episodes(videos, size=size), folder / "cache"))
    write_jpegs(list(open_episodes(videos)), folder / "pictures")
    torch.manual_seed(0)
    model = replace(recipe.reward, num_filters=64).build(DataSpec(height=size, width=size, fps=30.0)).to(device)
    plain = copy.deepcopy(model)
    plain.network = PlainNetwork(plain.network).to(device)
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model.parameters(), fit.optimizer, lr=fit.lr)
    sampler = SampledFrames(episodes, model, fit.batch_size, seed=0)
    loop = PlainLoop(plain, folder / "pictures", episodes, fit, size)
    processes = len(os.sched_getaffinity(0)) if num_workers is None else num_workers

    def ours() -> int:
        for step, batch in enumerate(sampler.batches(0, num_steps)):
            train_step(model, optimizer, batch, fit, step)
        return done()

    def theirs() -> int:
        loop.train(num_steps, processes)
        return done()

    def done() -> int:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return num_steps * fit.batch_size

    return compare(
        f"training {method} at {size} px from disk, batch {fit.batch_size}, against a plain loop",
        ("plain loop", theirs),
        ("library", ours),
        unit="clips" if method == "hold_c" else "pairs",
        target=2.0,
        num_repetitions=num_repetitions,
    )
