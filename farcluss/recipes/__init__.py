"""Recipes: their keys, and how they are read and validated."""
