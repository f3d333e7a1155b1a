"""POST /v1/chat/completions: its request, its response, and how answers are written."""
