"""Episodes from disk: one file per format, one way in (`open_episodes`).

Names are looked up when first used: the cache's worker processes import this package too, and start ten times
faster without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidreward.data.cache import build_cache
    from vidreward.data.decode import FrameSpec, VideoError
    from vidreward.data.encode import write_video
    from vidreward.data.episode_set import EpisodeSet
    from vidreward.data.episodes import open_episodes
    from vidreward.data.inspect import inspect_data
    from vidreward.data.paths import Quarantined

__all__ = [
    "EpisodeSet",
    "FrameSpec",
    "Quarantined",
    "VideoError",
    "build_cache",
    "inspect_data",
    "open_episodes",
    "write_video",
]

_HOMES = {
    "EpisodeSet": "episode_set",
    "FrameSpec": "decode",
    "Quarantined": "paths",
    "VideoError": "decode",
    "build_cache": "cache",
    "inspect_data": "inspect",
    "open_episodes": "episodes",
    "write_video": "encode",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
