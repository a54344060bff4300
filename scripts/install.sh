#!/bin/sh
# Install mtl with its extras and pinned versions into the environment whose bin folder is given.
set -eu
bin=$1
"$bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "mtl needs Python 3.10 or newer." >&2; exit 1; }
# torch first and by its exact version, so that nothing else chooses a build of several gigabytes.
"$bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
# seqeval and rouge-score come as source only, and the pip of Python 3.10 builds such in the old way, which fails.
"$bin/pip" install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt --editable '.[offline,lora,generation,gradient,dev]'
sh "$(dirname "$0")/install_learn2learn.sh" "$bin" || echo "learn2learn was not built; everything but its backend works. Try again: make learn2learn" >&2
