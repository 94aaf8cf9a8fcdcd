#!/usr/bin/env bash
# Builds the site from docs/ into build/site; a warning is an error. Takes seconds: nothing is imported.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
if ! "$python" -c 'import material, mkdocs, mkdocstrings' 2> /dev/null; then
    echo "the site is not built: pip install -e '.[docs]'" >&2
    [ -z "${CI:-}" ]
    exit
fi
# Not -q: with it mkdocs does not count warnings. The variable keeps an advertisement of the makers of the theme out of the log.
mkdir -p build
NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict -d build/site > build/site.log 2>&1 || { cat build/site.log >&2; exit 1; }
echo "the site is in build/site: $(find build/site -name '*.html' | wc -l) pages"
