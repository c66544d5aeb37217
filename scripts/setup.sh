#!/bin/sh
# Makes .venv from requirements.lock, or says in one sentence why it cannot. Prints nothing when all is done already.
set -eu
cd "$(dirname "$0")/.."
PY=.venv/bin/python
STAMP=.venv/setup-stamp

fingerprint() {
    # The folder too: an editable install and the scripts in .venv/bin name it.
    { pwd; cat pyproject.toml requirements.lock scripts/setup.sh; } | cksum
}

is_new_enough() {
    # The stubs of pyenv exist for every version and fail for most; Debian splits ensurepip off: so run it.
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

find_python() {
    for name in python3.12 python3.13 python3.14 python3 python; do
        if is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*; do
        if is_new_enough "$folder/bin/python"; then
            echo "$folder/bin/python"
            return
        fi
    done
    if command -v uv >/dev/null; then
        uv python install --quiet 3.12 >/dev/null 2>&1 || true
        uv python find --system '>=3.12' 2>/dev/null && return
    fi
    echo "error: no Python 3.12 or newer found; install one (Debian: python3.12 and python3.12-venv;" \
        "any system: uv, then \`uv python install 3.12\`) and run the same command again" >&2
    return 1
}

find_uv() {
    if command -v uv >/dev/null; then
        command -v uv
    elif [ -x .venv/bin/uv ]; then
        echo .venv/bin/uv
    else
        # uv of the lock, checked against its hashes, by the pip that came with .venv.
        awk '/^uv==/ { on = 1 } on && /^[^ ]/ && !/^uv==/ { exit } on && !/#/ { print }' requirements.lock >.venv/uv.lock
        $PY -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock >&2
        echo .venv/bin/uv
    fi
}

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && $PY -c '' 2>/dev/null; then
    exit 0
fi
began=$(date +%s)
state=brought\ up\ to\ date
if ! is_new_enough "$PY"; then
    python=$(find_python)
    "$python" -m venv --clear .venv
    state=made
fi
uv=$(find_uv)
# Byte code at once: compiled at first use instead, the first command would take half a minute longer.
"$uv" pip install --quiet --python "$PY" --compile-bytecode --require-hashes -r requirements.lock
# The build tools are in the lock: nothing is fetched that has no hash.
"$uv" pip install --quiet --python "$PY" --no-deps --no-build-isolation --editable .
# Of ours too: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would compile it anew.
$PY -m compileall -q microtome tasks flows deployments
# numba kernels, once: they would take some 20 s of the first run.
$PY -m microtome.warmup
fingerprint >"$STAMP"
version=$($PY -c 'import platform; print(platform.python_version())')
packages=$("$uv" pip list --quiet --python "$PY" --format=freeze | wc -l)
echo "setup: Python $version, .venv $state, $packages packages ($(($(date +%s) - began)) s)"
