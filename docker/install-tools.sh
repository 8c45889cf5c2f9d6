#!/bin/sh
# Make a virtual environment with the tools that the other steps work with, at the locked versions, hashes checked.
#
#   install-tools.sh TOOLS LOCK
#
# TOOLS is the folder to make. It belongs to the build: nothing of it gets into an image.
set -eu
tools=$1 lock=$2

python3 -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --requirement "$lock"
