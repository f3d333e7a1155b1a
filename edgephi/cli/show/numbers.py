"""Times, speeds and ratios with as many digits as they deserve."""


def rate(number: float) -> str:
    """A number with three digits, whole from 100 on: 5.678 -> "5.68", 5678.1 -> "5678"."""
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}"


def seconds(duration: float) -> str:
    """A time with three digits: 0.0123 -> "12.3 ms", 1.5 -> "1.50 s"."""
    return f"{rate(duration * 1000)} ms" if duration < 0.9995 else f"{rate(duration)} s"


def times(number: float, yardstick: float) -> str:
    """How many times as much one number is as another; "-" when that cannot be said."""
    return f"{number / yardstick:.2f}x" if yardstick else "-"
