"""Scenes for farcluss: windows of large images in, maps and polygons out."""
