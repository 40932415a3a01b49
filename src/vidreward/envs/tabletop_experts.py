"""Scripted experts of the tabletop world, and scripted ways to fail.

An expert is a generator: it looks at the true state of the world and yields one action a step. Each episode draws its
own speed, curve, pauses and offsets. The two embodiments differ in how they speed up: the hand's speed is bell-shaped
with a tremor, the gripper's rises and falls in a straight line.

A failure is made of the same motions as a success, lasts about as long and keeps moving, so that neither length nor
stillness gives it away:

| failure | grasping and pushing tasks | reach |
|---|---|---|
| `stops_half_way` | stops part of the way and hovers about | the same |
| `drops_it` | lets go part of the way, goes on to the end pose empty | turns away part of the way |
| `wrong_object` | does it with a distractor | goes to a distractor |
| `misses` | goes through the motions beside the object | ends beside the goal |
| `undoes_work` | does most of it, then takes it back | reaches the goal, then leaves |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vidreward.envs.tabletop import MAX_STEP, Tabletop
from vidreward.envs.tabletop_tasks import BRUSH_HALF_DEPTH, TIP_RADIUS, brush_end, end_tip, ready_point

FAILURES = ("stops_half_way", "drops_it", "wrong_object", "misses", "undoes_work")
GRASPING = ("slide-drawer", "pick-place")
OPEN, CLOSED = -1.0, 1.0
GRIP_STEPS = 3
"""Steps that opening or closing takes."""

Point = Float[ndarray, "2"]
Actions = Iterator[Float[ndarray, "3"]]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How one episode is played."""

    pace: float
    """Speed of the work, in world units a step."""
    approach: float
    """Speed of the approach, in the same unit."""
    curve: float
    """Sideways bend of free motions, as a share of their length."""
    tremor: float
    """Standard deviation of the motion noise, in world units a step."""
    pause: float
    """Chance that a pause begins in a step of free motion."""
    turn: float
    """Share of the work after which a failure happens."""


def draw_manner(rng: np.random.Generator, task: str, embodiment: str, failure: str | None) -> Manner:
    """Draw how an episode is played; an undoing hurries, so that it takes no longer than the others."""
    pace = float(rng.uniform(0.03, 0.048))
    hurry = 1.7 if failure == "undoes_work" else 1.0
    return Manner(
        pace=pace * hurry,
        approach=pace * hurry * (0.8 if task == "reach" else float(rng.uniform(1.3, 1.8))),
        curve=float(rng.normal(0, 0.12)),
        tremor=0.006 if embodiment == "hand" else 0.0015,
        pause=0.02 if embodiment == "hand" else 0.008,
        turn=float(rng.uniform(0.3, 0.65)),
    )


