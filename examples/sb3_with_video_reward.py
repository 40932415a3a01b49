"""Train Stable-Baselines3's SAC or PPO on a reward learned from video; the policy itself sees the robot's state.

python examples/sb3_with_video_reward.py runs/mine SAC 100000    # or `pixels`, which needs no training
"""

import sys

import stable_baselines3
from stable_baselines3.common.vec_env import VecMonitor

from vidreward.envs import make_env
from vidreward.integrations.sb3 import SB3VecEnv
from vidreward.rl.reward import Reward, RewardMix, RewardTerm
from vidreward.rl.wrapper import VideoReward


def main(run: str, algorithm: str = "SAC", num_steps: int = 100_000) -> None:
    """Learn to push, paid by the learned reward and, in each step in which the task is done, 1 by the environment."""
    mix = RewardMix(terms=(RewardTerm(model=run),), env_weight=1.0)
    env = VideoReward(make_env("tabletop/push", num_envs=4), Reward(mix))
    make_agent = getattr(stable_baselines3, algorithm)
    agent = make_agent("MlpPolicy", VecMonitor(SB3VecEnv(env, observe="state")), verbose=1, seed=0)
    agent.learn(num_steps)
    agent.save(f"{algorithm}_push")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
