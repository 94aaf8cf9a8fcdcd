#!/usr/bin/env bash
# Builds sdist and wheel, installs each in an environment of its own, and does there what a user and a packager would:
# the command, the demonstration, a part of the tests that came with the sdist. `tools/try_packages.sh [PYTHON [FOLDER]]`,
# such as `tools/try_packages.sh python3.13`; the packages stay in FOLDER, by default a new one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
unset PYTHONPATH
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}

"$python" -m venv "$folder/build"
"$folder/build/bin/pip" install -q build twine
# From what git has: a folder of somebody's in the tree is no part of a release.
mkdir -p "$folder/tree"
(cd "$root" && git ls-files -z | xargs -0 cp --parents -t "$folder/tree")
"$folder/build/bin/python" -m build -o "$folder/dist" "$folder/tree" > "$folder/build.log"
"$folder/build/bin/twine" check --strict "$folder"/dist/*

cd "$folder"
for package in dist/*.whl dist/*.tar.gz; do
    place=$folder/${package##*.}
    printf '\n# %s with %s\n' "$package" "$("$python" --version)"
    "$python" -m venv "$place"
    "$place/bin/pip" install -q "$package"
    "$place/bin/pip" check
    "$place/bin/tfstruct" --version
    "$place/bin/python" -m tfstruct demo > "$place/demo.txt" 2> "$place/demo.log"
    tail -n 3 "$place/demo.txt"
done

# The tests of the sdist, on the package that was installed from it.
tar -xzf dist/*.tar.gz
"$folder/gz/bin/pip" install -q "$(echo dist/*.tar.gz)[test]"
cd tfstruct-*/
rm -rf tfstruct  # what is tested is what was installed
"$folder/gz/bin/pytest" -q -p no:cacheprovider tests/test_packages.py tests/surgery/test_channels.py \
    tests/callbacks/test_prune.py tests/samples tests/convert/test_border_types.py
printf '\npackages in %s\n' "$folder/dist"
