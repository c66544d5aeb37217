#!/bin/sh
# numba reads compiled kernels only from a folder that it can write to, and the image is read-only: copy them (3 MB).
set -eu
[ -e "$NUMBA_CACHE_DIR" ] || cp -r /opt/numba "$NUMBA_CACHE_DIR"
exec "$@"
