"""DrQ-v2 against the original's numbers: shifts, schedules, truncated normal, n-step returns, one whole update."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from goldens import golden
from vidreward.nets.pixel_encoders import shift_pixels
from vidreward.rl.agent import Batch
from vidreward.rl.drqv2 import (
    DrqDraws,
    DrqV2,
    DrqV2Config,
    log_density,
    recipe,
    recipe_easy,
    recipe_hard,
    recipe_humanoid,
    recipe_walker,
    recipe_walker_run,
    schedule,
    truncated_normal,
)
from vidreward.rl.replay import Replay

DATA = golden("drqv2/data.npz")
UPDATE = golden("drqv2/agent_update.npz")


@pytest.mark.parametrize("case", ["shift_pad4_h20", "shift_pad2_h9"])
def test_shifts_are_the_originals(case: str) -> None:
    pixels = torch.from_numpy(DATA[f"{case}/input"])
    assert float((pixels - pixels.round()).abs().max()) == 0
    shift = torch.from_numpy(DATA[f"{case}/shift_xy"]).long()
    moved = shift_pixels(pixels.byte(), shift, int(DATA[f"{case}/pad"]))
    np.testing.assert_allclose(moved.float(), DATA[f"{case}/output"], atol=2e-3)


def test_zero_border_is_black() -> None:
    pixels = torch.full((1, 1, 3, 3), 7, dtype=torch.uint8)
    moved = shift_pixels(pixels, torch.tensor([[0, 3]]), 2, "zero")  # two to the right, one up
    assert moved[0, 0].tolist() == [[0, 0, 7], [0, 0, 7], [0, 0, 0]]


@pytest.mark.parametrize("row", range(len(DATA["schedule/strings"])))
def test_schedules_are_the_originals(row: int) -> None:
    text = str(DATA["schedule/strings"][row])
    values = [schedule(text, int(step)) for step in DATA["schedule/steps"]]
    np.testing.assert_allclose(values, DATA["schedule/values"][row], rtol=1e-12)


@pytest.mark.parametrize(
    "text", ["linear(1.0,0.1)", "cosine(1,0,10)", "", "1.0 or so", "linear(a,b,c)", "linear(1,0.1,0)"]
)
def test_what_is_no_schedule_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no schedule; give a number"):
        DrqV2Config(std_schedule=text).build(space(), box(2), seed=0)


@pytest.mark.parametrize("text", ["0", "linear(1.0,0,100)", "step_linear(1.0,-0.1,5,0.1,5)"])
def test_noise_without_spread_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must stay above 0"):
        DrqV2Config(std_schedule=text).build(space(), box(2), seed=0)


@pytest.mark.parametrize("clip", [None, 0.3])
def test_truncated_normal_is_the_originals(clip: float | None) -> None:
    mean = torch.from_numpy(DATA["truncnorm/loc"]).requires_grad_()
    std, noise = float(DATA["truncnorm/std"]), torch.from_numpy(DATA["truncnorm/noise"])
    action = truncated_normal(mean, std, noise, clip)
    np.testing.assert_allclose(action.detach(), DATA[f"truncnorm/sample_clip_{clip}"], rtol=1e-6, atol=1e-7)
    (action * torch.from_numpy(DATA[f"truncnorm/grad_weight_{clip}"])).sum().backward()
    np.testing.assert_allclose(mean.grad, DATA[f"truncnorm/grad_loc_{clip}"], rtol=1e-6, atol=1e-7)
    whole = torch.from_numpy(DATA[f"truncnorm/logprob_clip_{clip}"]).sum(-1)
    np.testing.assert_allclose(log_density(action, mean, std).detach(), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_step", [1, 3])
def test_n_step_returns_are_the_originals(n_step: int) -> None:
    frames = DATA["nstep/episode_observation"]
    replay = Replay(
        observation={"pixels": frames.shape[1:]}, action_dim=3, capacity=60, n_step=n_step,
        discount=float(DATA[f"nstep{n_step}/gamma"]),
    )  # fmt: skip
    episode = {
        "action": DATA["nstep/episode_action"][1:],
        "reward": DATA["nstep/episode_reward"][1:, 0],
        "discount": DATA["nstep/episode_discount"][1:, 0],
    }
    replay.add_episode(pixels=np.zeros((8, *frames.shape[1:]), np.uint8), terminated=False,
                       action=np.zeros((7, 3), np.float32), reward=np.ones(7))  # fmt: skip
    replay.add_episode(pixels=frames, terminated=False, **episode)
    batch = replay.batch(7 + DATA[f"nstep{n_step}/idx"] - 1)  # the original's first row is a dummy
    wanted = {name: DATA[f"nstep{n_step}/{name}"] for name in ("obs", "action", "reward", "discount", "next_obs")}
    np.testing.assert_array_equal(batch.observation["pixels"], wanted["obs"])
    np.testing.assert_array_equal(batch.next_observation["pixels"], wanted["next_obs"])
    np.testing.assert_array_equal(batch.action, wanted["action"])
    np.testing.assert_allclose(batch.reward, wanted["reward"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(batch.discount, wanted["discount"][:, 0], rtol=1e-6)


def space() -> spaces.Dict:
    return spaces.Dict({"pixels": spaces.Box(0, 255, (3, 21, 21), np.uint8), "state": spaces.Box(-1, 1, (4,))})


def box(action_dim: int) -> spaces.Box:
    return spaces.Box(-1, 1, (action_dim,))


def names_of_the_original(agent: DrqV2) -> dict[str, torch.Tensor]:
    """Our tensors by the original's names; stacked matrices are taken apart and turned."""
    tensors = {}
    for index, layer in enumerate(agent.encoder.layers):
        tensors |= {f"encoder/convnet.{2 * index}.{name}": t for name, t in layer.state_dict().items()}
    trunks = {"actor": agent.actor_trunk, "critic": agent.critic_trunk, "critic_target": agent.target_trunk}
    heads = {"actor": agent.actor, "critic": agent.critic, "critic_target": agent.target_critic}
    for owner, trunk in trunks.items():
        tensors |= {f"{owner}/trunk.{name}": t for name, t in trunk.state_dict().items()}
        for number, member in enumerate(("policy",) if owner == "actor" else ("Q1", "Q2")):
            for index, (weight, bias) in enumerate(zip(heads[owner].weights, heads[owner].biases, strict=True)):
                tensors[f"{owner}/{member}.{2 * index}.weight"] = weight.detach()[number].T
                tensors[f"{owner}/{member}.{2 * index}.bias"] = bias.detach()[number, 0]
    return tensors


