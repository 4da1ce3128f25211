"""What a run directory holds, and how it is written so that it can be trusted."""
