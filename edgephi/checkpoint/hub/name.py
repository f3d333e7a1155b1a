"""How models of the hub are named."""

import re

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""`owner/name`, as a whole."""