@pytest.fixture
def original() -> DrqV2:
    config = DrqV2Config(
        frame_stack=1, feature_dim=10, hidden_dim=24, lr=float(UPDATE["lr"]), tau=float(UPDATE["tau"]),
        precision="fp32",        std_schedule=str(UPDATE["stddev_schedule"]), std_clip=float(UPDATE["stddev_clip"]),
    )  # fmt: skip
    agent = config.build(space(), box(2), seed=0)
    before = {name[7:]: value for name, value in UPDATE.items() if name.startswith("before/")}
    ours = names_of_the_original(agent)
    assert ours.keys() == before.keys()
    for name, tensor in ours.items():
        tensor.copy_(torch.from_numpy(before[name].astype(np.float32)))
    return agent


def golden_batch() -> Batch:
    arrays = {name: torch.from_numpy(UPDATE[name]) for name in ("obs", "next_obs", "action", "reward", "discount")}
    return Batch(
        {"pixels": arrays["obs"]}, arrays["action"], arrays["reward"][:, 0], arrays["discount"][:, 0],
        {"pixels": arrays["next_obs"]},
    )  # fmt: skip


def golden_draws() -> DrqDraws:
    return DrqDraws(
        torch.from_numpy(UPDATE["shift_obs"]).long(),
        torch.from_numpy(UPDATE["shift_next_obs"]).long(),
        torch.from_numpy(UPDATE["noise_actor"]),
        torch.from_numpy(UPDATE["noise_next_action"]),
    )


@torch.no_grad()
def test_the_networks_are_the_originals(original: DrqV2) -> None:
    batch = golden_batch()
    features = original.encode(batch.observation["pixels"])
    near = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(features, UPDATE["forward_features"], **near)
    np.testing.assert_allclose(original.mean_action(features, {}), UPDATE["forward_mu"], **near)
    q = original.q_values(features, {}, batch.action)
    np.testing.assert_allclose(q[0], UPDATE["forward_q1"][:, 0], **near)
    np.testing.assert_allclose(q[1], UPDATE["forward_q2"][:, 0], **near)
    action = original.act({"pixels": UPDATE["obs"][:1]}, explore=False, step=0)
    np.testing.assert_allclose(action[0], UPDATE["eval_action"], **near)


def test_one_update_is_the_originals(original: DrqV2) -> None:
    numbers = original.learn(golden_batch(), golden_draws(), int(UPDATE["step"]))
    metrics = {name[7:]: float(value) for name, value in UPDATE.items() if name.startswith("metric/")}
    assert numbers.keys() == metrics.keys()
    for name, value in metrics.items():
        assert float(numbers[name]) == pytest.approx(value, rel=1e-3), name
    ours = names_of_the_original(original)
    for name in (name[6:] for name in UPDATE if name.startswith("after/")):
        away = np.abs(ours[name].numpy() - UPDATE[f"after/{name}"])
        assert away.max() <= 2 * float(UPDATE["lr"]), name
        assert np.mean(away > 2e-5) <= 0.01, name
    for name in (name[11:] for name in UPDATE if name.startswith("delta_norm/")):
        moved = ours[name].numpy() - UPDATE[f"before/{name}"].astype(np.float32)
        assert np.linalg.norm(moved) == pytest.approx(float(UPDATE[f"delta_norm/{name}"]), rel=1e-2), name
        slack = 4 * float(UPDATE["lr"]) * max(1, 0.01 * moved.size)
        assert moved.sum() == pytest.approx(float(UPDATE[f"delta_sum/{name}"]), abs=slack), name


