"""Whether a version lies in a range such as ">=0.18,<0.19". Standard library only: devices ask, too."""

from collections.abc import Callable

_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def is_inside(version: str, allowed: str) -> bool:
    """Whether `version` is in `allowed`, a PEP 440 range of ">=", ">", "<", "<=", "==" or "!=".

    Only release numbers are compared. Raises ValueError for a range of another kind.
    """
    for part in filter(None, (part.strip() for part in allowed.split(","))):
        sign = next((sign for sign in _COMPARE if part.startswith(sign)), None)
        if sign is None:
            raise ValueError(allowed)
        if not _COMPARE[sign](_release(version), _release(part.removeprefix(sign))):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """The release numbers of a version, without the zeros at its end: "0.18.0rc1" -> (0, 18)."""
    numbers: list[int] = []
    for part in version.strip().split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            numbers.append(int(digits))
        if digits != part:
            break
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
