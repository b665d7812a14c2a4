#!/usr/bin/env bash
# Install a wheel into a clean environment and do there what README's first command does, in short.
#   deploy/try_wheel.sh WHEEL
set -euo pipefail
wheel="$(realpath "$1")"
space="$(mktemp -d)"
trap 'rm -rf "$space"' EXIT
cd "$space"
python3 -m venv environment
environment/bin/pip install --quiet "$wheel"
environment/bin/python -m jaxarena.train train.agent_steps=1 train.markets=4 train.updates_per_chunk=1 \
    ppo.rollout_length=16 evaluation.markets=2 evaluation.draws=20 run_dir=run
test -s run/report.html
environment/bin/python -m jaxarena.verify run
