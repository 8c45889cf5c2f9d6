#!/bin/sh
# Make a virtual environment with exactly what LOCK lists, hashes checked, and nothing else: no pip, no setuptools.
#
#   install-dependencies.sh TOOLS TARGET LOCK
#
# Wheels only: no package's own code runs while it is installed, and no compiler is needed.
set -eu
tools=$1 target=$2 lock=$3

python3 -m venv --without-pip "$target"
"$tools/bin/uv" pip install --quiet --no-config --python "$target/bin/python" --require-hashes --only-binary :all: --requirement "$lock"
