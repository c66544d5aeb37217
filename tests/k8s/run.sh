#!/bin/sh
# make test-k8s: the image and the Dask operator onto the cluster of KUBECONFIG, then the tests.
set -eu
cd "$(dirname "$0")/../.."
k8s=${MICROTOME_K8S:-../shared/k8s}
[ -n "${KUBECONFIG:-}" ] || {
    echo "error: no KUBECONFIG; start a cluster first: export KUBECONFIG=\$($k8s/up)" >&2
    exit 2
}
# The tools of the test cluster; a cluster of your own needs the image microtome:test and the operator beforehand.
if [ -x "$k8s/build-image" ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    "$k8s/build-image" . microtome:test --file infra/Dockerfile >"$log" 2>&1 || { tail -40 "$log" >&2; exit 1; }
    "$k8s/load-image" microtome:test
    "$k8s/kubectl" get crd daskclusters.kubernetes.dask.org >/dev/null 2>&1 || "$k8s/dask-operator" >/dev/null
fi
if ! command -v kube-score >/dev/null && [ ! -x .venv/bin/kube-score ] && command -v go >/dev/null; then
    GOBIN=$PWD/.venv/bin GOFLAGS=-mod=mod go install github.com/zegl/kube-score/cmd/kube-score@v1.20.0 2>/dev/null ||
        echo "kube-score could not be installed: its test will say so" >&2
fi
# Last what removes the installation and makes it anew.
.venv/bin/pytest tests/k8s/test_[!u]*.py tests/k8s/test_upgrade.py tests/k8s/test_uninstall.py "$@"
