"""Worlds to record and to learn in; `make_env(name)` makes a vector environment whose observation has `pixels`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

WORLDS = ("tabletop", "metaworld")


def make_env(name: str, num_envs: int = 1, **settings: Any) -> gymnasium.vector.VectorEnv:
    """Make a vector environment by name.

    Args:
        name: "tabletop/TASK" or "metaworld/TASK", as in "tabletop/push", "metaworld/drawer-open-v3".
        num_envs: Environments stepped together; a finished one is reset in the same step.
        settings: Passed to each environment (embodiment, camera, size, ...).

    Raises:
        ValueError: No such world or task.
        ImportError: The world is not installed; the message names the extra.

    Example:
        >>> env = make_env("tabletop/push", num_envs=2, size=48)
        >>> observation, info = env.reset(seed=0)
        >>> observation["pixels"].shape
        (2, 3, 48, 48)
    """
    world, _, task = name.partition("/")
    make: Callable[..., gymnasium.Env[Any, Any]]
    if world == "tabletop":
        from vidreward.envs.tabletop import Tabletop

        make = Tabletop
    elif world == "metaworld":
        from vidreward.envs.metaworld import MetaWorld

        make = MetaWorld
    else:
        raise ValueError(f"no world {world!r} in {name!r}; there are {', '.join(WORLDS)}, as in 'tabletop/push'")
    return SyncVectorEnv(
        [lambda: make(task, **settings) for _ in range(num_envs)], autoreset_mode=AutoresetMode.SAME_STEP
    )
