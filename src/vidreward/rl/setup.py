"""Everything a policy's run needs, made and checked before the first step is taken and the first file written."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import UInt8
from numpy import ndarray

from vidreward.config import to_json
from vidreward.data.decode import FrameSpec, VideoError, read_image
from vidreward.data.episodes import open_episodes
from vidreward.envs import make_env
from vidreward.rl.agent import Agent
from vidreward.rl.env_checks import channels_last, check_models, control_rate
from vidreward.rl.payment import ORACLE, Payer
from vidreward.rl.reward import LoadedTerm, Reward, RewardMix, RewardTerm, load_term, suggest_normalizer
from vidreward.rl.rl_config import PayConfig, RlConfig
from vidreward.rl.rollout import ORACLES, Collector, seeds_for, spaces_of
from vidreward.rl.saving import PolicySaving, is_policy
from vidreward.run_config import check_out, find_differences
from vidreward.train import choose_device
from vidreward.types import Episode

Goal = UInt8[ndarray, "G 3 H W"]

UNIMPORTANT = (("loop", "eval_videos"), ("loop", "log_every"), ("env", "asynchronous"))
"""Settings that change no number; a run may go on with others."""
NUM_FIRST_FRAMES = 16
"""Episodes whose first frames `--normalizer initial` looks at."""
BEGINNINGS = 100
"""Stream of their random numbers, apart from those of the loop."""
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov")


@dataclass(frozen=True)
class Prepared:
    """A run that was found to be possible."""

    env: VectorEnv[Any, Any, Any]
    eval_env: VectorEnv[Any, Any, Any]
    agent: Agent
    payer: Payer
    goal: Goal | None
    """Given by the user; None takes the environment's."""
    normalizers: Mapping[str, float]
    """T of each reward model."""
    saving: PolicySaving


@contextmanager
def prepare(config: RlConfig, agent: str, *, only_evaluates: bool = False) -> Iterator[Prepared]:
    """Load the rewards, make the environments and the agent, check that all fit; close the environments at the end.

    Args:
        config: Of the run.
        agent: Name of the agent that `config.agent` is of.
        only_evaluates: Whether nothing will be trained, so that evaluation may be another one than the run's.

    Raises:
        ValueError: Something does not fit: the message says what, and what to do.
    """
    check_out(config.out)
    device = choose_device(config.device)
    terms = load_terms(config.pay, str(device))
    settings = describe_settings(config, agent, terms)
    check_settings(config.out, settings, only_evaluates=only_evaluates)
    looks = bool(terms) or "pixels" in config.agent.observed
    shows = looks or config.loop.eval_videos > 0
    num_eval_envs = min(config.env.num_envs, config.loop.eval_episodes)
    with (
        open_env(config, config.env.num_envs, terms, pixels=looks) as env,
        open_env(config, num_eval_envs, terms, pixels=shows) as eval_env,
    ):
        fps = check_env(env, terms, config.pay)
        built = config.agent.build(*spaces_of(env), seed=config.loop.seed, device=device)
        goal = read_goals(config.pay, env)
        beginnings = list(see_beginnings(env, config, goal)) if terms else []
        check_goals(beginnings, terms, config)
        if ORACLE in config.pay.reward:
            check_oracle(env, config)
        reward, normalizers = make_reward(config.pay, terms, beginnings)
        oracle_weight = config.pay.reward_weight if ORACLE in config.pay.reward else 0.0
        payer = Payer(reward=reward, fps=fps, oracle_weight=oracle_weight)
        yield Prepared(env, eval_env, built, payer, goal, normalizers, PolicySaving(config.out, agent, settings))


# -- settings -------------------------------------------------------------------------------------------------------


def describe_settings(config: RlConfig, agent: str, terms: Sequence[LoadedTerm]) -> dict[str, object]:
    """Return what the run's config.json holds: everything that its numbers depend on, the rewards' weights too."""
    values = to_json(replace(config, log=(), out=Path(), label=""))
    kept = {name: value for name, value in values.items() if name not in ("log", "out", "label")}
    return {"kind": "policy", "agent_name": agent, **kept, "rewards": {term.name: _fingerprint(term) for term in terms}}


