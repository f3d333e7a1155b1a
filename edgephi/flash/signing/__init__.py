"""Vouching for a bundle where it was built."""
