"""What a run found and how it went: one page for people, one JSON for programs."""
