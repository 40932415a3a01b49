"""Two real processes train as one does on the same global batch, and end together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clips import write_clips
from process_worker import CASES, CLIPPED_APART, FIT, HOLD_C, build, episodes, saving_in
from vidreward import processes
from vidreward.checkpoint import RunFolder
from vidreward.data.sampler import SampledFrames
from vidreward.log import Logger, read_log
from vidreward.train import fit

QUIET = Logger(None, quiet=True)
WORKER = Path(__file__).with_name("process_worker.py")


def launch(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python, one thread a process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every case of the worker."""
    out = tmp_path_factory.mktemp("two")
    launch(WORKER, out)
    return out


def assert_same_training(got: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    """Compare what training changed, up to rounding of the changes and of the weights."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            change = float((tensor - start[name]).abs().max())
            difference = float((got[name] - tensor).abs().max())
            assert difference <= 5e-3 * change + 5e-7, (
                f"{name} differs by {difference}, training changed it by {change}"
            )


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(two_processes: Path, name: str) -> None:
    config, how = CASES[name]
    model = build(config)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training, held_out = episodes()
    fit(model, training, how, QUIET, validation=held_out)
    moved = (model.state_dict()["network.conv1.weight"] - start["network.conv1.weight"]).abs().max()
    assert moved > 1e-4, "training must change more than the tolerance"
    assert_same_training(load_file(two_processes / f"{name}.safetensors"), dict(model.state_dict()), start)


def test_each_gradient_is_clipped_before_the_mean(two_processes: Path) -> None:
    config, how = CLIPPED_APART
    assert how.grad_clip is not None
    model = build(config)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for rank in range(2):
        sampler = SampledFrames(episodes()[0], model, how.batch_size, seed=how.seed, rank=rank, num_processes=2)
        model.zero_grad()
        model.loss(sampler.batch(0).videos)[0].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), how.grad_clip)
        assert norm > how.grad_clip
        for sum_, parameter in zip(total, model.parameters(), strict=True):
            assert parameter.grad is not None
            sum_ += parameter.grad
    got = load_file(two_processes / "clipped_apart.safetensors")
    for (name, _), gradient in zip(model.named_parameters(), total, strict=True):
        expected = start[name] - how.lr * gradient / 2
        torch.testing.assert_close(got[name], expected, rtol=0, atol=1e-3 * how.lr * float(gradient.abs().max()) + 1e-7)


def test_all_end_together(two_processes: Path) -> None:
    """A SIGTERM, a loss that is not finite, or a wrong setting ends every process, with the same words."""
    said = [(two_processes / f"said-{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    stopped, refused, diverged = said[0].splitlines()
    assert stopped == "stopped after step 2"
    assert "a batch of 3 episodes cannot be shared equally by 2 processes" in refused
    sampler = SampledFrames(episodes()[0], build(HOLD_C), FIT.batch_size, seed=FIT.seed, rank=1, num_processes=2)
    assert f"the loss is nan at step 0, on episodes {', '.join(sampler.batch(0).episode_ids)};" in diverged
    assert [path.name for path in (two_processes / "run0" / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (two_processes / "run2").exists()


def test_one_process_goes_on_from_two(two_processes: Path, tmp_path: Path) -> None:
    start = {name: tensor.clone() for name, tensor in build(HOLD_C).state_dict().items()}
    for run in (two_processes / "run0", tmp_path):
        fit(build(HOLD_C), episodes()[0], FIT, QUIET, saving=saving_in(run, HOLD_C))
    ends = [RunFolder(run).newest() for run in (two_processes / "run0", tmp_path)]
    weights = [load_file(end / "model.safetensors") for end in ends if end is not None]
    assert_same_training(weights[0], weights[1], start)


def test_without_a_launcher_nothing_happens() -> None:
    processes.start("cuda:0")
    assert (processes.count(), processes.rank(), processes.is_main()) == (1, 0, True)
    with processes.main_first(), processes.split_batch():
        assert not processes.is_split()
        assert processes.parts_of_batch() == 1
    value = torch.tensor(3.0)
    assert processes.batch_mean(value) is value
    assert processes.mean(value.clone()) == 3
    assert processes.smallest(4) == 4
    assert processes.gather_texts("a") == ["a"]
    processes.wait()


@pytest.mark.slow
def test_accelerate_launches_the_command(tmp_path: Path) -> None:
    """The command line, once alone and once under `accelerate launch`: same weights, one log, words of one process."""
    write_clips(tmp_path / "videos", 6)
    words = ["-m", "vidreward", "train", "hold_c", "--preset", "debug", "--data", tmp_path / "videos"]
    words += ["--data.cache-dir", tmp_path / "cache", "--fit.steps", "4", "--fit.precision", "fp32", "--fit.lr", "1e-6"]
    words += ["--fit.optimizer", "momentum_bf16", "--fit.log-every", "2", "--fit.device", "cpu"]
    launch(*words, "--out", tmp_path / "one")
    accelerate = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    done = launch(*accelerate, *words, "--out", tmp_path / "two")
    assert done.stdout.count("trained:") == 1
    weights = []
    for run in ("one", "two"):
        newest = RunFolder(tmp_path / run).newest()
        assert newest is not None
        weights.append(load_file(newest / "model.safetensors"))
    for name, tensor in weights[0].items():
        assert torch.allclose(weights[1][name], tensor, rtol=1e-3, atol=1e-5), name
    lines = [
        [line["step"] for line in read_log(tmp_path / run / "log.jsonl") if "train/loss" in line]
        for run in ("one", "two")
    ]
    assert lines[0] == lines[1] == [2, 4]
