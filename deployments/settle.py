"""Wait until what an earlier upgrade has replaced is gone.

Helm cannot bring back what is still being removed: a hook of the chart runs this before every upgrade
and rollback.
"""

import argparse
import sys
import time

from flows.own_cluster import dask_objects

KINDS = ("daskclusters", "daskautoscalers")


def main() -> None:
    """Until no Dask cluster of the release is on its way out; ends with an error when time is up."""
    parser = argparse.ArgumentParser(description="Wait until replaced Dask clusters are gone.")
    parser.add_argument("--release", required=True, help="name of the Helm release")
    parser.add_argument("--within", type=float, default=300.0, help="seconds (%(default)s)")
    options = parser.parse_args()
    end_s = time.monotonic() + options.within
    while going := leaving(options.release):
        if time.monotonic() > end_s:
            sys.exit(f"error: {', '.join(going)}: still being removed; is the Dask operator running?")
        time.sleep(1)


def leaving(release: str) -> list[str]:
    """Names of the Dask clusters and autoscalers of a release that are being removed."""
    asked = {"labelSelector": f"app.kubernetes.io/instance={release}"}
    found = []
    with dask_objects() as kubernetes:
        for kind in KINDS:
            answer = kubernetes.get(f"/{kind}", params=asked).raise_for_status()
            found += [one["metadata"] for one in answer.json()["items"]]
    return [about["name"] for about in found if "deletionTimestamp" in about]


if __name__ == "__main__":
    main()
