"""The work behind every command except `run`."""
