#!/bin/sh
# Build tleg's wheel from the sources in the working folder, and install it beside its dependencies.
#
#   install-tleg.sh TOOLS TARGET
#
# No dependency is looked for (--no-deps): TARGET has what its lock lists, which for the API is less than the project declares.
set -eu
tools=$1 target=$2
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

"$tools/bin/uv" build --quiet --no-config --wheel --python "$tools/bin/python" --no-build-isolation --out-dir "$wheels"
"$tools/bin/uv" pip install --quiet --no-config --python "$target/bin/python" --no-deps --offline "$wheels"/*.whl
"$target/bin/tleg" --version
