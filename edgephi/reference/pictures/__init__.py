"""Pictures drawn by code, and what they show: a gauge, a display of seven segments, a row of lights.

Whoever draws one knows the right answer to a question about it. The demo that sees was trained on them, and
quickstart asks it about one. The same numbers give the same picture: what varies comes from a seeded
generator of NumPy, never from the machine. Needs Pillow and NumPy.
"""
