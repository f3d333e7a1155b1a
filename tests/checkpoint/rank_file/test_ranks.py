"""Reading ranks: every line of a file is a token and its rank, each there once, or the file is refused."""

import base64
from pathlib import Path

import pytest

from edgephi.checkpoint.rank_file.ranks import read_ranks
from edgephi.errors import BadCheckpointError
from tests.checkpoint.rank_file.rank_files import write_ranks

BYTES = [bytes([byte]) for byte in range(256)]
TOKENS = [*BYTES, b"ab", b" \xff"]


def encoded(token: bytes) -> bytes:
    return base64.b64encode(token)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_ranks(tmp_path / "some.tiktoken", TOKENS)


def test_tokens_stand_at_their_ranks(file: Path) -> None:
    assert read_ranks(file, 258) == tuple(TOKENS)


def test_lines_may_come_in_any_order_and_be_empty(file: Path) -> None:
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n" + b"\r\n".join(reversed(lines)))
    assert read_ranks(file, 258) == tuple(TOKENS)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"YWI=", "line 257: expected a token in base64 and its rank, found 'YWI='"),
        (b"YWI= 256 7", "line 257: expected a token in base64 and its rank, found"),
        (b"YW!= 256", "line 257: expected a token in base64 and its rank, found"),
        (b"YWI= -1", "line 257: expected a token in base64 and its rank, found"),
        (b"YWI= 2e2", "line 257: expected a token in base64 and its rank, found"),
        (b"YWI= " + b"9" * 5000, "line 257: expected a token in base64 and its rank, found"),
        (b"\xff\xfe\x00\x1b[31m 256", "line 257: expected a token in base64 and its rank, found '\\xff"),
        (b"YWI= 300", "line 257: expected a rank below 258, found 300"),
        (b"YWI= 97", "line 257: expected a rank that is in no line before, found that of line 98"),
        (b"YQ== 256", "line 257: expected a token that is in no line before, found that of line 98"),
        (encoded(b"a" * 600) + b" 256", "line 257: expected a token of 1 to 512 bytes, found one of 600"),
        (b"", "expected 258 tokens, found 257, and none of rank 256"),
    ],
)
def test_a_line_that_is_something_else_is_named(file: Path, line: bytes, found: str) -> None:
    lines = file.read_bytes().splitlines()
    lines[256] = line
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(BadCheckpointError) as caught:
        read_ranks(file, 258)
    assert f"{file}: {found}" in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert caught.value.exit_code == 4


def test_a_byte_that_no_token_is_(tmp_path: Path) -> None:
    tokens = [token for token in TOKENS if token != b"\x07"]
    file = write_ranks(tmp_path / "some.tiktoken", [*tokens, b"more"])
    with pytest.raises(BadCheckpointError, match="expected a token for each byte, found none for the byte 7"):
        read_ranks(file, 258)


def test_gits_pointer_to_the_file(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1681126\n")
    with pytest.raises(BadCheckpointError, match="found Git LFS's pointer to it"):
        read_ranks(file, 258)


def test_a_file_of_any_size_is_not_read_to_its_end(file: Path) -> None:
    with file.open("r+b") as data:
        data.truncate(1 << 40)  # sparse
    with pytest.raises(BadCheckpointError, match="at most 33,554,432 bytes of ranks, found more"):
        read_ranks(file, 258)
