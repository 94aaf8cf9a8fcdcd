#!/usr/bin/env bash
# Runs tests on the oldest Keras that setup.cfg allows and on the newest pre-release in the registry, each in a temporary
# environment over the one at hand.
#
#     tools/keras_versions.sh                     the tests of what is private of Keras, and of graph and callbacks
#     tools/keras_versions.sh tests               the whole suite; any arguments of pytest
#     KERAS=keras==3.14.1 tools/keras_versions.sh   another version alone; `oldest` and `newest` stand for those two
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- tests/test_keras_internals.py tests/graph tests/callbacks
bound=$(sed -n 's/^ *keras>=\([0-9.]*\).*/\1/p' setup.cfg)
behind=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
here=$PATH
status=0
for version in ${KERAS:-oldest newest}; do
    case $version in
        oldest) version="keras==$bound" ;;
        newest) version=keras-nightly ;;
    esac
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python -m venv "$folder"
    # Behind its own packages stand those of the environment at hand: TensorFlow is not downloaded again.
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$behind" > "$site/behind.pth"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --pre --upgrade "$version"

    export PATH="$folder/bin:$here" PYTHONPATH="$PWD" TF_CPP_MIN_LOG_LEVEL=3
    python -c 'import keras, sys, tensorflow as tf
print(f"Keras {keras.__version__} ({keras.__file__}), TensorFlow {tf.__version__}, Python {sys.version.split()[0]}")'
    python -m pytest -n 2 "$@" || status=1
    rm -rf "$folder"
    export PATH=$here
done
exit $status
