"""Worlds to record and to learn in; `make_env(name)` makes a vector environment whose observation has `pixels`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from vidreward.envs.names import check_names
from vidreward.envs.pixel_env import PixelEnv

WORLDS = ("tabletop", "metaworld", "hold", "adroit", "kitchen", "dmc")
AUTORESET = {"same_step": AutoresetMode.SAME_STEP, "next_step": AutoresetMode.NEXT_STEP}


def make_env(
    name: str,
    num_envs: int = 1,
    *,
    asynchronous: bool = False,
    autoreset: Literal["same_step", "next_step"] = "same_step",
    **settings: Any,
) -> VectorEnv:
    """Make a vector environment by name; actions are in [-1, 1], observations have `pixels` and `state`.

    Args:
        name: "WORLD/TASK", as in "tabletop/push", "metaworld/drawer-open-v3", "hold/pushing", "adroit/door",
            "kitchen/microwave", "dmc/walker-walk".
        num_envs: Environments stepped together.
        asynchronous: Whether each runs in a process of its own, which pays where steps take long.
        autoreset: "same_step": a finished environment is reset in that step, its last observation and info are
            `info["final_obs"]` and `info["final_info"]`; "next_step": in the step after, whose action is ignored.
        settings: Of each environment (size, camera, action_repeat, max_steps, pixels, goals, ...).

    Raises:
        ValueError: No such world, task or setting.
        ImportError: The world is not installed; the message names the extra.

    Example:
        >>> env = make_env("tabletop/push", num_envs=2, size=48)
        >>> observation, info = env.reset(seed=0)
        >>> observation["pixels"].shape, info["goal"].shape
        ((2, 3, 48, 48), (2, 1, 3, 48, 48))
    """
    make = find_env(name)
    check_names(f"setting of {name}", settings, _settings(make))
    check_names("autoreset mode", [autoreset], tuple(AUTORESET))
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1; got {num_envs}")
    envs = [partial(make, **settings)] * num_envs
    if asynchronous:
        # spawned, not forked: neither OpenGL nor torch survive a fork
        return AsyncVectorEnv(envs, context="spawn", autoreset_mode=AUTORESET[autoreset])
    return SyncVectorEnv(envs, autoreset_mode=AUTORESET[autoreset])


def find_env(name: str) -> Callable[..., PixelEnv]:
    """Return what makes single environments of a name; its arguments are the environment's settings.

    Raises:
        ValueError: No such world or task.
        ImportError: The world is not installed.
    """
    world, _, task = name.partition("/")
    if world not in WORLDS or not task:
        check_names("world", [world], WORLDS)
        raise ValueError(f"name a task of {world!r} as well, as in 'tabletop/push'; got {name!r}")
    if world == "tabletop":
        from vidreward.envs.tabletop import Tabletop, check_task

        check_task(task)
        return partial(Tabletop, task)
    if world == "metaworld":
        from vidreward.envs.metaworld import MetaWorld
        from vidreward.envs.metaworld import check_task as check_metaworld

        check_metaworld(task)
        return partial(MetaWorld, task)
    if world == "hold":
        from vidreward.envs.hold_tasks import hold_task

        return hold_task(task)
    if world == "dmc":
        from vidreward.envs.dmc import Dmc
        from vidreward.envs.dmc import check_task as check_dmc

        check_dmc(task)
        return partial(Dmc, task)
    from vidreward.envs.robotics import Adroit, Kitchen, check_adroit, check_kitchen

    if world == "adroit":
        check_adroit(task)
        return partial(Adroit, task)
    check_kitchen(task)
    return partial(Kitchen, task)


def _settings(make: Callable[..., PixelEnv]) -> tuple[str, ...]:
    """List the keyword arguments of an environment, those that its class passes on included."""
    kind = make.func if isinstance(make, partial) else make
    assert isinstance(kind, type)
    names: list[str] = []
    for owner in kind.__mro__:
        if "__init__" in vars(owner):
            parameters = inspect.signature(vars(owner)["__init__"]).parameters.values()
            names += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in names]
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return tuple(names)
