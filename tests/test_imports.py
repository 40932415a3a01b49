"""The shape of the code: imports go one way, files and functions stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src"
FILES = sorted(ROOT.rglob("*.py"))

GROUPS = ("types", "nets", "encoders", "reward_model", "data", "train", "rewards", "rl")
MAY_IMPORT = {
    "types": set(),
    "nets": {"types"},
    "encoders": {"types", "nets"},
    "reward_model": {"types", "nets", "encoders"},
    "data": {"types", "nets", "encoders", "reward_model"},
    "train": {"types", "nets", "encoders", "reward_model", "data"},
    "rewards": {"types", "nets", "encoders", "reward_model", "data", "train"},
    "rl": {"types", "nets", "encoders", "reward_model", "data", "train"},
}
"""What each group may import of the other groups; modules outside (files, log, augment, ...) are free but for cli."""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module of vidreward that a file imports, inside functions too."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "vidreward"}


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring, which is no reason to split it."""
    first = function.body[0]
    is_docstring = ast.get_docstring(function) is not None
    return span(function) - (span(first) if is_docstring else 0)


def span(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def group(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    own = group(module_name(path))
    for name in imports(path):
        other = group(name)
        assert other != "cli" or module_name(path).startswith(("vidreward.cli", "vidreward.__main__")), name
        if own in GROUPS and other in GROUPS and other != own:
            assert other in MAY_IMPORT[own], f"{own} must not import {name}"
        if own == "rewards" and other == "rewards":
            assert name in ("vidreward.rewards", module_name(path)), f"a reward file must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = 80 if node.name == "fit" else 50
            num_lines = count_lines(node)
            assert num_lines <= limit, f"{node.name} has {num_lines} lines without its docstring; at most {limit}"


def test_the_rules_would_see_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    folder = tmp_path / "vidreward" / "rewards"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("def f():\n    from . import two\n    from ..cli import main\n    import torch\n")
    assert imports(folder / "one.py") == {
        "vidreward.rewards",
        "vidreward.rewards.two",
        "vidreward.cli",
        "vidreward.cli.main",
    }
    with pytest.raises(AssertionError):
        test_imports_go_one_way(folder / "one.py")
