"""Ollama's API, as types: what its clients ask, and what they are told."""
