#!/bin/sh
# Makes .venv where it is missing and installs fastlane and its client into it, editable, with the
# versions in constraints.txt.
# usage: scripts/venv.sh run|dev      (dev: with what tests, lint and benchmarks need)
# VENV=dir PYTHON=python3.14: another directory, another Python.
set -eu
cd "$(dirname "$0")/.."
what=${1:-run}
venv=${VENV:-.venv}

find_python() {
    for python in ${PYTHON:-} python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
        # Run it: a version manager's shim may exist for a version that is not installed.
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "fastlane needs Python 3.11 or newer, and found none." >&2
        echo "On Debian 12, Ubuntu 24.04 or newer: sudo apt install python3 python3-venv" >&2
        exit 1
    fi
    # Debian ships Python without ensurepip; a half-made .venv would be left behind.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            echo "setup     installing $package (apt)"
            if ! out=$(apt-get update -qq 2>&1 && DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends "$package" 2>&1); then
                printf '%s\n' "$out" >&2
                exit 1
            fi
        else
            echo "$python cannot make virtual environments. Do: sudo apt install $package" >&2
            exit 1
        fi
    fi
    echo "setup     making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

case $what in
run) target=. ;;
dev) target='.[dev]' ;;
*) echo "usage: scripts/venv.sh run|dev" >&2; exit 2 ;;
esac

echo "setup     installing fastlane into $venv ($what)"
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --quiet \
    --constraint constraints.txt --editable client --editable "$target" >"$venv/pip.log" 2>&1; then
    cat "$venv/pip.log" >&2
    echo "setup     pip could not install fastlane; see above" >&2
    exit 1
fi
touch "$venv/$what.stamp"
# dev holds everything that run holds.
if [ "$what" = dev ]; then touch "$venv/run.stamp"; fi
