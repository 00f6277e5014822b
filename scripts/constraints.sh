#!/bin/sh
# Writes constraints.txt: the newest versions of all packages that fastlane, its tests and its tools
# need, as they work together. The versions only: where packages come from is the machine's business.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

.venv/bin/python -m venv "$folder/venv"
# Editable, so that it leaves no build directory behind.
if ! "$folder/venv/bin/python" -m pip install --disable-pip-version-check --quiet \
    --editable client --editable '.[dev]' >"$folder/pip.log" 2>&1; then
    cat "$folder/pip.log" >&2
    exit 1
fi
{
    echo "# Written by \`make constraints\`. Used by scripts/venv.sh, so by every target and by CI."
    "$folder/venv/bin/python" -m pip freeze --exclude-editable
} >"$folder/constraints.txt"
if grep -n '@' "$folder/constraints.txt"; then
    echo "constraints.txt would name a place instead of a version; see above" >&2
    exit 1
fi
mv "$folder/constraints.txt" constraints.txt
.venv/bin/python -m scripts.floors
git --no-pager diff --stat -- constraints.txt setup.cfg client/setup.cfg
