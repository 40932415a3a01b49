"""Record scripted episodes as a folder of videos with their truth: what `open_episodes` reads.

Every episode is a function of (seed, task, number), so a recording that was killed goes on where it was, and ends with
the same files. An episode counts as recorded once its row is there, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import UInt8
from numpy import ndarray
from rich.console import Console
from rich.progress import track

from vidreward.data.encode import write_video
from vidreward.envs.names import check_names
from vidreward.files import atomic_path, write_bytes_atomic, write_json_atomic, write_text_atomic

WORLDS = ("tabletop", "metaworld", "hold")
"""Worlds with scripted experts."""
MAX_TRIES = 20
"""Attempts at an episode with the wanted outcome before the recording gives up."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What to record."""

    env: str = "tabletop"
    """"tabletop", "metaworld" or "hold"."""
    tasks: tuple[str, ...] = ()
    """Tasks; all of the world's by default, but those of Meta-World must be named."""
    embodiment: str = "hand"
    """"hand" or "gripper", tabletop only."""
    num_episodes: int = 50
    """Episodes of each task."""
    failures: float = 0.0
    """Share of the episodes that fail, of every kind in turn."""
    size: int = 64
    """Side of the pictures, in pixels."""
    cameras: tuple[str, ...] = ()
    """Cameras to record; the world's usual one by default. The first is the episode's default."""
    randomize: bool = True
    """Looks that differ from episode to episode, tabletop only."""
    seed: int = 0
    num_workers: int = 2
    """Processes."""

    def __post_init__(self) -> None:
        check_names("world to record", [self.env], WORLDS)
        if self.num_episodes < 1 or not 0 <= self.failures <= 1 or self.num_workers < 1:
            raise ValueError(
                f"num_episodes ({self.num_episodes}) and num_workers ({self.num_workers}) must be at least 1, "
                f"failures ({self.failures}) between 0 and 1"
            )


@dataclass(frozen=True)
class Recording:
    """One episode as it was played."""

    frames: Mapping[str, UInt8[ndarray, "T 3 H W"]]
    """Camera -> frames; one more than actions."""
    goal: UInt8[ndarray, "3 H W"]
    """Picture of the task done in this scene, by the first camera."""
    success: bool
    fps: float
    columns: Mapping[str, ndarray]
    """Per-frame truth; `action` and `reward` of the last frame are zero: none followed."""
    metadata: Mapping[str, Any]


Play = Callable[[RecordConfig, str, str | None, np.random.Generator], Recording]


def record_episodes(out: str | Path, config: RecordConfig) -> Path:
    """Record every task of a configuration, going on where an earlier call was interrupted.

    Args:
        out: Folder; gets videos, goals/, metadata.jsonl and frames.parquet.
        config: What to record.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds a recording of another configuration, or a task is unknown.
        RuntimeError: An expert did not reach the wanted outcome in `MAX_TRIES` tries.
    """
    out = Path(out)
    tasks, _ = _world(config)
    _check_config(out, config, tasks)
    jobs = [(task, number) for task in tasks for number in range(config.num_episodes)]
    missing = [job for job in jobs if not _row_file(out, *job).exists()]
    if missing:
        names, numbers = zip(*missing, strict=True)
        pool = ProcessPoolExecutor(min(config.num_workers, len(missing)), mp_context=get_context("spawn"))
        with pool:
            done = pool.map(_record_one, repeat(out), repeat(config), names, numbers, chunksize=1)
            label = f"record {config.env}, {config.embodiment}" if config.env == "tabletop" else f"record {config.env}"
            for _ in track(done, label, total=len(missing), console=Console(stderr=True)):
                pass
    _write_tables(out, jobs)
    return out


def _world(config: RecordConfig) -> tuple[tuple[str, ...], Play]:
    """Return the tasks to record and the function that plays one episode."""
    if config.env == "metaworld":
        from vidreward.envs.demonstrations import play_metaworld
        from vidreward.envs.metaworld import check_task as check_metaworld

        if not config.tasks:
            raise ValueError("name the Meta-World tasks to record, as in --tasks drawer-open-v3 push-v3")
        for task in config.tasks:
            check_metaworld(task)
        return config.tasks, play_metaworld
    if config.env == "hold":
        from vidreward.envs.demonstrations import play_hold
        from vidreward.envs.hold_tasks import TASKS as HOLD_TASKS

        check_names("task of HOLD", config.tasks, tuple(HOLD_TASKS))
        return config.tasks or tuple(HOLD_TASKS), play_hold
    from vidreward.envs.tabletop_tasks import TASKS, check_task

    for task in config.tasks:
        check_task(task)
    return config.tasks or TASKS, play_tabletop


