"""The replay against one written plainly: a list of episodes, and a loop over every row."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from vidreward.rl import replay as replay_module
from vidreward.rl.replay import Replay

Episode = dict[str, ndarray | bool]


def episode(num_steps: int, seed: int, *, terminated: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    return {
        "pixels": rng.integers(256, size=(num_steps + 1, 3, 4, 5), dtype=np.uint8),
        "state": rng.normal(size=(num_steps + 1, 2)).astype(np.float32),
        "action": rng.uniform(-1, 1, (num_steps, 3)).astype(np.float32),
        "reward": rng.normal(size=num_steps).astype(np.float32),
        "env_reward": rng.normal(size=num_steps).astype(np.float32),
        "terminated": terminated,
    }


def make(capacity: int = 200, **options: object) -> Replay:
    shapes = {"pixels": (3, 4, 5), "state": (2,)}
    return Replay(observation=shapes, action_dim=3, capacity=capacity, **options)  # type: ignore[arg-type]


def plain_batch(episodes: list[Episode], n_step: int, gamma: float, stack: int) -> dict[str, list[ndarray]]:
    """Every transition of the episodes, oldest first."""
    rows: dict[str, list[ndarray]] = {name: [] for name in ("pixels", "state", "action", "reward", "discount", "next")}
    for one in episodes:
        num_steps = len(one["action"])
        for t in range(num_steps):
            end = min(t + n_step, num_steps)
            rows["pixels"].append(np.concatenate([one["pixels"][max(0, i)] for i in range(t - stack + 1, t + 1)]))
            rows["next"].append(np.concatenate([one["pixels"][max(0, i)] for i in range(end - stack + 1, end + 1)]))
            rows["state"].append(one["state"][t])
            rows["action"].append(one["action"][t])
            rows["reward"].append(sum(gamma ** (i - t) * one["reward"][i] for i in range(t, end)))
            ends = one["terminated"] and end == num_steps
            rows["discount"].append(0.0 if ends else gamma ** (end - t))
    return rows


def check_equal(replay: Replay, episodes: list[Episode], *, n_step: int, gamma: float, stack: int) -> None:
    wanted = plain_batch(episodes, n_step, gamma, stack)
    assert len(replay) == len(wanted["reward"])
    batch = replay.batch(np.arange(len(replay)))
    np.testing.assert_array_equal(batch.observation["pixels"], wanted["pixels"])
    np.testing.assert_array_equal(batch.next_observation["pixels"], wanted["next"])
    np.testing.assert_array_equal(batch.observation["state"], wanted["state"])
    np.testing.assert_array_equal(batch.action, wanted["action"])
    np.testing.assert_allclose(batch.reward, wanted["reward"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch.discount, wanted["discount"], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=20),
    capacity=st.integers(12, 60),
    n_step=st.integers(1, 5),
    stack=st.integers(1, 4),
    gamma=st.floats(0.0, 1.0),
)
def test_batches_are_those_of_the_newest_episodes(
    lengths: list[tuple[int, bool]], capacity: int, n_step: int, stack: int, gamma: float
) -> None:
    replay = make(capacity, n_step=n_step, frame_stack=stack, discount=gamma)
    episodes = [episode(num_steps, seed, terminated=ends) for seed, (num_steps, ends) in enumerate(lengths)]
    for number, one in enumerate(episodes):
        assert replay.add_episode(**one) == number  # type: ignore[arg-type]
    kept = list(replay.episodes)
    assert kept[-1] == len(episodes) - 1
    # as many of the newest as the capacity and the rows behind it allow
    counts = [len(one["action"]) for one in episodes]
    assert sum(counts[kept[0] :]) <= capacity
    if kept[0] > 0:
        more = counts[kept[0] - 1 :]
        assert sum(more) > capacity or sum(more) + len(more) > replay.num_rows
    check_equal(replay, episodes[kept[0] :], n_step=n_step, gamma=gamma, stack=stack)


def test_capacity_is_in_transitions() -> None:
    replay = make(200)
    for seed in range(30):
        replay.add_episode(**episode(20, seed))  # type: ignore[arg-type]
    assert len(replay) == 200


def test_an_environments_discount_is_multiplied_in() -> None:
    replay = make(n_step=2, discount=0.5)
    one = episode(3, 0) | {"reward": np.array([1.0, 2.0, 4.0]), "discount": np.array([0.5, 1.0, 1.0])}
    replay.add_episode(**one)  # type: ignore[arg-type]
    batch = replay.batch(np.arange(3))
    assert batch.reward.tolist() == [1.5, 4.0, 4.0]
    assert batch.discount.tolist() == [0.125, 0.25, 0.5]


def test_draws_are_uniform_over_transitions() -> None:
    replay = make()
    for seed, num_steps in enumerate((1, 50, 9)):
        replay.add_episode(**{**episode(num_steps, seed), "reward": np.full(num_steps, seed)})  # type: ignore[arg-type]
    drawn = replay.sample(60_000, np.random.default_rng(0)).reward
    shares = [float((drawn == number).float().mean()) for number in range(3)]
    assert shares == pytest.approx([1 / 60, 50 / 60, 9 / 60], abs=0.008)


def test_draws_are_a_function_of_the_generator() -> None:
    replay = make()
    replay.add_episode(**episode(30, 0))  # type: ignore[arg-type]
    first, again = (replay.sample(16, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(first.reward, again.reward)


def test_episodes_can_be_read_and_labelled_again() -> None:
    replay, one = make(30), episode(12, 5, terminated=True)
    replay.add_episode(**episode(12, 4))  # type: ignore[arg-type]
    replay.add_episode(**episode(12, 4))  # type: ignore[arg-type]
    number = replay.add_episode(**one)  # type: ignore[arg-type]
    read = replay.episode(number)
    for name in ("pixels", "state", "action", "reward", "env_reward"):
        np.testing.assert_array_equal(read[name], one[name])
    assert read["step_discount"].tolist() == [1.0] * 11 + [0.0]
    replay.relabel(number, np.arange(12))
    assert replay.batch(np.arange(12, 24)).reward.tolist() == list(range(12))
    np.testing.assert_array_equal(replay.episode(1)["reward"], episode(12, 4)["reward"])
    with pytest.raises(IndexError, match=r"keeps episodes range\(1, 3\); asked for 0"):
        replay.episode(0)
    with pytest.raises(ValueError, match="has 12 steps; give as many finite rewards"):
        replay.relabel(number, np.ones(11))


def test_frames_on_disk_are_the_same(tmp_path: Path) -> None:
    here, there = make(40, frame_stack=2), make(40, frame_stack=2, folder=tmp_path / "frames")
    for seed in range(6):
        for replay in (here, there):
            replay.add_episode(**episode(9, seed))  # type: ignore[arg-type]
    a, b = (replay.sample(64, np.random.default_rng(0)) for replay in (here, there))
    assert torch.equal(a.observation["pixels"], b.observation["pixels"])
    assert (tmp_path / "frames" / "pixels.npy").stat().st_size >= 60 * there.num_rows


def saved(replay: Replay, folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in replay.save(folder).items()}


def assert_same_draws(first: Replay, second: Replay) -> None:
    assert first.episodes == second.episodes
    a, b = (replay.sample(256, np.random.default_rng(1)) for replay in (first, second))
    for name in a.observation:
        assert torch.equal(a.observation[name], b.observation[name])
        assert torch.equal(a.next_observation[name], b.next_observation[name])
    for name in ("action", "reward", "discount"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert all(np.array_equal(first.episode(n)["env_reward"], second.episode(n)["env_reward"]) for n in first.episodes)


@pytest.mark.parametrize("segment_bytes", [1, 1000, 2**28])
def test_a_restored_replay_draws_the_same(tmp_path: Path, segment_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "SEGMENT_BYTES", segment_bytes)
    whole = make(60, n_step=3, frame_stack=2)
    for seed in range(17):
        whole.add_episode(**episode(3 + seed % 7, seed, terminated=seed % 2 == 0))  # type: ignore[arg-type]
        if seed % 4 == 3:
            whole.save(tmp_path)
    whole.relabel(whole.episodes[1], np.ones_like(whole.episode(whole.episodes[1])["reward"]))
    state = saved(whole, tmp_path)
    again = make(60, n_step=3, frame_stack=2)
    again.restore(tmp_path, state)
    assert_same_draws(whole, again)
    for seed in range(20, 29):
        for replay in (whole, again):
            replay.add_episode(**episode(5, seed))  # type: ignore[arg-type]
    assert_same_draws(whole, again)
    twice = make(60, n_step=3, frame_stack=2)
    twice.restore(tmp_path, saved(again, tmp_path))
    assert_same_draws(whole, twice)


def test_episodes_are_written_once_and_removed_when_unused(tmp_path: Path) -> None:
    replay, times, states = make(33), {}, []
    for seed in range(6):
        replay.add_episode(**episode(10, seed))  # type: ignore[arg-type]
        states.append(saved(replay, tmp_path))
        for path in tmp_path.iterdir():
            assert times.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert len(list(tmp_path.iterdir())) == 6
    Replay.remove_unused(tmp_path, states[-2:])
    left = [int(path.name.split("-")[1]) for path in sorted(tmp_path.iterdir())]
    assert left == [2, 3, 4, 5]
    for number, state in enumerate(states[-2:]):
        again = make(33)
        again.restore(tmp_path, state)
        assert again.episodes == range(2 + number, 5 + number)


def test_a_run_that_repeats_itself_after_a_kill_writes_the_same_files(tmp_path: Path) -> None:
    first = make()
    first.add_episode(**episode(10, 0))  # type: ignore[arg-type]
    state = saved(first, tmp_path)
    first.add_episode(**episode(10, 1))  # type: ignore[arg-type]
    first.save(tmp_path)  # killed before its checkpoint was whole
    second = make()
    second.restore(tmp_path, state)
    second.add_episode(**episode(10, 1))  # type: ignore[arg-type]
    second.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_damage_is_found(tmp_path: Path) -> None:
    replay = make()
    replay.add_episode(**episode(10, 0))  # type: ignore[arg-type]
    state = saved(replay, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="its checksum differs"):
        make().restore(tmp_path, state)
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="damaged or missing"):
        make().restore(tmp_path, state)
    path.unlink()
    with pytest.raises(ValueError, match="damaged or missing"):
        make().restore(tmp_path, state)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="has room for 4; restore with the settings of the run"):
        make(4).restore(tmp_path, state)
    with pytest.raises(ValueError, match="this replay keeps"):
        Replay(observation={"state": (2,)}, action_dim=3, capacity=50).restore(tmp_path, state)
    with pytest.raises(ValueError, match="state lacks reward, segments"):
        make().restore(tmp_path, {name: state[name] for name in ("num_added", "num_steps")})
    with pytest.raises(ValueError, match="only an empty replay"):
        replay.restore(tmp_path, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.full(10, np.nan)}, "reward of the episode holds numbers that are not finite"),
        ({"reward": np.ones(9)}, r"reward of an episode of 10 steps must be float32 \(10,\); got float64 \(9,\)"),
        ({"pixels": np.zeros((11, 3, 4, 5), np.float32)}, r"pixels .* must be uint8 \(11, 3, 4, 5\); got float32"),
        ({"pixels": np.zeros((10, 3, 4, 5), np.uint8)}, r"must be uint8 \(11, 3, 4, 5\); got uint8 \(10"),
        ({"state": None}, "this replay keeps"),
        ({"action": np.zeros((0, 3)), "reward": np.zeros(0)}, "an episode of 0 steps does not fit"),
    ],
)
def test_what_is_no_episode_is_refused(change: Episode, message: str) -> None:
    replay = make()
    with pytest.raises(ValueError, match=message):
        replay.add_episode(**{**episode(10, 0), **change})  # type: ignore[arg-type]
    assert len(replay) == 0 and list(replay.episodes) == []


def test_an_episode_longer_than_the_replay_is_refused() -> None:
    with pytest.raises(ValueError, match="50 steps does not fit a replay of 20"):
        make(20).add_episode(**episode(50, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 1000}, r"200 transitions need 0.0\d GB, the limit is 0.00 GB; lower"),
        ({"capacity": 10**12}, "lower the capacity, or keep frames on disk"),
        ({"n_step": 0}, "n_step of a replay must be at least 1; got 0"),
    ],
)
def test_what_cannot_fit_is_refused_at_once(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"capacity": 200, **options})


def test_a_full_disk_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are free; lower the capacity or choose another disk"):
        Replay(observation={"pixels": (3, 4000, 4000)}, action_dim=1, capacity=10**6, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_replay_says_so() -> None:
    with pytest.raises(ValueError, match="the replay is empty"):
        make().sample(4, np.random.default_rng(0))
    with pytest.raises(IndexError, match="has transitions"):
        make().batch(np.array([0]))
