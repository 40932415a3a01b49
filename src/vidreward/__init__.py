"""vidreward: rewards learned from video.

`vidreward.load` loads a trained reward; `vidreward.data.episodes.open_episodes` opens videos, `vidreward.scoring`
scores them, `vidreward.jobs.train` trains.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidreward.checkpoint import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` when it is first used: the command line must not wait for torch to show its help."""
    if name == "load":
        from vidreward.checkpoint import load

        return load
    raise AttributeError(f"module 'vidreward' has no attribute {name!r}")
