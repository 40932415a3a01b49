"""HOLD's tasks: what is done when, what is paid, how it looks, and that each can be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray

pytest.importorskip("metaworld", reason="the metaworld extra is not installed")

from vidreward.data import open_episodes
from vidreward.envs.hold_arm import HoldEnv
from vidreward.envs.hold_tasks import TASKS, DrawerOpen, Pushing, hold_task
from vidreward.envs.record import RecordConfig, record_episodes

NUM_ACTIONS = {"pushing": 2, "drawer-open": 2, "close-drawer": 5, "push-cup": 5, "turn-faucet": 5}
HORIZONS = {"pushing": 100, "drawer-open": 200, "close-drawer": 60, "push-cup": 60, "turn-faucet": 60}
SIZES = {"pushing": 48, "drawer-open": 48, "close-drawer": 120, "push-cup": 120, "turn-faucet": 120}


@pytest.fixture(scope="module")
def envs() -> Iterator[dict[str, HoldEnv]]:
    """One environment of each task, drawing nothing unless asked."""
    made = {name: kind(pixels=False, goals=False) for name, kind in TASKS.items()}
    yield made
    for env in made.values():
        env.close()


def set_joint(env: HoldEnv, name: str, *values: float) -> None:
    env.data.joint(name).qpos[: len(values)] = values
    env._update_places()


def test_names_and_sizes(envs: dict[str, HoldEnv]) -> None:
    assert set(TASKS) == set(NUM_ACTIONS)
    for name, env in envs.items():
        assert env.action_space.shape == (NUM_ACTIONS[name],)
        assert env.max_steps == HORIZONS[name]
        assert env.image().shape == (3, SIZES[name], SIZES[name])
        observation, _ = env.reset(seed=0)
        assert set(observation) == {"state"}
        assert env.observation_space.contains(observation)
    with pytest.raises(ValueError, match=r"did you mean 'pushing'\? There are pushing, drawer-open"):
        hold_task("push")


@pytest.mark.parametrize(
    ("task", "joint", "outside", "inside"),
    [
        ("pushing", "puck", (0.016, 0.735), (0.015, 0.736)),  # L1 distances of 0.031 and 0.029 from (0, 0.75)
        ("pushing", "puck", (-0.031, 0.75), (-0.029, 0.75)),
        ("drawer-open", "goal_slidey", (-0.119,), (-0.121,)),
        ("close-drawer", "goal_slidey", (-0.051,), (-0.049,)),
        ("push-cup", "mug", (0.0, 0.624, 0.0), (0.0, 0.626, 0.0)),  # 0.076 and 0.074 from (0, 0.7, 0)
        ("turn-faucet", "knob_Joint_1", (-0.009,), (-0.011,)),
    ],
)
def test_success_begins_at_its_threshold(
    envs: dict[str, HoldEnv], task: str, joint: str, outside: tuple[float, ...], inside: tuple[float, ...]
) -> None:
    env = envs[task]
    env.reset(seed=0)
    assert not env.is_done()
    set_joint(env, joint, *outside)
    assert not env.is_done()
    set_joint(env, joint, *inside)
    assert env.is_done()


def test_dense_rewards_by_hand(envs: dict[str, HoldEnv]) -> None:
    for env in envs.values():
        env.reset(options={"layout": 0.05} if "layout" in env.OPTIONS else None)

    def distance(env: HoldEnv, point: tuple[float, float, float]) -> float:
        return float(np.linalg.norm(env.hand - point))

    push = envs["pushing"]
    to_mug = np.abs(push.hand - (0.05, 0.6, 0.0)).sum()
    assert push.dense_reward() == pytest.approx(-to_mug - 0.05 - 0.15)
    close, cup, tap = envs["close-drawer"], envs["push-cup"], envs["turn-faucet"]
    assert close.dense_reward() == pytest.approx(-0.07 - distance(close, (0.25, 0.62, 0.06)))
    set_joint(close, "goal_slidey", -0.02)
    assert close.dense_reward() == pytest.approx(1 - 0.02 - distance(close, (0.25, 0.62, 0.06)))
    assert cup.dense_reward() == pytest.approx(-0.1 - distance(cup, (0, 0.7, 0)))
    set_joint(tap, "knob_Joint_1", -0.5)
    assert tap.dense_reward() == pytest.approx(1 + 0.5 - distance(tap, (-0.27, 0.53, 0.11)))


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_does_the_task_and_is_paid_until_the_horizon(envs: dict[str, HoldEnv], task: str) -> None:
    env = envs[task]
    _, info = env.reset(seed=3)
    assert not info["success"]
    act, paid = env.expert(), []
    for step in range(env.max_steps):
        _, reward, terminated, truncated, info = env.step(act())
        assert not terminated
        assert truncated == (step == env.max_steps - 1)
        assert reward == float(info["success"])
        paid.append(reward)
    assert sum(paid) > 0.3 * env.max_steps  # paid in every step, not only in the first
    assert paid[-1] == 1.0
    assert info["dense_reward"] > -0.2


def test_pushing_is_solved_from_everywhere() -> None:
    env = Pushing(pixels=False, goals=False, max_steps=80)
    starts = []
    for seed in range(8):
        _, info = env.reset(seed=seed)
        starts.append(info["layout"])
        act = env.expert()
        rewards = [env.step(act())[1] for _ in range(80)]
        assert rewards[-1] == 1.0, info
    assert np.ptp(starts) > 0.08
    assert np.abs(starts).max() <= 0.1


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_episode_whatever_came_before(envs: dict[str, HoldEnv], task: str) -> None:
    env, rng = envs[task], np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, NUM_ACTIONS[task]))

    def play() -> ndarray:
        first, _ = env.reset(seed=7)
        return np.stack([first["state"]] + [env.step(action)[0]["state"] for action in actions])

    once = play()
    env.reset(seed=1)
    for _ in range(5):
        env.step(np.ones(NUM_ACTIONS[task]))
    np.testing.assert_array_equal(play(), once)
    fresh = TASKS[task](pixels=False, goals=False)
    env = fresh
    np.testing.assert_array_equal(play(), once)
    assert np.abs(once[-1] - once[0]).max() > 0.005


def test_actions_move_the_hand_and_are_bounded(envs: dict[str, HoldEnv]) -> None:
    env = envs["pushing"]
    env.reset(seed=0)
    before = env.target
    env.step(np.array([0.5, -1.0]))
    np.testing.assert_allclose(env.target - before, [0.01, -0.02, 0.0], atol=1e-9)
    env.step(np.array([100.0, 0.0]))
    np.testing.assert_allclose(env.target - before, [0.03, -0.02, 0.0], atol=1e-9)
    for _ in range(20):
        env.step(np.array([1.0, 0.0]))
    assert env.target[0] == pytest.approx(0.28)
    drawer = envs["drawer-open"]
    drawer.reset(seed=0)
    before = drawer.target
    drawer.step(np.array([-1.0, 0.5]))
    np.testing.assert_allclose(drawer.target - before, [0.0, -0.01, 0.005], atol=1e-9)
    cup = envs["push-cup"]
    cup.reset(seed=0)
    before = cup.target
    cup.step(np.array([0.1, 0.1, 0.1, 1.0, -1.0]))
    np.testing.assert_allclose(cup.target - before, 0.005, atol=1e-9)


def test_dvds_mug_stays_upright(envs: dict[str, HoldEnv]) -> None:
    env = envs["push-cup"]
    env.reset(seed=0)
    for _ in range(30):
        env.step(np.array([0.0, 1.0, 0.2, 0.0, -1.0]))
    np.testing.assert_array_equal(env.data.joint("mug").qpos[3:], (1, 0, 0, 0))


@pytest.mark.parametrize("task", TASKS)
def test_goal_pictures_are_frames_near_the_experts_end(task: str) -> None:
    env = TASKS[task](size=48)
    observation, info = env.reset(options={"layout": 0.0} if "layout" in TASKS[task].OPTIONS else None)
    goals = info.get("subgoals", info["goal"]).astype(float)
    assert len(goals) == (2 if task == "drawer-open" else 1)
    np.testing.assert_array_equal(info["goal"], goals[-1:])
    act, frames, rewards = env.expert(), [observation["pixels"].astype(float)], []
    for _ in range(env.max_steps // 2 if task != "pushing" else 50):
        observation, reward, *_ = env.step(act())
        frames.append(observation["pixels"].astype(float))
        rewards.append(reward)
    away = np.abs(np.stack(frames)[:, None] - goals[None]).mean((2, 3, 4))
    nearest = away.argmin(0)
    assert (away.min(0) < 0.5).all()  # of 255
    assert (away[0] > 2.0).all()
    assert rewards[nearest[-1] - 1] == 1.0
    assert (np.diff(nearest) > 0).all()
    env.close()


def test_making_goal_pictures_disturbs_nothing(envs: dict[str, HoldEnv]) -> None:
    env = Pushing(size=32)
    plain, _ = envs["pushing"].reset(seed=11)
    with_goal, _ = env.reset(seed=11)
    np.testing.assert_array_equal(plain["state"], with_goal["state"])
    for _ in range(3):
        action = np.array([0.3, 1.0])
        np.testing.assert_array_equal(envs["pushing"].step(action)[0]["state"], env.step(action)[0]["state"])
    env.close()


def red(picture: ndarray) -> ndarray:
    """Say which pixels are red: the mug, the arm, the tap's handle."""
    red, green, blue = picture.astype(int)
    return (red > 90) & (green < 0.5 * red) & (blue < 0.5 * red)


