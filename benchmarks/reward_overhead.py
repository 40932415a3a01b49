"""What a video reward costs: steps of an environment paid by it, against the same steps and bare forward passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from measure import Ratio, compare
from vidreward.envs import make_env
from vidreward.reward_model import RewardModel
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.rl.reward import Reward, RewardTerm
from vidreward.rl.wrapper import VideoReward
from vidreward.scoring import autocast
from vidreward.types import Video

MODELS: dict[str, Callable[[], RewardModel]] = {
    "hold_c": lambda: HoldC(HoldCConfig(num_filters=16)),
    "hold_r": lambda: HoldR(HoldRConfig(num_filters=16), mean_fps=10.0),
}


def reward_overhead(
    device: torch.device,
    *,
    method: str,
    num_envs: int = 8,
    size: int = 64,
    num_steps: int = 200,
    num_repetitions: int = 5,
) -> Ratio:
    """Compare `VideoReward` with stepping the environments and running the network once on their frames.

    The bare side is the least that any reward from these frames costs: no goal, no shaping, no info, no ends of
    episodes. 1 would mean that all the rest is free.
    """
    torch.manual_seed(0)
    model = MODELS[method]().to(device).eval()
    actions = np.random.default_rng(0).uniform(-1, 1, (num_steps, num_envs, 3)).astype(np.float32)
    bare_env = make_env("tabletop/push", num_envs=num_envs, size=size)
    paid_env = VideoReward(make_env("tabletop/push", num_envs=num_envs, size=size), Reward(RewardTerm(model=model)))

    def bare() -> int:
        _, info = bare_env.reset(seed=0)
        goal = torch.from_numpy(info["goal"]).to(device)
        for action in actions:
            observation, *_ = bare_env.step(action)
            frames = torch.from_numpy(observation["pixels"]).to(device)
            with torch.inference_mode(), autocast(device, "auto"):
                forward(model, frames, goal).cpu()
        return num_envs * num_steps

    def paid() -> int:
        paid_env.reset(seed=0)
        for action in actions:
            paid_env.step(action)
        return num_envs * num_steps

    return compare(
        f"step {num_envs} environments with a {method} reward, {size} px, against the step and a bare forward pass",
        ("bare", bare),
        ("VideoReward", paid),
        unit="steps",
        target=0.9,
        num_repetitions=num_repetitions,
    )


def forward(model: RewardModel, frames: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Run the network once on N frames: HOLD-C embeds them, HOLD-R looks at each beside its goal."""
    if isinstance(model, HoldC):
        return model.encode(frames)
    return model.score(Video.from_frames(frames[:, None], goal=goal))
