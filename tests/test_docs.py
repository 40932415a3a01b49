"""The check of the pages sees what is wrong; whether the pages are right is `make docs`."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def check_docs() -> ModuleType:
    path = Path(__file__).parents[1] / "scripts" / "check_docs.py"
    spec = importlib.util.spec_from_file_location("check_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links(check_docs: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One & `two`: three\n```\n# no heading\n```\n")
    links = ("other.md#one--two-three", "absent.md", "other.md#no-heading", "https://example.org", "#here")
    text = "\n".join(f"[text]({link})" for link in links) + "\n# Here\n"
    page.write_text(text)
    assert check_docs.check_links(page, text) == [
        "link to absent.md: no such file",
        "link to other.md#no-heading: no such heading",
    ]


def test_code(check_docs: ModuleType) -> None:
    code = "import vidreward\nfrom vidreward.types import Video, Film\nvidreward.no_such()\n"
    assert check_docs.check_code(code) == ["vidreward.types has no Film", "vidreward has no no_such"]


def test_examples(check_docs: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\n>>> 1 + 1\n3\n\n```\n")
    assert check_docs.check_page(page) == ["1 of 1 examples failed"]


def test_tree(check_docs: ModuleType) -> None:
    readme = (
        "## The tree\n\n```text\nsrc/vidreward/\n  types.py  what\n  nets/\n    resnet.py net.py a net\nMakefile\n```\n"
    )
    problems = check_docs.check_tree(readme)
    assert problems[0] == "src/vidreward/nets/net.py does not exist"
    assert "src/vidreward/log.py is not named" in problems
    assert "src/vidreward/types.py is not named" not in problems
    assert "src/vidreward/nets/resnet.py is not named" not in problems
    assert check_docs.check_tree("no tree") == ["there is none"]


def test_includes(check_docs: ModuleType) -> None:
    text = "<!-- include .python-version -->\n```python\nold\n```\n<!-- end -->\n"
    assert check_docs.include_files(text) == text.replace("old", "3.12")
