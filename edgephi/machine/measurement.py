"""What is measured of a machine and of a bundle on it: contracts between those who measure and who read it.

Seconds, bytes, and tokens per second throughout.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchRequest:
    """What to measure: the answer to a prompt of each length, of `generated_tokens` tokens each.

    `context` and `provider` None: what the longest of them needs, and the bundle's own. Then the first token
    of an answer about the `image` in a file, unless that is "", cut into `crops` tiles at most (None: the
    model's number).
    """

    prompt_lengths: tuple[int, ...]
    generated_tokens: int
    context: int | None = None
    provider: str | None = None
    image: str = ""
    crops: int | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and its answer together."""
        return max(self.prompt_lengths) + self.generated_tokens


@dataclass(frozen=True)
class Speed:
    """One prompt length. `first_token_seconds` runs from the token ids to the first new token.

    Decode is counted from the first new token to the last; 0 when there was one only. `peak_memory_bytes` is
    the most that the process held until this prompt was answered.
    """

    prompt_tokens: int
    generated_tokens: int
    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class ImageSpeed:
    """An answer about an image of `width` x `height` pixels, which is `tokens` of the prompt's.

    `read_seconds` from the file to its tiles, `encode_seconds` for these, the thumbnail's included; both are
    part of `first_token_seconds`, and so is the prefill.
    """

    width: int
    height: int
    tokens: int
    tiles: int
    prompt_tokens: int
    read_seconds: float
    encode_seconds: float
    first_token_seconds: float


@dataclass(frozen=True)
class Measurement:
    """One process that opened a bundle and answered each prompt once, after a short one to warm up.

    `gpu_memory_bytes` is what the GPU's free memory shrank by, None when no GPU computed.
    """

    engine: str
    version: str
    provider: str
    context: int
    load_seconds: float
    peak_memory_bytes: int
    gpu_memory_bytes: int | None
    speeds: tuple[Speed, ...]
    image: ImageSpeed | None = None
