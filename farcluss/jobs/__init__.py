"""The work behind each command but `run`."""
