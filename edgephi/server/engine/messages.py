"""What the server and the engine's process say to each other: one line of JSON a message, over pipes.

The server sends one Open, then one Ask after the other, each only when the one before has ended; a Cancel may
come at any time. The engine's process answers Open with Ready, and an Ask with Progress for each piece of the
prompt, Piece for each piece of the answer, with raw texts also Echo and Finished, and one End or Failed. A
line is an object with one key, the kind of the message, and its fields: `{"cancel": {"id": 7}}`.

The standard library is enough for these: an engine's process should hold the engine, and little else.
Times are seconds; moments are those of the monotonic clock, which all processes of a machine share.
"""

from dataclasses import dataclass

from edgephi.processes.reported import Reported
from edgephi.runtime.options import Options

FIRST_PROMPT = "Hello"
"""What the engine answers with one token before it says that it is ready."""


@dataclass(frozen=True)
class Open:
    """Load the bundle, as `edgephi.runtime.load` does; compute the system message ahead."""

    context: int | None = None
    provider: str | None = None
    cache_bytes: int | None = None
    system: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A raw text to go on from, or its tokens in place of it."""

    text: str | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ask:
    """The messages of a conversation, or raw texts, and how each is to be answered: a choice for each text.

    `echo` asks for the texts themselves too, with their scores where the options ask for scores, and
    `only_echo` for nothing else. `tools`, `tool_choice` and `parallel_tool_calls` are those of
    `Session.answer`. `images` are whole files; a message's part {"type": "image", "image": 0} is about the
    first one, cut into `crops` tiles at most where the part says so. In a line they are base64.
    """

    id: int
    options: Options
    messages: tuple[dict[str, object], ...] | None = None
    tools: tuple[dict[str, object], ...] = ()
    tool_choice: object = None
    parallel_tool_calls: bool = True
    prompts: tuple[Prompt, ...] = ()
    echo: bool = False
    only_echo: bool = False
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Cancel:
    """Stop the answer to the request of that id: within one token, or one piece of the prompt."""

    id: int


@dataclass(frozen=True)
class Ready:
    """The engine has generated a token. What computes."""

    engine: str
    version: str
    provider: str
    context: int
    load_seconds: float


@dataclass(frozen=True)
class Progress:
    """So many of the prompt's tokens are in the cache."""

    id: int
    done: int
    total: int


@dataclass(frozen=True)
class Alternative:
    """A token that could have come here, and its log probability."""

    text: str
    logprob: float
    bytes: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """A token of the answer, its log probability, and the most likely tokens at its place."""

    text: str
    logprob: float
    bytes: tuple[int, ...]
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class PromptScore:
    """A token of a text that was given. `logprob` is None where nothing is before it."""

    text: str
    logprob: float | None
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Echo:
    """A part of a text that was given, and the scores of its tokens."""

    id: int
    choice: int
    text: str
    scores: tuple[PromptScore, ...] = ()


@dataclass(frozen=True)
class CallPart:
    """More of the call of a function: the first of call number `place` has its id and name."""

    place: int
    arguments: str = ""
    id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Piece:
    """Text that is complete, the scores of its tokens, and the moment when the engine gave it.

    Or more of calls of functions.
    """

    id: int
    text: str
    at: float
    scores: tuple[Score, ...] = ()
    choice: int = 0
    calls: tuple[CallPart, ...] = ()


@dataclass(frozen=True)
class Finished:
    """One of several choices is whole. `stop_reason` as in End; `stop` is the score of a stop token."""

    id: int
    choice: int
    stop_reason: str
    stop: Score | None = None


@dataclass(frozen=True)
class End:
    """The answer's numbers, as Session's Generation has them; one that was cancelled has ended as "closed".

    Of several choices tokens are counted together, and the rest is that of the last one. `tool_calls` of the
    calls in its pieces are whole. `image_tokens` are those of `prompt_tokens` that stand for images.
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
    tool_calls: int = 0
    image_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """What went wrong. `id` None: the process cannot go on."""

    error: Reported
    id: int | None = None


@dataclass(frozen=True)
class Warned:
    """Something that who runs the server should know."""

    text: str


ToEngine = Open | Ask | Cancel
FromEngine = Ready | Progress | Echo | Piece | Finished | End | Failed | Warned


def kind_of(message: ToEngine | FromEngine) -> str:
    """The name of a message's kind, which is the one key of its line's JSON object."""
    return type(message).__name__.lower()
