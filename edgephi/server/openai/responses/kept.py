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
class KeptResponse:
    """A response, and the messages that it went on from with its own behind them: both as JSON.

    What a stranger's JSON holds takes many times its bytes as objects.
    """

    response: bytes
    messages: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.response) + len(self.messages)


class KeptResponses:
    """Responses by their ids, which nobody can guess. The one that was used longest ago goes first."""

    def __init__(self, most: int = _MOST_RESPONSES, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, response: ModelResponse, before: Sequence[dict[str, Any]]) -> None:
        """Keep a response that goes on from the messages `before`."""
        messages = (*before, *_messages(response))
        kept = KeptResponse(msgspec.json.encode(response), msgspec.json.encode(messages))
        self._kept[response.id] = kept
        self._bytes += kept.size
        while self._kept and (len(self._kept) > self._most or self._bytes > self._most_bytes):
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size

    def get(self, id_: str) -> KeptResponse | None:
        """The response of that id; None when it was never kept, or is not any more."""
        found = self._kept.get(id_)
        if found is not None:
            self._kept.move_to_end(id_)
        return found

    def before(self, id_: str | None) -> tuple[dict[str, Any], ...]:
        """The messages that a request goes on from. Raises Refusal when they are gone."""
        if id_ is None:
            return ()
        found = self.get(id_)
        if found is None:
            raise Refusal(
                400,
                f"the response {id_!r} is not kept here: only the latest ones are, until the server ends; "
                "send the whole conversation as input",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return msgspec.json.decode(found.messages, type=tuple[dict[str, Any], ...])

    def forget(self, id_: str) -> bool:
        """Keep a response no more; whether it was."""
        found = self._kept.pop(id_, None)
        if found is not None:
            self._bytes -= found.size
        return found is not None


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
