"""Train as HOLD's recipes do, on one GPU: images a second, share of the card's rate, waiting for data.

Every piece takes less than ten minutes and writes one JSON file. Clips are drawn, encoded, opened and cached as any
user's are; steps are the library's own.

Examples:
    python benchmarks/gpu_train.py hold_c_resnet50
    python benchmarks/gpu_train.py hold_r_vivit_l --compile --seconds 120
    python benchmarks/gpu_train.py hold_c_resnet50 --tiny --seconds 1 --out /tmp/tried   # on a CPU, to try it
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from measure import machine, measure_rates
from videos import make_video
from vidreward.checkpoint import build_model
from vidreward.data.episode_set import EpisodeSet
from vidreward.data.sampler import Batch, SampledFrames, default_num_workers
from vidreward.files import write_json_atomic
from vidreward.jobs import open_training_data
from vidreward.nets.batch_norm import ClipBatchNorm2d
from vidreward.nets.vivit import TINY
from vidreward.optimizers import make_optimizer
from vidreward.reward_model import LearnedRewardModel
from vidreward.rewards import hold_c, hold_r
from vidreward.train import LossWatch, choose_device, train_step
from vidreward.train_config import DataConfig, FitConfig, TrainConfig
from vidreward.types import DataSpec

Piece = Literal["hold_c_resnet50", "hold_r_vivit_l"]
NUM_WARM_UP = 5
"""Steps before any is measured: memory is found, algorithms are chosen."""
NUM_TURNS = 3
"""How often each side of a comparison has its turn."""


@dataclass(frozen=True, kw_only=True)
class GpuConfig:
    """What to measure."""

    piece: Annotated[Piece, tyro.conf.Positional]
    compile: bool = False
    """Compile the loss, as `--fit.compile` does."""
    seconds: float = 120.0
    """For all that is measured after the warm-up."""
    batch_size: int | None = None
    """Episodes in a batch; the recipe's by default."""
    device: str = "auto"
    tiny: bool = False
    """Networks, pictures and batches so small that a CPU runs them; figures mean nothing."""
    out: Path = Path("docs/results/gpu")
    """Folder of the JSON files."""


class PlainBatchNorm(ClipBatchNorm2d):
    """Batch normalisation as everyone else has it: one statistic over all images."""

    def forward(self, x: Tensor, num_clips: int | None = None) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )


class Trainer:
    """A model with its optimiser, and the library's step on it."""

    def __init__(self, fit: FitConfig, model: LearnedRewardModel) -> None:
        self.fit = fit
        self.model = model.to(memory_format=torch.channels_last)
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model.parameters(), fit.optimizer, lr=fit.lr)
        self.compute_loss = torch.compile(model.loss) if fit.compile else model.loss
        self.watch = LossWatch(fit.log_every)
        self.num_steps = 0

    def step(self, batch: Batch, *, eager: bool = False) -> None:
        """Do one step; a GPU may still be at it afterwards."""
        compute_loss = self.model.loss if eager else self.compute_loss
        train_step(
            self.model, self.optimizer, batch, self.fit, self.num_steps, compute_loss=compute_loss, watch=self.watch
        )
        self.num_steps += 1

    def warm_up(self, batch: Batch) -> None:
        """Do the steps that find memory and choose algorithms."""
        for _ in range(NUM_WARM_UP):
            self.step(batch)
        synchronize(self.device)

    def repeat(self, batch: Batch, seconds: float) -> int:
        """Train on one batch for so long; returns the number of steps, all of them done."""
        return run_for(seconds, lambda: self.step(batch), self.device)


def run_for(seconds: float, work: Callable[[], object], device: torch.device) -> int:
    """Do work for so long, at least once; returns how often, all of it done."""
    end = time.perf_counter() + seconds
    done = 0
    while done == 0 or time.perf_counter() < end:
        work()
        done += 1
        if done % 20 == 0:
            synchronize(device)  # or a GPU's queue would go on long after the time is up
    synchronize(device)
    return done


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recipe_of(config: GpuConfig) -> TrainConfig:
    """Return the paper's recipe, or one of its kind in miniature."""
    recipe = hold_c.recipe("paper") if config.piece == "hold_c_resnet50" else hold_r.recipe("paper_vivit")
    fit = replace(
        recipe.fit, device=config.device, compile=config.compile, batch_size=config.batch_size or recipe.fit.batch_size
    )
    if not config.tiny:
        return replace(recipe, fit=fit)
    if isinstance(recipe.reward, hold_c.HoldCConfig):
        reward = replace(recipe.reward, depth=14, num_filters=4, num_frames=6)
    else:
        assert isinstance(recipe.reward, hold_r.HoldRConfig)
        reward = replace(recipe.reward, vivit=TINY)
    data = DataConfig(size=32, resize="crop", load_size=36)
    return replace(recipe, reward=reward, data=data, fit=replace(fit, batch_size=2))


def matrix_rate(device: torch.device, *, side: int, seconds: float) -> float:
    """Measure FLOP/s of bfloat16 matrix products, the best that any network could have."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    run_for(0, lambda: torch.mm(a, b), device)
    began = time.perf_counter()
    done = run_for(seconds, lambda: torch.mm(a, b), device)
    return done * 2 * side**3 / (time.perf_counter() - began)


def count_flops(trainer: Trainer, batch: Batch) -> int:
    """Count multiplications and additions of one step's convolutions and matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        trainer.step(batch, eager=True)
    return counter.get_total_flops()


