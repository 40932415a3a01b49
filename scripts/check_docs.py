"""Check the pages against the code: links, the README's tree, included files, imports, commands and examples.

python scripts/check_docs.py            # name everything that is wrong; exit code 1 when something is
python scripts/check_docs.py --write    # first copy included files into the pages
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import vidreward

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r"(<!-- include (\S+) -->\n```python\n).*?(```\n<!-- end -->)", re.DOTALL)
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<names>[\w./]+(?: [\w.]+\.\w+)*)(?: +.*)?$")


def main() -> int:
    """Print every problem, then how many there are."""
    if "--write" in sys.argv[1:]:
        for page in PAGES:
            page.write_text(include_files(page.read_text(encoding="utf-8")), encoding="utf-8")
    problems = [f"{page.relative_to(ROOT)}: {problem}" for page in PAGES for problem in check_page(page)]
    problems += [f"README.md: tree: {problem}" for problem in check_tree((ROOT / "README.md").read_text())]
    problems += check_commands()
    print("\n".join(problems) or f"{len(PAGES)} pages are right")
    return int(bool(problems))


def check_page(page: Path) -> list[str]:
    """Check the links, includes, imports and examples of one page."""
    text = page.read_text(encoding="utf-8")
    problems = check_links(page, text)
    if include_files(text) != text:
        problems.append("an included file changed; run: make docs-write")
    for _, language, code in FENCE.findall(text):
        if language == "python":
            problems += check_code(code)
    results = doctest.testfile(str(page), module_relative=False, verbose=False)
    if results.failed:
        problems.append(f"{results.failed} of {results.attempted} examples failed")
    return problems


def check_links(page: Path, text: str) -> list[str]:
    """Find links to files and headings that do not exist; addresses on the web are not opened."""
    problems = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            problems.append(f"link to {target}: no such file")
        elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
            problems.append(f"link to {target}: no such heading")
    return problems


def anchors(text: str) -> set[str]:
    """Return the headings of a page as they are linked to."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def include_files(text: str) -> str:
    """Put the named files between their include marks."""
    return INCLUDE.sub(lambda match: match[1] + (ROOT / match[2]).read_text(encoding="utf-8") + match[3], text)


def check_code(code: str) -> list[str]:
    """Check that code parses and that what it imports from vidreward exists."""
    if ">>>" in code:
        return []  # doctest runs it
    problems = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vidreward"):
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            problems += [f"{node.module} has no {name}" for name in missing]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vidreward":
            problems += [] if hasattr(vidreward, node.attr) else [f"vidreward has no {node.attr}"]
    return problems


def check_tree(readme: str) -> list[str]:
    """Check that the README's tree names every Python file of the package, and nothing that is not there."""
    block = re.search(r"^## The tree\n+```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    if block is None:
        return ["there is none"]
    folders: list[tuple[int, Path]] = []
    named = set()
    for line in block[1].splitlines():
        match = TREE_LINE.match(line)
        if match is None:
            return [f"cannot read the line {line!r}"]
        indent = len(match["indent"])
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        parent = folders[-1][1] if folders else ROOT
        paths = [parent / name for name in match["names"].split()]
        named |= set(paths)
        folders.append((indent, paths[-1]))
    there = {path for path in (ROOT / "src" / "vidreward").rglob("*.py") if path.name != "__init__.py"}
    surplus = [f"{path.relative_to(ROOT)} does not exist" for path in sorted(named) if not path.exists()]
    return surplus + [f"{path.relative_to(ROOT)} is not named" for path in sorted(there - named)]


def check_commands() -> list[str]:
    """Check that every command the pages show exists, with every option they give it."""
    shown: dict[str, set[str]] = {}
    for page in PAGES:
        for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in code.splitlines() if language == "sh" else []:
                match = re.match(r" *(?:\.venv/bin/|uv run )?vidreward ([\w-]+(?: hold_\w)?)(.*)", line)
                if match:
                    shown.setdefault(match[1], set()).update(re.findall(r"--[\w.-]+", match[2].split("#")[0]))
    problems = []
    for command, options in sorted(shown.items()):
        words = [sys.executable, "-m", "vidreward", *command.split(), "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            problems.append(f"vidreward {command}: no such command")
        known = set(re.findall(r"--[\w.-]+", done.stdout))
        problems += [f"vidreward {command} has no option {option}" for option in sorted(options - known)]
    return problems


if __name__ == "__main__":
    raise SystemExit(main())
