"""The one way to an S3 store: settings and credentials come from the environment (`AWS_*`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from microtome.errors import MicrotomeError, ResultUnreachable


def s3_files(**settings: Any) -> Any:  # Any: s3fs has no types
    """s3fs' file system; it retries single requests itself. Asked for again, it is the same one.

    Listings are never remembered: other processes write to the same buckets.
    """
    import s3fs  # half a second, which a local result need not wait for

    return s3fs.S3FileSystem(use_listings_cache=False, **settings)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """For what is asked of a result first. Later on, a store that is away is a fault that may pass.

    Raises
    ------
    ResultUnreachable
        If the store does not answer, or not to us.
    """
    try:
        yield
    except (MicrotomeError, FileNotFoundError):
        raise
    except Exception as error:  # of botocore, aiohttp, s3fs: no class in common
        if not uri.startswith("s3://"):
            raise
        raise ResultUnreachable(uri, f"{type(error).__name__}: {error}") from error
