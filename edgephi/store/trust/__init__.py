"""Whose bundles a store takes."""