def random_batch(num: int, seed: int, frame_stack: int = 1) -> Batch:
    rng = np.random.default_rng(seed)
    observations = [
        {
            "pixels": torch.from_numpy(rng.integers(256, size=(num, 3 * frame_stack, 21, 21), dtype=np.uint8)),
            "state": torch.from_numpy(rng.normal(size=(num, 4)).astype(np.float32)),
        }
        for _ in range(2)
    ]
    action = torch.from_numpy(rng.uniform(-1, 1, (num, 2)).astype(np.float32))
    reward = torch.from_numpy(rng.normal(size=num).astype(np.float32))
    return Batch(observations[0], action, reward, torch.full((num,), 0.97), observations[1])


def small(**settings: object) -> DrqV2:
    config = DrqV2Config(**{"feature_dim": 8, "hidden_dim": 16, **settings})  # type: ignore[arg-type]
    return config.build(space(), box(2), seed=3)


def test_every_weight_learns_from_its_own_loss() -> None:
    agent = small(observation="both", lr=1e-2)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    agent.update(random_batch(16, 0, 3), 0)
    still = [name for name, tensor in agent.state_dict().items() if torch.equal(tensor, before[name])]
    assert still == []


def test_the_actor_does_not_train_the_encoder() -> None:
    with_actor, without = small(lr=1e-2), small(lr=1e-2)
    for parameter in [*without.actor_trunk.parameters(), *without.actor.parameters()]:
        parameter.data.mul_(0.5)  # another actor; with discount 0, the critics' loss knows nothing of it
    batch = random_batch(16, 0, 3)
    batch.discount.zero_()
    for agent in (with_actor, without):
        agent.update(batch, 0)
    for a, b in zip(with_actor.encoder.parameters(), without.encoder.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learning_goes_on_bit_for_bit(precision: str) -> None:
    whole, first, second = (small(precision=precision, observation="both") for _ in range(3))
    for step in range(6):
        whole.update(random_batch(8, step, 3), step)
    for step in range(3):
        first.update(random_batch(8, step, 3), step)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for step in range(3, 6):
        second.update(random_batch(8, step, 3), step)
    resumed = second.state()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.state().items())
    seen = {name: value.numpy() for name, value in random_batch(5, 9, 3).observation.items()}
    np.testing.assert_array_equal(*(agent.act(seen, explore=True, step=7) for agent in (whole, second)))


def test_noise_is_scheduled_and_stays_in_bounds() -> None:
    agent = small(std_schedule="linear(1.0,0.0001,100)", frame_stack=1)
    seen = {"pixels": random_batch(200, 0).observation["pixels"].numpy()}
    best = agent.act(seen, explore=False, step=0)
    spread = [np.abs(agent.act(seen, explore=True, step=step) - best).mean() for step in (0, 50, 100)]
    assert spread[0] > spread[1] > 0.1 and spread[2] < 1e-3
    assert np.abs(agent.act(seen, explore=True, step=0)).max() < 1


def test_settings_of_the_papers_tasks() -> None:
    spread = [schedule(config.std_schedule, 100_000) for config in (recipe_easy(), recipe(), recipe_hard())]
    assert spread == pytest.approx([0.1, 0.82, 0.955])
    walkers, humanoid = (recipe_walker(), recipe_walker_run()), recipe_humanoid()
    assert [(w.n_step, w.batch_size, schedule(w.std_schedule, 500_000)) for w in walkers] == [(1, 512, 0.1)] * 2
    assert [schedule(w.std_schedule, 100_000) for w in walkers] == pytest.approx([0.1, 0.82])
    assert (humanoid.lr, humanoid.feature_dim, humanoid.n_step) == (8e-5, 100, 3)
    assert schedule(humanoid.std_schedule, 2_000_000) == pytest.approx(0.1)


def test_size_of_the_papers_networks() -> None:
    big = spaces.Dict({"pixels": spaces.Box(0, 255, (3, 84, 84), np.uint8)})
    agent = recipe().build(big, box(6), seed=0)
    actor, critic = (agent.actor_trunk, agent.actor), (agent.critic_trunk, agent.critic)
    counts = {"encoder": (agent.encoder,), "actor": actor, "critic": critic}
    numbers = {name: sum(p.numel() for m in modules for p in m.parameters()) for name, modules in counts.items()}
    assert agent.encoder.dim == 39_200
    assert numbers == {"encoder": 30_368, "actor": 3_068_124, "critic": 4_178_136}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"observation": "state"}, "learns from pictures"), ({"observation": "both"}, "the environment shows pixels")],
)
def test_an_environment_that_does_not_fit_is_refused(settings: dict[str, str], message: str) -> None:
    only_pixels = spaces.Dict({"pixels": spaces.Box(0, 255, (3, 21, 21), np.uint8)})
    with pytest.raises(ValueError, match=message):
        DrqV2Config(**settings).build(only_pixels, box(2), seed=0)  # type: ignore[arg-type]


def test_pictures_too_small_are_refused() -> None:
    tiny = spaces.Dict({"pixels": spaces.Box(0, 255, (3, 12, 12), np.uint8)})
    with pytest.raises(ValueError, match="at least 15 pixels"):
        DrqV2Config().build(tiny, box(2), seed=0)
