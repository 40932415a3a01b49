"""Meta-World: the right way up, goals that are reached, resets that forget, fast pictures that show the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy import ndarray

pytest.importorskip("metaworld", reason="the metaworld extra is not installed")

import mujoco

from vidreward.envs.metaworld import MetaWorld, tasks
from vidreward.envs.mujoco_pictures import merge_vertices

TASK = "drawer-close-v3"


@pytest.fixture(scope="module")
def env() -> Iterator[MetaWorld]:
    made = MetaWorld(TASK, size=48, pixels=False, goals=False)
    yield made
    made.close()


def test_same_layout_same_episode_whatever_came_before(env: MetaWorld) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 4))

    def play(options: dict[str, int] | None, seed: int) -> ndarray:
        first, _ = env.reset(seed=seed, options=options)
        return np.stack([first["state"]] + [env.step(action)[0]["state"] for action in actions])

    once = play({"layout": 4}, 0)
    other = play({"layout": 5}, 0)
    np.testing.assert_array_equal(play({"layout": 4}, 1), once)
    assert np.abs(once - other).max() > 0.01
    np.testing.assert_array_equal(play(None, 3), play(None, 3))


def test_layouts_are_drawn_from_those_given() -> None:
    env = MetaWorld(TASK, layouts=(3, 8), pixels=False, goals=False)
    drawn = [env.reset(seed=seed)[1]["layout"] for seed in range(12)]
    assert set(drawn) == {3, 8}
    assert env.reset(options={"layout": 41})[1]["layout"] == 41


def test_reward_is_success_and_goes_on(env: MetaWorld) -> None:
    env.reset(options={"layout": 0})
    act, rewards = env.expert(), []
    for _ in range(100):
        _, reward, terminated, truncated, info = env.step(act())
        assert reward == float(info["success"])
        assert not terminated
        assert not truncated
        rewards.append(reward)
    assert rewards[0] == 0.0
    assert rewards[-1] == 1.0
    assert info["dense_reward"] > 5  # Meta-World's own goes up to 10


def test_truncation_and_action_repeat() -> None:
    single = MetaWorld(TASK, pixels=False, goals=False, max_steps=7)
    repeated = MetaWorld(TASK, pixels=False, goals=False, max_steps=7, action_repeat=3)
    for made in (single, repeated):
        made.reset(options={"layout": 0})
    action = np.array([0.2, 0.5, -0.4, 1.0])
    for last in (False, False, True):  # 3, 3 and the one step that is left
        state, _, _, truncated, _ = repeated.step(action)
        assert truncated == last
        for _ in range(1 if last else 3):
            expected, _, _, ended, _ = single.step(action)
        np.testing.assert_array_equal(state["state"], expected["state"])
        assert ended == last
    assert repeated.metadata["render_fps"] == pytest.approx(80 / 3)


def test_goal_is_a_frame_near_the_experts_end() -> None:
    env = MetaWorld(TASK, size=48)
    first, info = env.reset(options={"layout": 2})
    assert info["goal"].shape == (1, 3, 48, 48)
    goal, act = info["goal"][0].astype(int), env.expert()
    away, rewards = [], []
    for _ in range(100):
        observation, reward, *_ = env.step(act())
        away.append(np.abs(observation["pixels"] - goal).mean())
        rewards.append(reward)
    nearest = int(np.argmin(away))
    assert away[nearest] < 0.2
    assert rewards[nearest] == 1.0
    assert np.abs(first["pixels"] - goal).mean() > 1.5
    _, again = env.reset(options={"layout": 2})
    np.testing.assert_array_equal(again["goal"], info["goal"])
    assert not np.shares_memory(again["goal"], info["goal"])
    _, other = env.reset(options={"layout": 3})
    assert (other["goal"] != info["goal"]).any()
    env.close()


@pytest.mark.parametrize("camera", ["corner", "corner2", "corner3", "corner4"])
def test_pictures_are_upright(env: MetaWorld, camera: str) -> None:
    env.reset(options={"layout": 0})
    picture = env.image(camera).astype(int)
    red = (picture[0] > 90) & (picture[1] < 60) & (picture[2] < 60)
    brown = (picture[0] > picture[2] + 25) & (picture[1] > picture[2]) & ~red
    assert red.sum() > 10
    assert brown.sum() > 20
    assert np.nonzero(red)[0].mean() < np.nonzero(brown)[0].mean() - 3  # the arm is above the table


def test_full_is_what_metaworld_draws_and_fast_shows_the_same(env: MetaWorld) -> None:
    env.reset(options={"layout": 0})
    full = MetaWorld(TASK, size=48, render="full", pixels=False, goals=False)
    full.reset(options={"layout": 0})
    renderer = mujoco.Renderer(full._env.model, 48, 48)
    renderer.update_scene(full._env.data, "corner2")
    usual = renderer.render()[::-1, ::-1].transpose(2, 0, 1).astype(int)
    renderer.close()
    np.testing.assert_array_equal(full.image(), usual)
    fast = env.image().astype(int)
    full.close()
    away = np.abs(fast - usual)
    assert 0 < away.mean() < 15  # shadows and smooth edges are gone, and what the floor mirrors
    assert np.median(away) <= 3


def test_merging_keeps_the_shape_and_drops_triangles() -> None:
    steps = np.linspace(-0.5, 0.5, 41)
    x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
    corners = np.arange(40)[:, None] * 41 + np.arange(40)
    squares = np.stack([corners, corners + 1, corners + 42, corners + 41], -1).reshape(-1, 4)
    faces = np.concatenate([squares[:, [0, 1, 2]], squares[:, [0, 2, 3]]])
    vertices = np.stack([x, y, 0.2 * (1 - x**2 - y**2)], 1)
    spec = mujoco.MjSpec()
    spec.add_mesh(name="dome", uservert=vertices.ravel(), userface=faces.ravel())
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="dome")
    model = spec.compile()
    before = model.mesh_vert[model.mesh_face].copy()
    merge_vertices(model, 0.1)
    num_faces = int(model.mesh_facenum[0])
    assert 100 < num_faces < 400  # 3200 before; a grid of 10 x 10 has 200
    after = model.mesh_vert[model.mesh_face[:num_faces]]
    assert _area(after) == pytest.approx(_area(before), rel=0.2)
    np.testing.assert_allclose(after.min((0, 1)), before.min((0, 1)), atol=0.1)
    np.testing.assert_allclose(after.max((0, 1)), before.max((0, 1)), atol=0.1)
    turned = [min(np.roll(face, k).tolist() for k in range(3)) for face in model.mesh_face[:num_faces]]
    assert len({tuple(face) for face in turned}) == num_faces


def _area(triangles: ndarray) -> float:
    a, b, c = triangles.transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "drawer-open"}, "did you mean 'drawer-open-v3'"),
        ({"camera": "corner5"}, "did you mean 'corner"),
        ({"max_steps": 501}, "at most 500|1 to 500"),
        ({"action_repeat": 0}, "at least 1; got 500 and 0"),
        ({"size": 8}, "at least 16 pixels"),
        ({"layouts": (50,)}, "0 to 49; got 50"),
        ({"layouts": ()}, "at least one layout"),
        ({"render": "quick"}, "fast, full"),
    ],
)
def test_wrong_settings_are_explained(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaWorld(**{"task": TASK, **settings})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("task", tasks())
def test_every_task_steps_and_knows_its_goal(task: str) -> None:
    env = MetaWorld(task, size=32, layouts=(7,))
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert info["goal"].shape == (1, 3, 32, 32)
    start = observation["pixels"].astype(int)
    assert np.abs(info["goal"][0] - start).mean() > 0.3
    for _ in range(3):
        observation, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert not terminated
        assert not truncated
        assert isinstance(info["success"], bool)
        assert np.isfinite(info["dense_reward"])
    env.close()