class Expert:
    """Play one episode of a tabletop environment that was just reset.

    Args:
        env: The environment; its state is read, never written.
        rng: Source of the natural variation.
        failure: One of `FAILURES`; None succeeds.

    Example:
        >>> env = Tabletop("reach")
        >>> _ = env.reset(seed=0)
        >>> for action in Expert(env, np.random.default_rng(0)).actions():
        ...     info = env.step(action)[-1]
        >>> info["success"]
        True
    """

    def __init__(self, env: Tabletop, rng: np.random.Generator, failure: str | None = None) -> None:
        if failure is not None and failure not in FAILURES:
            raise ValueError(f"unknown failure {failure!r}; choose one of {', '.join(FAILURES)}")
        self.env, self.rng, self.failure = env, rng, failure
        self.layout = env.layout
        self.goal, self.axis = np.array(env.layout["goal"]), np.array(env.layout["axis"])
        self.manner = draw_manner(rng, env.task, env.embodiment, failure)
        self._num_steps = 0

    def actions(self) -> Actions:
        """Yield actions until the expert is done."""
        plan = {"reach": self._reach, "push": self._push, "sweep": self._sweep}.get(self.env.task, self._carry)
        for action in plan():
            self._num_steps += 1
            yield action

    # -- plans ----------------------------------------------------------------------------------------------------

    def _reach(self) -> Actions:
        start, goal, turn = self.env.tip.copy(), self.goal, self.manner.turn
        half_way = start + turn * (goal - start)
        if self.failure == "wrong_object":
            goal = self._distractor()
        elif self.failure == "misses":
            goal = goal + self._beside(goal, 0.36, 0.5)
        elif self.failure == "undoes_work":
            yield from self._travel(lambda: goal, OPEN, self.manner.approach)
            yield from self._grip(CLOSED)
            goal = start + self.rng.normal(0, 0.1, 2)
        elif self.failure == "drops_it":
            yield from self._travel(lambda: half_way, OPEN, self.manner.approach)
            goal = half_way + self._beside(half_way, 0.5, 0.6)
        elif self.failure == "stops_half_way":
            yield from self._travel(lambda: half_way, OPEN, self.manner.approach)
            yield from self._hover(OPEN)
            return
        yield from self._travel(lambda: goal, OPEN, self.manner.approach)
        yield from self._grip(CLOSED)

    def _carry(self) -> Actions:
        """Grasp the object or the handle, take it to the goal, let go."""
        beside = self._beside(self.env.target(), 0.3, 0.4) if self.failure == "misses" else np.zeros(2)
        if self.failure == "wrong_object":
            wrong = self._distractor()
            yield from self._travel(lambda: wrong, OPEN, self.manner.approach)
        else:
            yield from self._travel(lambda: self.env.target() + beside, OPEN, self.manner.approach)
        yield from self._grip(CLOSED)
        start, extra = self.env.tip.copy(), 0.07 * self.axis if self.env.task == "slide-drawer" else np.zeros(2)
        holds_target = self.env.held is not None and self.failure != "wrong_object"
        end = self.goal + extra + beside - (self.env.target() - start if holds_target else 0.0)
        if self.failure == "wrong_object" and self.env.task == "slide-drawer":
            end = start + self.axis * np.linalg.norm(self.goal - self.env.target())
        yield from self._work(lambda: end, start, CLOSED)
        if self.failure == "undoes_work":
            back = start + 0.2 * self.rng.uniform(0, 1) * (end - start)
            yield from self._travel(lambda: back, CLOSED, self.manner.pace, tolerance=0.04)
            yield from self._grip(OPEN)
            yield from self._retreat(self.env.tip + (end_tip(self.layout, self.env.embodiment) - end) / 2)
            return
        yield from self._grip(OPEN)
        yield from self._retreat(end_tip(self.layout, self.env.embodiment) + beside)

    def _push(self) -> Actions:
        """Put the closed fingers behind the object and push it to the goal."""
        size = self.layout["objects"][0]["size"]
        if self.failure == "wrong_object":
            yield from self._carry()
            return
        if self.failure == "misses":
            beside = self._beside(self.env.target(), 0.34, 0.42)
            length = self.goal - self.env.target()
            yield from self._travel(lambda: self._behind(self.goal, size) + beside, OPEN, self.manner.approach)
            yield from self._grip(CLOSED)
            end = self.env.tip + length
            yield from self._travel(lambda: end, CLOSED, self.manner.pace)
            yield from self._grip(OPEN)
            yield from self._retreat(end_tip(self.layout, self.env.embodiment) + beside)
            return
        start = self.env.target().copy()
        yield from self._travel(lambda: self._behind(self.goal, size), OPEN, self.manner.approach)
        yield from self._grip(CLOSED)
        share = {"stops_half_way": self.manner.turn, "drops_it": self.manner.turn}.get(self.failure or "", 1.0)
        yield from self._push_to(start + share * (self.goal - start), size)
        if self.failure == "stops_half_way":
            yield from self._hover(CLOSED)
            return
        yield from self._grip(OPEN)
        if self.failure == "undoes_work":
            home = start + self.rng.uniform(0.2, 0.5) * (self.goal - start)
            yield from self._travel(lambda: self._behind(home, size), OPEN, self.manner.approach)
            yield from self._grip(CLOSED)
            yield from self._push_to(home, size)
            yield from self._grip(OPEN)
            return
        pace = self.manner.pace if self.failure == "drops_it" else None
        yield from self._retreat(end_tip(self.layout, self.env.embodiment), pace)

    def _sweep(self) -> Actions:
        """Put the brush down behind the crumbs and sweep them into the zone."""
        size = self.layout["objects"][0]["size"]
        end = self.goal + self.axis * (brush_end(self.layout) + 0.03)
        beside = self._beside(self.env.target(), 0.45, 0.55) if self.failure == "misses" else np.zeros(2)
        if self.failure == "wrong_object":
            wrong = self._distractor()
            beside = wrong - self.env.target()
            end = end + beside
        else:
            end = end + beside
        ready = ready_point(self.layout, self.env.target(), size) + beside
        yield from self._travel(lambda: ready, OPEN, self.manner.approach)
        yield from self._grip(CLOSED)
        yield from self._work(lambda: end, self.env.tip.copy(), CLOSED)
        yield from self._grip(OPEN)
        if self.failure == "undoes_work":
            beyond = self.env.target() + self.axis * (0.14 + size + BRUSH_HALF_DEPTH)
            yield from self._travel(lambda: beyond, OPEN, self.manner.approach)
            yield from self._grip(CLOSED)
            back = self.env.tip - self.axis * self.rng.uniform(0.5, 0.8)
            yield from self._travel(lambda: back, CLOSED, self.manner.pace)
            yield from self._grip(OPEN)
            return
        yield from self._retreat(end_tip(self.layout, self.env.embodiment) + beside)

    def _work(self, end: Callable[[], Point], start: Point, grip: float) -> Actions:
        """Move to the end of the work; a failure that happens on the way happens here."""
        half_way = start + self.manner.turn * (end() - start)
        if self.failure == "stops_half_way":
            yield from self._travel(lambda: half_way, grip, self.manner.pace)
            yield from self._hover(grip)
        elif self.failure == "drops_it":
            yield from self._travel(lambda: half_way, grip, self.manner.pace)
            yield from self._grip(OPEN)
            yield from self._travel(end, OPEN, self.manner.pace)
        else:
            yield from self._travel(end, grip, self.manner.pace, tolerance=0.03)

    # -- motions --------------------------------------------------------------------------------------------------

    def _travel(
        self, to: Callable[[], Point], grip: float, pace: float, *, tolerance: float = 0.05, most: int = 60
    ) -> Actions:
        """Move the tip to a point, which may itself move, along a bent path."""
        total = max(float(np.linalg.norm(to() - self.env.tip)), 1e-6)
        paused = 0
        for step in range(most):
            away = to() - self.env.tip
            distance = float(np.linalg.norm(away))
            if distance < tolerance:
                return
            if paused == 0 and self.rng.random() < self.manner.pause:
                paused = int(self.rng.integers(1, 4))
            paused = max(0, paused - 1)
            share = np.clip(1 - distance / total, 0.0, 1.0)
            speed = min(pace * self._speed(share, step), distance) * (0.1 if paused else 1.0)
            ahead = away / distance
            side = np.array([-ahead[1], ahead[0]]) * self.manner.curve * np.cos(np.pi * share)
            yield self._action(ahead * speed + side * speed * min(1.0, distance / 0.2), grip)

    def _speed(self, share: float, step: int) -> float:
        """Return the factor on the pace at a share of the way."""
        if self.env.embodiment == "hand":
            return float(0.45 + 0.85 * np.sin(np.pi * share))
        return float(min(1.15, 0.35 * (step + 1), 0.4 + 4 * (1 - share)))

    def _push_to(self, goal: Point, size: float) -> Actions:
        """Push the object to a point: stay behind it on the line to the point."""
        for step in range(60):
            away = goal - self.env.target()
            distance = float(np.linalg.norm(away))
            if distance < 0.045:
                return
            ahead = away / distance
            off = self.env.target() - ahead * (size + TIP_RADIUS) - self.env.tip
            sideways = off - (off @ ahead) * ahead
            # slow down in time: what was pushed slides on for a moment
            speed = min(self.manner.pace * self._speed(0.5, step), 0.4 * distance + max(float(off @ ahead), 0.0))
            yield self._action(ahead * speed + 0.8 * sideways, CLOSED)

    def _behind(self, goal: Point, size: float) -> Point:
        """Return where the tip starts to push the object towards a point, a little off it."""
        away = goal - self.env.target()
        return self.env.target() - away / max(float(np.linalg.norm(away)), 1e-6) * (size + TIP_RADIUS + 0.06)

    def _grip(self, grip: float) -> Actions:
        """Open or close, in place."""
        for _ in range(GRIP_STEPS):
            yield self._action(np.zeros(2), grip)

    def _retreat(self, end: Point, pace: float | None = None) -> Actions:
        """Go to the end pose, fingers open, and rest a moment."""
        yield from self._travel(lambda: end, OPEN, pace or self.manner.approach, tolerance=0.03, most=30)
        for _ in range(int(self.rng.integers(0, 3))):
            yield self._action(np.zeros(2), OPEN)

    def _hover(self, grip: float) -> Actions:
        """Drift about for as long as the rest of the work would have taken."""
        centre, share = self.env.tip.copy(), self.manner.turn
        for _ in range(max(8, round(self._num_steps * 0.35 * (1 - share) / share))):
            drift = self.rng.normal(0, 0.02, 2) + 0.15 * (centre - self.env.tip)
            yield self._action(drift, grip)

    def _action(self, motion: Point, grip: float) -> Float[ndarray, "3"]:
        noisy = motion + self.rng.normal(0, self.manner.tremor, 2)
        return np.array([*np.clip(noisy / MAX_STEP, -1, 1), grip], dtype=np.float32)

    def _distractor(self) -> Point:
        """Return where the distractor farthest from the tip lies: going there takes time, as the task does."""
        places = [
            self.env.position(index)
            for index, item in enumerate(self.layout["objects"])
            if item["role"] == "distractor"
        ]
        if not places:
            raise ValueError("the layout has no distractor; sample it with min_distractors=1 for 'wrong_object'")
        return max(places, key=lambda place: float(np.linalg.norm(place - self.env.tip)))

    def _beside(self, place: Point, low: float, high: float) -> Point:
        """Draw an offset across the way of the work that stays on the table."""
        across = np.array([-self.axis[1], self.axis[0]])
        offset = across * self.rng.uniform(low, high) * self.rng.choice([-1.0, 1.0])
        return -offset if np.abs(place + offset).max() > 0.85 else offset