def play_tabletop(config: RecordConfig, task: str, failure: str | None, rng: np.random.Generator) -> Recording:
    """Play one episode of the tabletop world."""
    from vidreward.envs.tabletop import Tabletop
    from vidreward.envs.tabletop_experts import Expert
    from vidreward.envs.tabletop_tasks import sample_layout

    cameras = config.cameras or ("top",)
    env = Tabletop(task, embodiment=config.embodiment, camera=cameras[0], size=config.size)
    layout = sample_layout(rng, task, config.randomize, min_distractors=1 if failure == "wrong_object" else 0)
    observation, info = env.reset(options={"layout": layout})
    goal = info["goal"][0]
    frames = {camera: [env.image(camera)] for camera in cameras}
    truth = [_truth(observation, info)]
    actions, rewards = [], []
    for action in Expert(env, rng, failure).actions():
        observation, reward, _, truncated, info = env.step(action)
        for camera in cameras:
            frames[camera].append(env.image(camera))
        truth.append(_truth(observation, info))
        actions.append(action)
        rewards.append(reward)
        if truncated:
            break
    columns = {key: np.stack([row[key] for row in truth]) for key in truth[0]}
    columns["action"] = np.stack([*actions, np.zeros(3, np.float32)])
    columns["reward"] = np.array([*rewards, 0.0])
    metadata = {"embodiment": config.embodiment, "layout": json.dumps(layout)}
    stacked = {camera: np.stack(images) for camera, images in frames.items()}
    return Recording(stacked, goal, bool(info["success"]), 10.0, columns, metadata)


def _truth(observation: Mapping[str, ndarray], info: Mapping[str, Any]) -> dict[str, ndarray]:
    return {
        "progress": np.asarray(info["progress"], np.float64),
        "stage": np.asarray(info["stage"], np.int64),
        "state": observation["state"],
    }


def _failure(config: RecordConfig, number: int) -> str | None:
    """Return the kind of failure of an episode: failures are spread evenly, their kinds taken in turn."""
    from vidreward.envs.tabletop_experts import FAILURES

    before, after = (int(np.floor(n * config.failures + 1e-9)) for n in (number, number + 1))
    return FAILURES[before % len(FAILURES)] if after > before else None


def _record_one(out: Path, config: RecordConfig, task: str, number: int) -> None:
    """Play one episode until it ends as wanted, and write its files; the row, which makes it count, comes last."""
    tasks, play = _world(config)
    failure = _failure(config, number)
    for attempt in range(MAX_TRIES):
        rng = np.random.default_rng([config.seed, tasks.index(task), number, attempt])
        recording = play(config, task, failure, rng)
        if recording.success == (failure is None):
            break
    else:
        raise RuntimeError(f"{task}: no {failure or 'success'} in {MAX_TRIES} tries; record another task or seed")
    files = {}
    for camera, frames in recording.frames.items():
        name = f"{task}/{number:05d}.mp4" if len(recording.frames) == 1 else f"{task}/{number:05d}.{camera}.mp4"
        write_video(out / name, frames, recording.fps, crf=12)
        files[camera] = name
    first = next(iter(files.values()))
    goal = f"goals/{task}/{number:05d}.png"
    encoded, png = cv2.imencode(".png", recording.goal.transpose(1, 2, 0)[..., ::-1])
    assert encoded
    write_bytes_atomic(out / goal, png.tobytes())
    row = {"file_name": first, "task": task, "success": recording.success, "goal": goal, "failure": failure}
    if len(files) > 1:
        row["cameras"] = files
    row.update({"seed": config.seed, "number": number, **recording.metadata})
    columns = {name: values.tolist() for name, values in recording.columns.items()}
    write_json_atomic(_row_file(out, task, number), {"row": row, "frames": columns})


def _row_file(out: Path, task: str, number: int) -> Path:
    return out / ".rows" / task / f"{number:05d}.json"


def _check_config(out: Path, config: RecordConfig, tasks: tuple[str, ...]) -> None:
    """Write the recording's settings, or refuse to mix two recordings in one folder."""
    values = {**asdict(config), "tasks": list(tasks), "cameras": list(config.cameras)}
    del values["num_workers"]
    where = out / ".rows" / "config.json"
    if where.exists():
        before = json.loads(where.read_text())
        changed = [
            f"{key} was {before.get(key)!r}, is {values[key]!r}" for key in values if before.get(key) != values[key]
        ]
        if changed:
            raise ValueError(f"{out} holds another recording ({'; '.join(changed)}); give another folder")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no recording; give a new folder")
    else:
        write_json_atomic(where, values)


def _write_tables(out: Path, jobs: list[tuple[str, int]]) -> None:
    """Gather the rows of all episodes to metadata.jsonl and frames.parquet."""
    rows, tables = [], []
    for row, table in _read_rows(out, jobs):
        rows.append(json.dumps(row))
        tables.append(table)
    with atomic_path(out / "frames.parquet") as temporary:
        pyarrow.parquet.write_table(pa.concat_tables(tables), temporary)
    write_text_atomic(out / "metadata.jsonl", "\n".join(rows) + "\n")


def _read_rows(out: Path, jobs: list[tuple[str, int]]) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    for task, number in jobs:
        stored = json.loads(_row_file(out, task, number).read_text())
        row, frames = stored["row"], stored["frames"]
        num_frames = len(frames["state"])
        episode = {"episode": [row["file_name"]] * num_frames, "frame": list(range(num_frames))}
        yield row, pa.table({**episode, **frames})
