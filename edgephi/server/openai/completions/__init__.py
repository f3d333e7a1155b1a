"""POST /v1/completions: its request, its response, and how answers are written."""
