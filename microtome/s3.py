"""The one way to an S3 store: settings and credentials come from the environment (`AWS_*`)."""

from typing import Any


def s3_files(**settings: Any) -> Any:  # Any: s3fs has no types
    """s3fs' file system; it retries single requests itself. Asked for again, it is the same one.

    Listings are never remembered: other processes write to the same buckets.
    """
    import s3fs  # half a second, which a local result need not wait for

    return s3fs.S3FileSystem(use_listings_cache=False, **settings)
