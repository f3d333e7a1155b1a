"""What shares a scale in a bundle, in words."""

from edgephi.engines.facts.registry import known_engines


def groups_in_words(group_size: int, *, symmetric: bool, formats: str, engine: str) -> str:
    """As a plan and a manifest say it: "groups of 32 with zero points", "K-quants"."""
    facts = known_engines().get(engine)
    if formats == "native" and facts is not None:
        kind = facts.native_groups
        if kind == "K-quants":
            return kind
        return f"groups of {group_size}" + ("" if kind == "symmetric" else f" with {kind}")
    return f"groups of {group_size}" + ("" if symmetric else " with zero points")
