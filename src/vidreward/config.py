"""Frozen dataclasses to JSON and back, strictly: an unknown or missing key is an error, never a guess."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def to_json(config: object) -> Any:
    """Turn nested dataclasses, tuples and paths into plain JSON values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, tuple | list):
        return [to_json(value) for value in config]
    if isinstance(config, Mapping):
        return {str(key): to_json(value) for key, value in config.items()}
    if config is None or isinstance(config, str | int | float | bool):
        return config
    raise TypeError(f"a config cannot hold {type(config).__name__}: {config!r}")


def from_json[T](cls: type[T], values: object, where: str = "config") -> T:
    """Rebuild a dataclass from what `to_json` wrote; only types named in its annotations are ever made.

    Args:
        cls: Dataclass to rebuild.
        values: Parsed JSON.
        where: Path of the value, for messages.

    Raises:
        ValueError: A key is unknown (the nearest name is offered) or missing, or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be an object with the fields of {cls.__name__}; got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            offer = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(fields)}"
            raise ValueError(f"{where}: {cls.__name__} has no field {name!r}{offer}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: {cls.__name__} needs {', '.join(missing)}")
    return cls(**{name: _parse(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _parse(kind: Any, value: Any, where: str) -> Any:
    """Check a JSON value against a type annotation and convert it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _parse_union([arg for arg in args if arg is not type(None)], value, where)
    if origin is typing.Literal:
        if value in args:
            return value
        raise ValueError(f"{where} must be one of {', '.join(map(repr, args))}; got {value!r}")
    if origin is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            return tuple(_parse(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    elif isinstance(kind, type):
        if dataclasses.is_dataclass(kind):
            return from_json(kind, value, where)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if kind in (bool, int, str) and type(value) is kind:
            return value
    raise ValueError(f"{where} must be {kind}; got {value!r}")


def _parse_union(kinds: list[Any], value: Any, where: str) -> Any:
    problems = []
    for kind in kinds:
        try:
            return _parse(kind, value, where)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; or ".join(problems))
