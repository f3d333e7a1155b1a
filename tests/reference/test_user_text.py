"""A text of the user's: which files are read, how they are cut, and what is said of broken ones."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.errors import BadInputError
from edgephi.reference import user_text
from edgephi.reference.passages import TokenPassage
from edgephi.reference.user_text import read_user_text, user_passages
from tests.phi_3_chat import as_phi_3

HELLO = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Good morning."}]


def as_letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def passages_of(
    path: Path, *, tokens: int, context: int = 4096, passage_tokens: int = 20
) -> list[TokenPassage]:
    return user_passages(
        read_user_text(path),
        as_letters,
        as_phi_3,
        tokens=tokens,
        context=context,
        passage_tokens=passage_tokens,
    )


def text_of(passage: TokenPassage) -> str:
    return "".join(map(chr, passage.ids))


def refusal(path: Path, *, tokens: int = 1) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        passages_of(path, tokens=tokens)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_text_gives_passages_from_all_over_it(tmp_path: Path) -> None:
    file = tmp_path / "numbers.txt"
    file.write_text(" ".join(str(number) for number in range(10_000)))
    found = passages_of(file, tokens=100)
    assert [len(passage.ids) for passage in found] == [20] * 5
    firsts = [int(text_of(passage).split()[0]) for passage in found]
    assert [round(first / 1000) for first in firsts] == [1, 3, 5, 7, 9]
    assert {(passage.language, passage.domain) for passage in found} == {("und", "text")}
    assert [passage.name.partition(" ")[0] for passage in found] == ["numbers.txt"] * 5


def test_passages_begin_where_a_paragraph_or_a_word_begins(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text(
        "\n\n".join(f"# Part {number}\n\n" + f"some words of {number}. " * 6 for number in range(40))
    )
    for passage in passages_of(file, tokens=400):
        assert text_of(passage).startswith(("# Part", "some", "words", "of"))


def test_a_text_as_long_as_what_is_asked_gives_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x" * 1000)
    assert sum(len(passage.ids) for passage in passages_of(file, tokens=1000)) == 1000
    assert refusal(file, tokens=1001).message == (
        f"{file}: expected 1,001 tokens of text to calibrate on, found 1,000"
    )


@given(st.text(min_size=1, max_size=2000), st.integers(1, 60))
def test_no_letter_is_lost_and_none_is_read_twice(text: str, passage_tokens: int) -> None:
    stretch = 6 * passage_tokens
    pieces = [piece.text for piece in user_text._pieces("a", text, stretch)]
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(len(piece) <= stretch + stretch // 2 for piece in pieces)


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.json"])
def test_conversations_are_written_in_the_models_form(tmp_path: Path, name: str) -> None:
    records = [{"messages": HELLO, "id": 7}, {"text": "A plain text. " * 5}, {"messages": HELLO[:1]}]
    file = tmp_path / name
    file.write_text(
        json.dumps(records) if name.endswith(".json") else "\n\n".join(map(json.dumps, records)) + "\n"
    )
    found = passages_of(file, tokens=100, passage_tokens=50)
    chat = "<|user|>\nHello there<|end|>\n<|assistant|>\nGood morning.<|end|>\n"
    by_name = {passage.name: passage for passage in found}
    first, *_, last = sorted(by_name)
    assert chat.startswith(text_of(by_name[first]))
    assert text_of(by_name[last]).startswith("<|user|>\nHello there")
    assert {passage.domain for passage in found} == {"chat", "text"}


def test_one_conversation_may_be_all_of_a_json_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps({"messages": HELLO}))
    (found,) = passages_of(file, tokens=30)
    assert text_of(found) == "<|user|>\nHello there<|end|>\n<|"


def test_a_long_text_ends_with_the_context(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("word " * 400)
    assert {len(passage.ids) for passage in passages_of(file, tokens=120, context=12)} == {12}


def test_a_folder_is_all_files_of_text_below_it(tmp_path: Path) -> None:
    for name in ("b.txt", "deep/a.md", "c.jsonl", ".git/x.txt", "d.pdf", "deep/.hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": f"This is {name}."}))
    text = read_user_text(tmp_path)
    assert list(text.files) == ["b.txt", "c.jsonl", "deep/a.md"]
    found = passages_of(tmp_path, tokens=60)
    assert [passage.name.split(":")[0].split(" ")[0] for passage in found] == list(text.files)


def test_the_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes("Grüße\r\n".encode())
    (tmp_path / "deep" / "b.md").write_bytes(b"b")
    assert read_user_text(tmp_path / "a.txt").sha256 == hashlib.sha256("Grüße\r\n".encode()).hexdigest()
    printed = subprocess.run(
        ["sha256sum", "a.txt", "deep/b.md"], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    assert read_user_text(tmp_path).sha256 == hashlib.sha256(printed).hexdigest()


def test_the_mark_of_editors_on_windows_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfHello\r\n")
    assert text_of(passages_of(file, tokens=5)[0]) == "Hello"


def test_what_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    kinds = ".txt, .md, .json or .jsonl"
    gone, picture, folder = tmp_path / "gone.txt", tmp_path / "a.png", tmp_path / "folder"
    picture.write_bytes(b"\x89PNG")
    folder.mkdir()
    assert refusal(gone).message == f"{gone}: expected {kinds} or a folder, found no such file"
    assert refusal(picture).message == f"{picture}: expected {kinds} or a folder, found another kind of file"
    assert refusal(folder).message == f"{folder}: expected files of {kinds}, found none"
    pipe = folder / "a.txt"
    os.mkfifo(pipe)  # nobody writes into it: reading would never end
    assert refusal(pipe).message == f"{pipe}: expected {kinds} or a folder, found a device, pipe or socket"
    assert refusal(folder).message == f"{folder}: expected files of {kinds}, found none"


def test_an_empty_text_is_too_little(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(" \n")
    assert refusal(file, tokens=64).message == f"{file}: expected 64 tokens of text to calibrate on, found 0"


def test_what_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("first\nGrüße".encode("latin-1"))
    assert refusal(file).message == f"{file}:2: expected UTF-8, found the byte 0xfc"


def test_too_much_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_text, "LARGEST_TEXT", 1 << 20)
    file = tmp_path / "a.txt"
    with file.open("wb") as stream:
        stream.truncate(3 << 20)
    assert refusal(file).message == f"{file}: expected at most 1 MiB of text, found 3 MiB"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "expected JSON, found an error: Expecting property name enclosed in double quotes"),
        ("[" * 100_000, "expected JSON, found an error: something else"),
        ('"text"', 'expected "messages" or "text", found neither'),
        ('{"prompt": "a"}', 'expected "messages" or "text", found neither'),
        (r'{"text": "\ud83d is half"}', "expected text, found half of a letter that takes two \\u escapes"),
        ('{"text": ["a"]}', 'expected "messages" or "text", found neither'),
        ('{"messages": []}', "expected a list of messages, found none"),
        ('{"messages": {"role": "user"}}', "expected a list of messages, found none"),
        ('{"messages": ["a"]}', 'message 1: expected a text as "role", found none'),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}',
            'message 1: expected a text as "content", found none',
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, found: str) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": HELLO}) + "\n\n" + line + "\n")
    assert refusal(file).message == f"{file}:3: {found}"


def test_a_bad_item_of_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_text(json.dumps([{"text": "a"}, {"texts": "b"}]))
    assert refusal(tmp_path).message.startswith(f"{tmp_path / 'chats.json'}: item 2: expected")
