"""Calls of functions by a bundle's model: the grammar that holds it to them, and what a session needs."""
