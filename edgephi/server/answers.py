"""From a job's events to a response: one JSON document, or a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgephi.server.admission import Event, Job
from edgephi.server.engine.messages import Echo, End, Finished, Piece, Progress
from edgephi.server.http.connection import Connection
from edgephi.server.openai.told_reuse import told_progress
from edgephi.server.refusal import CLIENT_GONE, Refusal
from edgephi.server.writer import Said, Writer

_encode = msgspec.json.Encoder().encode


class JobResponse(Response):
    """Follows a job to its end, or its client's. `over` is called then, in any case, and ends the job too.

    `piece_delivered` is told the seconds from a piece in the engine's process to the client's socket, of
    clients that keep up; `delivered` that all is on its way, and how many seconds the client kept us waiting.
    """

    def __init__(
        self,
        job: Job,
        writer: Writer,
        *,
        stream: bool,
        over: Callable[[Refusal], None],
        piece_delivered: Callable[[float], None],
        delivered: Callable[[End, float], None],
    ) -> None:
        super().__init__()
        self._job = job
        self._writer = writer
        self._stream = stream
        self._over = over
        self._piece_delivered = piece_delivered
        self._delivered = delivered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises Refusal when nothing of it is sent yet."""

        async def wait_for_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self._over(Refusal(CLIENT_GONE, "the client did not wait"))

        waiter = asyncio.ensure_future(wait_for_disconnect())
        connection: Connection = scope["state"]["connection"]
        blocked = connection.blocked_seconds()
        try:
            if self._stream:
                end = await self._send_stream(scope, send, connection)
            else:
                end = await self._send_whole(scope, receive, send)
            if end is not None:
                self._delivered(end, connection.blocked_seconds() - blocked)
        finally:
            waiter.cancel()
            # However this ends: the engine must not work for nobody.
            self._over(Refusal(CLIENT_GONE, "the response could not be sent"))

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> End:
        said: list[Said] = []
        while True:
            for event in await self._job.events():
                if isinstance(event, Refusal):
                    raise event
                if isinstance(event, Echo | Piece | Finished):
                    said.append(event)
                elif isinstance(event, End):
                    body = _encode(self._writer.whole(said, event))
                    await Response(body, media_type="application/json")(scope, receive, send)
                    return event

    async def _send_stream(self, scope: Scope, send: Send, connection: Connection) -> End | None:
        """The status line waits for the first sign of the engine: until then an error can have its own."""
        started = False
        while True:
            events = await self._job.events()
            last = events[-1]
            if isinstance(last, Refusal):
                scope["state"]["ended_as"] = last.status
                if not started:
                    raise last
                if last.status == CLIENT_GONE:
                    return None
            framed = self._writer.form.framed
            lines = [] if started else [framed(chunk) for chunk in self._writer.opening()]
            lines += [line for event in events for line in self._lines(event)]
            if not started:
                kind = self._writer.form.content_type.encode()
                headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                started = True
            ended = isinstance(last, End | Refusal)
            keeps_up = not connection.is_blocked
            await send({"type": "http.response.body", "body": b"".join(lines), "more_body": not ended})
            if keeps_up:
                now = time.monotonic()
                for event in events:
                    if isinstance(event, Piece):
                        self._piece_delivered(now - event.at)
            if ended:
                return last if isinstance(last, End) else None

    def _lines(self, event: Event) -> list[bytes]:
        """What is written into a stream for an event."""
        writer = self._writer
        form = writer.form
        if isinstance(event, Progress):
            return [form.progress(*told_progress(event))]
        if isinstance(event, Refusal):
            return [form.framed(writer.broken(event))]
        if isinstance(event, End):
            return [*map(form.framed, writer.closing(event)), form.end]
        return list(map(form.framed, writer.chunks(event)))
