#!/usr/bin/env bash
# Runs tests on the oldest versions that setup.cfg allows, of Keras and of all else but TensorFlow, and on the newest
# pre-release of Keras in the registry, each in a temporary environment over the one at hand. TensorFlow is the one at
# hand, which is not downloaded again.
#
#     tools/keras_versions.sh                     the tests of what is private of Keras, of graph and callbacks, and of
#                                                 files that earlier versions wrote
#     tools/keras_versions.sh tests               the whole suite; any arguments of pytest
#     KERAS=keras==3.14.1 tools/keras_versions.sh   another version alone; `oldest` and `newest` stand for those two
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- tests/test_keras_internals.py tests/test_kept_files.py tests/graph tests/callbacks
oldest=$(sed -n '/^install_requires/,/^$/s/^ \+\([a-z-]*\)>=\([0-9.]*\).*/\1==\2/p' setup.cfg | grep -v '^tensorflow==' | tr '\n' ' ')
behind=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
here=$PATH
status=0
for version in ${KERAS:-oldest newest}; do
    case $version in
        oldest) version=$oldest ;;
        newest) version=keras-nightly ;;
    esac
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python -m venv "$folder"
    # Behind its own packages stand those of the environment at hand: TensorFlow is not downloaded again.
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$behind" > "$site/behind.pth"
    python -c 'import importlib.metadata as m; print(*(f"{n}=={m.version(n)}" for n in ("tensorflow", "tf-keras")), sep="\n")' > "$folder/kept"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --pre --upgrade -c "$folder/kept" $version

    export PATH="$folder/bin:$here" PYTHONPATH="$PWD" TF_CPP_MIN_LOG_LEVEL=3
    python -c 'import keras, numpy, scipy, sys, tensorflow as tf
print(f"Keras {keras.__version__} ({keras.__file__}), TensorFlow {tf.__version__}, Python {sys.version.split()[0]}")
print(f"NumPy {numpy.__version__}, SciPy {scipy.__version__}")'
    python -m pytest -n 2 "$@" || status=1
    rm -rf "$folder"
    export PATH=$here
done
exit $status