def look(kind: Callable[..., HoldEnv], **settings: object) -> ndarray:
    env = kind(size=64, pixels=False, goals=False, **settings)
    env.reset(seed=0)
    picture = env.image()
    env.close()
    return picture


def test_pictures_are_upright_and_mirrored() -> None:
    dvd = look(TASKS["turn-faucet"])
    assert dvd[:, :8].std((1, 2)).mean() < 3  # the even background is above
    assert dvd[:, 32:].std((1, 2)).mean() > 20
    _, columns = np.nonzero(red(dvd)[20:40])  # between the coffee machine and the arm: the tap's handle
    assert columns.mean() > 40
    np.testing.assert_array_equal(look(TASKS["turn-faucet"], mirrored=False), dvd[:, :, ::-1])

    env = Pushing(size=64, pixels=False, goals=False)
    pictures = []
    for x in (-0.1, 0.1):
        env.reset(options={"layout": x})
        pictures.append(env.image())
    env.close()
    moved = np.abs(pictures[0].astype(int) - pictures[1]).sum(0) > 60
    assert red(pictures[0])[:20].any()  # the arm reaches in from above
    assert np.nonzero(red(pictures[0]) & moved)[1].mean() < 32 < np.nonzero(red(pictures[1]) & moved)[1].mean()
    green = look(DrawerOpen)
    assert (green[1].astype(int) - green[0] > 20)[:, :32].sum() > 10 * (green[1].astype(int) - green[0] > 20)[
        :, 40:
    ].sum()


