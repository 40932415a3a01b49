"""The jobs behind `vidreward rl`: train a policy, measure it, write what came out.

A run's folder holds config.json, log.jsonl, checkpoints/, replay/, videos/ and result.json, replaced as a whole after
every evaluation and all that `vidreward rl-report` needs.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from vidreward.config import to_json
from vidreward.files import write_json_atomic
from vidreward.log import Logger
from vidreward.rl.evaluation import PolicyScore, evaluate_policy
from vidreward.rl.off_policy import EVALUATION, train_policy
from vidreward.rl.replay import Replay
from vidreward.rl.rl_config import RlConfig
from vidreward.rl.rollout import seeds_for, spaces_of
from vidreward.rl.saving import Progress, newest_policy
from vidreward.rl.setup import Prepared, prepare

RESULT_FORMAT = 1


def train_rl(config: RlConfig, *, agent: str, quiet: bool = False) -> Path:
    """Train a policy, going on from where the run was interrupted.

    Args:
        config: What to train, in what, on what; `out` gets everything.
        agent: Name of the agent that `config.agent` is of.
        quiet: Print nothing.

    Returns:
        The path of result.json.

    Raises:
        ValueError: Something does not fit; nothing was stepped or written then.
        TrainingDivergedError: A number of an update is not finite.
    """
    result = config.out / "result.json"
    with prepare(config, agent) as run, Logger(config.out, backends=config.log, quiet=quiet) as log:
        replay = make_replay(config, run)
        write_json_atomic(config.out / "config.json", run.saving.config)
        for name, normalizer in run.normalizers.items():
            log.message(f"scores of {name} are divided by {normalizer:.4g}")
        train_policy(
            run.env,
            run.agent,
            replay,
            run.payer,
            config.loop,
            log,
            settings=config.agent,
            goal=run.goal,
            evaluate=lambda step: _evaluate(config, run, step, config.out / "videos" / f"step-{step:09d}"),
            report=lambda progress: write_json_atomic(result, describe_result(config, agent, run, progress)),
            saving=run.saving,
        )
    return result


def evaluate_rl(config: RlConfig, *, agent: str) -> tuple[PolicyScore, Path]:
    """Measure the newest checkpoint of a run again, and leave the run as it is.

    Returns:
        What it reached, and the path of evaluation.json, beside which are the videos.

    Raises:
        ValueError: There is no checkpoint, or something does not fit.
    """
    if newest_policy(config.out) is None:
        raise ValueError(f"{config.out} has no checkpoint yet; train first: the same command without --eval-only")
    folder = config.out / "evaluation"
    with prepare(config, agent, only_evaluates=True) as run:
        score = _evaluate(config, run, run.saving.restore(run.agent).step, folder)
    write_json_atomic(folder / "evaluation.json", to_json(score))
    return score, folder / "evaluation.json"


def make_replay(config: RlConfig, run: Prepared) -> Replay:
    """Make the replay that an agent asks for, of the parts of the observation that it looks at.

    Raises:
        ValueError: The transitions do not fit.
    """
    shown, taken = spaces_of(run.env)
    return Replay(
        observation={name: shown[name].shape or () for name in config.agent.observed},
        action_dim=taken.shape[0],
        capacity=config.capacity,
        n_step=config.agent.n_step,
        discount=config.agent.discount,
        frame_stack=config.agent.frame_stack,
        max_bytes=round(config.replay_gb * 1e9),
        folder=config.replay_folder,
    )


def describe_result(config: RlConfig, agent: str, run: Prepared, progress: Progress) -> dict[str, object]:
    """Return what result.json holds: the learning curve, and what it is one of."""
    label = config.label or (config.pay.label if agent != "random" else "random")
    return {
        "format": RESULT_FORMAT,
        "env": config.env.name,
        "label": label,
        "agent": agent,
        "seed": config.loop.seed,
        "budget": config.loop.steps,
        "finished": progress.step >= config.loop.steps,
        "progress": to_json(replace(progress, curve=())),
        "curve": to_json(progress.curve),
        "normalizers": dict(run.normalizers),
        "versions": {name: version(name) for name in ("vidreward", "torch", "numpy", "gymnasium")},
        "config": dict(run.saving.config),
    }


def _evaluate(config: RlConfig, run: Prepared, step: int, videos: Path) -> PolicyScore:
    """Measure the agent, every time on the same beginnings."""
    return evaluate_policy(
        run.eval_env,
        run.agent,
        run.payer,
        seeds=seeds_for(config.loop.seed, EVALUATION, 0, run.eval_env.num_envs),
        num_episodes=config.loop.eval_episodes,
        step=step,
        frame_stack=config.agent.frame_stack,
        goal=run.goal,
        videos=videos,
        num_videos=config.loop.eval_videos,
    )
