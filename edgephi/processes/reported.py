"""An error of ours as plain data: how one process tells another what went wrong, in one place.

The other end may be of another version, and may not know the class. So the data names the classes above it
too, and what comes out is of the most precise one that is known.
"""

from dataclasses import dataclass

from edgephi import errors
from edgephi.errors import EdgephiError


@dataclass(frozen=True)
class Reported:
    """The names of an error's class and of those above it, and its words."""

    classes: tuple[str, ...]
    message: str
    hint: str


def report(error: EdgephiError) -> Reported:
    """The plain data of an error; the inverse of `error_of`."""
    names = tuple(each.__name__ for each in type(error).__mro__ if issubclass(each, EdgephiError))
    return Reported(names, error.message, error.hint)


def error_of(reported: Reported, *, otherwise: type[EdgephiError] = EdgephiError) -> EdgephiError:
    """The error of the most precise class that is known here; of class `otherwise` where none is."""
    for name in reported.classes:
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, EdgephiError):
            return kind(reported.message, hint=reported.hint)
    return otherwise(reported.message, hint=reported.hint)
