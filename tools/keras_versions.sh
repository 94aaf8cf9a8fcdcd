#!/usr/bin/env bash
# Runs tests on the newest pre-release of Keras in the registry, in a temporary environment over the one at hand.
#
#     tools/newest_keras.sh                       the tests of what is private of Keras, and of graph and callbacks
#     tools/newest_keras.sh tests                 the whole suite; any arguments of pytest
#     KERAS=keras==3.12.0 tools/newest_keras.sh   another version: the lower bound in setup.cfg
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python -m venv "$folder"
# Behind its own packages stand those of the environment at hand: TensorFlow is not downloaded again.
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/behind.pth"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --pre --upgrade "${KERAS:-keras-nightly}"

export PATH="$folder/bin:$PATH" PYTHONPATH="$PWD" TF_CPP_MIN_LOG_LEVEL=3
python -c 'import keras, sys, tensorflow as tf
print(f"Keras {keras.__version__} ({keras.__file__}), TensorFlow {tf.__version__}, Python {sys.version.split()[0]}")'
[ $# -gt 0 ] || set -- tests/test_keras_internals.py tests/graph tests/callbacks
python -m pytest -n 2 "$@"
