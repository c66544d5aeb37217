"""Bring Prefect's server up to date: pool, queues with their limits, deployments, notices.

Run in the project's folder with PREFECT_API_URL set; running it again changes nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments.lab import POOL, QUEUES, ROOT

AUTOMATIONS = Path(__file__).with_name("automations.yaml")
NOTICE = "microtome-notice"


def main() -> None:
    """Everything, in the order in which one needs the other."""
    with get_client(sync_client=True) as client:
        make_pool(client)
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], cwd=ROOT, check=True
        )
        make_automations(client, os.environ.get("MICROTOME_NOTICE_URL"))


def make_pool(client: SyncPrefectClient) -> None:
    """The pool and its queues; a limit that somebody has changed is left as it is."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    for name, limit in QUEUES.items():
        try:
            client.create_work_queue(name, concurrency_limit=limit, work_pool_name=POOL)
        except ObjectAlreadyExists:
            continue


def make_automations(client: SyncPrefectClient, notice_url: str | None) -> None:
    """Those of the file that are not there by name; notices only where there is an address for them."""
    for spec in yaml.safe_load(AUTOMATIONS.read_text()):
        notices = [action for action in spec["actions"] if action["type"] == "send-notification"]
        if client.read_automations_by_name(spec["name"]) or (notices and not notice_url):
            continue
        for action in notices:
            action["block_document_id"] = notice_block(str(notice_url))
        Automation.model_validate(spec).create()


def notice_block(url: str) -> str:
    """Id of a block that posts {"text": …} to the address: Slack's form, and Mattermost's and others'."""
    block = CustomWebhookNotificationBlock(
        name=NOTICE,
        url=url,
        method="POST",
        headers=None,
        cookies=None,
        json_data={"text": "{{subject}}\n{{body}}"},
    )
    return str(block.save(NOTICE, overwrite=True))


if __name__ == "__main__":
    main()
