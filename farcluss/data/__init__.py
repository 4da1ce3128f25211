"""Data sets, lists, crops and the loader."""
