"""`fit`: the only training loop of reward models, and the configuration of a whole run.

Step k of a run is a function of (seed, k, weights): batches, augmentation and dropout draw from generators made for
that step. A killed run goes on from its last checkpoint and ends with the same bits as an uninterrupted one.

Under `accelerate launch` or `torchrun` every process takes its equal part of each batch, and all make the step of the
whole batch: how many they are changes no weight beyond rounding, and may change from one resume to the next.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from vidreward import processes
from vidreward.augment import augment_batch
from vidreward.checkpoint import Description, RunFolder, load_weights, restore_training
from vidreward.data.readable import Note, keep_readable, use_readable
from vidreward.data.sampler import Batch, SampledFrames, default_num_workers
from vidreward.evaluate.metrics import spearman
from vidreward.log import Logger
from vidreward.margin import centre_views
from vidreward.optimizers import learning_rate, make_optimizer
from vidreward.reward_model import LearnedRewardModel
from vidreward.scoring import autocast, score_episode
from vidreward.types import Episode, Video

LossFunction = Callable[[Mapping[str, Video]], tuple[Tensor, dict[str, Tensor]]]


class TrainingDivergedError(RuntimeError):
    """The loss is not finite; the message names the step and the episodes of its batch."""


class LossWatch:
    """Find the first step whose loss is not finite, of any process.

    To read a loss makes the host wait for the GPU, so that this is done only now and then.

    Args:
        every: Losses that may wait to be looked at; 1 looks at each before its gradient is used.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._waiting: list[tuple[int, Tensor, tuple[str, ...]]] = []

    def add(self, step: int, loss: Tensor, episode_ids: tuple[str, ...]) -> None:
        """Note the loss of a step, and look when it is time to.

        Raises:
            TrainingDivergedError: As `check`.
        """
        self._waiting.append((step, loss.detach(), episode_ids))
        if len(self._waiting) >= self._every:
            self.check()

    def check(self) -> None:
        """Look at every loss not seen yet; all processes call it at the same step.

        Raises:
            TrainingDivergedError: One is not finite; names the first such step and the episodes of its batch.
        """
        if not self._waiting:
            return
        losses = torch.stack([loss for _, loss, _ in self._waiting]).tolist()
        bad = {
            step: f"{loss} at step {step}, on episodes {', '.join(ids)}"
            for (step, _, ids), loss in zip(self._waiting, losses, strict=True)
            if not math.isfinite(loss)
        }
        self._waiting.clear()
        first = processes.smallest(min(bad, default=sys.maxsize))
        if first < sys.maxsize:
            found = " and ".join(filter(None, processes.gather_texts(bad.get(first, ""))))
            raise TrainingDivergedError(
                f"the loss is {found}; look at these videos, lower --fit.lr or set --fit.grad-clip 1"
            )


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
        episodes: Training episodes, best from `build_cache`. Those that turn out to be broken are named in the log
            and replaced by others.
        config: How to train.
        log: Where progress and numbers go.
        validation: Held-out episodes.
        saving: Where to write checkpoints; None writes none.

    Raises:
        TrainingDivergedError: The loss is not finite.
        ValueError: The run's checkpoint was trained on other data.
    """
    processes.start(config.device)
    # each process names the broken videos of its own rows; the rest only the main one tells
    messages = log if processes.is_main() else Logger(None)
    log = log if processes.is_main() else Logger(None, quiet=True)

    def note(episode_id: str, reason: str) -> None:
        messages.message(f"left out {episode_id}: {reason}")

    device = choose_device(config.device)
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model.parameters(), config.optimizer, lr=config.lr, weight_decay=config.weight_decay)
    start = _resume(model, optimizer, saving)
    sampler = SampledFrames(
        episodes,
        model,
        config.batch_size,
        seed=config.seed,
        rank=processes.rank(),
        num_processes=processes.count(),
    )
    log.start(config.steps, start)
    if processes.is_main():
        validation = keep_readable(validation[: config.val_episodes], note)
    num_workers = config.num_workers or default_num_workers(episodes)
    compute_loss = torch.compile(model.loss) if config.compile else model.loss
    watch = LossWatch(1 if device.type == "cpu" else config.log_every)
    with note_interrupts() as interrupted, torch.random.fork_rng(_devices(device)):
        batches = sampler.batches(start, config.steps, num_workers=num_workers)
        for done, batch in enumerate(batches, start + 1):
            for entry in batch.broken:
                note(entry.file, entry.reason)
            scalars = train_step(model, optimizer, batch, config, done - 1, compute_loss=compute_loss, watch=watch)
            log.step(done)
            is_last = done == config.steps
            stops = processes.any_process(interrupted.is_set()) and not is_last
            if done % config.log_every == 0 or is_last:
                log.scalars(done, {f"train/{name}": value for name, value in _mean_scalars(scalars).items()})
            if done % config.val_every == 0 or is_last:
                processes.mean_running_statistics(model)
                if validation and processes.is_main():
                    measured = validate(model, validation, config)
                    log.scalars(done, {f"val/{name}": value for name, value in measured.items()})
            if saving and not is_last and (stops or done % config.checkpoint_every == 0):
                _save(saving, done, model, optimizer, watch)
            if stops:
                raise KeyboardInterrupt(f"stopped after step {done}")
    if start < config.steps:
        _finish(model, episodes, note)
        if saving:
            _save(saving, config.steps, model, optimizer, watch)
    return model.eval()


def train_step(
    model: LearnedRewardModel,
    optimizer: Optimizer,
    batch: Batch,
    config: FitConfig,
    step: int,
    *,
    compute_loss: LossFunction | None = None,
    watch: LossWatch | None = None,
) -> dict[str, Tensor | float]:
    """Update the model once; `step` updates were done before.

    Args:
        model: On its device.
        optimizer: Of the model's parameters.
        batch: The rows of this process.
        config: How to train; `batch_size` counts the rows of all processes.
        step: Number of the step, from 0.
        compute_loss: `model.loss`, or what was compiled of it.
        watch: Looks at the loss; None looks at once.

    Raises:
        TrainingDivergedError: The loss is not finite; where `watch` looks at once, the weights are left as they were.
    """
    device = next(model.parameters()).device
    model.train()
    rank = processes.rank()
    torch.manual_seed(_mix(config.seed, step, rank))
    generator = torch.Generator().manual_seed(_mix(config.seed, step) + 1)
    num_rows = len(batch.episode_ids)
    videos = augment_batch(
        {name: _to_device(video, device) for name, video in batch.videos.items()},
        model.augment,
        generator,
        size=model.frame_size,
        first_row=rank * num_rows,
        num_rows=processes.count() * num_rows,
    )
    lr = learning_rate(step, base_lr=config.lr, total_steps=config.steps, warmup_steps=config.warmup_steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    with autocast(device, config.precision), processes.split_batch():
        loss, scalars = (compute_loss or model.loss)(videos)
    (watch or LossWatch()).add(step, loss, batch.episode_ids)
    loss.backward()
    _combine_gradients(model, config)
    optimizer.step()
    return {"loss": loss.detach(), "lr": lr, **scalars}


def _combine_gradients(model: LearnedRewardModel, config: FitConfig) -> None:
    """Average the gradient over processes, and clip that mean, or each process's before it (as HOLD does)."""
    if not config.clip_per_process:
        processes.mean_gradients(model.parameters())
    if config.grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    if config.clip_per_process:
        processes.mean_gradients(model.parameters())


