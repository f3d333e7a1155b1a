"""Codes of one matrix that make up for each other's errors: the method "calibrated"."""
