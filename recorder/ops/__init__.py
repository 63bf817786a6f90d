"""Watching the process: health, metrics, status."""
