"""Scripted experts of the MuJoCo worlds, played for the recorder with a little noise on their actions."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy import ndarray

from vidreward.envs.hold_arm import HoldEnv
from vidreward.envs.hold_tasks import hold_task
from vidreward.envs.metaworld import NUM_LAYOUTS, MetaWorld
from vidreward.envs.record import RecordConfig, Recording

MAX_NOISE = 0.1
"""Standard deviation of the noise on an episode's actions is drawn from 0 to this, of 1."""
STEPS_AFTER_SUCCESS = 8
"""Control steps that an expert goes on after it has succeeded, so that the end is seen."""
METAWORLD_STEPS_A_FRAME = 2
"""Control steps (80 a second) between recorded frames; HOLD's short episodes are recorded step by step."""
HOLD_WIDTHS = (10, 5)
"""States and actions of HOLD's tasks are recorded with so many numbers, zeros at the end: one folder may hold all."""


def play_metaworld(config: RecordConfig, task: str, failure: str | None, rng: np.random.Generator) -> Recording:
    """Play one episode with Meta-World's scripted policy, in one of its layouts."""
    _check_no_failure(failure)
    cameras = config.cameras or ("corner2",)
    with closing(MetaWorld(task, camera=cameras[0], size=config.size, pixels=False, goals=False)) as env:
        layout = int(rng.integers(NUM_LAYOUTS))
        return _play(env, cameras, {"layout": layout}, METAWORLD_STEPS_A_FRAME, rng)


def play_hold(config: RecordConfig, task: str, failure: str | None, rng: np.random.Generator) -> Recording:
    """Play one episode of one of HOLD's tasks with our scripted expert."""
    _check_no_failure(failure)
    cameras = config.cameras or ("original",)
    with closing(hold_task(task)(camera=cameras[0], size=config.size, pixels=False, goals=False)) as env:
        recording = _play(env, cameras, {}, 1, rng)
    columns = dict(recording.columns)
    for name, width in (("state", HOLD_WIDTHS[0]), ("action", HOLD_WIDTHS[1])):
        columns[name] = np.pad(columns[name], ((0, 0), (0, width - columns[name].shape[1])))
    return replace(recording, columns=columns)


def _check_no_failure(failure: str | None) -> None:
    if failure is not None:
        raise ValueError("failures are scripted for the tabletop world only; record other worlds with failures=0")


def _play(
    env: MetaWorld | HoldEnv,
    cameras: tuple[str, ...],
    options: dict[str, Any],
    steps_a_frame: int,
    rng: np.random.Generator,
) -> Recording:
    """Play an episode until a little after its success; the last frame is the goal."""
    assert env.action_space.shape is not None
    noise, num_actions = float(rng.uniform(0.0, MAX_NOISE)), env.action_space.shape[0]
    observation, info = env.reset(seed=int(rng.integers(2**31)), options=options)
    layout, expert, left = info["layout"], env.expert(), STEPS_AFTER_SUCCESS
    rows: list[tuple[dict[str, ndarray], ndarray, ndarray, float]] = []
    for step in range(env.max_steps):
        action = np.clip(expert() + rng.normal(0, noise, num_actions), -1, 1).astype(np.float32)
        if step % steps_a_frame == 0:
            pictures = {camera: env.image(camera) for camera in cameras}
            rows.append((pictures, observation["state"], action, float(info["success"])))
        observation, _, _, _, info = env.step(action)
        left -= info["success"] or left < STEPS_AFTER_SUCCESS
        if left == 0:
            break
    pictures = {camera: env.image(camera) for camera in cameras}
    rows.append((pictures, observation["state"], np.zeros(num_actions, np.float32), float(info["success"])))
    columns = {
        "state": np.stack([row[1] for row in rows]),
        "action": np.stack([row[2] for row in rows]),
        "reward": np.array([row[3] for row in rows]),
    }
    frames = {camera: np.stack([row[0][camera] for row in rows]) for camera in cameras}
    goal = frames[cameras[0]][-1]
    return Recording(
        frames, goal, bool(info["success"]), env.metadata["render_fps"] / steps_a_frame, columns, {"layout": layout}
    )
