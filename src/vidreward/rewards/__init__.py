"""Reward models, one file each; the file name is the command-line name.

A file holds, in this order, a `RewardConfig`, its `RewardModel`, and `recipe(preset)`. Nothing is registered: put a
file here and the command line lists it and the contract tests run on it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType


def available() -> tuple[str, ...]:
    """Name the reward models of this package.

    Example:
        >>> available()
        ('hold_c', 'hold_r', 'pixels')
    """
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load_module(name_or_file: str | Path) -> ModuleType:
    """Import a reward model's module by name, or from a user's own file.

    Args:
        name_or_file: One of `available()`, or the path of a Python file with a `recipe` function.

    Raises:
        ValueError: No such model; the nearest name is offered.
    """
    text = str(name_or_file)
    if text.endswith(".py"):
        return _load_file(Path(text))
    name = text.replace("-", "_")
    if name in available():
        return importlib.import_module(f"{__name__}.{name}")
    near = difflib.get_close_matches(name, available(), n=1)
    offer = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(available())}, or give a file my_reward.py"
    raise ValueError(f"no reward model {text!r}; {offer}")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a Python file that defines a reward model and recipe()")
    name = f"vidreward_model_{path.stem}"  # a file json.py must not take the place of Python's own
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    if not hasattr(module, "recipe"):
        raise ValueError(f"{path} has no recipe(preset) function; see docs/add-a-reward-model.md")
    return module
