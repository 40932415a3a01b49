"""The result.json of runs, read back and put together by task and method."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vidreward.config import from_json
from vidreward.rl.curves import Curve
from vidreward.rl.evaluation import PolicyScore
from vidreward.rl.rl_config import ENV_REWARD
from vidreward.rl.run import RESULT_FORMAT
from vidreward.run_config import find_differences

Metric = Literal["success_any", "success_last", "env_return"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one run reached."""

    path: Path
    """Of its folder."""
    env: str
    label: str
    """What its agent is paid, or what the user calls it."""
    agent: str
    seed: int
    budget: int
    """Environment steps that it has."""
    step: int
    """Environment steps that it has taken."""
    finished: bool
    curve: tuple[PolicyScore, ...]
    seconds: Mapping[str, float]
    """Wall-clock time of each part of the loop."""
    config: Mapping[str, object]

    @property
    def method(self) -> str:
        """Its label, with the agent where that is another than SAC."""
        return self._with_agent(self.label)

    @property
    def baseline(self) -> str:
        """Method that its steps are compared with: the same agent, paid the environment's reward alone."""
        return self._with_agent(ENV_REWARD)

    def _with_agent(self, label: str) -> str:
        return label if self.agent in ("sac", "random") else f"{self.agent}: {label}"

    def values(self, metric: Metric) -> Curve:
        """Return the learning curve of one metric."""
        steps = np.array([score.step for score in self.curve], np.int64)
        return Curve(steps, np.array([getattr(score, metric) for score in self.curve], np.float64))


def read_results(runs: Sequence[Path]) -> list[RunResult]:
    """Read the results of runs; folders below those given are looked at too.

    Raises:
        ValueError: There is none, or one is damaged or was never evaluated.
    """
    files: list[Path] = []
    for run in runs:
        found = [run] if run.is_file() else sorted(run.rglob("result.json")) if run.is_dir() else []
        if not found:
            raise ValueError(f"{run} holds no result.json; give the folder of a run of `vidreward rl`, evaluated once")
        files += [file for file in found if file not in files]
    results = [read_result(file) for file in files]
    check_comparable(results)
    return results


def read_result(file: Path) -> RunResult:
    """Read one result.json.

    Raises:
        ValueError: It is damaged, of another format, or holds no evaluation yet.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not readable: {error}; leave it out, or run it again") from error
    if not isinstance(values, dict) or values.get("format") != RESULT_FORMAT or "curve" not in values:
        raise ValueError(f"{file} is not the result.json of a run of `vidreward rl`; leave it out")
    if not values["curve"]:
        raise ValueError(f"{file}: the run was not evaluated yet; leave it out, or let it go on")
    try:
        return RunResult(
            path=file.parent,
            step=int(values["progress"]["step"]),
            seconds={str(name): float(value) for name, value in values["progress"]["seconds"].items()},
            curve=tuple(from_json(PolicyScore, score, f"{file}: curve") for score in values["curve"]),
            **{name: values[name] for name in ("env", "label", "agent", "seed", "budget", "finished", "config")},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); leave it out, or run it again") from error


def check_comparable(results: Iterable[RunResult]) -> None:
    """Refuse to draw runs together that differ in more than their seed and their rewards' weights.

    Raises:
        ValueError: Names two such runs, and in what they differ.
    """
    first: dict[tuple[str, str], RunResult] = {}
    seen: dict[tuple[str, str, int], Path] = {}
    for result in results:
        key = (result.env, result.method)
        other = first.setdefault(key, result)
        found = find_differences(_settings(other), _settings(result), "")
        if found:
            raise ValueError(
                f"{other.path} and {result.path} are both called {result.method!r} and differ ({'; '.join(found)}); "
                "give one of them another --label"
            )
        twin = seen.setdefault((*key, result.seed), result.path)
        if twin != result.path:
            raise ValueError(f"{twin} and {result.path} have the same seed, {result.seed}; leave one of them out")


def group_by_task(results: Iterable[RunResult]) -> dict[str, dict[str, list[RunResult]]]:
    """Put runs together: task, then method, then seed; tasks and methods in the order in which they come."""
    groups: dict[str, dict[str, list[RunResult]]] = {}
    for result in results:
        groups.setdefault(result.env, {}).setdefault(result.method, []).append(result)
    return groups


def list_methods(groups: Mapping[str, Mapping[str, object]]) -> list[str]:
    """List the methods of all tasks, each once.

    Example:
        >>> list_methods({"push": {"a": 0, "b": 0}, "reach": {"c": 0, "a": 0}})
        ['a', 'b', 'c']
    """
    return list(dict.fromkeys(method for methods in groups.values() for method in methods))


def _settings(result: RunResult) -> dict[str, object]:
    """Return what runs of one method share."""
    parts = {name: result.config.get(name) for name in ("env", "agent", "loop")}
    loop = parts["loop"]
    return parts | {"loop": {k: v for k, v in loop.items() if k != "seed"} if isinstance(loop, dict) else loop}
