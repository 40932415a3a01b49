"""DrQ-v2: control from pictures with random shifts and n-step returns (docs/methods/drqv2.md).

Yarats et al., "Mastering Visual Continuous Control: Improved Data-Augmented Reinforcement Learning" (ICLR 2022),
https://github.com/facebookresearch/drqv2 (MIT). Formulas and defaults follow that code.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from gymnasium import spaces
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor, nn

from vidreward.nets.pixel_encoders import DrqEncoder, shift_pixels
from vidreward.rl.agent import Agent, AgentConfig, Batch, Dims, Observed, generator, make_adam, read_dims
from vidreward.rl.policies import ParallelMlp, hidden_type
from vidreward.scoring import Precision, autocast

EDGE = 1 - 1e-6
"""Actions are cut off here, so that the cut keeps away from the ends of tanh."""
_NUMBER = r"\s*([-+]?\d+\.?\d*(?:e[-+]?\d+)?)\s*"


@dataclass(frozen=True, kw_only=True)
class DrqV2Config(AgentConfig):
    """Settings of DrQ-v2; defaults are the paper's for tasks of medium difficulty."""

    observation: Observed = "pixels"
    frame_stack: int = 3
    n_step: int = 3
    start_steps: int = 2000
    update_after: int = 2000
    update_every: int = 2
    feature_dim: int = 50
    """Width that the encoder's features are projected to, once for the actor and once for the critics."""
    hidden_dim: int = 1024
    lr: float = 1e-4
    tau: float = 0.01
    """How far the target critics go towards the critics at each update."""
    std_schedule: str = "linear(1.0,0.1,500000)"
    """Standard deviation of the exploration noise by environment steps: a number, linear(from,to,steps), or
    step_linear(from,to,steps,to,steps)."""
    std_clip: float = 0.3
    """Largest noise of actions in the losses; exploration is not clipped."""
    pad: int = 4
    """Pixels that pictures are shifted by at most; 0 leaves them."""
    precision: Precision = "auto"
    """Of hidden layers and convolutions; "auto" is bfloat16 where the processor has it."""

    def build(
        self, observation_space: spaces.Dict, action_space: spaces.Box, *, seed: int, device: torch.device | str = "cpu"
    ) -> DrqV2:
        if self.observation == "state":
            raise ValueError("DrQ-v2 learns from pictures; choose observation 'pixels' or 'both', or the agent 'sac'")
        first, ramps = _parse_schedule(self.std_schedule)
        if min([first, *ramps[::2]]) <= 0:
            raise ValueError(f"std_schedule must stay above 0; got {self.std_schedule!r}")
        return DrqV2(self, read_dims(self, observation_space, action_space), seed=seed, device=torch.device(device))


def recipe() -> DrqV2Config:
    """Return the paper's settings for tasks of medium difficulty: exploration fades over 500 k steps."""
    return DrqV2Config()


def recipe_easy() -> DrqV2Config:
    """Return the paper's settings for easy tasks: exploration fades over 100 k steps."""
    return DrqV2Config(std_schedule="linear(1.0,0.1,100000)")


def recipe_hard() -> DrqV2Config:
    """Return the paper's settings for hard tasks: exploration fades over 2 M steps."""
    return DrqV2Config(std_schedule="linear(1.0,0.1,2000000)")


def recipe_walker() -> DrqV2Config:
    """Return the paper's settings for a walker that stands or walks: easy, one step of reward, batches of 512."""
    return replace(recipe_easy(), n_step=1, batch_size=512)


def recipe_walker_run() -> DrqV2Config:
    """Return the paper's settings for a walker that runs: as for one that walks, of medium difficulty."""
    return replace(recipe(), n_step=1, batch_size=512)


def recipe_humanoid() -> DrqV2Config:
    """Return the paper's settings for the humanoid: hard, slower learning, wider features."""
    return replace(recipe_hard(), lr=8e-5, feature_dim=100)


@dataclass(frozen=True)
class DrqDraws:
    """Everything random in one update."""

    shift: Int[Tensor, "B 2"]
    """Columns and rows that pictures move, 0..2 * pad."""
    next_shift: Int[Tensor, "B 2"]
    noise: Float[Tensor, "B A"]
    """Standard normal, of the action in the actor's loss."""
    next_noise: Float[Tensor, "B A"]
    """Standard normal, of the next action in the target."""


