"""What both sides of the wall know of an engine, a file for each. Standard library only.

The folder is the registry: a file `NAME.py` with `FACTS` is an engine. `facts/` says what they consist of.
"""
