"""Images in requests: read from data URLs or fetched, counted, and handed on as the bytes that they are.

Nobody decodes them here. The engine's process does, which can fall without taking the server with it.
"""