def train_from_cache(trainer: Trainer, batches: Iterator[Batch], seconds: float) -> tuple[int, float, float]:
    """Train as `fit` does; returns steps, seconds, and the seconds in which the host waited for a batch."""
    waited = 0.0

    def step() -> None:
        nonlocal waited
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        trainer.step(batch)

    began = time.perf_counter()
    done = run_for(seconds, step, trainer.device)
    return done, time.perf_counter() - began, waited


def open_clips(recipe: TrainConfig, folder: Path, *, tiny: bool) -> EpisodeSet:
    """Write clips as large as those of Something-Something v2, and open and cache them as the recipe says."""
    height, width = (36, 48) if tiny else (240, 426)
    for seed in range(4 if tiny else max(64, recipe.fit.batch_size)):
        make_video(folder / "videos", num_frames=45, height=height, width=width, seed=seed)
    return open_training_data(replace(recipe.data, path=str(folder / "videos"), cache_dir=folder / "cache"))


def build(recipe: TrainConfig, spec: DataSpec, device: torch.device) -> LearnedRewardModel:
    """Make the recipe's model."""
    torch.manual_seed(0)
    model = build_model(recipe.reward, spec, "the recipe").to(device)
    assert isinstance(model, LearnedRewardModel)
    return model


def measure_piece(config: GpuConfig, folder: Path, console: Console) -> dict[str, object]:
    """Measure one piece."""
    recipe, device = recipe_of(config), choose_device(config.device)
    episodes = open_clips(recipe, folder, tiny=config.tiny)
    console.print(f"{len(episodes)} clips cached")
    spec = episodes.data_spec((recipe.data.size, recipe.data.size))
    trainer = Trainer(recipe.fit, build(recipe, spec, device))
    sampler = SampledFrames(list(episodes), trainer.model, recipe.fit.batch_size, seed=0)
    batch = sampler.batch(0)
    num_images = sum(video.index.numel() for video in batch.videos.values())
    flops = count_flops(trainer, batch)
    trainer.warm_up(batch)
    console.print("warm")
    peak = matrix_rate(device, side=256 if config.tiny else 8192, seconds=min(2.0, config.seconds / 10))
    batches = sampler.batches(1, 10**9, num_workers=default_num_workers(list(episodes)))
    turns = []
    for _ in range(NUM_TURNS):  # in turns: a card's clock drifts
        steps, seconds, waited = train_from_cache(trainer, batches, config.seconds / NUM_TURNS / 2)
        began = time.perf_counter()
        again = trainer.repeat(batch, config.seconds / NUM_TURNS / 4)
        turns.append((steps / seconds, waited / seconds, again / (time.perf_counter() - began)))
    rate, waiting, rate_without_reading = (median(values) for values in zip(*turns, strict=True))
    result: dict[str, object] = {
        "piece": config.piece,
        "tiny": config.tiny,
        "compiled": config.compile,
        "batch_size": recipe.fit.batch_size,
        "side": recipe.data.size,
        "steps_per_second": rate,
        "images_per_second": rate * num_images,
        "flops_per_step": flops,
        "flops_per_second": rate * flops,
        "matrix_flops_per_second": peak,
        "share_of_matrix_rate": rate * flops / peak,
        "share_of_time_waiting_for_data": waiting,
        "slower_than_without_reading": 1 - rate / rate_without_reading,
        "machine": machine(device),
    }
    if device.type == "cuda":
        result["peak_gigabytes"] = torch.cuda.max_memory_allocated(device) / 1e9
    if config.piece == "hold_c_resnet50":
        plain = Trainer(recipe.fit, with_plain_norms(build(recipe, spec, device)))
        result["rate_beside_plain_batch_norm"] = compare_rates(trainer, plain, batch, config.seconds / 4)
    return result


def with_plain_norms(model: LearnedRewardModel) -> LearnedRewardModel:
    """Put a normalisation that does not tell clips apart into a fresh model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, ClipBatchNorm2d):
                setattr(module, name, PlainBatchNorm(child.num_features, device=child.weight.device))
    return model


def compare_rates(trainer: Trainer, plain: Trainer, batch: Batch, seconds: float) -> float:
    """Measure both in turns; returns the ratio of their rates."""
    plain.warm_up(batch)
    turn = seconds / 2 / (NUM_TURNS + 1)
    sides = {"plain": lambda: plain.repeat(batch, turn), "clips": lambda: trainer.repeat(batch, turn)}
    rates = measure_rates(sides, NUM_TURNS)
    return median(clips / plain for plain, clips in zip(rates["plain"], rates["clips"], strict=True))


def main(config: GpuConfig) -> Path:
    """Measure, print, and write the file; returns its path."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        result = measure_piece(config, Path(folder), console)
    path = config.out / f"{config.piece}{'_compiled' if config.compile else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, result)
    console.print_json(data=result)
    return path


if __name__ == "__main__":
    main(tyro.cli(GpuConfig, description=__doc__))
