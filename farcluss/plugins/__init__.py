"""Entry points: found, described from their source, checked, loaded."""
