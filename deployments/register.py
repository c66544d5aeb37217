"""Bring Prefect's server up to date: pool, queues with their limits, deployments, notices.

Run in the project's folder with PREFECT_API_URL set; running it again changes nothing. Runs are
processes of the worker's machine, or Jobs of Kubernetes where there is a job template for them.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.filesystems import RemoteFileSystem
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from deployments.lab import POOL, QUEUES, READY_WITHIN_S, ROOT

SEGMENT = "segment"
AUTOMATIONS = Path(__file__).with_name("automations.yaml")
NOTICE = "microtome-notice"
RESULTS = "microtome-results"
BEFORE = (None, "", "python -m prefect.engine")
"""Commands of a pool that nobody has chosen: Prefect's, and ours of earlier versions."""


def main() -> None:
    """Everything, in the order in which one needs the other."""
    parser = argparse.ArgumentParser(description="Tell Prefect's server of pool and deployments.")
    parser.add_argument("--pool", default=POOL, help="name of the work pool")
    parser.add_argument(
        "--job-template",
        type=read_template,
        metavar="FILE",
        help="JSON: base job template of a pool of type kubernetes",
    )
    parser.add_argument("--at-once", type=int, help="slides at once; left out, what is set stays")
    options = parser.parse_args()
    if not PREFECT_API_URL.value():
        parser.error("PREFECT_API_URL is not set: Prefect would start a server for this moment alone")
    with get_client(sync_client=True) as client:
        wait_for_server(client)
        make_pool(client, options.pool, options.job_template)
        deploy(options.pool)
        if options.at_once is not None:
            set_limit(client, options.pool, options.at_once)
        make_automations(client, os.environ.get("MICROTOME_NOTICE_URL"))
    if place := os.environ.get("MICROTOME_PREFECT_RESULTS"):
        # Store and credentials come from the environment: a block would keep them in the database.
        RemoteFileSystem(basepath=place).save(RESULTS, overwrite=True)


def read_template(path: str) -> dict[str, Any]:
    """What a job template's file says."""
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read as JSON: {error}") from error
    return found


def wait_for_server(client: SyncPrefectClient) -> None:
    """Until it answers; ends this program when it does not."""
    end_s = time.monotonic() + READY_WITHIN_S
    while error := client.api_healthcheck():
        if time.monotonic() > end_s:
            sys.exit(f"error: Prefect does not answer at {client.api_url}: {error}")
        time.sleep(0.5)


def make_pool(client: SyncPrefectClient, pool: str, job_template: dict[str, Any] | None) -> None:
    """The pool and its queues; a limit that somebody has changed is left as it is."""
    kind = "process" if job_template is None else "kubernetes"
    try:
        found = client.read_work_pool(pool)
    except ObjectNotFound:
        template = job_template or ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=pool, type=kind, base_job_template=template))
        found = client.read_work_pool(pool)
    template = job_template or found.base_job_template
    if found.type == "process":
        template = started_by_one_process(template)
    if template != found.base_job_template:
        client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))
    for name, limit in QUEUES.items():
        try:
            client.create_work_queue(name, concurrency_limit=limit, work_pool_name=pool)
        except ObjectAlreadyExists:
            continue


def started_by_one_process(template: dict[str, Any]) -> dict[str, Any]:
    """A process pool's template with the command that a run starts with, unless somebody has said another.

    Left to itself the worker starts a process that looks for the flow's folder and its dependencies, and
    that a second one: Prefect is imported twice before a run has begun. With ours, once, before all runs.
    """
    template = copy.deepcopy(template)
    command = template["variables"]["properties"]["command"]
    if command.get("default") in BEFORE:
        command["default"] = "python -m deployments.begin"
    return template


def deploy(pool: str) -> None:
    """Every deployment of prefect.yaml, into a pool of this name."""
    # `prefect deploy --all` passes over its own --pool where the file names one.
    definition = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in definition["deployments"]:
        deployment["work_pool"]["name"] = pool
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(definition))
        words = ["--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        subprocess.run([sys.executable, "-m", "prefect", *words], cwd=ROOT, check=True)


def set_limit(client: SyncPrefectClient, pool: str, at_once: int) -> None:
    """How many slides are segmented at once: by the queue, and by each deployment that feeds it."""
    queue = client.read_work_queue_by_name(SEGMENT, work_pool_name=pool)
    client.update_work_queue(queue.id, concurrency_limit=at_once)
    for deployment in client.read_deployments():
        if deployment.work_queue_id == queue.id:
            client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=at_once))


def make_automations(client: SyncPrefectClient, notice_url: str | None) -> None:
    """Those of the file that are not there by name; notices only where there is an address for them."""
    notice_id = notice_block(notice_url) if notice_url else None  # the address may be another one now
    for spec in yaml.safe_load(AUTOMATIONS.read_text()):
        notices = [action for action in spec["actions"] if action["type"] == "send-notification"]
        if client.read_automations_by_name(spec["name"]) or (notices and not notice_id):
            continue
        for action in notices:
            action["block_document_id"] = notice_id
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
