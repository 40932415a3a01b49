"""Checkpoints of a policy: a folder of config.json, agent.safetensors, replay.safetensors and state.json.

Written whole or not at all, like those of reward models; `last` names the newest. Episodes of the replay are written
once, in a folder that all checkpoints of a run share.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidreward.config import from_json, to_json
from vidreward.files import (
    atomic_folder,
    is_temporary,
    recover_folder,
    remove_stale,
    write_json_atomic,
    write_text_atomic,
)
from vidreward.rl.agent import Agent
from vidreward.rl.evaluation import PolicyScore
from vidreward.rl.replay import Replay

FORMAT = 1
_AGENT, _REPLAY, _STATE = "agent.safetensors", "replay.safetensors", "state.json"


@dataclass
class Progress:
    """How far a training is, and what was measured on the way."""

    step: int = 0
    """Environment steps, of all environments together."""
    num_episodes: int = 0
    num_updates: int = 0
    num_due: int = 0
    """Updates that were due, those included that nothing was there to learn from yet."""
    saved_step: int = 0
    """Step of the last checkpoint."""
    curve: tuple[PolicyScore, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock time of each part of the loop, of all sessions together."""

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time that a block takes to a part's."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class PolicySaving:
    """The folder of one run: checkpoints/step-N, `last`, and replay/."""

    path: Path
    agent: str
    """Name of the agent, and its settings."""
    config: Mapping[str, object]
    keep: int = 2
    """Checkpoints kept; older ones are deleted."""

    def save(self, agent: Agent, replay: Replay, progress: Progress) -> Path:
        """Write checkpoints/step-N, point `last` at it, delete the oldest."""
        folder = self.path / "checkpoints" / f"step-{progress.step:09d}"
        progress.saved_step = progress.step
        kept = replay.save(self.path / "replay")
        with atomic_folder(folder) as new:
            header = {"format": FORMAT, "agent": self.agent, "config": dict(self.config)}
            write_json_atomic(new / "config.json", header)
            save_file(_plain(agent.state()), new / _AGENT)
            save_file(_plain(kept), new / _REPLAY)
            write_json_atomic(new / _STATE, to_json(progress))
        write_text_atomic(self.path / "last", folder.name + "\n")
        remove_stale(folder.parent)
        others = sorted(p for p in folder.parent.iterdir() if p.is_dir() and p != folder and not is_temporary(p))
        num_old = max(0, len(others) + 1 - self.keep)
        for old in others[:num_old]:
            shutil.rmtree(old)
        states = [kept, *(_read_tensors(other / _REPLAY) for other in others[num_old:])]
        Replay.remove_unused(self.path / "replay", states)
        return folder

    def restore(self, agent: Agent, replay: Replay | None = None) -> Progress:
        """Fill an agent, and the replay where one is given, from the newest checkpoint; a new run has none.

        Raises:
            ValueError: The checkpoint is damaged, or of another agent.
        """
        folder = newest_policy(self.path)
        if folder is None:
            return Progress()
        header = _read_json(folder / "config.json")
        if header.get("agent") != self.agent:
            raise ValueError(
                f"{folder} is a checkpoint of {header.get('agent')!r}, not of {self.agent!r}; give another --out"
            )
        try:
            agent.load_state(_read_tensors(folder / _AGENT))
        except ValueError as error:
            raise ValueError(f"{folder / _AGENT} does not fit: {error}") from error
        if replay is not None:
            replay.restore(self.path / "replay", _read_tensors(folder / _REPLAY))
        return _read_progress(folder / _STATE)


def newest_policy(run: Path) -> Path | None:
    """Return the newest whole checkpoint of a policy's run; None where there is none yet.

    Raises:
        ValueError: `last` points to something else.
    """
    last = run / "last"
    if not last.is_file():
        return None
    name = last.read_text().strip()
    if not re.fullmatch(r"step-\d+", name):
        raise ValueError(f"{last} points to {name!r}; it must name a folder step-N of {run / 'checkpoints'}")
    folder = run / "checkpoints" / name
    recover_folder(folder)
    if not (folder / _AGENT).is_file():
        raise ValueError(f"{folder} is no checkpoint of a policy: no {_AGENT} in it; give another folder")
    return folder


def is_policy(path: str | Path) -> bool:
    """Tell whether a folder is a policy's run, or a checkpoint of one, and not a reward model's."""
    return any((Path(path) / name).exists() for name in (_AGENT, "replay"))


def _read_progress(where: Path) -> Progress:
    values = _read_json(where)
    seconds = values.pop("seconds", {})
    if not isinstance(seconds, dict) or not all(isinstance(value, float) for value in seconds.values()):
        raise ValueError(f"{where}: seconds must be numbers by name; got {seconds!r}")
    return replace(from_json(Progress, values, str(where)), seconds=seconds)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to where they can be written from: safetensors wants each contiguous and by itself."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _read_tensors(where: Path) -> dict[str, Tensor]:
    try:
        return load_file(where)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{where} is damaged or missing: {error}; use another checkpoint of the run") from error


def _read_json(where: Path) -> dict[str, object]:
    try:
        values = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged or missing: {error}; use another checkpoint of the run") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where} is damaged: it holds no object; use another checkpoint of the run")
    return values
