"""Utilities for tensors and processes, independent of the method."""
