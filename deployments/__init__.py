"""What starts flows: intakes, schedules, automations. Long-lived services."""