def check_settings(out: Path, settings: Mapping[str, object], *, only_evaluates: bool = False) -> None:
    """Refuse to go on with a run of other settings.

    Raises:
        ValueError: `out` holds another run; the message says in what they differ.
    """
    where = out / "config.json"
    if not where.exists():
        return
    try:
        before = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not readable: {error}; give another --out, or move {out} away") from error
    if not isinstance(before, dict) or before.get("kind") != "policy":
        raise ValueError(f"{out} holds something else than a policy's run; give another --out")
    unimportant = [*UNIMPORTANT]
    if only_evaluates:
        unimportant += [("loop", "eval_every"), ("loop", "eval_episodes")]
    found = find_differences(_comparable(before, unimportant), _comparable(settings, unimportant), "")
    if found:
        raise ValueError(
            f"{out} holds a run with other settings ({'; '.join(found)}); use them again, or another --out"
        )


def _comparable(settings: Mapping[str, object], unimportant: Sequence[tuple[str, str]]) -> dict[str, object]:
    kept = {name: dict(part) if isinstance(part, dict) else part for name, part in settings.items()}
    for part, name in unimportant:
        values = kept.get(part)
        if isinstance(values, dict):
            values.pop(name, None)
    return kept


def _fingerprint(term: LoadedTerm) -> str:
    """Recognise a model by its weights: a folder may hold others than when the run began."""
    digest = hashlib.sha256()
    for name, tensor in term.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()[:16]


# -- environments ---------------------------------------------------------------------------------------------------


@contextmanager
def open_env(
    config: RlConfig, num_envs: int, terms: Sequence[LoadedTerm], *, pixels: bool
) -> Iterator[VectorEnv[Any, Any, Any]]:
    """Make an environment that shows pictures and goals only where somebody looks at them; close it at the end."""
    needs_goal = any(term.scorer.needs_goal for term in terms) and not config.pay.goal
    chosen = {"pixels": pixels, "goals": needs_goal, **config.env.arguments()}
    with _children_ignore_ctrl_c():
        env = make_env(config.env.name, num_envs, asynchronous=config.env.asynchronous, **chosen)
    try:
        yield env
    finally:
        env.close()


def check_env(env: VectorEnv[Any, Any, Any], terms: Sequence[LoadedTerm], pay: PayConfig) -> float:
    """Check that the environment shows what the rewards look at; returns its frames per second.

    Raises:
        ValueError: It has no pictures, or of another size or camera, or lacks what a model reads.
    """
    if not terms:
        return float(env.metadata.get("render_fps", 10.0))
    channels_last(env)
    check_models(env, terms, _picture_size(env), pay.any_camera)
    for term in terms:
        if term.model.inputs.text:
            raise ValueError(f"{term.name} reads an instruction, and environments give none; choose another reward")
    return control_rate(env, terms)


def _picture_size(env: VectorEnv[Any, Any, Any]) -> tuple[int, int]:
    shape = spaces_of(env)[0]["pixels"].shape
    assert shape is not None
    return shape[1], shape[2]


def see_beginnings(env: VectorEnv[Any, Any, Any], config: RlConfig, goal: Goal | None) -> Iterator[Episode]:
    """Reset the environments and give the first frames, each with its goal; once, or until there are enough of them."""
    collector = Collector(env, goal=goal, in_stages=config.pay.schedule is not None)
    wanted = NUM_FIRST_FRAMES if config.pay.normalizer == "initial" else 1
    for start in range(0, wanted, env.num_envs):
        collector.reset(seeds_for(config.loop.seed, BEGINNINGS, start, env.num_envs))
        pixels = collector.observation()["pixels"]
        for row, own in enumerate(collector.goals()):
            yield Episode.from_frames(pixels[row : row + 1], id=f"beginning {start + row}", fps=1.0, goal=own)


