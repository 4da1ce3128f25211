"""Plugins: entry points are found, described from their source, validated and loaded."""
