"""Errors that say which names there are, and which one was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def check_names(kind: str, given: Iterable[str], valid: Sequence[str]) -> None:
    """Refuse a name that does not exist, offering the nearest one and listing all.

    Args:
        kind: What is named, for the message.
        given: Names to check.
        valid: Names that exist.

    Raises:
        ValueError: A name does not exist.

    Example:
        >>> check_names("camera", ["tpo"], ["top", "side"])
        Traceback (most recent call last):
        ...
        ValueError: no camera 'tpo'; did you mean 'top'? There are top, side
    """
    for name in given:
        if name not in valid:
            near = difflib.get_close_matches(str(name), valid, n=1)
            hint = f"did you mean {near[0]!r}? There are" if near else "there are"
            raise ValueError(f"no {kind} {name!r}; {hint} {', '.join(valid) or 'none'}")
