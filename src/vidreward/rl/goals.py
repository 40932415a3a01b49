"""Which goal a frame is compared with: sub-goals one after the other, or a demonstration followed in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SubGoals:
    """Go from goal image to goal image, each time the distance has stayed small for some steps; never back.

    HOLD opens a drawer in two stages so; here there may be any number. The distance is minus the value after baseline
    and clipping, before scaling (docs/rewards-in-rl.md).
    """

    threshold: float
    """Distance below which a frame counts as being at the goal; HOLD: 1, with R3M 0.5."""
    hold_steps: int = 3
    """Frames in a row below the threshold after which the next goal begins."""
    cost: float = 0.0
    """Distance added for each goal that is left after the current one, so that switching never costs; HOLD: 2 with
    HOLD-C, 20 with HOLD-R."""
    variant: Literal["as_coded", "fixed"] = "fixed"
    """`as_coded` is the released code, in which with differences the reset frame counts as a held step, the
    normaliser's baseline is that of the goal just switched to, and a sparse reward is replaced by comparing the
    distance with `cost` in it. `fixed`: the reset frame does not count, the baseline is that of the goal compared
    with, and success is near the last goal only."""

    def __post_init__(self) -> None:
        if not self.threshold > 0 or self.hold_steps < 1 or not self.cost >= 0:
            raise ValueError(
                f"sub-goals need a threshold above 0, hold_steps of at least 1 and a cost of at least 0; got "
                f"{self.threshold}, {self.hold_steps} and {self.cost}"
            )

    def offset(self, goal: int, num_goals: int) -> float:
        """Return what is added to the distance to a goal."""
        return (num_goals - 1 - goal) * self.cost

    def advance(self, goal: int, counter: int, distance: float, num_goals: int) -> tuple[int, int]:
        """Count a frame at this distance to the goal; returns the goal and the counter of the next frame.

        Example:
            >>> SubGoals(threshold=1.0).advance(0, 2, 0.5, num_goals=2)
            (1, 0)
        """
        counter = counter + 1 if distance < self.threshold else 0
        if counter < self.hold_steps:
            return goal, counter
        return min(goal + 1, num_goals - 1), 0


@dataclass(frozen=True, kw_only=True)
class TimeIndexedGoals:
    """Follow a demonstration: frame t of an episode is compared with frame t of the goal video, as TCN tracks."""

    variant: Literal["as_coded", "fixed"] = "fixed"
    """`as_coded`, HOLD's TCN baseline: the goal's number is the number of steps finished before, so frame t is
    compared with frame t - 1; `fixed`: with frame t."""

    def goal(self, frame: int, num_goals: int) -> int:
        """Number the goal frame that a frame (0 is the reset frame) is compared with; the last one stays.

        Example:
            >>> [TimeIndexedGoals(variant="as_coded").goal(t, 3) for t in range(6)]
            [0, 0, 1, 2, 2, 2]
        """
        behind = 1 if self.variant == "as_coded" else 0
        return min(max(frame - behind, 0), num_goals - 1)


GoalSchedule = SubGoals | TimeIndexedGoals