def _to_device(video: Video, device: torch.device) -> Video:
    """Copy to the device; from pinned memory a GPU does it by itself, and the host goes on."""
    return (video.pin_memory() if device.type == "cuda" else video).to(device)


def _mean_scalars(scalars: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Average what one step logs over processes."""
    if processes.count() == 1:
        return dict(scalars)
    tensors = {name: value for name, value in scalars.items() if isinstance(value, Tensor)}
    means = processes.mean(torch.stack([value.detach().float() for value in tensors.values()]))
    return {**scalars, **dict(zip(tensors, means.unbind(), strict=True))}


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
    num_workers = config.num_workers or default_num_workers(episodes)
    for batch in sampler.batches(0, num_batches, num_workers=num_workers):
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
    start = 0
    if saving is not None and newest is not None:
        load_weights(model, newest)
        state = restore_training(optimizer, newest)
        if state.get("fingerprint") != saving.fingerprint:
            raise ValueError(
                f"{saving.run.path} was trained on other videos than those given now (files, frame size or split "
                "changed); give the same data, or a new --out"
            )
        start = int(str(state["step"]))
    if processes.any_process(start != processes.smallest(start)):
        raise ValueError("processes found different checkpoints; --out must be a folder that all of them see")
    processes.copy_from_main(model)
    return start


def _finish(model: LearnedRewardModel, episodes: Sequence[Episode], note: Note) -> None:
    """Calibrate the trained model, once for all processes."""
    processes.mean_running_statistics(model)
    model.eval()
    if processes.is_main():
        # the views are made within: what is broken is told by the episodes themselves
        use_readable(lambda whole: model.calibrate(centre_views(whole, model.frame_size)), episodes, note)
    processes.copy_from_main(model)


def _save(saving: Saving, step: int, model: LearnedRewardModel, optimizer: Optimizer, watch: LossWatch) -> None:
    """Write a checkpoint, by the main process alone, of weights that are finite.

    Raises:
        TrainingDivergedError: A loss or a weight is not finite.
    """
    watch.check()
    processes.mean_running_statistics(model)
    if not torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()]).all():
        raise TrainingDivergedError(
            f"weights are not finite after step {step - 1}, though the loss is; lower --fit.lr or set --fit.grad-clip 1"
        )
    if processes.is_main():
        state = {"step": step, "fingerprint": saving.fingerprint}
        saving.run.save(step, model, saving.description, provenance=state, optimizer=optimizer, state=state)
    processes.wait()


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _mix(*numbers: int) -> int:
    """Make one 62-bit seed of several numbers, so that neighbouring seeds, steps and processes draw nothing alike."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 2)


@contextmanager
def note_interrupts() -> Iterator[threading.Event]:
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
