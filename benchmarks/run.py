"""Measure speed, as ratios in one run.

Examples:
    python benchmarks/run.py
    python benchmarks/run.py --only scoring --threads 1
    python benchmarks/run.py --out benchmarks/results/mine.json
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from augment_speed import augmenting
from data_speed import one_pass, resizing, sampling
from measure import Ratio, machine, show, use_cores, write
from render_speed import rendering
from reward_overhead import reward_overhead
from scoring_speed import against_loop, against_parts
from training_speed import training_loop, training_step
from videos import LONG_GOP, SHORT_GOP
from vidreward.train import choose_device

Group = Literal["scoring", "parts", "sampling", "augmenting", "training", "decoding", "rendering", "reward"]
GROUPS: tuple[Group, ...] = (
    "scoring",
    "parts",
    "sampling",
    "augmenting",
    "training",
    "decoding",
    "rendering",
    "reward",
)
WEB_SIZE = (240, 426)
"""Height and width of a video of Something-Something v2 in the usual shape."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure, and with how much of the machine."""

    only: tuple[Group, ...] = GROUPS
    """Groups to measure."""
    threads: int | None = None
    """Cores that every side may use; all by default."""
    device: str = "auto"
    """Of the networks: `auto` takes a GPU when there is one."""
    out: Path | None = None
    """JSON file to write as well."""


def measurements(folder: Path, device: torch.device) -> dict[Group, list[Callable[[], Ratio]]]:
    """List what each group measures."""
    return {
        "scoring": [
            lambda: against_loop(folder, device, size=224),
            lambda: against_loop(folder, device, size=64),
            lambda: against_loop(folder, device, size=64, source=WEB_SIZE),
        ],
        "parts": [lambda: against_parts(folder, device, size=224), lambda: against_parts(folder, device, size=64)],
        "sampling": [lambda: sampling(folder, gop=LONG_GOP), lambda: sampling(folder, gop=SHORT_GOP)],
        "augmenting": [
            lambda: augmenting(device, method="hold_c", by="NumPy"),
            lambda: augmenting(device, method="hold_r", by="NumPy"),
            lambda: augmenting(device, method="hold_c", by="PIL"),
            lambda: augmenting(device, method="hold_r", by="PIL"),
        ],
        "training": [
            lambda: training_step(device, method="hold_r"),
            lambda: training_step(device, method="hold_c"),
            lambda: training_loop(folder, device, method="hold_r", size=64),
            lambda: training_loop(folder, device, method="hold_r", size=128),
            lambda: training_loop(folder, device, method="hold_c", size=64),
            lambda: training_loop(folder, device, method="hold_c", size=128),
        ],
        "decoding": [
            lambda: one_pass(folder, gop=LONG_GOP),
            lambda: one_pass(folder, gop=SHORT_GOP),
            lambda: resizing(folder, by="PIL"),
            lambda: resizing(folder, by="torch"),
        ],
        "rendering": [lambda: rendering(size=64), lambda: rendering(size=84)],
        "reward": [
            lambda: reward_overhead(device, method="hold_c"),
            lambda: reward_overhead(device, method="hold_r"),
        ],
    }


def run(config: BenchmarkConfig, console: Console) -> Iterator[Ratio]:
    """Measure the chosen groups, naming each as it begins."""
    device = choose_device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        groups = measurements(Path(folder), device)
        for group in config.only:
            if group == "rendering" and importlib.util.find_spec("metaworld") is None:
                console.print("rendering: left out, Meta-World is not installed; pip install 'vidreward[metaworld]'")
                continue
            for number, measure in enumerate(groups[group], 1):
                console.print(f"{group} {number} of {len(groups[group])}")
                yield measure()


def main() -> None:
    """Measure and print."""
    config = tyro.cli(BenchmarkConfig, description=__doc__)
    console = Console(width=None if Console().is_terminal else 160)
    use_cores(config.threads)
    about = machine(choose_device(config.device))
    ratios = list(run(config, console))
    show(ratios, about, console)
    if config.out is not None:
        write(ratios, about, config.out)


if __name__ == "__main__":
    main()
