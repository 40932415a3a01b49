"""A run's config.json: written once, and compared before a run goes on."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from vidreward.config import to_json
from vidreward.files import write_json_atomic
from vidreward.train_config import TrainConfig

UNIMPORTANT = (
    ("data", "cache_dir"),
    ("data", "cache_gb"),
    ("fit", "num_workers"),
    ("fit", "log_every"),
    ("fit", "log"),
)
"""Settings that change no weight; a run may go on with others."""


def write_config(config: TrainConfig, reward: str) -> None:
    """Write the run's config.json, once its data was found to be good."""
    if not (config.out / "config.json").exists():
        write_json_atomic(config.out / "config.json", _settings(config, reward))


def check_config(config: TrainConfig, reward: str) -> None:
    """Refuse to go on with a run of other settings, or to write where no run can be.

    Raises:
        ValueError: `out` is a file, or its config.json differs; the message says in what.
    """
    check_out(config.out)
    where = config.out / "config.json"
    if not where.exists():
        return
    try:
        before = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{where} is not readable: {error}; give another --out, or move {config.out} away") from error
    differences = find_differences(_comparable(before), _comparable(_settings(config, reward)), "")
    if differences:
        raise ValueError(
            f"{config.out} holds a run with other settings ({'; '.join(differences)}); use them again, or another --out"
        )


def check_out(out: Path) -> None:
    """Refuse a folder of results that cannot be made or written to, before the work begins.

    Raises:
        ValueError: The path, or a parent of it, is a file or may not be written to.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"cannot write results to {out}: {there} is a file; give another --out, a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write results to {out}: no permission to write in {there}; give another --out")


def _settings(config: TrainConfig, reward: str) -> dict[str, object]:
    parts = {"reward": config.reward, "data": config.data, "fit": replace(config.fit, log=())}
    return {
        "reward_model": reward,
        **{name: to_json(part) for name, part in parts.items()},
        "init_from": config.init_from,
    }


def _comparable(settings: object) -> object:
    """Leave out what changes no weight, and write the data's path in one way."""
    if not isinstance(settings, dict) or not isinstance(settings.get("data"), dict):
        return settings
    kept = {name: dict(part) if isinstance(part, dict) else part for name, part in settings.items()}
    for part, name in UNIMPORTANT:
        if isinstance(kept.get(part), dict):
            kept[part].pop(name, None)
    kept["data"]["path"] = str(Path(str(kept["data"].get("path"))).resolve())
    return kept


def find_differences(before: object, now: object, where: str) -> list[str]:
    """Name what differs between two settings that were read from JSON, each as "NAME was A, is B"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        found = (find_differences(before.get(key), now.get(key), f"{where}.{key}".lstrip(".")) for key in keys)
        return [difference for differences in found for difference in differences]
    return [] if before == now else [f"{where or 'config.json'} was {before!r}, is {now!r}"]
