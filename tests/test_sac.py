"""SAC against one written out plainly: a network for each critic, an optimiser for each loss, in double precision."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vidreward.rl.agent import Batch
from vidreward.rl.sac import Sac, SacConfig, SacDraws, recipe, recipe_hold, sample_squashed

ACTIONS = spaces.Box(-1, 1, (2,))
SPACE = spaces.Dict({"pixels": spaces.Box(0, 255, (3, 16, 16), np.uint8), "state": spaces.Box(-1, 1, (5,))})


def build(seed: int = 0, **settings: object) -> Sac:
    config = SacConfig(**{"hidden_dims": (16, 12), "precision": "fp32", **settings})  # type: ignore[arg-type]
    return config.build(SPACE, ACTIONS, seed=seed)


def random_batch(num: int, seed: int, frame_stack: int = 1) -> Batch:
    rng = np.random.default_rng(seed)
    observations = [
        {
            "pixels": torch.from_numpy(rng.integers(256, size=(num, 3 * frame_stack, 16, 16), dtype=np.uint8)),
            "state": torch.from_numpy(rng.normal(size=(num, 5)).astype(np.float32)),
        }
        for _ in range(2)
    ]
    action = torch.from_numpy(rng.uniform(-1, 1, (num, 2)).astype(np.float32))
    reward = torch.from_numpy(rng.normal(size=num).astype(np.float32))
    discount = torch.from_numpy(0.99 * (rng.random(num) < 0.8).astype(np.float32))
    return Batch(observations[0], action, reward, discount, observations[1])


class PlainEncoder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.layers = copy.deepcopy(encoder.layers).double()

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.double() / 255
        for layer in self.layers:
            x = F.max_pool2d(F.relu(layer(x)), 2)
        return x.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order


def plain_mlp(stacked: nn.Module, number: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for weight, bias in zip(stacked.weights, stacked.biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[2]).double()
        linear.weight.data.copy_(weight[number].T)
        linear.bias.data.copy_(bias[number, 0])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainSac:
    """Soft actor-critic as its equations read, with an Adam for each critic, the actor and the temperature."""

    def __init__(self, agent: Sac, lr: float) -> None:
        self.config, self.lr = agent.config, lr
        self.actor = plain_mlp(agent.actor, 0)
        self.critics = [plain_mlp(agent.critic, number) for number in (0, 1)]
        self.targets = copy.deepcopy(self.critics)
        sees = agent.actor_encoder is not None
        self.actor_encoder = PlainEncoder(agent.actor_encoder) if sees else None
        self.critic_encoder = PlainEncoder(agent.critic_encoder) if sees else None
        self.target_encoder = copy.deepcopy(self.critic_encoder)
        self.log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        encoder = list(self.critic_encoder.parameters()) if self.critic_encoder else []
        own = [*self.actor.parameters(), *(self.actor_encoder.parameters() if self.actor_encoder else [])]
        if self.config.variant == "as_coded":
            groups = [[*critic.parameters(), *encoder] for critic in self.critics]
        else:
            groups = [[*self.critics[0].parameters(), *self.critics[1].parameters(), *encoder]]
        self.optimizers = [torch.optim.Adam(group, lr=lr) for group in (*groups, own, [self.log_temperature])]
        self.num_critic_optimizers = len(groups)

    def features(self, encoder: nn.Module | None, observation: dict[str, Tensor]) -> Tensor:
        parts = [encoder(observation["pixels"])] if encoder is not None else []
        if "state" in self.config.observed:
            parts.append(observation["state"].double())
        return torch.cat(parts, -1)

    def act(self, observation: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(self.features(self.actor_encoder, observation)).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        x = mean + normal.scale * noise.double()
        log_prob = normal.log_prob(x) - torch.log1p(-(x.tanh() ** 2))
        return x.tanh(), log_prob.sum(-1)

    def update(self, batch: Batch, draws: SacDraws) -> None:
        observation = {**batch.observation, "pixels": self.shift(batch.observation["pixels"], draws.shift)}
        following = {**batch.next_observation, "pixels": self.shift(batch.next_observation["pixels"], draws.next_shift)}
        with torch.no_grad():
            temperature = self.log_temperature.exp()
            action, log_prob = self.act(following, draws.next_noise)
            seen = torch.cat([self.features(self.target_encoder, following), action], -1)
            value = torch.minimum(*(target(seen)[:, 0] for target in self.targets)) - temperature * log_prob
            target = batch.reward.double() + batch.discount.double() * value
        seen = torch.cat([self.features(self.critic_encoder, observation), batch.action.double()], -1)
        critic_losses = [0.5 * ((critic(seen)[:, 0] - target) ** 2).mean() for critic in self.critics]
        action, log_prob = self.act(observation, draws.noise)
        with torch.no_grad():
            known = self.features(self.critic_encoder, observation)
        seen = torch.cat([known, action], -1)
        actor_loss = (temperature * log_prob - torch.minimum(*(critic(seen)[:, 0] for critic in self.critics))).mean()
        temperature_loss = -(self.log_temperature * (log_prob.detach() - 2)).mean()
        losses = [*critic_losses] if self.num_critic_optimizers == 2 else [critic_losses[0] + critic_losses[1]]
        self.step([*losses, actor_loss, temperature_loss])

    def step(self, losses: list[Tensor]) -> None:
        """Take all gradients before the first step, then move the targets."""
        grads = [
            torch.autograd.grad(loss, optimizer.param_groups[0]["params"], retain_graph=True)
            for loss, optimizer in zip(losses, self.optimizers, strict=True)
        ]
        for optimizer, group in zip(self.optimizers, grads, strict=True):
            for parameter, grad in zip(optimizer.param_groups[0]["params"], group, strict=True):
                parameter.grad = grad
            optimizer.step()
        pairs = list(zip(self.targets, self.critics, strict=True))
        if self.critic_encoder is not None:
            pairs.append((self.target_encoder, self.critic_encoder))
        for slow, fast in pairs:
            for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
                a.data.mul_(1 - self.config.tau).add_(self.config.tau * b.data)

    def shift(self, pixels: Tensor, shift: Tensor) -> Tensor:
        mode = "constant" if self.config.variant == "as_coded" else "replicate"
        padded = F.pad(pixels.float(), (4, 4, 4, 4), mode=mode)
        height, width = pixels.shape[2:]
        rows = [p[:, dy : dy + height, dx : dx + width] for p, (dx, dy) in zip(padded, shift.tolist(), strict=True)]
        return torch.stack(rows)

    def tensors(self) -> dict[str, Tensor]:
        found = {"log_temperature": self.log_temperature}
        for name in ("actor", "actor_encoder", "critic_encoder", "target_encoder"):
            module = getattr(self, name)
            found |= {f"{name}.{k}": v for k, v in (module.state_dict() if module is not None else {}).items()}
        for name, modules in (("critic", self.critics), ("target_critic", self.targets)):
            for number, module in enumerate(modules):
                found |= {f"{name}{number}.{k}": v for k, v in module.state_dict().items()}
        return found


@pytest.mark.parametrize("variant", ["as_coded", "fixed"])
@pytest.mark.parametrize("observation", ["state", "pixels", "both"])
def test_updates_are_those_of_the_equations(variant: str, observation: str) -> None:
    agent = build(variant=variant, observation=observation, lr=1e-3)
    plain = PlainSac(agent, lr=1e-3)
    for step in range(4):
        batch, draws = random_batch(32, step), agent.draw(32)
        agent.learn(batch, draws)
        agent.num_updates += 1
        plain.update(batch, draws)
    ours = PlainSac(agent, lr=1e-3)
    ours.targets = [plain_mlp(agent.target_critic, number) for number in (0, 1)]
    if agent.target_encoder is not None:
        ours.target_encoder = PlainEncoder(agent.target_encoder)
    found = ours.tensors() | {"log_temperature": agent.log_temperature.double()}
    wanted = plain.tensors()
    away = torch.cat([(found[name] - tensor).abs().detach().flatten() for name, tensor in wanted.items()])
    # a gradient of nearly nothing may change its sign by rounding, and Adam makes a whole step of it
    assert float(away.max()) < 1e-3 and float((away > 1e-6).double().mean()) < 0.005


def test_time_limits_and_returns() -> None:
    """With discount 0 the target is the reward alone, whatever comes next."""
    agents = [build(), build()]
    batch = random_batch(8, 0)
    batch.discount.zero_()
    other = Batch(batch.observation, batch.action, batch.reward, batch.discount, random_batch(8, 1).next_observation)
    first, second = (agent.learn(b, agents[0].draw(8)) for agent, b in zip(agents, (batch, other), strict=True))
    assert torch.equal(first["critic_loss"], second["critic_loss"])


def test_crops_are_drawn_for_the_batch_or_for_each_row() -> None:
    coded = build(variant="as_coded", observation="pixels").draw(64)
    fixed = build(variant="fixed", observation="pixels").draw(64)
    assert len(coded.shift.unique(dim=0)) == 1 and len(coded.next_shift.unique(dim=0)) == 1
    assert len(fixed.shift.unique(dim=0)) > 20
    assert not torch.equal(fixed.shift, fixed.next_shift)
    assert 0 == int(fixed.shift.min()) and int(fixed.shift.max()) == 8


def test_hold_offsets_are_drawn_apart() -> None:
    agent = build(variant="as_coded", observation="pixels")
    offsets = []
    for number in range(30):
        agent.num_updates = number
        draws = agent.draw(2)
        offsets.append(torch.cat([draws.shift[0], draws.next_shift[0]]))
    drawn = torch.stack(offsets)
    assert len(drawn.unique(dim=0)) == 30
    assert bool((drawn[:, :2] != drawn[:, 2:]).any())


@pytest.mark.parametrize("observation", ["state", "pixels", "both"])
def test_low_precision_is_near(observation: str) -> None:
    exact, low = build(observation=observation), build(observation=observation, precision="bf16")
    batch = random_batch(64, 0)
    a, b = (agent.learn(batch, exact.draw(64)) for agent in (exact, low))
    for name in a:
        assert float(a[name]) == pytest.approx(float(b[name]), rel=0.05, abs=0.02), name
    for name, parameter in low.named_parameters():
        assert parameter.dtype == torch.float32, name


@pytest.mark.parametrize("variant", ["as_coded", "fixed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_weight_learns(variant: str, precision: str) -> None:
    agent = build(variant=variant, observation="both", precision=precision, lr=1e-2)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    for step in range(2):
        agent.update(random_batch(32, step), step)
    assert [name for name, tensor in agent.state_dict().items() if torch.equal(tensor, before[name])] == []


@pytest.mark.parametrize("variant", ["as_coded", "fixed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learning_goes_on_bit_for_bit(variant: str, precision: str, tmp_path: object) -> None:
    whole, first, second = (build(variant=variant, observation="both", precision=precision) for _ in range(3))
    for step in range(6):
        whole.update(random_batch(16, step), step)
    for step in range(3):
        first.update(random_batch(16, step), step)
    tensors = {name: tensor.clone().contiguous() for name, tensor in first.state().items()}
    save_file(tensors, f"{tmp_path}/agent.safetensors")
    second.load_state(load_file(f"{tmp_path}/agent.safetensors"))
    for step in range(3, 6):
        second.update(random_batch(16, step), step)
    resumed = second.state()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.state().items())
    seen = {name: value.numpy() for name, value in random_batch(5, 9).observation.items()}
    np.testing.assert_array_equal(*(agent.act(seen, explore=True, step=7) for agent in (whole, second)))


def test_state_is_there_before_the_first_update() -> None:
    fresh, trained = build(seed=1), build(seed=2)
    names = fresh.state().keys()
    trained.update(random_batch(8, 0), 0)
    assert trained.state().keys() == names
    trained.load_state({name: tensor.clone() for name, tensor in fresh.state().items()})
    for step in range(2):
        a, b = (agent.update(random_batch(8, step), step) for agent in (build(seed=1), trained))
    assert float(a["q"]) != float(b["q"])  # one update against two: the count of updates is part of the state


def test_tensors_of_another_agent_are_named() -> None:
    with pytest.raises(ValueError, match=r"actor\.weights\.0 is \(1, 5, 16\), the agent has \(1, 5, 8\)"):
        build(hidden_dims=(8, 12)).load_state(build().state())
    with pytest.raises(ValueError, match=r"missing model\.actor_encoder"):
        build(observation="both").load_state(build().state())


def test_acting_is_a_function_of_seed_and_step() -> None:
    agent, seen = build(), {"state": random_batch(300, 0).observation["state"].numpy()}
    best = agent.act(seen, explore=False, step=0)
    one, same, other = (agent.act(seen, explore=True, step=step) for step in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other) and not np.array_equal(one, best)
    assert best.dtype == np.float32 and np.abs(one).max() <= 1
    np.testing.assert_array_equal(best, agent.act(seen, explore=False, step=9))
    assert not np.array_equal(best, build(seed=1).act(seen, explore=False, step=0))


def test_density_of_squashed_actions_sums_to_one() -> None:
    x = torch.linspace(-9, 9, 20_001)[:, None]
    mean, log_std = torch.full_like(x, 0.3), torch.full_like(x, -0.2)
    action, log_prob = sample_squashed(mean, log_std, (x - 0.3) / math.exp(-0.2))
    assert float(torch.trapezoid(log_prob.exp(), action[:, 0])) == pytest.approx(1, abs=1e-3)


def test_temperature_seeks_the_wanted_entropy() -> None:
    eager, calm = build(target_entropy=50.0), build(target_entropy=-50.0)
    for agent in (eager, calm):
        agent.update(random_batch(16, 0), 0)
    assert eager.log_temperature.item() > 0 > calm.log_temperature.item()
    assert build().target_entropy == -2


def test_hold_as_its_authors_ran_it() -> None:
    config = recipe_hold()
    assert (config.variant, config.observation, config.bootstrap_on_timeout) == ("as_coded", "pixels", False)
    assert (config.batch_size, config.lr, config.tau, config.discount, config.n_step) == (256, 3e-4, 0.005, 0.99, 1)
    assert recipe().bootstrap_on_timeout and recipe().variant == "fixed"
    for size, dim in (((48, 48), 1152), ((120, 180), 10_800), ((64, 64), 2048)):
        space = spaces.Dict({"pixels": spaces.Box(0, 255, (3, *size), np.uint8)})
        agent = config.build(space, ACTIONS, seed=0)
        assert agent.critic_encoder is not None and agent.critic_encoder.dim == dim
        assert agent.critic.weights[0].shape == (2, dim + 2, 256)


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Dict({"pixels": SPACE["pixels"]}), ACTIONS, "looks at 'state', the environment shows pixels"),
        (SPACE, spaces.Box(-2, 2, (2,)), r"actions must be a vector in -1..1; .* rescale"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(space: spaces.Dict, actions: spaces.Box, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SacConfig().build(space, actions, seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")
def test_pendulum_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from sac_learning import steps_to_solve, train_ours

    solved, curve = steps_to_solve("pendulum", train_ours("pendulum", seed=0), max_steps=8000, eval_every=1000)
    assert solved is not None and curve[0] < -500 < -200 <= curve[-1]
