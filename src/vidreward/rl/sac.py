"""Soft actor-critic: HOLD's agent as its authors ran it, and a corrected one (docs/methods/sac.md).

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018), with two critics and a learned temperature.
All losses are taken with the weights before the update, as HOLD's code does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

from vidreward.nets.pixel_encoders import HoldEncoder, shift_pixels
from vidreward.rl.agent import Agent, AgentConfig, Batch, Dims, generator, make_adam, read_dims
from vidreward.rl.policies import ParallelMlp, hidden_type
from vidreward.scoring import Precision, autocast

LOG_STD = (-20.0, 2.0)
"""Range that the policy's log standard deviation is clipped to."""


@dataclass(frozen=True, kw_only=True)
class SacConfig(AgentConfig):
    """Settings of soft actor-critic; defaults are HOLD's, but for `variant` and time-outs."""

    variant: Literal["as_coded", "fixed"] = "fixed"
    """"as_coded": one crop for the whole batch, on black, and each critic's Adam moves the encoder that both share.
    "fixed": a shift for each row, and one step of the encoder for both critics."""
    hidden_dims: tuple[int, ...] = (256, 256)
    lr: float = 3e-4
    """Of the actor, the critics and the temperature."""
    tau: float = 0.005
    """How far the target networks go towards the critics at each update."""
    target_entropy: float | None = None
    """What the temperature keeps the policy's entropy at, in nats; None is minus the number of actions."""
    pad: int = 4
    """Pixels that pictures are shifted by at most; 0 leaves them."""
    precision: Precision = "auto"
    """Of hidden layers and convolutions; "auto" is bfloat16 where the processor has it."""

    def build(
        self, observation_space: spaces.Dict, action_space: spaces.Box, *, seed: int, device: torch.device | str = "cpu"
    ) -> Sac:
        return Sac(self, read_dims(self, observation_space, action_space), seed=seed, device=torch.device(device))


def recipe() -> SacConfig:
    """Return the default agent: from the state, corrected."""
    return SacConfig()


def recipe_hold() -> SacConfig:
    """Return HOLD's agent as its authors ran it: from pictures, time-outs stored as terminal."""
    return SacConfig(variant="as_coded", observation="pixels", bootstrap_on_timeout=False)


@dataclass(frozen=True)
class SacDraws:
    """Everything random in one update."""

    noise: Float[Tensor, "B A"]
    """Standard normal, of the policy's action in the actor's loss."""
    next_noise: Float[Tensor, "B A"]
    """Standard normal, of the next action in the target."""
    shift: Int[Tensor, "B 2"]
    """Of the pictures, 0..2 * pad."""
    next_shift: Int[Tensor, "B 2"]


