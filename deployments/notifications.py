"""What senders of S3 notifications say, in their dialects, as one kind of record.

Nothing that they say is believed: a record only names an object to look at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import orjson

CREATED = ("objectcreated", "object created")
MOST_KEY_BYTES = 1024
"""S3's own limit."""


class Malformed(ValueError):
    """A body that is no notification, or one that names an object that S3 could not hold."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An object that somebody says is new."""

    bucket: str
    key: str
    """As it was sent: URL-encoded by some, not by others."""

    @property
    def keys(self) -> tuple[str, ...]:
        """What the key may be, the likeliest first: which one it is, only the store can say.

        AWS and MinIO encode (space as `+`), versitygw and EventBridge do not. Encoded keys that
        exist literally as well are rare: what is there literally is meant.
        """
        decoded = unquote_plus(self.key, errors="replace")
        is_other = decoded != self.key and "\ufffd" not in decoded
        return (self.key, decoded) if is_other else (self.key,)


@dataclass(frozen=True, slots=True)
class Notification:
    """What a body tells of."""

    uploads: tuple[Upload, ...] = ()
    bad_records: tuple[str, ...] = ()
    """What is wrong with those that name no object, a phrase each."""


def read_notification(body: bytes) -> Notification:
    """The uploads that a notification tells of; none for test messages, deletions and tags.

    Takes the S3 event of AWS, MinIO and versitygw, EventBridge's, and these inside of SNS's.

    Raises
    ------
    Malformed
        If it is none of these, or none of its records is good: a key must be one that a client of
        S3 could have made. Beside good ones, bad records are named in the answer.
    """
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Malformed("not a JSON object")
    if message.get("Type") == "Notification" and isinstance(message.get("Message"), str):
        return read_notification(message["Message"].encode())
    uploads, bad_records = [], []
    for record in _records(message):
        try:
            uploads.append(_upload(record))
        except Malformed as error:
            bad_records.append(str(error))
    if bad_records and not uploads:
        raise Malformed(bad_records[0])
    # One upload may come as two records.
    return Notification(tuple(dict.fromkeys(uploads)), tuple(bad_records))


def _records(message: dict[str, Any]) -> Iterator[Any]:
    """What each record says of its object; those of other events are left out."""
    if isinstance(detail := message.get("detail"), dict):
        if _is_created(message.get("detail-type")):
            yield detail
    elif isinstance(records := message.get("Records"), list):
        for record in records:
            if not isinstance(record, dict):
                yield None
            elif _is_created(record.get("eventName")):
                yield record.get("s3")
    elif "TestEvent" not in str(message.get("Event")):
        raise Malformed("neither Records nor detail")


def _is_created(event: object) -> bool:
    return str(event).lower().removeprefix("s3:").startswith(CREATED)


def _upload(about: Any) -> Upload:
    try:
        bucket, key = about["bucket"]["name"], about["object"]["key"]
    except (KeyError, TypeError) as error:
        raise Malformed("a record without bucket or key") from error
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise Malformed("a bucket or key that is no text")
    upload = Upload(bucket, key)
    for possible in upload.keys:
        _check(possible)
    return upload


def _check(key: str) -> None:
    """Refuse keys that mean something else to a file system or to a client than to S3."""
    parts = key.split("/")
    if not key or len(key.encode(errors="replace")) > MOST_KEY_BYTES:
        raise Malformed("a key that is empty or too long")
    if ".." in parts or "." in parts or "" in parts or "::" in key or "\\" in key:
        raise Malformed("a key with `..`, `//`, `::` or a backslash")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in key):
        raise Malformed("a key with control characters")
