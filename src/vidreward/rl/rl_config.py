"""The configuration of a policy's run: which world, which agent, what it is paid."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import tyro

from vidreward.envs.names import check_names
from vidreward.log import Backend
from vidreward.rl.agent import AgentConfig
from vidreward.rl.goals import GoalSchedule, SubGoals, TimeIndexedGoals
from vidreward.rl.off_policy import LoopConfig
from vidreward.rl.payment import ORACLE

AGENTS = {
    "sac": "vidreward.rl.sac",
    "drqv2": "vidreward.rl.drqv2",
    "random": "vidreward.rl.random_policy",
}
"""Module of each agent; its recipes are functions `recipe` and `recipe_PRESET`."""
ENV_REWARD = "env reward"
"""What reports call the environment's own reward."""


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Which world to act in."""

    name: Annotated[str, tyro.conf.Suppress] = ""
    """As `make_env` takes it: "tabletop/push"."""
    num_envs: int = 1
    """Environments stepped together."""
    asynchronous: bool = False
    """Run each in a process of its own, which works while the learner does; pays where a step takes long."""
    size: int = 64
    """Side of the pictures in pixels."""
    camera: str | None = None
    """The world's usual one by default."""
    action_repeat: int = 1
    """Control steps that an action is held for."""
    max_steps: int | None = None
    """Control steps of an episode; the world's own number by default."""
    settings: tuple[str, ...] = ()
    """More settings of the world, as NAME=VALUE: embodiment=gripper, layouts=[0,1]."""

    def arguments(self) -> dict[str, Any]:
        """Return what `make_env` is given, but for `pixels` and `goals`.

        Raises:
            ValueError: A setting is not NAME=VALUE.
        """
        chosen: dict[str, Any] = {"size": self.size, "action_repeat": self.action_repeat}
        chosen |= {name: getattr(self, name) for name in ("camera", "max_steps") if getattr(self, name) is not None}
        for setting in self.settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise ValueError(f"--env.settings takes NAME=VALUE, as in embodiment=gripper; got {setting!r}")
            chosen[name] = _parse(value)
        return chosen


@dataclass(frozen=True, kw_only=True)
class PayConfig:
    """What the agent is paid."""

    reward: tuple[str, ...] = ()
    """Rewards: folders of reward models' runs, "pixels", or "oracle" (the simulator's own dense reward). None pays the
    environment's reward alone."""
    reward_weight: float = 1.0
    """Weight of each."""
    env_weight: float = 1.0
    """Weight of the environment's own reward, which most worlds pay for success alone."""
    normalizer: float | Literal["model", "initial"] = "model"
    """HOLD's T, which scores are divided by: "model" takes the number that the model keeps, "initial" the one with
    which first frames are paid -1/3 on average."""
    difference: bool = False
    """Pay the change of the potential instead of the potential."""
    distance: Literal["eucl", "sq_eucl", "sq_eucl_huber"] = "eucl"
    """What is made of a distance; TCN's baseline squares it and adds a Huber term."""
    goal: tuple[Path, ...] = ()
    """Pictures of the goal, or of the sub-goals in their order, or a video; the environment's own by default."""
    subgoal_threshold: float | None = None
    """Distance below which a frame counts as being at a sub-goal; None: there is one goal."""
    subgoal_hold_steps: int = 3
    subgoal_cost: float = 0.0
    """Distance added for each sub-goal that is left."""
    follow: bool = False
    """Compare frame t of an episode with frame t of the goal video."""
    model_file: Path | None = None
    """Python file of a model that is not part of vidreward."""
    any_camera: bool = False
    """Allow another camera than the model was trained with."""

    def __post_init__(self) -> None:
        if not self.reward and not self.env_weight:
            raise ValueError("nothing is paid; give --reward, or leave --env-weight at 1")
        if self.follow and self.subgoal_threshold is not None:
            raise ValueError("--follow and --subgoal-threshold are two ways to choose goals; leave one of them out")
        if not isinstance(self.normalizer, str) and not self.normalizer > 0:
            raise ValueError(f"--normalizer must be more than 0; got {self.normalizer}")

    @property
    def models(self) -> tuple[str, ...]:
        """Rewards that look at frames."""
        return tuple(name for name in self.reward if name != ORACLE)

    @property
    def schedule(self) -> GoalSchedule | None:
        """How goals follow each other."""
        if self.subgoal_threshold is not None:
            return SubGoals(
                threshold=self.subgoal_threshold, hold_steps=self.subgoal_hold_steps, cost=self.subgoal_cost
            )
        return TimeIndexedGoals() if self.follow else None

    @property
    def label(self) -> str:
        """Name it in reports."""
        names = [name if name == ORACLE else Path(name).name for name in self.reward]
        return " + ".join([*names, *([ENV_REWARD] if self.env_weight else [])])


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """Everything that a policy's run depends on; written to the run's config.json."""

    env: EnvConfig
    agent: AgentConfig
    pay: Annotated[PayConfig, tyro.conf.arg(name="")] = field(default_factory=PayConfig)
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)
    replay_capacity: int | None = None
    """Transitions kept; by default all of the run, at most a million."""
    replay_gb: float = 16.0
    """Most memory for them, in gigabytes (10^9 bytes)."""
    replay_folder: Path | None = None
    """Keep frames on disk, in this folder, instead of in memory."""
    device: str = "auto"
    """`auto` takes a GPU when there is one."""
    label: str = ""
    """What the run is called in reports; by default after what it is paid."""
    log: tuple[Backend, ...] = ()
    """Where numbers go besides the terminal and log.jsonl."""
    out: Path = Path("runs/rl")
    """Folder of the run; the same command on the same folder goes on where it was interrupted."""

    @property
    def capacity(self) -> int:
        """Transitions kept."""
        return (
            min(1_000_000, self.loop.steps + self.env.num_envs)
            if self.replay_capacity is None
            else self.replay_capacity
        )


def load_agent(name: str, preset: str | None = None) -> AgentConfig:
    """Return an agent's recipe.

    Raises:
        ValueError: No such agent or preset.

    Example:
        >>> load_agent("random").num_updates
        0
    """
    check_names("agent", [name], tuple(AGENTS))
    module = importlib.import_module(AGENTS[name])
    presets = find_presets(module)
    check_names(f"preset of {name}", [preset or "default"], tuple(presets))
    config: AgentConfig = getattr(module, presets[preset or "default"])()
    return config


def find_presets(module: ModuleType) -> dict[str, str]:
    """List an agent's presets, and the function of each."""
    names = [name for name in vars(module) if name == "recipe" or name.startswith("recipe_")]
    return {name.removeprefix("recipe").lstrip("_").replace("_", "-") or "default": name for name in names}


def _parse(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