def test_other_cameras_and_shapes() -> None:
    env = TASKS["close-drawer"](size=(40, 60), camera="corner2", goals=False)
    observation, _ = env.reset(seed=0)
    assert observation["pixels"].shape == (3, 40, 60)
    square, wide = (TASKS["close-drawer"](size=size, goals=False) for size in (48, (48, 72)))
    for made in (square, wide):
        made.reset(seed=0)
    # the square picture is the middle of the wide one: what the original crops for the reward
    middle = wide.image()[:, :, 12:60].astype(int)
    assert np.abs(middle - square.image()).mean() < 1.0
    for made in (env, square, wide):
        made.close()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("pushing", {"camera": "conrer"}, "did you mean 'corner'"),
        ("pushing", {"render": "slow"}, "fast, full"),
        ("pushing", {"spread": 0.5}, "0 to 0.15 m"),
        ("drawer-open", {"axes": "yw"}, "no axis of the hand 'w'; there are x, y, z"),
        ("drawer-open", {"success_opening": 0.2}, "between 0 and 0.16 m"),
        ("drawer-open", {"spread": 0.2}, "0 to 0.04 m"),
    ],
)
def test_wrong_settings_are_explained(task: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASKS[task](**settings)  # type: ignore[arg-type]


def test_unknown_reset_options_are_refused(envs: dict[str, HoldEnv]) -> None:
    with pytest.raises(ValueError, match="no reset option 'layuot'; did you mean 'layout'"):
        envs["pushing"].reset(options={"layuot": 0.0})
    with pytest.raises(ValueError, match="there are none"):
        envs["push-cup"].reset(options={"layout": 0.0})


@pytest.mark.slow
def test_all_tasks_are_recorded_into_one_folder(tmp_path: Path) -> None:
    record_episodes(tmp_path / "v", RecordConfig(env="hold", num_episodes=1, size=48, num_workers=1))
    episodes = open_episodes(tmp_path / "v")
    assert [episode.task for episode in episodes] == list(TASKS)
    for episode in episodes:
        assert episode.success
        assert episode.fps == pytest.approx(10 if episode.task == "pushing" else 80)
        state, action = episode.column("state"), episode.column("action")
        assert state is not None
        assert action is not None
        assert (state.shape, action.shape) == ((episode.num_frames, 10), (episode.num_frames, 5))
        first, last = episode.frames([0, episode.num_frames - 1]).astype(int)
        assert np.abs(first - last).mean() > 1
