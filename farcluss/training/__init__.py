"""The loop, one step of it, and what a run logs, scores, draws and keeps."""
