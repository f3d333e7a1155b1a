"""The responses that can be gone on from: the latest ones, in memory, and no more of them than a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgephi.server.openai.responses.response import ModelResponse, OutputCall, OutputMessage
from edgephi.server.refusal import Refusal

_MOST_RESPONSES = 256
_MOST_BYTES = 32 << 20  # of all of them, with what they were asked with and the messages before


@dataclass(frozen=True)
class Talk:
    """What was said before, and the images that its messages are about."""

    messages: tuple[dict[str, Any], ...] = ()
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class KeptResponse:
    """A response, and the messages that it went on from with its own behind them: both as JSON.

    What a stranger's JSON holds takes many times its bytes as objects.
    """

    response: bytes
    messages: bytes
    images: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """Bytes, those of images aside."""
        return len(self.response) + len(self.messages)


class KeptImages:
    """The images of all responses that are kept: each once, however many of them are about it."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[bytes, int]] = {}
        self.bytes = 0

    def keep(self, images: Sequence[bytes]) -> tuple[bytes, ...]:
        """Keep the images of one response more; returns the ones that are kept."""
        found = []
        for image in images:
            kept, count = self._kept.get(image, (image, 0))
            self._kept[kept] = kept, count + 1
            self.bytes += 0 if count else len(image)
            found.append(kept)
        return tuple(found)

    def forget(self, images: Sequence[bytes]) -> None:
        """One of the responses about them is gone."""
        for image in images:
            kept, count = self._kept.pop(image)
            if count > 1:
                self._kept[kept] = kept, count - 1
            else:
                self.bytes -= len(kept)


class KeptResponses:
    """Responses by their ids, which nobody can guess. The one that was used longest ago goes first."""

    def __init__(self, most: int = _MOST_RESPONSES, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self._images = KeptImages()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, response: ModelResponse, before: Talk) -> None:
        """Keep a response that goes on from what was said `before`."""
        messages = (*before.messages, *_messages(response))
        kept = KeptResponse(
            msgspec.json.encode(response), msgspec.json.encode(messages), self._images.keep(before.images)
        )
        self._kept[response.id] = kept
        self._bytes += kept.size
        while self._kept and (
            len(self._kept) > self._most or self._bytes + self._images.bytes > self._most_bytes
        ):
            self._count_out(self._kept.popitem(last=False)[1])

    def get(self, id_: str) -> KeptResponse | None:
        """The response of that id; None when it was never kept, or is not any more."""
        found = self._kept.get(id_)
        if found is not None:
            self._kept.move_to_end(id_)
        return found

    def before(self, id_: str | None) -> Talk:
        """What a request goes on from. Raises Refusal when it is gone."""
        if id_ is None:
            return Talk()
        found = self.get(id_)
        if found is None:
            raise Refusal(
                400,
                f"the response {id_!r} is not kept here: only the latest ones are, until the server ends; "
                "send the whole conversation as input",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return Talk(msgspec.json.decode(found.messages, type=tuple[dict[str, Any], ...]), found.images)

    def forget(self, id_: str) -> bool:
        """Keep a response no more; whether it was."""
        found = self._kept.pop(id_, None)
        if found is not None:
            self._count_out(found)
        return found is not None

    def _count_out(self, gone: KeptResponse) -> None:
        self._bytes -= gone.size
        self._images.forget(gone.images)


def _messages(response: ModelResponse) -> list[dict[str, Any]]:
    """The message of a response, with the calls that are whole."""
    text = "".join(
        part.text for item in response.output if isinstance(item, OutputMessage) for part in item.content
    )
    calls = [
        {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
        for item in response.output
        if isinstance(item, OutputCall) and item.status == "completed"
    ]
    if not calls:
        return [{"role": "assistant", "content": text}]
    return [{"role": "assistant", "content": text or None, "tool_calls": calls}]
