"""OpenAI's API, as types and as text."""
