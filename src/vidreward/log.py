"""One place where a run tells what it does: the terminal, a file of JSON lines, TensorBoard or W&B."""

from __future__ import annotations

import importlib.util
import json
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from vidreward.files import atomic_path, write_text_atomic

FILE_NAME = "log.jsonl"
SECONDS_BETWEEN_LINES = 10.0
"""How often a terminal that cannot draw a bar gets a line, besides every tenth of the way."""

Backend = Literal["tensorboard", "wandb"]


class _Writer(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self, failed: bool) -> None: ...


class Logger:
    """Show progress and keep numbers; the only place that turns tensors into numbers.

    Call `start` once the number of steps is known, `step` after each step (it never waits for the device),
    `scalars` when numbers are due. In a folder, `log.jsonl` gets one line a call, on disk at once, so that a killed
    run keeps them; `start` with the step a run resumes from drops what the killed run wrote after it.

    Args:
        dir: Folder of the run, made when missing; None keeps no file.
        backends: Where else the numbers go; both need `dir`.
        quiet: Print nothing.

    Raises:
        ValueError: An unknown backend, or a backend without a folder.
        ImportError: The backend's package is missing; the message names the extra.

    Example:
        >>> with Logger(None, quiet=True) as log:
        ...     log.start(2, 0, "train")
        ...     for step in (1, 2):
        ...         log.step(step)
        ...         log.scalars(step, {"train/loss": 1 / step})
    """

    def __init__(self, dir: Path | None, *, backends: tuple[Backend, ...] = (), quiet: bool = False) -> None:
        self.dir = None if dir is None else Path(dir)
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._backends = backends
        self._file: IO[str] | None = None
        self._writers: list[_Writer] = []
        self._bar: Progress | None = None
        self._started = False
        self._latest: dict[str, float] = {}
        _check_backends(backends, self.dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(failed=kind is not None)

    def start(self, total_steps: int, start_step: int = 0, description: str = "train") -> None:
        """Begin a bar, and in the folder go on from `start_step`: later lines of an interrupted run are dropped.

        Args:
            total_steps: Step at which the work is done.
            start_step: Steps already done.
            description: What is being done, one or two words.
        """
        self._stop_bar()
        self._description, self._total_steps = description, max(total_steps, 1)
        self._start_step, self._step = start_step, start_step
        self._tenth = self._tenth_of(start_step)
        if self.dir is not None and not self._started:
            self._open(self.dir, start_step)
        self._started = True
        self._start_time = self._line_time = time.monotonic()
        if self._console.is_terminal and not self._console.quiet:
            self._bar = _make_bar(self._console)
            self._task = self._bar.add_task(description, total=total_steps, completed=start_step, numbers="")
            self._bar.start()
        else:
            self._console.print(f"{description}: {total_steps} steps, {start_step} done", markup=False)

    def step(self, step: int) -> None:
        """Advance the bar to `step` steps done; cheap, and never waits for the device."""
        self._check_started()
        self._step = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        now = time.monotonic()
        overdue = self._bar is None and now - self._line_time >= SECONDS_BETWEEN_LINES
        if overdue or self._tenth_of(step) > self._tenth:
            self._tenth, self._line_time = self._tenth_of(step), now
            self._console.print(self._line(), markup=False, soft_wrap=True)

    def scalars(self, step: int, values: Mapping[str, Tensor | float]) -> None:
        """Keep numbers by name; tensors are fetched from each device in one transfer.

        A number that is not finite is written as null, its name kept, and shown as it is in the terminal.

        Args:
            step: Steps done when the numbers were taken.
            values: Numbers, or tensors of one element.

        Raises:
            ValueError: A tensor has more than one element.
        """
        self._check_started()
        numbers = to_floats(values)
        self._latest.update(numbers)
        if self._bar is not None:
            self._bar.update(self._task, numbers=_numbers(self._latest))
        self._write_line({"step": step, "time": round(time.time(), 3), **numbers})
        for writer in self._writers:
            writer.write(step, numbers)

    def message(self, text: str) -> None:
        """Print a line of text above the bar, and keep it in the file once `start` was called."""
        self._console.print(text, markup=False, soft_wrap=True)
        if self._file is not None:
            self._write_line({"step": self._step, "time": round(time.time(), 3), "message": text})

    def close(self) -> None:
        """Finish the bar and close the files; a second call does nothing."""
        self._close(failed=False)

    def _close(self, failed: bool) -> None:
        self._stop_bar()
        if self._file is not None:
            self._file.close()
            self._file = None
        for writer in self._writers:
            writer.close(failed)
        self._writers = []

    def _open(self, dir: Path, start_step: int) -> None:
        dir.mkdir(parents=True, exist_ok=True)
        num_dropped = _drop_after(dir / FILE_NAME, start_step)
        self._file = (dir / FILE_NAME).open("a", encoding="utf-8")
        self._writers = [_open_writer(name, dir, start_step) for name in self._backends]
        if num_dropped and start_step:
            self._console.print(f"log: dropped {num_dropped} lines after step {start_step}", markup=False)

    def _check_started(self) -> None:
        if not self._started:
            raise RuntimeError("call Logger.start before Logger.step or Logger.scalars")

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _write_line(self, record: Mapping[str, object]) -> None:
        if self._file is None:
            return
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()

    def _tenth_of(self, step: int) -> int:
        return step * 10 // self._total_steps

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._start_time, 1e-9)
        rate = (self._step - self._start_step) / seconds
        left = "?" if rate <= 0 else _clock((self._total_steps - self._step) / rate)
        percent = 100 * self._step // self._total_steps
        line = f"{self._description}: {self._step}/{self._total_steps} ({percent} %), {rate:.3g} steps/s, {left} left"
        return f"{line}, {_numbers(self._latest)}" if self._latest else line


