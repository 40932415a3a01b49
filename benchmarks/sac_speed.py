"""Train SAC: our loop against Stable-Baselines3's, with the same task, networks, batches and updates a step.

Examples:
    python benchmarks/sac_speed.py --threads 1
    python benchmarks/sac_speed.py --observation pixels --num-steps 60
"""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
import tyro
from gymnasium import spaces
from rich.console import Console
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from measure import Ratio, compare, machine, show, use_cores
from vidreward.envs import make_env
from vidreward.envs.tabletop import Tabletop
from vidreward.log import Logger
from vidreward.rl.off_policy import LoopConfig, train_policy
from vidreward.rl.payment import Payer
from vidreward.rl.replay import Replay
from vidreward.rl.reward import Reward, RewardMix
from vidreward.rl.rollout import spaces_of
from vidreward.rl.sac import SacConfig

TASK = "reach"
NUM_BEFORE = 100
"""Steps of random actions before the first update, on both sides."""


class PlainHoldEncoder(BaseFeaturesExtractor):
    """HOLD's encoder as one writes it for Stable-Baselines3, which scales pictures to 0-1 itself."""

    def __init__(self, observation_space: spaces.Box) -> None:
        channels, height, width = observation_space.shape
        super().__init__(observation_space, 8 * (height // 4) * (width // 4))
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def sac_speed(device: torch.device, *, observation: str, num_steps: int, num_repetitions: int = 5) -> Ratio:
    """Compare environment steps a second, acting, stepping, storing and one update for each step included."""
    size = 48
    settings = SacConfig(observation=observation, start_steps=NUM_BEFORE, update_after=NUM_BEFORE)  # type: ignore[arg-type]

    def ours() -> int:
        env = make_env(f"tabletop/{TASK}", size=size, pixels=observation == "pixels", goals=False)
        shown, taken = spaces_of(env)
        agent = settings.build(shown, taken, seed=0, device=device)
        replay = Replay(
            observation={observation: shown[observation].shape or ()}, action_dim=taken.shape[0], capacity=20_000
        )
        total = NUM_BEFORE + num_steps
        loop = LoopConfig(steps=total, checkpoint_every=total, log_every=total)
        payer = Payer(reward=Reward(RewardMix(env_weight=1.0)), fps=10.0)
        train_policy(env, agent, replay, payer, loop, Logger(None, quiet=True), settings=settings)
        return total

    def theirs() -> int:
        env = gymnasium.wrappers.TransformObservation(
            Tabletop(TASK, size=size, pixels=observation == "pixels", goals=False),
            lambda shown: shown[observation],
            Tabletop(TASK, size=size).observation_space[observation],
        )
        policy: dict[str, Any] = {"net_arch": [256, 256]}
        if observation == "pixels":
            policy["features_extractor_class"] = PlainHoldEncoder
        model = SAC(
            "CnnPolicy" if observation == "pixels" else "MlpPolicy",
            env,
            batch_size=settings.batch_size,
            buffer_size=20_000,
            learning_starts=NUM_BEFORE,
            policy_kwargs=policy,
            device=device,
            seed=0,
        )
        model.learn(NUM_BEFORE + num_steps)
        return NUM_BEFORE + num_steps

    return compare(
        f"SAC from {observation}: environment steps, with an update of {settings.batch_size} each",
        ("Stable-Baselines3", theirs),
        ("vidreward", ours),
        unit="steps",
        target=2.0,
        num_repetitions=num_repetitions,
    )


def main(
    observation: tuple[str, ...] = ("state", "pixels"),
    threads: int | None = None,
    num_steps: int | None = None,
    device: str = "cpu",
) -> None:
    """Measure and print.

    Args:
        observation: What the policies see: state, pixels.
        threads: Cores that both sides may use; all by default.
        num_steps: Steps with updates; None is 1000 from the state and 60 from pixels.
        device: Of the networks.
    """
    use_cores(threads)
    console = Console(width=None if Console().is_terminal else 160)
    defaults = {"state": 1000, "pixels": 60}
    results = [
        sac_speed(torch.device(device), observation=name, num_steps=num_steps or defaults[name]) for name in observation
    ]
    show(results, machine(torch.device(device)), console)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
