"""Notifications from a queue; moto stands in for SQS, the store is real."""

import json
import time

import boto3
import pytest

from tests.deployments.conftest import serving
from tests.deployments.test_intake import put, upload
from tests.waiting import until


@pytest.fixture
def queue(s3, monkeypatch):
    """A client of a queue, and its address; the environment leads to it."""
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("MOTO_ALLOW_NONEXISTENT_REGION", "true")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://{host}:{port}")
    client = boto3.client("sqs")
    url = client.create_queue(QueueName="uploads", Attributes={"VisibilityTimeout": "1"})["QueueUrl"]
    yield client, url
    client.close()
    server.stop()


def left(client, url):
    wanted = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)["Attributes"]
    return sum(map(int, found.values()))


def test_a_message_goes_when_prefect_has_it_and_not_before(s3, queue, prefect, settings_for):
    client, url = queue
    put(s3, "in/a.svs")
    prefect.status = 500
    client.send_message(QueueUrl=url, MessageBody=upload("in/a.svs").decode())
    client.send_message(QueueUrl=url, MessageBody=json.dumps({"Event": "s3:TestEvent"}))
    client.send_message(QueueUrl=url, MessageBody="junk")
    with serving(settings_for("s3://slides/in", sqs_url=url)):
        until(lambda: left(client, url) == 2, 60)
        time.sleep(1)
        assert left(client, url) == 2
        prefect.status = 204
        until(lambda: left(client, url) == 1, 60)
    assert [event["payload"]["slide"] for event in prefect.events] == ["s3://slides/in/a.svs"]
