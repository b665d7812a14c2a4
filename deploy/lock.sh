#!/usr/bin/env bash
# Write the lock files of the images anew from pyproject.toml; needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
    uv pip compile --quiet --upgrade --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --generate-hashes --no-header --no-annotate --output-file "deploy/requirements-$1.txt" "${@:2}"
}
lock cpu pyproject.toml --extra tracking
lock cuda12 pyproject.toml --extra tracking --extra cuda12
lock cuda13 pyproject.toml --extra tracking --extra cuda13
echo "hatchling>=1.26" | lock build -
