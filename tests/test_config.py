"""Configurations to JSON and back: exact, strict, and only ever of the types that are named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidreward.augment import Augment
from vidreward.config import from_json, to_json
from vidreward.rewards import available, load_module
from vidreward.rewards.hold_c import HoldCConfig
from vidreward.train_config import DataConfig, FitConfig
from vidreward.types import DataSpec

text = st.text(max_size=20)
number = st.floats(allow_nan=False, allow_infinity=False)


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested configuration."""

    name: str
    sizes: tuple[int, ...] = ()
    pair: tuple[float, str] = (0.0, "")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """One field of every kind that a configuration may hold."""

    inner: Inner
    kind: Literal["a", "b", 3] = "a"
    rate: float = 1.0
    count: int = 0
    flag: bool = False
    maybe: float | None = None
    where: Path | None = None
    many: tuple[Inner, ...] = ()
    box: tuple[float, float] | None = None
    other: Inner = field(default_factory=lambda: Inner(name="x"))


inners = st.builds(Inner, name=text, sizes=st.lists(st.integers()).map(tuple), pair=st.tuples(number, text))
outers = st.builds(
    Outer,
    inner=inners,
    kind=st.sampled_from(["a", "b", 3]),
    rate=number,
    count=st.integers(),
    flag=st.booleans(),
    maybe=st.none() | number,
    where=st.none() | st.sampled_from([Path("a/b"), Path("/x y")]),
    many=st.lists(inners, max_size=3).map(tuple),
    box=st.none() | st.tuples(number, number),
    other=inners,
)


@given(outers)
def test_round_trip(config: Outer) -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(config), allow_nan=False))) == config


@given(st.recursive(st.none() | st.booleans() | number | text, lambda x: st.lists(x) | st.dictionaries(text, x)))
def test_anything_else_is_refused_with_a_message(values: object) -> None:
    with pytest.raises(ValueError, match="config"):
        from_json(Outer, values)


@pytest.mark.parametrize("name", available())
def test_every_recipe_survives(name: str) -> None:
    for preset in ("default", "debug"):
        recipe = load_module(name).recipe(preset)
        for part in (recipe.reward, recipe.data, recipe.fit):
            assert from_json(type(part), json.loads(json.dumps(to_json(part)))) == part


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"marign": 0.1}, "HoldCConfig has no field 'marign'; did you mean 'margin'"),
        ({"zzz": 0.1}, "no field 'zzz'; it has variant, network"),
        ({"depth": 19}, r"config.depth must be one of 14, 18, 34, 50; got 19"),
        ({"depth": "18"}, "config.depth must be one of"),
        ({"margin": "0.2"}, "config.margin must be .*float.*; got '0.2'"),
        ({"margin": True}, "config.margin must be"),
        ({"num_frames": 2.5}, "config.num_frames must be .*int.*; got 2.5"),
        ({"num_frames": True}, "config.num_frames must be"),
        ({"num_frames": None}, "config.num_frames must be"),
        ({"scales": [1, "2"]}, r"config.scales\[1\] must be"),
        ({"scales": 1}, "config.scales must be"),
        ({"augment": {"zoom": [1.0]}}, "config.augment.zoom must be"),
        ({"augment": {"zom": [1.0, 2.0]}}, "config.augment: Augment has no field 'zom'; did you mean 'zoom'"),
        ({"augment": []}, "config.augment must be an object with the fields of Augment"),
        ({"variant": "os.system"}, "config.variant must be one of 'as_coded', 'fixed'; got 'os.system'"),
    ],
)
def test_wrong_values_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(HoldCConfig, {**to_json(HoldCConfig()), **change})


def test_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match="FitConfig needs steps, batch_size, lr"):
        from_json(FitConfig, {})
    with pytest.raises(ValueError, match="run: DataSpec needs height, width, fps"):
        from_json(DataSpec, {}, "run")


def test_integers_are_floats_where_floats_are_wanted() -> None:
    assert from_json(Augment, {"shift": 1}).shift == 1.0
    assert isinstance(from_json(Augment, {"shift": 1}).shift, float)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold set"):
        to_json({"a": {1}})
    assert to_json(DataConfig(cache_dir=Path("x")))["cache_dir"] == "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "fit.steps must be at least 1; got 0"),
        ({"batch_size": -1}, "fit.batch_size must be at least 1"),
        ({"num_workers": 0}, "fit.num_workers must be at least 1"),
        ({"lr": 0.0}, "fit.lr must be more than 0"),
        ({"lr": float("nan")}, "fit.lr must be more than 0"),
        ({"seed": -1}, "fit.seed"),
        ({"weight_decay": 0.1}, "no effect with adam; use --fit.optimizer adamw"),
        ({"grad_clip": 0.0}, "fit.grad_clip must be more than 0"),
    ],
)
def test_impossible_training_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitConfig(**{"steps": 1, "batch_size": 1, "lr": 1.0, **change})  # type: ignore[arg-type]
