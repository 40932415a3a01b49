"""How well a policy does: success and returns over whole episodes in an environment of its own, and videos of some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import UInt8
from numpy import ndarray

from vidreward.evaluate.outputs import ScoredEpisode
from vidreward.evaluate.overlay import overlay_video
from vidreward.rl.agent import Agent
from vidreward.rl.payment import Payer, Payment
from vidreward.rl.rollout import Collector, Experience


@dataclass(frozen=True, kw_only=True)
class PolicyScore:
    """What a policy reached in one evaluation; means over episodes."""

    step: int
    """Environment steps of training before it."""
    num_episodes: int
    success_any: float
    """Share of the episodes in which the task was done after some step."""
    success_last: float
    """Share of the episodes in which the task was done after the last step."""
    env_return: float
    """Sum of the environment's own rewards."""
    reward_return: float
    """Sum of the rewards that the agent is paid; says how well it did only by its own reward's lights."""

    def __str__(self) -> str:
        return (
            f"success {self.success_any:.0%} (at the last step {self.success_last:.0%}), environment's return "
            f"{self.env_return:.4g}, reward {self.reward_return:.4g}, over {self.num_episodes} episodes"
        )


def evaluate_policy(
    env: VectorEnv[Any, Any, Any],
    agent: Agent,
    payer: Payer,
    *,
    seeds: Sequence[int],
    num_episodes: int,
    step: int,
    frame_stack: int = 1,
    goal: UInt8[ndarray, "G 3 H W"] | None = None,
    videos: Path | None = None,
    num_videos: int = 0,
) -> PolicyScore:
    """Run a policy without exploration.

    Args:
        env: Vector environment of its own, in autoreset mode SAME_STEP.
        agent: Acts by its best action.
        payer: Pays the episodes, for `reward_return` and the curves of the videos.
        seeds: Of each environment; the same seeds begin the same episodes.
        num_episodes: Episodes to run, shared evenly by the environments.
        step: Environment steps of training so far.
        frame_stack: Frames that the policy sees at once.
        goal: Goal frames of every episode; None takes the environment's.
        videos: Folder for videos of the first episodes, with score and reward under the frames.
        num_videos: Episodes to write there.
    """
    collector = Collector(env, frame_stack=frame_stack, goal=goal, in_stages=payer.in_stages)
    lived = _run(collector, agent, seeds, num_episodes, step)
    paid = [payer.pay(experience) for experience in lived]
    if videos is not None:
        for number, (experience, payment) in enumerate(zip(lived[:num_videos], paid, strict=False)):
            write_episode_video(experience, payment, videos / f"episode-{number}.mp4", fps=payer.fps)
    return PolicyScore(
        step=step,
        num_episodes=len(lived),
        success_any=float(np.mean([experience.success.any() for experience in lived])),
        success_last=float(np.mean([experience.success[-1] for experience in lived])),
        env_return=float(np.mean([experience.env_reward.sum() for experience in lived])),
        reward_return=float(np.mean([payment.reward.sum() for payment in paid])),
    )


def _run(collector: Collector, agent: Agent, seeds: Sequence[int], num_episodes: int, step: int) -> list[Experience]:
    """Run episodes, the same number in each environment: taking those that end first would prefer short ones."""
    num_envs = collector.env.num_envs
    wanted = [len(range(row, num_episodes, num_envs)) for row in range(num_envs)]
    lived: list[list[Experience]] = [[] for _ in range(num_envs)]
    collector.reset(seeds)
    while any(len(mine) < count for mine, count in zip(lived, wanted, strict=True)):
        collector.send(agent.act(collector.observation(), explore=False, step=step))
        for experience in collector.receive():
            if len(lived[experience.env]) < wanted[experience.env]:
                lived[experience.env].append(experience)
    return [lived[number % num_envs][number // num_envs] for number in range(num_episodes)]


def write_episode_video(experience: Experience, payment: Payment, path: Path, *, fps: float) -> None:
    """Write an episode with its curves below: a model's score and the reward, or the reward alone.

    Raises:
        ValueError: The episode was recorded without pictures.
    """
    if experience.pixels is None:
        raise ValueError("the environment makes no pictures, so there is nothing to show; leave out videos")
    episode = experience.episode(id=path.stem, fps=fps)
    if payment.scores:
        name, scores = next(iter(payment.scores.items()))
        overlay_video(ScoredEpisode(episode=episode, scores=scores, rewards=payment.reward, score_name=name), path)
    else:
        # nothing is paid for the first frame
        rewards = np.concatenate([payment.reward[:1] * 0, payment.reward])
        overlay_video(ScoredEpisode(episode=episode, scores=rewards, score_name="reward"), path)
