"""Whole images become probabilities, scores, files; and a model becomes one file."""
