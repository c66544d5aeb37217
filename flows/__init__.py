"""What happens to a slide and in which order, as people see it in Prefect."""
