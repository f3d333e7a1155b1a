"""Processes of ours: they end with us, keep within limits, and wait for each other at locks."""
