"""One Prefect task per stage: retries, limits, progress, artifacts. The work itself is in `microtome`."""
