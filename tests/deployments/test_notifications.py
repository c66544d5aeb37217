"""Dialects of S3 notifications, word for word as their senders make them."""

import json

import pytest

from deployments.notifications import Malformed, Notification, Upload, read_notification

KEY = "in/A b+c%d é.svs"
ENCODED = "in/A+b%2Bc%25d+%C3%A9.svs"


def record(event, bucket, key, **about):
    return {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key, **about}}}


AWS = {"Records": [record("ObjectCreated:Put", "slides", ENCODED, size=1024, eTag="aed5", sequencer="0055")]}
DIALECTS = {
    "AWS": AWS,
    "MinIO": {
        "EventName": "s3:ObjectCreated:CompleteMultipartUpload",
        "Key": f"slides/{KEY}",
        "Records": [record("s3:ObjectCreated:CompleteMultipartUpload", "slides", ENCODED, size=1024)],
    },
    "versitygw": {"Records": [record("s3:ObjectCreated:Put", "slides", KEY, size=0, eTag='"aed5"')]},
    "EventBridge": {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": "slides"}, "object": {"key": KEY, "size": 5, "etag": "aed5"}},
    },
    "SNS": {"Type": "Notification", "Message": json.dumps(AWS)},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_names_the_same_object(dialect):
    (upload,) = read_notification(json.dumps(DIALECTS[dialect]).encode()).uploads
    assert upload.bucket == "slides"
    assert KEY in upload.keys


def test_two_records_of_one_upload_are_one():
    two = {"Records": [record("s3:ObjectCreated:Put", "slides", "a.svs", size=size) for size in (0, 9)]}
    assert read_notification(json.dumps(two).encode()).uploads == (Upload("slides", "a.svs"),)


@pytest.mark.parametrize(
    "body",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "slides"},
        {"Records": []},
        {"Records": [record("s3:ObjectRemoved:Delete", "slides", "a.svs")]},
        {"Records": [record("s3:ObjectTagging:Put", "slides", "a.svs")]},
        {"detail-type": "Object Deleted", "detail": {"bucket": {"name": "slides"}, "object": {"key": "a"}}},
    ],
)
def test_what_is_no_upload_is_passed_over(body):
    assert read_notification(json.dumps(body).encode()) == Notification()


@pytest.mark.parametrize(
    "key",
    [
        "../secret.svs",
        "in/../../secret.svs",
        "in/%2e%2e/secret.svs",
        "/etc/passwd.svs",
        "in//a.svs",
        "zip://a.svs::s3://slides/b.svs",
        "in\\a.svs",
        "a\n.svs",
        "%00.svs",
        "",
        "x" * 1025,
        7,
        None,
        {"key": "a"},
    ],
)
def test_keys_that_no_slide_has_are_refused(key):
    with pytest.raises(Malformed):
        read_notification(json.dumps({"Records": [record("s3:ObjectCreated:Put", "slides", key)]}).encode())


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'"s3"', b"{}", b'{"Records": [7]}', b"\xff", b"[" * 5000]
)
def test_what_is_no_notification_is_refused(body):
    with pytest.raises(Malformed):
        read_notification(body)


def test_a_record_without_bucket_is_refused():
    with pytest.raises(Malformed):
        read_notification(json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {}}]}).encode())


@pytest.mark.parametrize(
    "bad", [7, {"eventName": "ObjectCreated:Put"}, record("ObjectCreated:Put", "slides", "../x")]
)
def test_a_bad_record_is_named_and_keeps_back_no_good_one(bad):
    good = record("ObjectCreated:Put", "slides", "a.svs")
    read = read_notification(json.dumps({"Records": [bad, good]}).encode())
    assert read.uploads == (Upload("slides", "a.svs"),)
    assert len(read.bad_records) == 1
