"""Train PPO on a reward learned from video, everything in one function as CleanRL writes it.

python examples/cleanrl_with_video_reward.py runs/mine    # or `pixels`, which needs no training
"""

import sys

import torch
from torch import nn
from torch.distributions import Normal

from vidreward.envs import make_env
from vidreward.rl.reward import Reward, RewardTerm
from vidreward.rl.wrapper import VideoReward


def main(run: str, num_updates: int = 200, num_steps: int = 64, gamma: float = 0.95) -> None:
    """Learn to reach in the tabletop world, paid by the learned reward alone."""
    env = VideoReward(make_env("tabletop/reach", num_envs=8), Reward(RewardTerm(model=run)))
    actor, critic = (nn.Sequential(nn.Linear(23, 64), nn.Tanh(), nn.Linear(64, size)) for size in (3, 1))
    log_std = nn.Parameter(torch.full((3,), -0.5))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters(), log_std], lr=3e-3)
    state = torch.from_numpy(env.reset(seed=0)[0]["state"])
    for update in range(num_updates):
        rows = []
        for _ in range(num_steps):
            with torch.no_grad():
                policy, value = Normal(actor(state), log_std.exp()), critic(state)[:, 0]
            action = policy.sample()
            observation, reward, terminated, truncated, info = env.step(action.numpy())
            done = torch.from_numpy(terminated | truncated)
            rows.append((state, action, policy.log_prob(action).sum(-1), value, torch.from_numpy(reward).float(), done))
            state = torch.from_numpy(observation["state"])
        states, actions, log_probs, values, rewards, dones = (torch.stack(part) for part in zip(*rows, strict=True))
        advantages, advantage, next_value = torch.zeros_like(rewards), torch.zeros(8), critic(state)[:, 0].detach()
        for t in reversed(range(num_steps)):
            advantage = rewards[t] - values[t] + ~dones[t] * gamma * (next_value + 0.95 * advantage)
            advantages[t], next_value = advantage, values[t]
        scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        for _ in range(8):
            policy = Normal(actor(states), log_std.exp())
            ratio = (policy.log_prob(actions).sum(-1) - log_probs).exp()
            gain = torch.minimum(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled).mean()
            optimizer.zero_grad()
            ((critic(states)[..., 0] - advantages - values).square().mean() - gain).backward()
            optimizer.step()
        print(f"update {update}: reward {rewards.mean():.3f} a step, {info['success'].mean():.0%} done")


if __name__ == "__main__":
    main(sys.argv[1])
