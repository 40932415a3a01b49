"""Two ways to do the same work, measured in turns in one run, and told as a ratio.

Seconds depend on the machine and on what else it does; a ratio of neighbouring measurements hardly does. Every side
gets the same cores: `use_cores` limits the process, and with it the decoder's and the network's threads.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import av
import torch
from rich.console import Console
from rich.table import Table

from vidreward.files import atomic_path
from vidreward.scoring import has_fast_bf16

Work = Callable[[], int]
"""Does a piece of work and returns how many units (frames, images) it was."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times faster one way is than another, over several repetitions."""

    name: str
    ratio: float
    """Median over the repetitions."""
    lowest: float
    highest: float
    target: float | None
    """What the project asks for; None where a figure is only for orientation."""
    unit: str
    rates: Mapping[str, float]
    """Median units per second of each side."""


def measure_rates(sides: Mapping[str, Work], num_repetitions: int) -> dict[str, list[float]]:
    """Run all sides in turns, the order turned round each time, after one unmeasured round.

    Returns:
        Units per second of each side, one a repetition.
    """
    for work in sides.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(num_repetitions):
        order = list(sides) if repetition % 2 == 0 else list(reversed(sides))
        for name in order:
            began = time.perf_counter()
            num_units = sides[name]()
            rates[name].append(num_units / (time.perf_counter() - began))
    return rates


def compare(
    name: str, plain: tuple[str, Work], fast: tuple[str, Work], *, unit: str, target: float | None, num_repetitions: int
) -> Ratio:
    """Measure how many times faster `fast` is than `plain`; each is a label and its work."""
    rates = measure_rates(dict([plain, fast]), num_repetitions)
    ratios = [b / a for a, b in zip(rates[plain[0]], rates[fast[0]], strict=True)]
    return summarize(name, ratios, rates, unit=unit, target=target)


def summarize(
    name: str, ratios: Sequence[float], rates: Mapping[str, Sequence[float]], *, unit: str, target: float | None
) -> Ratio:
    """Take the medians."""
    return Ratio(
        name=name,
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        target=target,
        unit=unit,
        rates={side: median(values) for side, values in rates.items()},
    )


def use_cores(num_cores: int | None) -> int:
    """Limit the process to so many cores, the decoder and the network included; returns how many it has."""
    cores = sorted(os.sched_getaffinity(0))
    chosen = cores if num_cores is None else cores[:num_cores]
    os.sched_setaffinity(0, chosen)
    torch.set_num_threads(len(chosen))
    return len(chosen)


def machine(device: torch.device) -> dict[str, object]:
    """Describe what the figures were measured on."""
    flags = ("avx2", "avx512_bf16", "amx_bf16", "bf16")
    capabilities = torch.cpu.get_capabilities()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "processor": platform.machine(),
        "capabilities": [flag for flag in flags if capabilities.get(flag)],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "bf16": has_fast_bf16(device.type),
        "torch": str(torch.__version__),
        "pyav": av.__version__,
    }


def show(ratios: Sequence[Ratio], about: Mapping[str, object], console: Console) -> None:
    """Print the machine and a table."""
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    table = Table("what", "ratio", "lowest - highest", "target", "rates (median, per second)")
    for result in ratios:
        met = "" if result.target is None else "yes" if result.ratio >= result.target else "NO"
        rates = ", ".join(f"{side} {rate:,.3g}" for side, rate in result.rates.items())
        target = "" if result.target is None else f">= {result.target:g} {met}"
        spread = f"{result.lowest:.2f} - {result.highest:.2f}"
        table.add_row(result.name, f"{result.ratio:.2f}", spread, target, f"{result.unit}: {rates}")
    console.print(table)


def write(ratios: Sequence[Ratio], about: Mapping[str, object], path: Path) -> None:
    """Write the same as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": dict(about), "ratios": [asdict(result) for result in ratios]}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
