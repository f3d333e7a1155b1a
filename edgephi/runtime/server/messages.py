"""What the server and the engine's process say to each other: one line of JSON a message, over pipes.

The server sends one Open, then one Ask after the other, each only when the one before has ended; a Cancel may
come at any time. The engine's process answers Open with Ready, and an Ask with Progress for each piece of the
prompt, Piece for each piece of the answer, and one End or Failed.

Times are seconds; moments are those of the monotonic clock, which all processes of a machine share.
"""

import msgspec

FIRST_PROMPT = "Hello"
"""What the engine answers with one token before it says that it is ready."""


class Open(msgspec.Struct, frozen=True, tag="open", omit_defaults=True):
    """Load the bundle, as `edgephi.runtime.load` does; compute the system message ahead."""

    context: int | None = None
    provider: str | None = None
    cache_bytes: int | None = None
    system: str | None = None


class Ask(msgspec.Struct, frozen=True, tag="ask", omit_defaults=True):
    """One prompt: either the messages of a conversation, or plain text. The rest is Session's Options."""

    id: int
    max_tokens: int | None
    messages: tuple[dict[str, str], ...] | None = None
    text: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 50
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop the answer to the request of that id: within one token, or one piece of the prompt."""

    id: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine has generated a token. What computes."""

    engine: str
    version: str
    provider: str
    context: int
    load_seconds: float


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """So many of the prompt's tokens are in the cache."""

    id: int
    done: int
    total: int


class Alternative(msgspec.Struct, frozen=True):
    """A token that could have come here, and its log probability."""

    text: str
    logprob: float
    bytes: tuple[int, ...]


class Score(msgspec.Struct, frozen=True):
    """A token of the answer, its log probability, and the most likely tokens at its place."""

    text: str
    logprob: float
    bytes: tuple[int, ...]
    alternatives: tuple[Alternative, ...] = ()


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """Text that is complete, the scores of its tokens, and the moment when the engine gave it."""

    id: int
    text: str
    at: float
    scores: tuple[Score, ...] = ()


class End(msgspec.Struct, frozen=True, tag="end"):
    """The answer's numbers, as Session's Generation has them; one that was cancelled has ended as "closed".

    `engine_seconds` went by in the engine's process from reading the request to this message.
    """

    id: int
    stop_reason: str
    engine_seconds: float
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """What went wrong; `kind` is a class in `edgephi.errors`. `id` None: the process cannot go on."""

    kind: str
    message: str
    hint: str
    id: int | None = None


class Warned(msgspec.Struct, frozen=True, tag="warned"):
    """Something that who runs the server should know."""

    text: str


ToEngine = Open | Ask | Cancel
FromEngine = Ready | Progress | Piece | End | Failed | Warned

_encoder = msgspec.json.Encoder()


def encode_line(message: ToEngine | FromEngine) -> bytes:
    """A message as a line of JSON."""
    return _encoder.encode(message) + b"\n"
