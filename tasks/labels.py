"""Names of the labels in which a flow run says its figures: written by the flow, read by the exporter."""

PREFIX = "microtome."
"""Of every one: Prefect and others put labels of their own beside them."""
CPU, SECONDS = "cpu_s.", "seconds."
"""Followed by a stage."""
