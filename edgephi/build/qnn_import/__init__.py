"""Somebody's ready context binaries for Qualcomm's NPU become a bundle.

Looks into the runtime: what that can open is what may be imported.
"""
