"""Demonstrations: whole games that are played against a server."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
