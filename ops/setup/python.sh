#!/bin/sh
# Make .venv and put into it exactly what requirements.lock names, and the project itself. Quick when nothing changed.
set -eu
cd "$(dirname "$0")/../.."
UV_VERSION=0.13.9

find_python() {
    for candidate in ${PYTHON:-python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "mailvet needs Python 3.11 or newer (Debian 12: apt-get install python3); PYTHON=... names one." >&2
    exit 2
}

# Debian keeps venv and ensurepip in a package of their own.
need_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv
    else
        echo "Python's venv module is missing. Install it first: sudo apt-get install python3-venv" >&2
        exit 2
    fi
}

if ! [ -x .venv/bin/uv ]; then
    python=$(find_python)
    need_venv "$python"
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi

# The stamp is what was installed: the lock and the project's own declaration.
if ! cat requirements.lock pyproject.toml | cmp -s - .venv/installed; then
    .venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes --no-build requirements.lock
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
    cat requirements.lock pyproject.toml >.venv/installed
fi
