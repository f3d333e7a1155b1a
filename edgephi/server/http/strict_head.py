"""What the head of a request must be, before anything is believed that it says.

h11 is generous where two readers could understand a request differently, such as we and a proxy before us: it
takes a length beside a transfer coding, lines that go on in the next one, and lines that end without a
carriage return. That is how a second request is smuggled past a proxy (RFC 9112, 6.1 and 11.2). We take none
of these. And h11 looks at the size of a head only while it is incomplete: one that comes in a single read may
be of any size.
"""

from __future__ import annotations

import re

import h11

from edgephi.server.refusal import Refusal

MOST_HEAD_BYTES = 16 << 10
"""Request line and headers together."""

MOST_REQUEST_LINE_BYTES = 8 << 10
MOST_HEADERS = 100

_END = b"\r\n\r\n"
# All that must not stand in a head: a line's end that is half of one, and what cannot be seen.
_CONTROL = re.compile(rb"\r(?!\n)|(?<!\r)\n|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:([^\r]*)", re.IGNORECASE)


class RefusedHead(h11.RemoteProtocolError):
    """A request that is not taken, with what its client is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal), error_status_hint=refusal.status)
        self.refusal = refusal


class StrictConnection(h11.Connection):
    """h11's reader, which takes no head that could mean two things, or that is too large."""

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        """The next event. Raises RefusedHead, as h11 raises its RemoteProtocolError.

        That a client sends no more is no event: uvicorn would ask for the next one without end.
        """
        if self.their_state is h11.IDLE:
            data, _ = self.trailing_data
            check_head(data)
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as cause:
            if cause.error_status_hint == 501:
                found = "expected no transfer coding but chunked, found another"
                raise RefusedHead(Refusal(501, found)) from None
            raise
        if isinstance(event, h11.Request):
            _check_framing(event)
        return h11.NEED_DATA if isinstance(event, h11.ConnectionClosed) else event


def check_head(data: bytes) -> None:
    """Raise RefusedHead when what begins in `data`, whole or not yet, must not be taken."""
    end = data.find(_END)
    head = data[: MOST_HEAD_BYTES + 1] if end < 0 else data[: end + len(_END)]
    line_end = head.find(b"\r\n")
    if (len(head) if line_end < 0 else line_end) > MOST_REQUEST_LINE_BYTES:
        raise RefusedHead(
            Refusal(
                414, f"expected a request line of at most {MOST_REQUEST_LINE_BYTES} bytes, found a longer one"
            )
        )
    if len(head) > MOST_HEAD_BYTES:
        raise RefusedHead(Refusal(431, f"expected at most {MOST_HEAD_BYTES} bytes of headers, found more"))
    if head.count(b"\n") > MOST_HEADERS + 2:  # the request line, and the empty line at the end
        raise RefusedHead(Refusal(431, f"expected at most {MOST_HEADERS} headers, found more"))
    # A carriage return at the end of what has come so far may get its line feed yet.
    if _CONTROL.search(head if end >= 0 else head.removesuffix(b"\r")):
        raise RefusedHead(
            Refusal(400, "expected lines that end with CR LF and hold no control characters, found others")
        )
    if re.search(rb"\r\n[ \t]", head):
        raise RefusedHead(
            Refusal(400, "expected headers of one line each, found one that goes on in the next")
        )
    lengths = _LENGTH.findall(head)
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        raise RefusedHead(Refusal(400, "expected one Content-Length, found several"))


def _check_framing(request: h11.Request) -> None:
    """Raise RefusedHead unless there is one way only to tell where the body of a request ends."""
    if not request.http_version.startswith(b"1."):
        raise RefusedHead(Refusal(505, "expected HTTP/1.1 or HTTP/1.0, found another version"))
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise RefusedHead(
                Refusal(400, "expected Content-Length or Transfer-Encoding, found both in one request")
            )
        if request.http_version == b"1.0":
            raise RefusedHead(Refusal(400, "expected no Transfer-Encoding in HTTP/1.0, found one"))