class DrqV2(Agent):
    """One encoder that the critics train, two critics, and a policy with scheduled noise."""

    def __init__(self, config: DrqV2Config, dims: Dims, *, seed: int, device: torch.device) -> None:
        super().__init__(seed=seed)
        assert dims.pixels is not None
        self.config = config
        self.hidden_type = hidden_type(device, config.precision)
        self.action_dim = dims.action
        noise = generator("cpu", seed, 0)
        self.encoder = DrqEncoder(*dims.pixels, noise)
        hidden = (config.hidden_dim, config.hidden_dim)
        seen = config.feature_dim + dims.state
        self.actor_trunk = _trunk(self.encoder.dim, config.feature_dim, noise)
        self.actor = ParallelMlp(1, (seen, *hidden, dims.action), _orthogonal, noise)
        self.critic_trunk = _trunk(self.encoder.dim, config.feature_dim, noise)
        self.critic = ParallelMlp(2, (seen + dims.action, *hidden, 1), _orthogonal, noise)
        self.to(device)
        self.target_trunk = copy.deepcopy(self.critic_trunk).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        # Adam treats each number by itself: one optimiser for encoder and critics is one for each
        self.optimizers["critic_optimizer"] = make_adam(
            [*self.encoder.parameters(), *self.critic_trunk.parameters(), *self.critic.parameters()], config.lr
        )
        self.optimizers["actor_optimizer"] = make_adam(
            [*self.actor_trunk.parameters(), *self.actor.parameters()], config.lr
        )

    @property
    def device(self) -> torch.device:
        return self.actor.weights[0].device

    @torch.inference_mode()
    def act(self, observation: Mapping[str, ndarray], *, explore: bool, step: int) -> Float[ndarray, "N A"]:
        seen = {name: torch.from_numpy(observation[name]).to(self.device) for name in self.config.observed}
        mean = self.mean_action(self.encode(seen["pixels"]), seen)
        if not explore:
            return mean.cpu().numpy()
        noise = torch.randn(mean.shape, generator=generator("cpu", self.seed, 1, step)).to(self.device)
        return truncated_normal(mean, schedule(self.config.std_schedule, step), noise).cpu().numpy()

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        draws = self.draw(len(batch.action))
        self.num_updates += 1
        return self.learn(batch.to(self.device), draws, step)

    def draw(self, batch_size: int) -> DrqDraws:
        """Draw what the next update needs, a function of the seed and the number of updates."""
        source = generator(self.device, self.seed, 2, self.num_updates)
        normal = torch.randn((2, batch_size, self.action_dim), generator=source, device=self.device)
        most = 2 * self.config.pad + 1
        shift = torch.randint(most, (2, batch_size, 2), generator=source, device=self.device)
        return DrqDraws(shift[0], shift[1], normal[0], normal[1])

    def learn(self, batch: Batch, draws: DrqDraws, step: int) -> dict[str, Tensor]:
        """Do one update with given noise: encoder and critics, then the actor, then the targets."""
        std = schedule(self.config.std_schedule, step)
        observation, next_observation = self._seen(batch.observation), self._seen(batch.next_observation)
        pixels = shift_pixels(observation["pixels"], draws.shift, self.config.pad)
        next_pixels = shift_pixels(next_observation["pixels"], draws.next_shift, self.config.pad)
        with torch.no_grad():
            next_features = self.encode(next_pixels)
            next_mean = self.mean_action(next_features, next_observation)
            next_action = truncated_normal(next_mean, std, draws.next_noise, self.config.std_clip)
            next_q = self.q_values(next_features, next_observation, next_action, target=True)
            target = batch.reward + batch.discount * next_q.amin(0)
        features = self.encode(pixels)
        q = self.q_values(features, observation, batch.action)
        critic_loss = (q - target).square().mean(1).sum()
        self._minimise("critic_optimizer", critic_loss)
        actor_numbers = self._learn_actor(features.detach(), observation, std, draws.noise)
        with torch.no_grad():
            for slow, fast in ((self.target_trunk, self.critic_trunk), (self.target_critic, self.critic)):
                torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), self.config.tau)
        return {
            "critic_loss": critic_loss.detach(),
            "critic_target_q": target.mean(),
            "critic_q1": q[0].detach().mean(),
            "critic_q2": q[1].detach().mean(),
            "batch_reward": batch.reward.mean(),
            **actor_numbers,
        }

    def encode(self, pixels: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Return the encoder's features."""
        with autocast(self.device, self.config.precision):
            features: Tensor = self.encoder(pixels)
        return features

    def mean_action(self, features: Float[Tensor, "B D"], observation: Mapping[str, Tensor]) -> Float[Tensor, "B A"]:
        """Return the policy's best action from the encoder's features."""
        seen = self._seen_through(self.actor_trunk, features, observation)
        return self.actor(seen, self.hidden_type)[0].tanh()

    def q_values(
        self,
        features: Float[Tensor, "B D"],
        observation: Mapping[str, Tensor],
        action: Float[Tensor, "B A"],
        *,
        target: bool = False,
    ) -> Float[Tensor, "2 B"]:
        """Return what the two critics, or their slow copies, say of an action."""
        trunk, critic = (self.target_trunk, self.target_critic) if target else (self.critic_trunk, self.critic)
        seen = self._seen_through(trunk, features, observation)
        return critic(torch.cat([seen, action], -1), self.hidden_type)[..., 0]

    def _learn_actor(
        self, features: Tensor, observation: Mapping[str, Tensor], std: float, noise: Tensor
    ) -> dict[str, Tensor]:
        """Move the actor towards actions that the new critics value; the encoder stays."""
        mean = self.mean_action(features, observation)
        action = truncated_normal(mean, std, noise, self.config.std_clip)
        with torch.no_grad():
            seen = self._seen_through(self.critic_trunk, features, observation)
        value = self.critic(torch.cat([seen, action], -1), self.hidden_type, frozen=True)[..., 0].amin(0)
        actor_loss = -value.mean()
        self._minimise("actor_optimizer", actor_loss)
        log_prob = log_density(action.detach(), mean.detach(), std)
        entropy = self.action_dim * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))
        return {
            "actor_loss": actor_loss.detach(),
            "actor_logprob": log_prob.mean(),
            "actor_ent": torch.full_like(log_prob[0], entropy),
        }

    def _seen_through(self, trunk: nn.Module, features: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Join a trunk's view of the features with the state, where the policy sees that."""
        with autocast(self.device, self.config.precision):
            seen = trunk(features).float()
        return torch.cat([seen, observation["state"]], -1) if "state" in observation else seen

    def _minimise(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()

    def _seen(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: observation[name] for name in self.config.observed}


def schedule(text: str, step: int) -> float:
    """Evaluate a schedule at a step.

    Args:
        text: A number; `linear(first,last,steps)`; or `step_linear(first,second,steps,last,steps)`, two ramps.
        step: Environment steps so far.

    Raises:
        ValueError: The text is none of these.

    Example:
        >>> schedule("linear(1.0,0.1,100000)", 50_000), schedule("step_linear(1,0.4,1000,0.1,100)", 1050)
        (0.55, 0.25)
    """
    value, ramps = _parse_schedule(text)
    for last, length in zip(ramps[::2], ramps[1::2], strict=True):
        mix = min(max(step / length, 0.0), 1.0)
        value = (1 - mix) * value + mix * last
        if step <= length:
            break
        step = step - int(length)
    return value


def _parse_schedule(text: str) -> tuple[float, list[float]]:
    """Return the first value, and for each ramp where it leads and how many steps it takes."""
    for name, num in (("", 1), ("linear", 3), ("step_linear", 5)):
        inner = ",".join([_NUMBER] * num)
        match = re.fullmatch(rf"{name}\({inner}\)" if name else inner, text)
        if match:
            first, *ramps = (float(value) for value in match.groups())
            if all(length >= 1 for length in ramps[1::2]):
                return first, ramps
    raise ValueError(
        f"{text!r} is no schedule; give a number, linear(first,last,steps) or "
        "step_linear(first,second,steps,last,steps), each of at least one step"
    )


def truncated_normal(
    mean: Float[Tensor, "B A"], std: float, noise: Float[Tensor, "B A"], clip: float | None = None
) -> Float[Tensor, "B A"]:
    """Draw mean + std * noise, the scaled noise cut to +-clip and the sum to +-(1 - 1e-6).

    The second cut passes gradients straight through.
    """
    scaled = std * noise
    if clip is not None:
        scaled = scaled.clamp(-clip, clip)
    x = mean + scaled
    return x - x.detach() + x.detach().clamp(-EDGE, EDGE)


def log_density(action: Float[Tensor, "B A"], mean: Float[Tensor, "B A"], std: float) -> Float[Tensor, "B"]:
    """Log density of the normal that was cut, as if it had not been: what DrQ-v2 logs."""
    per_action = -0.5 * ((action - mean) / std).square() - math.log(std) - 0.5 * math.log(2 * math.pi)
    return per_action.sum(-1)


def _trunk(inputs: int, outputs: int, noise: torch.Generator) -> nn.Sequential:
    """Project features to a small normalised vector in -1..1."""
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    assert isinstance(linear, nn.Linear)
    nn.init.orthogonal_(linear.weight, generator=noise)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.LayerNorm(outputs), nn.Tanh())


def _orthogonal(matrix: Tensor, noise: torch.Generator) -> Tensor:
    return nn.init.orthogonal_(matrix, generator=noise)
