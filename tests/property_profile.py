"""Which examples property tests draw: the same in every run, unless chance is asked for.

    python -m pytest                                  the same examples each time: no run depends on luck
    python -m pytest -k … --hypothesis-profile=chance  others each time, and ten times as many

A failure prints its example, and a line `@reproduce_failure(…)` that brings it back.
"""

from hypothesis import settings

FIXED, CHANCE = "fixed", "chance"
TIMES_AS_MANY_BY_CHANCE = 10

# No deadline in either: how long an example takes says how busy the machine is.
settings.register_profile(FIXED, derandomize=True, print_blob=True, deadline=None)
settings.register_profile(CHANCE, derandomize=False, print_blob=True, deadline=None, max_examples=1000)


def examples(count: int) -> int:
    """How many examples a test that does with `count` of the fixed ones draws under the profile in force."""
    return count if settings().derandomize else TIMES_AS_MANY_BY_CHANCE * count
