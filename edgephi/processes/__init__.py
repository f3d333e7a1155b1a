"""Processes of ours: they answer what they are asked, end with us, keep within limits, and wait at locks."""
