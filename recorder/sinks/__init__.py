"""Consumers that push records out."""
