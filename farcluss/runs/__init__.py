"""The run directory: checkpoints, locking, atomic writes, and resuming from them."""
