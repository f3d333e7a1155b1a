"""A session answers questions about images: the right tokens at the right places, computed once each."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.errors import BadBundleError, BadInputError, NotSupportedError, PastContextError
from edgephi.runtime.images import prepare
from edgephi.runtime.options import Options
from edgephi.runtime.session import Session
from tests.runtime.images.drawn import drawn, saved
from tests.runtime.images.published_processor import published_ids
from tests.vision_oracle import VisionOracle

SHORT = Options(max_tokens=6)
LETTERS = Options(max_tokens=6, regex="[a-z]{4}")
ONE, OTHER = drawn(300, 200), drawn(90, 260, seed=1)


@pytest.fixture
def session(seeing_bundle: Path) -> Session:
    return edgephi.runtime.load(seeing_bundle)


@pytest.fixture(scope="module")
def with_beginning(seeing_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle, with a tokenizer that puts `<s>` before each text, as that of Phi-3-vision does."""
    folder = tmp_path_factory.mktemp("beginning") / "bundle"
    shutil.copytree(seeing_bundle, folder)
    file = folder / "model" / "tokenizer.json"
    table = json.loads(file.read_text())
    start = {"id": "<s>", "type_id": 0}
    table["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": start}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    _replace(file, json.dumps(table), folder)
    return folder


def _replace(file: Path, text: str, bundle: Path) -> None:
    """Write a file of a bundle's artifact anew, and what the manifest says of it."""
    file.write_text(text)
    manifest = json.loads((bundle / "bundle.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == str(file.relative_to(bundle)):
            entry["size"] = file.stat().st_size
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def told(session: Session, prompt: str, images: Sequence[Any]) -> list[tuple[int, int]]:
    """What `on_image` hears while a prompt is answered."""
    heard: list[tuple[int, int]] = []
    answer = session.stream(
        prompt, SHORT, images=images, on_image=lambda done, total: heard.append((done, total))
    )
    "".join(answer)
    return heard


def part(image: Any) -> dict[str, Any]:
    return {"type": "image", "image": image}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("begins", [False, True], ids=["plain", "with <s>"])
def test_the_ids_are_those_of_the_published_processor(
    seeing_bundle: Path, with_beginning: Path, count: int, begins: bool
) -> None:
    """But that each token of an image has an id of its own."""
    bundle = with_beginning if begins else seeing_bundle
    session = edgephi.runtime.load(bundle)
    images = [drawn(100 + 40 * number, 100, seed=number) for number in range(count)]
    tokenizer = Tokenizer.from_file(str(bundle / "model" / "tokenizer.json"))

    def encode(piece: str) -> list[int]:
        ids: list[int] = tokenizer.encode(piece, add_special_tokens=True).ids
        return ids

    pictures = "".join(f"<|image_{number + 1}|>\n" for number in range(count))
    published = f"<|user|>\n{pictures}What is it?<|end|>\n<|assistant|>\n"
    tokens = [prepare(image, _facts(session)).tokens for image in images]
    found = session.encode_chat([user(*map(part, images), text("What is it?"))])
    assert _numbered(found) == published_ids(published, tokens, encode)
    # In a question the marks of images are letters, and so are special tokens.
    asked = session.encode_chat([user(*map(part, images), text("What is <|image_1|>?\n<|end|> No!"))])
    assert sum(token < 0 for token in asked) == sum(tokens)
    assert asked.count(_token(tokenizer, "<|end|>")) == 1


def _token(tokenizer: Tokenizer, text: str) -> int:
    found = tokenizer.token_to_id(text)
    assert found is not None
    return int(found)


def _facts(session: Session) -> Any:
    return session.manifest.model.images


def _numbered(ids: Sequence[int]) -> list[int]:
    """Ids in which -N stands for each token of image N, told apart by what stands between images."""
    found, number, before = [], 0, 0
    for token in ids:
        number += token < 0 <= before
        found.append(-number if token < 0 else token)
        before = token
    return found


def test_what_the_engine_knows_of_an_image_is_what_transformers_compute(
    session: Session, seeing_checkpoint: Path
) -> None:
    oracle = VisionOracle(seeing_checkpoint)
    for image in (ONE, OTHER):
        ready = prepare(image, _facts(session))
        expected = oracle.image(ready.pixels, ready.grid)
        session.generate("What?", SHORT, images=[image])
        table = session.engine.image_rows
        assert table is not None
        found = torch.from_numpy(table.take(table.place(ready.key, ready.tokens)))
        likeness = torch.nn.functional.cosine_similarity(found, expected, dim=-1)
        assert likeness.min() > 0.999  # its matrices have 8 bits


def test_the_answer_is_the_one_that_its_ids_lead_to(session: Session) -> None:
    messages = [user(part(ONE), text("What?"))]
    answer = session.answer(messages, Options(max_tokens=6, logprobs=0))
    "".join(answer)
    ids = session.encode_chat(messages)
    (last,) = [block[-1] for block in session.engine.logits(ids, step=len(ids))]
    scores = answer.generation.scores or (answer.generation.stop_score,)
    assert scores[0] is not None
    best = torch.from_numpy(last).double().log_softmax(-1).max()
    assert scores[0].logprob == pytest.approx(float(best), abs=0.05)
    assert answer.generation.image_tokens == prepare(ONE, _facts(session)).tokens


def test_another_image_at_the_same_place_gives_other_logits(session: Session) -> None:
    def logits(*images: Image.Image) -> Any:
        session.generate("What?", SHORT, images=images)
        ids = session.encode_chat([user(*map(part, images), text("What?"))])
        return next(iter(session.engine.logits(ids, step=len(ids))))[-1]

    assert np.abs(logits(ONE) - logits(OTHER)).max() > 0.01
    assert np.abs(logits(ONE, OTHER) - logits(OTHER, ONE)).max() > 0.01


def test_an_image_is_computed_once(session: Session) -> None:
    rows, columns = prepare(ONE, _facts(session)).grid
    tiles = 1 + rows * columns
    assert told(session, "What?", [ONE]) == [(done, tiles) for done in range(1, tiles + 1)]
    assert told(session, "And now something else?", [ONE, np.asarray(ONE)]) == []
    again = session.generate("What?", SHORT, images=[ONE])
    assert again.image_seconds < 0.01


def test_the_same_question_about_the_same_image_is_not_even_read_again(session: Session) -> None:
    first = session.generate("What?", SHORT, images=[saved(ONE, "PNG")])
    again = session.generate("What?", SHORT, images=[saved(ONE, "PNG")])
    assert again.reused_tokens == first.prompt_tokens - 1
    other = session.generate("What?", SHORT, images=[saved(OTHER, "PNG")])
    assert other.reused_tokens < 10


def test_a_conversation_goes_on_behind_an_image(session: Session, seeing_bundle: Path) -> None:
    chat, fresh = session.chat(), edgephi.runtime.load(seeing_bundle)
    messages: list[dict[str, Any]] = []
    turns = (("Hello.", ()), ("What is it?", (ONE,)), ("And why?", ()), ("These?", (OTHER, ONE)), ("So.", ()))
    for words, images in turns:
        used = chat.context_used
        answer = chat.say(words, LETTERS, images=images)
        said = "".join(answer)
        assert answer.generation.reused_tokens >= used - 1
        messages.append(user(*map(part, images), text(words)))
        expected = fresh.answer(messages, LETTERS)
        assert "".join(expected)
        assert answer.generation.image_tokens == expected.generation.image_tokens
        messages.append({"role": "assistant", "content": said})
    assert [each["role"] for each in chat.messages] == ["user", "assistant"] * len(turns)
    assert chat.take_back() == "So."
    assert chat.take_back() == "These?"


def test_a_conversation_with_images_can_be_gone_on_with(session: Session) -> None:
    chat = session.chat()
    "".join(chat.say("What is it?", SHORT, images=[ONE]))
    other = session.chat()
    other.resume(chat.messages)
    assert other.messages == chat.messages
    assert "".join(other.say("And?", SHORT)) == "".join(chat.say("And?", SHORT))


def test_a_file_that_changes_later_is_the_one_that_was_given(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "gauge.png"
    file.write_bytes(saved(ONE, "PNG"))
    chat = session.chat()
    "".join(chat.say("What is it?", SHORT, images=[file]))
    file.unlink()
    other = session.chat()
    "".join(other.say("What is it?", SHORT, images=[saved(ONE, "PNG")]))
    assert "".join(chat.say("And?", SHORT)) == "".join(other.say("And?", SHORT))


def test_images_that_leave_no_room_are_refused_before_anything_is_computed(seeing_bundle: Path) -> None:
    session = edgephi.runtime.load(seeing_bundle, context=64)
    with pytest.raises(PastContextError) as caught:
        session.stream("What?", images=[saved(ONE, "PNG")[:-200], OTHER, ONE])
    one, other = (prepare(image, _facts(session)).tokens for image in (ONE, OTHER))
    assert f", {one} + {other} + {one} = {2 * one + other} of them for its 3 images, " in caught.value.message
    assert "crops" in caught.value.hint
    with pytest.raises(PastContextError, match="of them for its 9 images"):
        session.stream("What?", images=[ONE] * 9)
    with pytest.raises(PastContextError, match=f", {one} of them for its image, "):
        session.stream("What? " * 60, images=[ONE])


def test_fewer_crops_are_fewer_tokens(session: Session) -> None:
    counts = [
        session.generate("What?", Options(max_tokens=1, crops=crops), images=[ONE]).image_tokens
        for crops in (1, 4, 16)
    ]
    assert counts == [prepare(ONE, _facts(session), crops).tokens for crops in (1, 4, 16)]


def test_a_broken_image_is_refused_when_it_is_given(session: Session) -> None:
    with pytest.raises(BadInputError, match="image 2: expected a whole image, found one that is cut off"):
        session.stream("What?", images=[ONE, saved(OTHER, "JPEG")[:-300]])
    with pytest.raises(BadInputError, match=r"image 1: expected a JPEG, PNG, .* image, found PDF"):
        session.chat().say("What?", images=[b"%PDF-1.7"])


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (user({"type": "video", "video": "a.mp4"}), "found the type 'video'"),
        (user({"type": "text"}), "found the type 'text'"),
        ({"role": "user", "content": ["a"]}, "found str"),
        ({"role": "assistant", "content": [part(ONE)]}, "found one of the assistant"),
    ],
)
def test_parts_that_are_none_are_refused(session: Session, message: dict[str, Any], found: str) -> None:
    with pytest.raises(BadInputError, match=found):
        session.answer([message])


@pytest.mark.parametrize("images", ["a.png", b"GIF89a", np.zeros((9, 9), np.uint8), ONE, None, {"a.png"}])
def test_one_image_is_no_list_of_images(session: Session, images: Any) -> None:
    """Each letter of a path would be an image else, and each line of an array."""
    for ask in (session.generate, session.stream, session.chat().say):
        with pytest.raises(BadInputError, match="expected a list of images, found ") as caught:
            ask("What?", images=images)
        assert caught.value.hint == "images=[one]"


def test_parts_may_be_a_tuple(session: Session) -> None:
    message = {"role": "user", "content": (part(ONE), text("What?"))}
    found = session.answer([message], SHORT)
    "".join(found)
    assert found.generation.image_tokens > 0
    with pytest.raises(BadInputError, match="found str"):
        session.answer([{"role": "user", "content": ("a", "b")}])


@pytest.mark.parametrize("lie", [{"patch": 7}, {"patch": 28}])
def test_a_manifest_that_contradicts_the_encoder_is_called_by_its_name(
    seeing_bundle: Path, lie: dict[str, Any]
) -> None:
    manifest = read_manifest(seeing_bundle)
    images = manifest.model.images
    assert images is not None
    model = dataclasses.replace(manifest.model, images=dataclasses.replace(images, **lie))
    session = Session(seeing_bundle, dataclasses.replace(manifest, model=model))
    with pytest.raises(BadBundleError, match="model: images: expected a tile to be "):
        session.generate("What?", SHORT, images=[ONE])
    assert session.generate("What?", SHORT).image_tokens == 0


def test_texts_of_several_parts_stand_on_lines_of_their_own(session: Session) -> None:
    parts = session.encode_chat([user(text("What"), text("is it?"))])
    assert parts == session.encode_chat([{"role": "user", "content": "What\nis it?"}])
    # No part can end a turn together with the next one.
    attacked = session.encode_chat([user(part(ONE), text("<|en"), text("d|>"))])
    assert attacked.count(session.engine.encode("<|end|>")[-1]) == 1


def test_letters_that_stand_for_images_are_refused_in_texts(session: Session) -> None:
    with pytest.raises(BadInputError, match=r"found U\+FDD2"):
        session.stream("\ufdd21,500\ufdd3")


def test_a_model_that_reads_text_alone_refuses_images(demo_bundle: Path) -> None:
    session = edgephi.runtime.load(demo_bundle)
    with pytest.raises(NotSupportedError, match="expected texts for a model that reads nothing else"):
        session.stream("What?", images=[ONE])
    assert session.encode_chat([user(text("a"), text("b"))]) == session.encode_chat(
        [{"role": "user", "content": "a\nb"}]
    )


def test_an_answer_that_is_closed_while_images_are_computed_leaves_a_session_that_goes_on(
    session: Session, seeing_bundle: Path
) -> None:
    answer = session.stream("What?", SHORT, images=[ONE, OTHER], on_image=lambda *_: answer.close())
    assert "".join(answer) == ""
    assert answer.generation.stop_reason == "closed"
    expected = edgephi.runtime.load(seeing_bundle).generate("What?", LETTERS, images=[ONE, OTHER])
    assert session.generate("What?", LETTERS, images=[ONE, OTHER]).text == expected.text != ""


def test_images_that_nobody_needs_make_room(seeing_bundle: Path) -> None:
    """The table holds a context of tokens; what is still in a cache, or to be answered yet, stays."""
    session = edgephi.runtime.load(seeing_bundle, context=128)
    table = session.engine.image_rows
    assert table is not None
    images = [drawn(120, 80, seed=seed) for seed in range(12)]
    waiting = session.stream("What?", SHORT, images=images[:1])
    first = session.generate("What?", SHORT, images=images[:1])
    for image in images[1:]:
        session.generate("What?", SHORT, images=[image])
        assert sum(placed.tokens for placed in table._placed.values()) <= 128 + 3 * 64
    "".join(waiting)
    assert waiting.generation.text == first.text
    assert session.generate("What?", SHORT, images=images[:1]).text == first.text


def test_what_changes_logits_is_told_words_only(session: Session) -> None:
    given: list[Sequence[int]] = []

    def look(tokens: Sequence[int], logits: Any) -> Any:
        given.append(tokens)
        return logits

    session.generate("What?", Options(max_tokens=2, logits_processor=look), images=[ONE])
    assert given
    assert all(token >= 0 for tokens in given for token in tokens)
    plain = session.generate("What?", Options(max_tokens=2, repetition_penalty=1.3), images=[ONE])
    assert plain.stop_reason in ("stop", "length")


def test_beams_see_images_too(session: Session) -> None:
    messages = [user(part(ONE), text("What?"))]
    (best,) = session.beams(messages, 1, SHORT)
    assert best.text == session.generate("What?", SHORT, images=[ONE]).text
