"""Exports of annotation tools: what people drew on images, by format, and as data sets that read it where it lies."""
