"""Notifications from an SQS queue: deleted there when Prefect has taken them, and not before.

What cannot be understood stays as well: the queue's redrive policy puts it aside.
"""

import logging

import aiobotocore.session
import anyio

from deployments.arrivals import Arrivals, ForeignBucket, NotTaken, postponed_total, refused_total
from deployments.notifications import Malformed, read_notification

MOST_AT_ONCE = 10
WAIT_S = 20
"""The longest that SQS lets a request wait for messages."""
PAUSE_S = 5.0
logger = logging.getLogger("microtome.intake")


async def read_queue(url: str, arrivals: Arrivals) -> None:
    """Take messages for ever; where and who we are says the environment (AWS_*)."""
    async with aiobotocore.session.get_session().create_client("sqs") as sqs:
        while True:
            try:
                answer = await sqs.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=MOST_AT_ONCE, WaitTimeSeconds=WAIT_S
                )
                for message in answer.get("Messages", []):
                    if await is_taken(message["Body"], arrivals):
                        await sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            except Exception as error:  # of botocore and aiohttp: no class in common
                logger.error("the queue cannot be read: %s: %s", type(error).__name__, error)
                await anyio.sleep(PAUSE_S)


async def is_taken(body: str, arrivals: Arrivals) -> bool:
    """Whether a message needs no second try."""
    try:
        await arrivals.take(read_notification(body.encode()))
    except (Malformed, ForeignBucket) as error:
        refused_total.labels("queue").inc()
        logger.warning("a message of the queue is refused: %s", error or "its bucket is no source")
        return False
    except NotTaken as error:
        logger.error("not taken: %s", error)
        postponed_total.inc()
        return False
    return True
