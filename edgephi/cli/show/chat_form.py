"""Whose chat template a bundle has, in words."""

from collections.abc import Iterable

_OWN = "edgephi: "
_RECIPE = "recipe"


def chat_form_line(source: str, remarks: Iterable[str] = ()) -> str:
    """One line for the `source` of a chat template, as a manifest has it, and what is to be said of it."""
    if source.startswith(_OWN):
        line = f"edgephi's format {source.removeprefix(_OWN)}"
    elif source == _RECIPE:
        line = "the template that the recipe names"
    else:
        line = f"the checkpoint's own template ({source})" if source else "a template of unknown source"
    return "; ".join([line, *remarks])
