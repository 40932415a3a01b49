"""What each process of tests/test_processes.py runs: small trainings, whose weights the main process writes.

python process_worker.py OUT
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from dots import dot_episodes
from vidreward import processes
from vidreward.augment import Augment
from vidreward.checkpoint import Description, RunFolder
from vidreward.log import Logger
from vidreward.reward_model import LearnedRewardModel, RewardConfig
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldRConfig
from vidreward.train import Saving, TrainingDivergedError, fit
from vidreward.train_config import FitConfig
from vidreward.types import DataSpec, Episode, Video

NUM_PROCESSES = 2
SPEC = DataSpec(height=32, width=32, fps=10.0)
AUGMENT = Augment(zoom=(1, 1.2), hue=0.5, flip=0.5)
# a small rate: a network that moves far makes of rounding errors what it likes
FIT = FitConfig(
    steps=3, batch_size=4, lr=1e-4, optimizer="momentum_bf16", precision="fp32", device="cpu", log_every=2, val_every=2
)
HOLD_C = HoldCConfig(depth=14, num_filters=4, num_frames=8, embedding_dim=4, augment=AUGMENT)
AS_CODED = replace(HOLD_C, variant="as_coded")
HOLD_R = HoldRConfig(depth=14, num_filters=4, augment=AUGMENT)
CASES: dict[str, tuple[RewardConfig, FitConfig]] = {
    "hold_r_fixed": (HOLD_R, FIT),
    "hold_r_hinge": (replace(HOLD_R, objective="hinge"), FIT),
    "hold_c_as_coded": (AS_CODED, replace(FIT, lr=1e-6)),
    "hold_c_fixed": (HOLD_C, FIT),
    "clipped": (HOLD_C, replace(FIT, lr=1e-2, grad_clip=0.1)),
}
"""Trainings whose result does not depend on the number of processes."""
CLIPPED_APART = (replace(AS_CODED, augment=Augment()), replace(FIT, steps=1, grad_clip=0.1, clip_per_process=True))
"""One whose result does."""


def build(config: RewardConfig) -> LearnedRewardModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = config.build(SPEC)
    assert isinstance(model, LearnedRewardModel)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # every residual block counts from the first step on
            nn.init.ones_(module.weight)
    return model


def saving_in(folder: Path, config: RewardConfig) -> Saving:
    description = Description(reward="hold_c", config=config, data=SPEC, preprocessing={"size": 32})
    return Saving(run=RunFolder(folder), description=description, fingerprint="data")


def save_weights(model: nn.Module, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


class Stops(HoldC):
    """Gets SIGTERM in its second step, in the last process only."""

    num_losses = 0

    def loss(
        self, batch: Mapping[str, Video] | None, agent: Mapping[str, Video] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.num_losses += 1
        if self.num_losses == 2 and processes.rank() == processes.count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(batch, agent)


class Diverges(HoldC):
    """Has no finite loss in the last process."""

    def loss(
        self, batch: Mapping[str, Video] | None, agent: Mapping[str, Video] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, scalars = super().loss(batch, agent)
        return loss * (torch.nan if processes.rank() == processes.count() - 1 else 1), scalars


def episodes() -> tuple[list[Episode], list[Episode]]:
    return dot_episodes(6), dot_episodes(2, seed=1)


def main(out: Path) -> None:
    quiet = Logger(None, quiet=True)
    training, held_out = episodes()
    for name, (config, how) in {**CASES, "clipped_apart": CLIPPED_APART}.items():
        model = fit(build(config), training, how, quiet, validation=held_out)
        if processes.is_main():
            save_weights(model, out / f"{name}.safetensors")
    said = []
    stopping = Stops(HOLD_C)
    stopping.load_state_dict(build(HOLD_C).state_dict())
    refused = (build(HOLD_C), replace(FIT, batch_size=3)), (Diverges(HOLD_C), FIT)
    for number, (model, how) in enumerate([(stopping, FIT), *refused]):
        try:
            fit(model, training, how, quiet, saving=saving_in(out / f"run{number}", HOLD_C))
        except (KeyboardInterrupt, ValueError, TrainingDivergedError) as error:
            said.append(str(error))
    (out / f"said-{processes.rank()}.txt").write_text("\n".join(said))


def run_as(rank: int, port: int, out: Path) -> None:
    """Be what a launcher makes of a process."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": NUM_PROCESSES, "LOCAL_WORLD_SIZE": NUM_PROCESSES}
    os.environ.update({name: str(value) for name, value in {**place, "MASTER_PORT": port}.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    main(out)


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free_port = free.getsockname()[1]
    # forked, so that everything is imported once
    start_processes(run_as, (free_port, Path(sys.argv[1])), nprocs=NUM_PROCESSES, start_method="fork")
