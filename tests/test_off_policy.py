"""The off-policy loop: what is collected, when the agent acts and learns, what the replay gets, exact resume."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.torch import load_file

from vidreward.data.episodes import open_episodes
from vidreward.log import Logger, read_log
from vidreward.rl.agent import Agent, AgentConfig, Batch
from vidreward.rl.evaluation import evaluate_policy
from vidreward.rl.off_policy import LoopConfig, num_updates_due, train_policy
from vidreward.rl.payment import Payer
from vidreward.rl.random_policy import RandomPolicy, RandomPolicyConfig
from vidreward.rl.replay import Replay
from vidreward.rl.reward import Reward, RewardMix
from vidreward.rl.rl_config import EnvConfig, PayConfig, RlConfig
from vidreward.rl.rollout import Collector, Experience
from vidreward.rl.run import evaluate_rl, make_replay, train_rl
from vidreward.rl.sac import SacConfig
from vidreward.rl.saving import Progress, newest_policy
from vidreward.rl.setup import prepare
from vidreward.train import TrainingDivergedError

QUIET = Logger(None, quiet=True)
SPARSE = Payer(reward=Reward(RewardMix(env_weight=1.0)), fps=10)


@dataclass(frozen=True)
class Script:
    """An episode: its length, how it ends, and the steps after which the task is done."""

    length: int
    terminates: bool = False
    done_after: tuple[int, ...] = ()


class Scripted(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Episodes of known lengths: step t of episode n pays 100 n + t and shows n and t, whatever the action."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.scripts = scripts
        self.observation_space = spaces.Dict(
            {"state": spaces.Box(-np.inf, np.inf, (2,)), "pixels": spaces.Box(0, 255, (3, 4, 4), np.uint8)}
        )
        self.action_space = spaces.Box(-1, 1, (2,))

    def _observe(self) -> dict[str, np.ndarray]:
        shown = 10 * self.number + self.t
        return {"state": np.array([self.number, self.t], np.float32), "pixels": np.full((3, 4, 4), shown, np.uint8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.number, self.t = (0 if seed is not None else self.number + 1), 0
        return self._observe(), {"success": False, "goal": np.full((1, 3, 4, 4), self.number, np.uint8)}

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        script = self.scripts[self.number % len(self.scripts)]
        ends = self.t == script.length
        info = {"success": self.t in script.done_after, "dense_reward": -float(self.t)}
        reward = 100.0 * self.number + self.t
        return self._observe(), reward, ends and script.terminates, ends and not script.terminates, info


def scripted(*rows: Sequence[Script]) -> SyncVectorEnv:
    return SyncVectorEnv([lambda row=row: Scripted(row) for row in rows], autoreset_mode=AutoresetMode.SAME_STEP)


class Listener(RandomPolicy):
    """A random policy that notes when it acts and learns."""

    def __init__(self) -> None:
        super().__init__(2, seed=0)
        self.events: list[tuple[str, int]] = []
        self.batches: list[Batch] = []
        self.loss = 0.0

    def act(self, observation: Mapping[str, np.ndarray], *, explore: bool, step: int) -> np.ndarray:
        self.events.append(("act", step))
        return super().act(observation, explore=explore, step=step)

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        self.events.append(("update", step))
        self.batches.append(batch)
        return {"loss": torch.tensor(self.loss)}


def make_listened(settings: AgentConfig, capacity: int = 1000) -> tuple[Listener, Replay]:
    shapes = {"state": (2,), "pixels": (3, 4, 4)}
    kept = {name: shapes[name] for name in settings.observed}
    return Listener(), Replay(observation=kept, action_dim=2, capacity=capacity, frame_stack=settings.frame_stack)


# -- collecting -----------------------------------------------------------------------------------------------------


def test_collector_hands_over_whole_episodes_as_they_end() -> None:
    env = scripted([Script(2, terminates=True, done_after=(1,)), Script(3)], [Script(4, done_after=(4,))])
    collector = Collector(env)
    collector.reset([0, 0])
    ended: list[Experience] = []
    sent = np.random.default_rng(0).uniform(-1, 1, (5, 2, 2)).astype(np.float32)
    for actions in sent:
        collector.send(actions)
        ended += collector.receive()
    first, other, second = ended
    assert (first.env, other.env, second.env) == (0, 1, 0)
    assert first.state.tolist() == [[0, 0], [0, 1], [0, 2]]  # the last frame is the episode's own, not the reset's
    assert first.pixels is not None
    assert first.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert first.env_reward.tolist() == [1, 2]
    assert first.success.tolist() == [True, False]
    assert first.terminated
    np.testing.assert_array_equal(first.action, sent[:2, 0])
    np.testing.assert_array_equal(second.action, sent[2:, 0])
    assert second.state.tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert second.env_reward.tolist() == [101, 102, 103]
    assert not second.terminated
    assert second.finished
    assert second.goal is not None
    assert second.goal.flat[0] == 1
    assert other.success.tolist() == [False, False, False, True]
    assert other.oracle is not None
    assert other.oracle.tolist() == [-1, -2, -3, -4]
    (cut,) = collector.cut()  # the first environment begins anew and has no step yet
    assert cut.env == 1
    assert not cut.finished
    assert not cut.terminated
    assert cut.env_reward.tolist() == [101]


def test_stacked_frames_repeat_the_first_and_never_cross_episodes() -> None:
    collector = Collector(scripted([Script(3)]), frame_stack=3)
    collector.reset([0])
    seen = []
    for _ in range(5):
        stack = collector.observation()["pixels"]
        assert stack.shape == (1, 9, 4, 4)
        seen.append(stack[0, ::3, 0, 0].tolist())
        collector.send(np.zeros((1, 2), np.float32))
        collector.receive()
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [10, 10, 10], [10, 10, 11]]


# -- the loop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [1, 2])
def test_every_action_waits_for_the_updates_due_before_the_last_step(num_envs: int) -> None:
    settings = RandomPolicyConfig(start_steps=8, update_after=6, update_every=2, num_updates=3, batch_size=4)
    agent, replay = make_listened(settings)
    env = scripted(*[[Script(2)]] * num_envs)
    progress = train_policy(env, agent, replay, SPARSE, LoopConfig(steps=20), QUIET, settings=settings)
    updates = 0
    for kind, step in agent.events:
        if kind == "update":
            updates += 1
        else:
            assert step >= settings.start_steps
            assert updates == num_updates_due(settings, step - num_envs)
    assert progress.num_updates == updates == num_updates_due(settings, 20) == 3 * 8
    assert [step for kind, step in agent.events if kind == "act"] == list(range(8, 20, num_envs))


def test_nothing_is_learned_before_the_first_episode_ends() -> None:
    settings = RandomPolicyConfig(update_after=1, num_updates=1, batch_size=4)
    agent, replay = make_listened(settings)
    config = LoopConfig(steps=20)
    progress = train_policy(scripted([Script(8)]), agent, replay, SPARSE, config, QUIET, settings=settings)
    assert [step for kind, step in agent.events if kind == "update"] == list(range(8, 21))
    assert (progress.num_due, progress.num_updates) == (20, 13)


@pytest.mark.parametrize("bootstraps", [True, False])
def test_only_a_true_end_or_a_timeout_as_coded_is_terminal(bootstraps: bool) -> None:
    settings = RandomPolicyConfig(observation="both", bootstrap_on_timeout=bootstraps)
    agent, replay = make_listened(settings)
    env = scripted([Script(3, terminates=True), Script(4)])
    train_policy(env, agent, replay, SPARSE, LoopConfig(steps=10), QUIET, settings=settings)
    stored = [replay.episode(number) for number in replay.episodes]
    assert [len(episode["action"]) for episode in stored] == [3, 4, 3]  # the third is cut off by the end of the run
    assert [episode["step_discount"][-1] for episode in stored] == [0, 1 if bootstraps else 0, 0]
    cut = train_cut(settings)
    assert [len(episode["action"]) for episode in cut] == [2]
    assert cut[0]["step_discount"].tolist() == [1, 1]  # cut off by a checkpoint: time did not run out
    for episode, number in zip(stored, range(3), strict=True):
        length = len(episode["action"])
        assert episode["state"].tolist() == [[number, t] for t in range(length + 1)]
        assert episode["pixels"][:, 0, 0, 0].tolist() == [10 * number + t for t in range(length + 1)]
        assert episode["reward"].tolist() == [100 * number + t for t in range(1, length + 1)]


def train_cut(settings: AgentConfig) -> list[dict[str, np.ndarray]]:
    agent, replay = make_listened(settings)
    env = scripted([Script(5)])
    train_policy(env, agent, replay, SPARSE, LoopConfig(steps=2), QUIET, settings=settings)
    return [replay.episode(number) for number in replay.episodes]


def test_checkpoints_reset_the_environments() -> None:
    settings = RandomPolicyConfig()
    agent, replay = make_listened(settings)
    config = LoopConfig(steps=9, checkpoint_every=3)
    progress = train_policy(scripted([Script(5)]), agent, replay, SPARSE, config, QUIET, settings=settings)
    assert [len(replay.episode(number)["action"]) for number in replay.episodes] == [3, 3, 3]
    assert progress.num_episodes == 3


def test_oracle_and_environment_are_paid_together() -> None:
    payer = replace(SPARSE, oracle_weight=0.5)
    settings = RandomPolicyConfig()
    agent, replay = make_listened(settings)
    train_policy(scripted([Script(3)]), agent, replay, payer, LoopConfig(steps=3), QUIET, settings=settings)
    stored = replay.episode(0)
    assert stored["reward"].tolist() == [1 - 0.5, 2 - 1, 3 - 1.5]
    assert stored["env_reward"].tolist() == [1, 2, 3]


def test_divergence_is_said_and_never_saved() -> None:
    settings = RandomPolicyConfig(update_after=1, num_updates=1, batch_size=4)
    agent, replay = make_listened(settings)
    agent.loss = float("nan")
    config = LoopConfig(steps=100, log_every=10)
    with pytest.raises(TrainingDivergedError, match=r"after step 10, loss is nan"):
        train_policy(scripted([Script(3)]), agent, replay, SPARSE, config, QUIET, settings=settings)


def test_log_begins_with_success(tmp_path: Path) -> None:
    settings = RandomPolicyConfig(update_after=1, num_updates=1, batch_size=4)
    agent, replay = make_listened(settings)
    env = scripted([Script(2, done_after=(1,)), Script(2)])
    with Logger(tmp_path, quiet=True) as log:
        train_policy(env, agent, replay, SPARSE, LoopConfig(steps=8, log_every=4), log, settings=settings)
    lines = [line for line in read_log(tmp_path / "log.jsonl") if "train/success" in line]
    assert [line["step"] for line in lines] == [4, 8]
    assert list(lines[0])[2:5] == ["train/success", "train/env_return", "train/reward_return"]
    assert lines[1]["train/success"] == 0.5
    assert lines[1]["train/env_return"] == np.mean([3, 203, 403, 603])
    assert lines[1]["agent/loss"] == 0


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"eval_every": 0}, {"seed": -1}, {"checkpoint_every": -5}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoopConfig(**wrong)


# -- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluation_counts_known_episodes(tmp_path: Path) -> None:
    rows = [[Script(2, done_after=(1,)), Script(2)], [Script(6, done_after=(2, 6))]]
    score = evaluate_policy(
        scripted(*rows), Listener(), SPARSE, seeds=[0, 0], num_episodes=3, step=7, videos=tmp_path, num_videos=2
    )
    # the short episodes of the first environment do not crowd out the long one of the second
    assert (score.step, score.num_episodes) == (7, 3)
    assert score.success_any == pytest.approx(2 / 3)
    assert score.success_last == pytest.approx(1 / 3)
    assert score.env_return == pytest.approx((3 + 21 + 203) / 3)
    assert score.reward_return == pytest.approx(score.env_return)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode-0.mp4", "episode-1.mp4"]
    assert len(open_episodes(tmp_path / "episode-1.mp4")[0].all_frames()) == 7


def test_reward_return_is_what_was_paid_and_success_is_not() -> None:
    payer = Payer(reward=Reward(RewardMix()), fps=10, oracle_weight=1.0)
    score = evaluate_policy(scripted([Script(3)]), Listener(), payer, seeds=[0], num_episodes=1, step=0)
    assert (score.reward_return, score.env_return, score.success_any) == (-6, 6, 0)


# -- resume ---------------------------------------------------------------------------------------------------------


def tiny(out: Path, **changes: Any) -> RlConfig:
    config = RlConfig(
        env=EnvConfig(name="tabletop/reach", num_envs=2, size=32, max_steps=8),
        agent=SacConfig(hidden_dims=(8,), batch_size=8, start_steps=20, update_after=16, update_every=2, n_step=2),
        pay=PayConfig(reward=("pixels",), normalizer="initial"),
        loop=LoopConfig(
            steps=96, checkpoint_every=32, eval_every=48, eval_episodes=2, eval_videos=0, log_every=16, seed=3
        ),
        out=out,
    )
    return replace(config, **changes)


class Interrupting(Logger):
    """A logger that gets Ctrl-C in the middle of a step."""

    def __init__(self, at: int) -> None:
        super().__init__(None, quiet=True)
        self.at = at

    def step(self, step: int) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        super().step(step)


def train(config: RlConfig, log: Logger) -> tuple[Agent, Replay, Progress]:
    with prepare(config, "sac") as run:
        replay = make_replay(config, run)
        score = evaluate_policy
        progress = train_policy(
            run.env,
            run.agent,
            replay,
            run.payer,
            config.loop,
            log,
            settings=config.agent,
            evaluate=lambda step: score(run.eval_env, run.agent, run.payer, seeds=[1, 2], num_episodes=2, step=step),
            saving=run.saving,
        )
    return run.agent, replay, progress


def assert_same(first: tuple[Agent, Replay, Progress], second: tuple[Agent, Replay, Progress]) -> None:
    states = [agent.state() for agent, _, _ in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    batches = [replay.batch(np.arange(len(replay))) for _, replay, _ in (first, second)]
    for name in ("action", "reward", "discount"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name)), name
    assert torch.equal(batches[0].observation["state"], batches[1].observation["state"])
    assert first[2].curve == second[2].curve
    assert first[2].num_updates == second[2].num_updates > 20


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = train(tiny(tmp_path / "whole"), QUIET)
    config = tiny(tmp_path / "cut")
    for stop, saved in ((24, 0), (50, 32), (94, 64)):
        with pytest.raises(KeyboardInterrupt, match=f"after step {stop}, of which {saved} are saved"):
            train(config, Interrupting(stop))
    cut = train(config, QUIET)
    assert_same(whole, cut)
    folders = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert sorted(folders) == ["step-000000064", "step-000000096"]
    again = train(config, QUIET)  # a finished run has nothing left to do
    assert_same(whole, again)


def test_evaluation_changes_nothing(tmp_path: Path) -> None:
    config = tiny(tmp_path / "often")
    often = replace(config, loop=replace(config.loop, eval_every=8))
    first, second = train(tiny(tmp_path / "seldom"), QUIET), train(often, QUIET)
    assert len(second[2].curve) == 12
    assert first[2].curve == tuple(score for score in second[2].curve if score.step % 48 == 0)
    for name, tensor in first[0].state().items():
        assert torch.equal(tensor, second[0].state()[name]), name


def test_the_seed_changes_everything(tmp_path: Path) -> None:
    config = tiny(tmp_path / "other")
    first = train(tiny(tmp_path / "one"), QUIET)
    second = train(replace(config, loop=replace(config.loop, seed=4)), QUIET)
    weights = [agent.state()["model.actor.weights.0"] for agent, _, _ in (first, second)]
    assert not torch.equal(*weights)


@pytest.mark.slow
def test_asynchronous_environments_change_nothing(tmp_path: Path) -> None:
    config = tiny(tmp_path / "asynchronous")
    parallel = replace(config, env=replace(config.env, asynchronous=True))
    assert_same(train(tiny(tmp_path / "synchronous"), QUIET), train(parallel, QUIET))


# -- killed for real ------------------------------------------------------------------------------------------------

WORDS = """tabletop/reach --steps 1200 --checkpoint-every 100 --eval-every 300 --eval-episodes 2 --eval-videos 0
--log-every 20 --env.max-steps 25 --env.num-envs 2 --env.size 32 --reward pixels --agent.start-steps 100
--agent.update-after 100 --agent.hidden-dims 16 16 --agent.batch-size 16"""


def start(out: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "vidreward", "rl", *shlex.split(WORDS), "--out", str(out)]
    with out.with_suffix(".said").open("a") as said:
        return subprocess.Popen(words, env=env, stdout=said, stderr=said)


def finish(out: Path) -> None:
    assert start(out).wait(timeout=600) == 0, out.with_suffix(".said").read_text()[-3000:]


def last_step(out: Path) -> int:
    file = out / "log.jsonl"
    return max((line["step"] for line in read_log(file)), default=0) if file.exists() else 0


@pytest.mark.slow
def test_training_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    out, rng, num_kills = tmp_path / "cut", random.Random(0), 0
    # progress decides when to kill, not the clock of a busy machine
    for goal in sorted(rng.sample(range(60, 1100), 4)):
        process = start(out)
        deadline = time.monotonic() + 300
        while last_step(out) < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is None:
            process.kill()
            num_kills += 1
        process.wait()
        newest = newest_policy(out)
        if newest is not None:
            load_file(newest / "agent.safetensors")  # never half a checkpoint
    assert num_kills >= 3
    finish(out)
    first, second = ((newest_policy(each) or each) for each in (tmp_path / "whole", out))
    assert first.name == second.name == "step-000001200"
    for name in ("agent.safetensors", "replay.safetensors", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    results = [json.loads((each / "result.json").read_text()) for each in (tmp_path / "whole", out)]
    assert results[0]["curve"] == results[1]["curve"]
    assert [path.name for path in sorted((out / "replay").iterdir())]


def test_jobs_train_and_measure_again(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", loop=LoopConfig(steps=32, eval_every=16, eval_episodes=3, eval_videos=1))
    result = json.loads(train_rl(config, agent="sac", quiet=True).read_text())
    assert [score["step"] for score in result["curve"]] == [16, 32]
    assert result["finished"]
    assert result["normalizers"]["pixels"] > 0
    assert (tmp_path / "run" / "videos" / "step-000000032" / "episode-0.mp4").is_file()
    before = (tmp_path / "run" / "result.json").read_bytes()
    score, written = evaluate_rl(config, agent="sac")
    last = result["curve"][-1]
    assert (score.step, score.env_return, score.reward_return) == (32, last["env_return"], last["reward_return"])
    assert json.loads(written.read_text())["num_episodes"] == 3
    assert (tmp_path / "run" / "result.json").read_bytes() == before
