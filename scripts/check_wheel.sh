#!/usr/bin/env bash
# Build the wheel and use it in an environment that holds nothing else: every module imports, the command runs.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(scripts/environment.sh --uv | tail -n 1)
[[ $uv = /* || $uv = uv ]] || uv=$PWD/$uv
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$uv" build --quiet --wheel --out-dir "$folder/dist" .
"$uv" venv --quiet --python "$(cat .python-version)" "$folder/venv"
"$uv" pip install --quiet --python "$folder/venv/bin/python" --constraint constraints.txt "$folder"/dist/*.whl
cd "$folder"
venv/bin/python - <<'PYTHON'
import importlib
import pkgutil
from importlib.resources import files

import vidreward

names = [module.name for module in pkgutil.walk_packages(vidreward.__path__, "vidreward.")]
names = [name for name in names if ".integrations." not in name]  # each needs the library it is for
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
assert (files("vidreward") / "py.typed").is_file(), "py.typed is not in the wheel"
assert "site-packages" in vidreward.__file__, vidreward.__file__
print(f"{len(names)} modules import from the wheel")
PYTHON
venv/bin/vidreward --help >help.txt
grep -q doctor help.txt
echo "the wheel's command runs"
