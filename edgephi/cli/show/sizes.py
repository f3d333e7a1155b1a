"""Numbers of bytes and tokens as people read them."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def human_bytes(size: int) -> str:
    """A size in decimal units with three digits, as disks and `pip` give them: 2034567890 -> "2.03 GB"."""
    amount = float(size)
    unit = 0
    # 999.5 would be printed as "1000"; it belongs to the next unit.
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount /= 1000
        unit += 1
    if unit == 0:
        return f"{size} B"
    digits = 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{amount:.{digits}f} {_UNITS[unit]}"


def human_count(count: int) -> str:
    """A number of parameters as models are named: 3821079552 -> "3.82 B"."""
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"
