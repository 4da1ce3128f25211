"""A farcluss plugin."""
