"""Text that came from a shell or a terminal."""

from edgephi.errors import UsageError


def checked_utf8(text: str, what: str) -> str:
    """`text`, when it is UTF-8: bytes that are not came in as lone surrogates. Raises UsageError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"expected UTF-8 text as {what}, found other bytes", hint="convert it with iconv -t UTF-8"
        ) from None
    return text
