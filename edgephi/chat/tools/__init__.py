"""Calls of functions by the model: how a model writes them, what holds it to that, and what reads them."""