def to_floats(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Turn numbers and one-element tensors into floats, with one transfer a device.

    Raises:
        ValueError: A tensor has more than one element, or none.

    Example:
        >>> to_floats({"a": torch.tensor([0.5]), "b": 2})
        {'a': 0.5, 'b': 2.0}
    """
    by_device: defaultdict[torch.device, dict[str, Tensor]] = defaultdict(dict)
    for name, value in values.items():
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"{name!r} has shape {tuple(value.shape)}; log a scalar, such as its mean")
            by_device[value.device][name] = value.detach().reshape(()).float()
    fetched: dict[str, float] = {}
    for tensors in by_device.values():
        fetched.update(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))
    return {name: fetched[name] if name in fetched else float(value) for name, value in values.items()}


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """Read the whole lines of a `log.jsonl`; a half-written last line, which a kill leaves, is not one."""
    with Path(path).open("rb") as file:
        records = (_parse(line) for line in file)
        return [record for record in records if record is not None]


class _RateColumn(ProgressColumn):
    """Steps a second over the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:.3g}/s")


def _make_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
        console=console,
        refresh_per_second=4,
    )


def _numbers(values: Mapping[str, float], limit: int = 3) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:limit])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _drop_after(path: Path, start_step: int) -> int:
    """Keep the whole lines up to `start_step` (none for a fresh start); return how many lines went."""
    if not path.exists():
        return 0
    num_dropped = 0
    with path.open("rb") as old, atomic_path(path) as temporary, temporary.open("wb") as new:
        for line in old:
            record = _parse(line)
            if start_step > 0 and record is not None and record["step"] <= start_step:
                new.write(line)
            else:
                num_dropped += 1
    return num_dropped


def _check_backends(backends: tuple[Backend, ...], dir: Path | None) -> None:
    for name in backends:
        if name not in ("tensorboard", "wandb"):
            raise ValueError(f"unknown log backend {name!r}; choose from tensorboard, wandb")
        if dir is None:
            raise ValueError(f"log backend {name!r} needs a folder for its files; give dir")
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"logging to {name} needs its extra: pip install 'vidreward[{name}]'")


def _open_writer(name: Backend, dir: Path, start_step: int) -> _Writer:
    return _TensorBoardWriter(dir, start_step) if name == "tensorboard" else _WandbWriter(dir)


class _TensorBoardWriter:
    def __init__(self, dir: Path, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(dir / "tensorboard"), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        self._writer.close()


class _WandbWriter:
    def __init__(self, dir: Path) -> None:
        import wandb

        id_path = dir / "wandb_id"
        if not id_path.exists():
            write_text_atomic(id_path, uuid.uuid4().hex)
        self._run = wandb.init(
            project="vidreward", name=dir.name, dir=str(dir), id=id_path.read_text().strip(), resume="allow"
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
