#!/usr/bin/env bash
# Make .venv with the package (editable), the development tools and the extras named as arguments, all in the
# versions of constraints.txt. Needs nothing but python3: uv is installed into .uv when it does not run here.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=uv
if ! uv --version >/dev/null 2>&1; then # a shim that finds no version of python is "there" but does not run
    uv=.uv/bin/uv
    if ! "$uv" --version >/dev/null 2>&1; then
        echo "uv is missing: installing it into .uv"
        rm -rf .uv
        python3 -m venv .uv || { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
        .uv/bin/pip install --quiet uv
    fi
fi

if [ "${1:-}" = --uv ]; then # only say which uv to use
    echo "$uv"
    exit
fi

[ -x .venv/bin/python ] || "$uv" venv --quiet .venv
extras=$(IFS=,; echo "$*")
"$uv" pip install --python .venv/bin/python --constraint constraints.txt --group dev --editable ".${extras:+[$extras]}"