def check_oracle(env: VectorEnv[Any, Any, Any], config: RlConfig) -> None:
    """Check that the simulator tells a dense reward.

    Raises:
        ValueError: It does not.
    """
    Collector(env).reset(seeds_for(config.loop.seed, BEGINNINGS, 0, env.num_envs))
    info = env.step(np.zeros(env.action_space.shape, np.float32))[-1]
    if not any(name in info for name in ORACLES):
        raise ValueError(f"{config.env.name} tells no dense reward, so there is no oracle; choose another --reward")


@contextmanager
def _children_ignore_ctrl_c() -> Iterator[None]:
    """Start processes that leave Ctrl-C to their parent, which ends its step and then closes them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# -- rewards --------------------------------------------------------------------------------------------------------


def load_terms(pay: PayConfig, device: str) -> list[LoadedTerm]:
    """Load the reward models.

    Raises:
        ValueError: One cannot be loaded, or is something else.
    """
    for name in pay.models:
        if is_policy(name):
            raise ValueError(f"{name} is a policy that `vidreward rl` trained, not a reward; give a reward model's run")
    return [
        load_term(RewardTerm(model=name, weight=pay.reward_weight, model_file=pay.model_file), device, "auto")
        for name in pay.models
    ]


def read_goals(pay: PayConfig, env: VectorEnv[Any, Any, Any]) -> Goal | None:
    """Read the goals that the user gave, at the size of the environment's pictures; None where none was given.

    Raises:
        ValueError: A file is no picture or video, or nothing looks at goals.
    """
    if not pay.goal:
        return None
    if not pay.models:
        raise ValueError("--goal has no effect: nothing that is paid looks at one; leave it out, or give --reward")
    size = _picture_size(env)
    goals = []
    for path in pay.goal:
        try:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                goals.append(open_episodes(path, size=size)[0].all_frames())
            else:
                goals.append(read_image(path, FrameSpec(size=size))[None])
        except VideoError as error:
            raise ValueError(f"the goal cannot be read ({error}); give a png, a jpg or a video") from error
    return np.concatenate(goals)


def check_goals(beginnings: Sequence[Episode], terms: Sequence[LoadedTerm], config: RlConfig) -> None:
    """Check that there is a goal for the models that look at one, and several where they follow each other.

    Raises:
        ValueError: There is not.
    """
    looking = [term.name for term in terms if term.scorer.needs_goal]
    if not looking:
        return
    for episode in beginnings:
        if not episode.has_goal:
            raise ValueError(
                f"{', '.join(looking)} compares frames with a goal picture, and {config.env.name} gives none; give "
                "--goal PICTURE, a picture of the task done"
            )
        if config.pay.schedule is not None and len(episode.goal()) < 2:
            raise ValueError(
                f"--subgoal-threshold and --follow need several goals, and {config.env.name} gives one; give "
                "--goal with a picture of each, or a video"
            )


def make_reward(
    pay: PayConfig, terms: Sequence[LoadedTerm], beginnings: Sequence[Episode]
) -> tuple[Reward, dict[str, float]]:
    """Put the rewards together.

    Returns:
        The reward, and the T that each model's scores are divided by.

    Raises:
        ValueError: Settings do not fit the models.
    """
    shaped, normalizers = [], {}
    for term in terms:
        shaping = replace(term.pays.shaping, difference=pay.difference, distance=pay.distance)
        if pay.normalizer == "initial":
            first = [e.with_goal(e.goal()[:1]) if pay.subgoal_threshold is not None else e for e in beginnings]
            shaping = replace(shaping, scale=1 / suggest_normalizer(term.model, first, shaping))
        elif not isinstance(pay.normalizer, str):
            shaping = replace(shaping, scale=1 / pay.normalizer)
        normalizers[term.name] = 1 / shaping.scale
        shaped.append(RewardTerm(model=term.model, name=term.name, weight=pay.reward_weight, shaping=shaping))
    mix = RewardMix(terms=tuple(shaped), env_weight=pay.env_weight, goals=pay.schedule)
    return Reward(mix), normalizers
