"""Qualcomm's NPU."""
