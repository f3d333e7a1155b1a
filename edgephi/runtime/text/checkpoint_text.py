"""Text in and out with the checkpoint's own `tokenizer.json`, which the `tokenizers` library reads.

For engines that bring no tokenizer, or one that is not quite the checkpoint's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, BadInputError

_HINT = f"copy the bundle again and check it with `{edgephi_command('verify')}`"


class CheckpointTokenizer:
    """One opened `tokenizer.json`. Raises BadBundleError when the library cannot read it.

    ModuleNotFoundError when the library is missing, for the adapter to explain.
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        with _translated(f"{file}: expected a tokenizer"):
            self._tokenizer = Tokenizer.from_file(str(file))
        # A file may ask for cut or padded sequences; neither has a place in a conversation.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids. Nothing is put around them."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInputError(
                "expected Unicode text, found half of a surrogate pair", hint="remove it from the text"
            ) from None
        with _translated("expected text that the tokenizer can encode"):
            token_ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return token_ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, without that of special tokens."""
        with _translated("expected tokens that the tokenizer can decode"):
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def decode_stream(self, before: int) -> TokenText:
        """A decoder for the tokens that follow the token `before`."""
        return TokenText(self, before)


class TokenText:
    """Text of tokens as they come: each is decoded after the tokens of the piece before it.

    Those decide whether it begins with a space, and they end with a whole character.
    """

    def __init__(self, tokenizer: CheckpointTokenizer, before: int) -> None:
        self._tokenizer = tokenizer
        self._piece = [before]  # the tokens of the last piece
        self._later: list[int] = []  # those after it, whose text is not complete
        self._known = tokenizer.decode(self._piece)

    def decode(self, token: int) -> str:
        """The text that is complete after `token`."""
        self._later.append(token)
        text = self._tokenizer.decode(self._piece + self._later)
        if text == self._known or text.endswith("\ufffd"):  # no text of its own, or inside a character
            return ""
        piece = text[len(self._known) :]
        self._piece, self._later = self._later, []
        self._known = self._tokenizer.decode(self._piece)
        return piece


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """The libraries' exceptions become ours; `tokenizers` has no classes of its own."""
    try:
        yield
    except MemoryError:
        raise  # says nothing about the bundle
    except Exception as cause:
        found = " ".join(str(cause).split()) or type(cause).__name__
        raise BadBundleError(f"{doing}, found: {found}", hint=_HINT) from cause
