"""Prediction and evaluation of whole images, prediction writers, and weights files."""