class Sac(Agent):
    """Two critics, a squashed Gaussian policy and a temperature, with encoders where the policy sees pictures."""

    def __init__(self, config: SacConfig, dims: Dims, *, seed: int, device: torch.device) -> None:
        super().__init__(seed=seed)
        self.config = config
        self.hidden_type = hidden_type(device, config.precision)
        self.action_dim = dims.action
        entropy = config.target_entropy
        self.target_entropy = -float(dims.action) if entropy is None else entropy
        noise = generator("cpu", seed, 0)
        encoders = [HoldEncoder(*dims.pixels, noise) if dims.pixels else None for _ in range(2)]
        self.actor_encoder, self.critic_encoder = encoders
        seen = dims.state + (encoders[0].dim if encoders[0] else 0)
        self.actor = ParallelMlp(1, (seen, *config.hidden_dims, 2 * dims.action), _glorot_uniform, noise)
        self.critic = ParallelMlp(2, (seen + dims.action, *config.hidden_dims, 1), _glorot_uniform, noise)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.to(device)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.target_encoder = copy.deepcopy(self.critic_encoder)
        if self.target_encoder is not None:
            self.target_encoder.requires_grad_(False)
        self._slow = _parameters(self.target_critic, self.target_encoder)
        self._fast = _parameters(self.critic, self.critic_encoder)
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # Adam treats each number by itself: one optimiser for networks of equal rate is one for each
        self.optimizers["optimizer"] = make_adam(trained, config.lr)
        if self.critic_encoder is not None and config.variant == "as_coded":
            self.optimizers["second_optimizer"] = make_adam(self.critic_encoder.parameters(), config.lr)

    @property
    def device(self) -> torch.device:
        return self.log_temperature.device

    @torch.inference_mode()
    def act(self, observation: Mapping[str, ndarray], *, explore: bool, step: int) -> Float[ndarray, "N A"]:
        seen = {name: torch.from_numpy(observation[name]).to(self.device) for name in self.config.observed}
        features = self._features(self.actor_encoder, seen)
        mean, log_std = self._policy(features, torch.float32)  # for few rows, cheaper than weights made bfloat16
        if explore:
            noise = torch.randn(mean.shape, generator=generator("cpu", self.seed, 1, step)).to(self.device)
            mean = mean + log_std.exp() * noise
        return mean.tanh().cpu().numpy()

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        draws = self.draw(len(batch.action))
        self.num_updates += 1
        return self.learn(batch.to(self.device), draws)

    def draw(self, batch_size: int) -> SacDraws:
        """Draw what the next update needs, a function of the seed and the number of updates."""
        source = generator(self.device, self.seed, 2, self.num_updates)
        normal = torch.randn((2, batch_size, self.action_dim), generator=source, device=self.device)
        num_shifts = 1 if self.config.variant == "as_coded" else batch_size
        most = 2 * self.config.pad + 1
        shift = torch.randint(most, (2, num_shifts, 2), generator=source, device=self.device).expand(-1, batch_size, -1)
        return SacDraws(normal[0], normal[1], shift[0], shift[1])

    def learn(self, batch: Batch, draws: SacDraws) -> dict[str, Tensor]:
        """Do one update with given noise: critics, actor and temperature from the old weights, then the targets."""
        observation = self._shifted(batch.observation, draws.shift)
        next_observation = self._shifted(batch.next_observation, draws.next_shift)
        temperature = self.log_temperature.detach().exp()
        target = self._target(batch, next_observation, temperature, draws.next_noise)
        features = self._features(self.critic_encoder, observation)
        # a copy for each critic, so that its gradient to the encoder can be told from the other's
        leaf = features.detach().expand(2, -1, -1).requires_grad_(features.requires_grad)
        q = self.critic(torch.cat([leaf, batch.action.expand(2, -1, -1)], -1), self.hidden_type)[..., 0]  # (2, B)
        mean, log_std = self._policy(self._features(self.actor_encoder, observation), self.hidden_type)
        action, log_prob = sample_squashed(mean, log_std, draws.noise)
        chosen = torch.cat([features.detach(), action], -1)
        value = self.critic(chosen, self.hidden_type, frozen=True)[..., 0].amin(0)
        critic_loss = 0.5 * (q - target).square().mean(1)  # (2,)
        actor_loss = (temperature * log_prob - value).mean()
        entropy = -log_prob.detach().mean()
        temperature_loss = self.log_temperature * (entropy - self.target_entropy)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        (critic_loss.sum() + actor_loss + temperature_loss).backward()
        self._step(features, leaf)
        return {
            "critic_loss": critic_loss.detach().sum(),
            "actor_loss": actor_loss.detach(),
            "q": q.detach().mean(),
            "entropy": entropy,
            "temperature": temperature,
        }

    @torch.no_grad()
    def _target(
        self, batch: Batch, next_observation: Mapping[str, Tensor], temperature: Tensor, noise: Tensor
    ) -> Float[Tensor, "B"]:
        """Compute r + discount * (min Q'(s', a') - temperature * log pi(a'|s')), a' drawn from the policy."""
        mean, log_std = self._policy(self._features(self.actor_encoder, next_observation), self.hidden_type)
        action, log_prob = sample_squashed(mean, log_std, noise)
        chosen = torch.cat([self._features(self.target_encoder, next_observation), action], -1)
        value = self.target_critic(chosen, self.hidden_type)[..., 0].amin(0)
        return batch.reward + batch.discount * (value - temperature * log_prob)

    def _step(self, features: Tensor, leaf: Tensor) -> None:
        """Move all weights, the critics' encoder once or once for each critic, then the targets."""
        optimizers = list(self.optimizers.values())
        if self.critic_encoder is None:
            optimizers[0].step()
        else:
            assert leaf.grad is not None
            weights = list(self.critic_encoder.parameters())
            shares = leaf.grad if len(optimizers) == 2 else leaf.grad.sum(0, keepdim=True)
            grads = [torch.autograd.grad(features, weights, share, retain_graph=True) for share in shares]
            for optimizer, own_grads in zip(optimizers, grads, strict=True):
                for weight, grad in zip(weights, own_grads, strict=True):
                    weight.grad = grad
                optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._slow, self._fast, self.config.tau)

    def _shifted(self, observation: Mapping[str, Tensor], shift: Int[Tensor, "B 2"]) -> dict[str, Tensor]:
        seen = {name: observation[name] for name in self.config.observed}
        if "pixels" in seen and self.config.pad:
            seen["pixels"] = shift_pixels(
                seen["pixels"], shift, self.config.pad, "zero" if self.config.variant == "as_coded" else "replicate"
            )
        return seen

    def _features(self, encoder: HoldEncoder | None, observation: Mapping[str, Tensor]) -> Float[Tensor, "B D"]:
        """Join what the encoder makes of the pictures with the state."""
        parts = [observation["state"]] if "state" in observation else []
        if encoder is not None:
            with autocast(self.device, self.config.precision):
                parts.insert(0, encoder(observation["pixels"]).float())
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _policy(
        self, features: Float[Tensor, "B D"], hidden_type: torch.dtype
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A"]]:
        """Return mean and log standard deviation before squashing."""
        mean, log_std = self.actor(features, hidden_type)[0].chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)


def sample_squashed(
    mean: Float[Tensor, "B A"], log_std: Float[Tensor, "B A"], noise: Float[Tensor, "B A"]
) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B"]]:
    """Draw tanh(mean + std * noise) and its log density, by the stable form of log(1 - tanh(x)^2).

    Example:
        >>> action, log_prob = sample_squashed(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
        >>> float(action), round(float(log_prob), 4)  # tanh is the identity at 0: a standard normal's density
        (0.0, -0.9189)
    """
    x = mean + log_std.exp() * noise
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    squash = 2 * (math.log(2) - x - F.softplus(-2 * x))
    return x.tanh(), (normal - squash).sum(-1)


def _parameters(*modules: nn.Module | None) -> list[Tensor]:
    return [parameter for module in modules if module is not None for parameter in module.parameters()]


def _glorot_uniform(matrix: Tensor, noise: torch.Generator) -> Tensor:
    return nn.init.xavier_uniform_(matrix, generator=noise)
