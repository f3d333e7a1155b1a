"""The machine that we run on: its memory, its speed and what could compute on it."""
