"""What a hint tells to install, wherever edgephi came from and whichever pip it is."""

import re


def installs(said: str, *extras: str) -> bool:
    """Whether a text tells a command that installs edgephi with these extras, and perhaps others."""
    found = re.search(r"\bpip install [^\n`]*\[([a-z,-]+)\]", said)
    return found is not None and set(extras) <= set(found[1].split(","))
