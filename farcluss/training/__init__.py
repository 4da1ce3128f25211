"""The training loop, the training step, and a run's logs, evaluations, pictures and checkpoints."""
