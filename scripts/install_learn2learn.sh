#!/bin/sh
# Build learn2learn 0.2.0, whose source distribution does not compile as it is on Python 3.11 and newer.
set -eu
bin=$1
"$bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt cython 'setuptools<80' wheel requests
"$bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --use-pep517 \
    --config-settings="--global-option=build_ext" learn2learn==0.2.0
