"""`fit`: the only training loop of reward models, and the configuration of a whole run.

Step k of a run is a function of (seed, k, weights): batches, augmentation and dropout draw from generators made for
that step. A killed run goes on from its last checkpoint and ends with the same bits as an uninterrupted one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from vidreward.augment import augment_batch
from vidreward.checkpoint import Description, RunFolder, load_weights, restore_training
from vidreward.data.sampler import Batch, SampledFrames
from vidreward.evaluate.metrics import spearman
from vidreward.log import Logger
from vidreward.margin import centre_views
from vidreward.optimizers import learning_rate, make_optimizer
from vidreward.reward_model import LearnedRewardModel
from vidreward.scoring import autocast, score_episode
from vidreward.types import Episode


class TrainingDivergedError(RuntimeError):
    """The loss is not finite; the message names the step and the episodes of its batch."""


@dataclass(frozen=True)
class Saving:
    """Where and under which description `fit` writes checkpoints."""

    run: RunFolder
    description: Description
    fingerprint: str
    """Of the training episodes; a run never goes on with other data."""


def fit[M: LearnedRewardModel](
    model: M,
    episodes: Sequence[Episode],
    config: FitConfig,
    log: Logger,
    *,
    validation: Sequence[Episode] = (),
    saving: Saving | None = None,
) -> M:
    """Train a reward model on episodes; returns it calibrated, in evaluation mode.

    With `saving`, goes on from the run's last checkpoint. An interrupt (Ctrl-C, SIGTERM) ends the current step, writes
    a checkpoint and raises KeyboardInterrupt.

    Args:
        model: Trained in place, moved to the device.
        episodes: Training episodes, best from `build_cache`.
        config: How to train.
        log: Where progress and numbers go.
        validation: Held-out episodes.
        saving: Where to write checkpoints; None writes none.

    Raises:
        TrainingDivergedError: The loss is not finite.
        ValueError: The run's checkpoint was trained on other data.
    """
    device = choose_device(config.device)
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model.parameters(), config.optimizer, lr=config.lr, weight_decay=config.weight_decay)
    start = _resume(model, optimizer, saving)
    sampler = SampledFrames(episodes, model, config.batch_size, seed=config.seed)
    log.start(config.steps, start)
    with _interrupts() as interrupted, torch.random.fork_rng(_devices(device)):
        batches = sampler.batches(start, config.steps, num_workers=config.num_workers)
        for done, batch in enumerate(batches, start + 1):
            scalars = train_step(model, optimizer, batch, config, done - 1)
            log.step(done)
            if done % config.log_every == 0 or done == config.steps:
                log.scalars(done, {f"train/{name}": value for name, value in scalars.items()})
            if validation and (done % config.val_every == 0 or done == config.steps):
                log.scalars(done, {f"val/{name}": value for name, value in validate(model, validation, config).items()})
            if saving and done < config.steps and (interrupted.is_set() or done % config.checkpoint_every == 0):
                _save(saving, done, model, optimizer)
            if interrupted.is_set() and done < config.steps:
                raise KeyboardInterrupt(f"stopped after step {done}")
    if start < config.steps:
        model.eval()
        model.calibrate(centre_views(episodes, model.frame_size))
        if saving:
            _save(saving, config.steps, model, optimizer)
    return model.eval()


def train_step(
    model: LearnedRewardModel, optimizer: Optimizer, batch: Batch, config: FitConfig, step: int
) -> dict[str, Tensor | float]:
    """Update the model once; `step` updates were done before.

    Raises:
        TrainingDivergedError: The loss is not finite; the weights are left as they were.
    """
    device = next(model.parameters()).device
    model.train()
    torch.manual_seed(_mix(config.seed, step))
    generator = torch.Generator().manual_seed(_mix(config.seed, step) + 1)
    videos = {name: video.to(device) for name, video in batch.videos.items()}
    videos = augment_batch(videos, model.augment, generator, size=model.frame_size)
    lr = learning_rate(step, base_lr=config.lr, total_steps=config.steps, warmup_steps=config.warmup_steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    with autocast(device, config.precision):
        loss, scalars = model.loss(videos)
    if not torch.isfinite(loss):
        raise TrainingDivergedError(
            f"the loss is {loss.item()} at step {step}, on episodes {', '.join(batch.episode_ids)}; "
            "look at these videos, lower --fit.lr or set --fit.grad-clip 1"
        )
    loss.backward()
    if config.grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    optimizer.step()
    return {"loss": loss.detach(), "lr": lr, **scalars}


@torch.no_grad()
def validate(model: LearnedRewardModel, episodes: Sequence[Episode], config: FitConfig) -> dict[str, Tensor | float]:
    """Measure held-out episodes: the loss on the same draws each time, and, for models that learn it, frame order.

    Returns:
        Mean loss and its scalars over one draw an episode, and `value_order_correlation` (Spearman, -1..1) over the
        episodes for which it is defined.
    """
    chosen = centre_views(episodes[: config.val_episodes], model.frame_size)
    size = min(config.batch_size, len(chosen))
    sampler = SampledFrames(chosen, model, size, seed=config.seed, stream=1)
    device = next(model.parameters()).device
    model.eval()
    sums: dict[str, Tensor] = {}
    num_batches = len(chosen) // size
    for batch in sampler.batches(0, num_batches, num_workers=config.num_workers):
        with autocast(device, config.precision):
            loss, scalars = model.loss({name: video.to(device) for name, video in batch.videos.items()})
        for name, value in {"loss": loss, **scalars}.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value
    means: dict[str, Tensor | float] = {name: value / num_batches for name, value in sums.items()}
    if model.learns == "order":
        scores = [score_episode(model, episode, precision=config.precision) for episode in chosen]
        orders = [spearman(score, np.arange(len(score))) for score in scores if len(score) > 1]
        defined = [order for order in orders if order is not None]
        if defined:
            means["value_order_correlation"] = float(np.mean(defined))
    return means


def choose_device(name: str) -> torch.device:
    """Turn a device's name into a device; `auto` is the GPU when there is one.

    Raises:
        ValueError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ValueError(f"no device {name!r} on this machine; there are {', '.join(there)}") from error
    return device


def _resume(model: LearnedRewardModel, optimizer: Optimizer, saving: Saving | None) -> int:
    """Load the run's last checkpoint, if there is one; returns the number of steps done."""
    newest = saving.run.newest() if saving else None
    if saving is None or newest is None:
        return 0
    load_weights(model, newest)
    state = restore_training(optimizer, newest)
    if state.get("fingerprint") != saving.fingerprint:
        raise ValueError(
            f"{saving.run.path} was trained on other videos than those given now (files, frame size or split changed); "
            "give the same data, or a new --out"
        )
    return int(str(state["step"]))


def _save(saving: Saving, step: int, model: LearnedRewardModel, optimizer: Optimizer) -> None:
    state = {"step": step, "fingerprint": saving.fingerprint}
    saving.run.save(step, model, saving.description, provenance=state, optimizer=optimizer, state=state)


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _mix(seed: int, step: int) -> int:
    """Make one 62-bit seed of two numbers, so that neighbouring steps and seeds draw nothing alike."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 2)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Note SIGINT and SIGTERM instead of dying of them; a second one has its usual effect."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
