"""How long a busy server asks us to wait: `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3)."""

import datetime
import email.utils

_LONGEST_SECONDS = 86_400.0


def retry_after_seconds(header: str) -> float:
    """The seconds from now on, at most a day; 0 where there is nothing to be understood."""
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), _LONGEST_SECONDS)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    left = (date - datetime.datetime.now(datetime.UTC)).total_seconds()
    return min(max(left, 0.0), _LONGEST_SECONDS)
