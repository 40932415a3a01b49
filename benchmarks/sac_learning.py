"""Count the environment steps that SAC needs to solve a task, side by side with Stable-Baselines3's.

Both have the same networks, batches, rates, discount and one update a step; each is measured by the mean of ten
episodes without noise, from the same starts. Pendulum counts as solved at a return of -200; the tiny world's `reach`,
paid by its true progress, at 80 % success in the last step.

Examples:
    python benchmarks/sac_learning.py --task pendulum --seeds 3
    python benchmarks/sac_learning.py --task reach --max-steps 20000
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import gymnasium
import numpy as np
import tyro
from gymnasium import spaces
from numpy import ndarray
from rich.console import Console
from rich.table import Table
from stable_baselines3 import SAC

from measure import use_cores
from vidreward.envs.tabletop import Tabletop
from vidreward.rl.replay import Replay
from vidreward.rl.sac import SacConfig

Task = Literal["pendulum", "reach"]
Env = gymnasium.Env[ndarray, ndarray]
Policy = Callable[[ndarray], ndarray]
NUM_EPISODES = 10


class PaidByProgress(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Show the state alone, and pay the simulator's own measure of progress, 0 to 1, at each step."""

    def __init__(self) -> None:
        super().__init__(Tabletop("reach", pixels=False, goals=False))
        self.observation_space = self.env.observation_space["state"]

    def reset(self, **options: Any) -> tuple[ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return observation["state"], info

    def step(self, action: ndarray) -> tuple[ndarray, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation["state"], float(info["progress"]), terminated, truncated, info


def make(task: Task) -> Env:
    """Make an environment that shows a vector and takes actions in -1..1."""
    if task == "pendulum":
        return gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), -1.0, 1.0)
    return PaidByProgress()


def measure(task: Task, policy: Policy) -> float:
    """Return the mean return of Pendulum, or the share of episodes of `reach` that end in success."""
    env = make(task)
    results = []
    for episode in range(NUM_EPISODES):
        observation, info = env.reset(seed=1000 + episode)
        total, ends = 0.0, False
        while not ends:
            observation, reward, terminated, truncated, info = env.step(policy(observation))
            total, ends = total + float(reward), terminated or truncated
        results.append(total if task == "pendulum" else float(info["success"]))
    return float(np.mean(results))


def train_ours(task: Task, seed: int) -> Iterator[tuple[int, Policy]]:
    """Train with the agent and the replay by hand; yields after each step."""
    env = make(task)
    assert isinstance(env.action_space, spaces.Box)
    settings = SacConfig(start_steps=100, update_after=100)
    agent = settings.build(spaces.Dict({"state": env.observation_space}), env.action_space, seed=seed)
    shape = env.observation_space.shape or ()
    replay = Replay(observation={"state": shape}, action_dim=env.action_space.shape[0], capacity=100_000)
    rng = np.random.default_rng(seed)

    def act(observation: ndarray, *, explore: bool = False) -> ndarray:
        return agent.act({"state": observation[None].astype(np.float32)}, explore=explore, step=step)[0]

    step = 0
    while True:
        observation, _ = env.reset(seed=seed * 1_000_003 + step)
        states, actions, rewards, ends = [observation], [], [], False
        while not ends:
            random = step < settings.start_steps
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32) if random else act(
                observation, explore=True
            )  # fmt: skip
            observation, reward, terminated, truncated, _ = env.step(action)
            states, actions, rewards = [*states, observation], [*actions, action], [*rewards, float(reward)]
            ends = terminated or truncated
            step += 1
            if len(replay) and step > settings.update_after:
                agent.update(replay.sample(settings.batch_size, rng), step)
            yield step, act
        replay.add_episode(
            state=np.array(states, np.float32),
            action=np.array(actions),
            reward=np.array(rewards, np.float32),
            terminated=terminated,
        )


def train_theirs(task: Task, seed: int) -> Iterator[tuple[int, Policy]]:
    """Train with Stable-Baselines3, which bootstraps at time limits too; yields every 250 steps."""
    model = SAC("MlpPolicy", make(task), learning_starts=100, buffer_size=100_000, seed=seed, device="cpu")

    def act(observation: ndarray) -> ndarray:
        action: ndarray = model.predict(observation, deterministic=True)[0]
        return action

    for step in range(250, 10**9, 250):
        model.learn(250, reset_num_timesteps=False)
        yield step, act


def steps_to_solve(
    task: Task, training: Iterator[tuple[int, Policy]], max_steps: int, eval_every: int
) -> tuple[int | None, list[float]]:
    """Train until the task is solved; return the step, None where it never was, and what was measured on the way."""
    goal = -200.0 if task == "pendulum" else 0.8
    curve: list[float] = []
    for step, policy in training:
        if step % eval_every == 0:
            curve.append(measure(task, policy))
            if curve[-1] >= goal:
                return step, curve
        if step >= max_steps:
            break
    return None, curve


def main(
    task: Task = "pendulum", seeds: int = 3, max_steps: int = 20_000, eval_every: int = 500, threads: int | None = None
) -> None:
    """Measure and print.

    Args:
        task: What to learn.
        seeds: Trainings of each side.
        max_steps: Environment steps after which a training counts as failed.
        eval_every: Steps between measurements, a multiple of 250.
        threads: Cores that both sides may use; all by default.
    """
    use_cores(threads)
    console = Console(width=None if Console().is_terminal else 160)
    table = Table("side", "seed", "steps to solve", "measured on the way")
    sides: dict[str, Callable[[Task, int], Any]] = {"vidreward": train_ours, "Stable-Baselines3": train_theirs}
    for seed in range(seeds):
        for side, train in sides.items():
            solved, curve = steps_to_solve(task, train(task, seed), max_steps, eval_every)
            result = f"never in {max_steps}" if solved is None else str(solved)
            console.print(f"{side}, seed {seed}: {result}")
            table.add_row(side, str(seed), result, " ".join(f"{value:.3g}" for value in curve))
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
