"""The engine's process, from both ends: what keeps it alive, what is said to it, and the process itself."""
