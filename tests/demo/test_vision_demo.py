"""The demo that sees: small, in Phi-3-vision's form, and right about pictures that it has never seen."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle of these tests is transformers on torch")
transformers = pytest.importorskip(
    "transformers", reason="the oracle of these tests is transformers on torch"
)

from tokenizers import Tokenizer  # noqa: E402

from edgephi.bundle.manifest import read_manifest  # noqa: E402
from edgephi.checkpoint.checkpoint import open_checkpoint  # noqa: E402
from edgephi.runtime.session import Session  # noqa: E402
from tests.agreement.conftest import PROVIDER  # noqa: E402
from tests.demo.picture_questions import Examined, Turn, held_out_pictures  # noqa: E402
from tests.demo.train_vision import (  # noqa: E402
    CONFIG,
    CROPS,
    FACTS,
    make_prompt,
    right_answers,
    vision_tokenizer_config,
)
from tests.demo.vision_demo import VISION_FOLDER, answers, build_vision_demo, seeing_targets  # noqa: E402
from tests.demo.vision_model import VisionModel, load_vision_model  # noqa: E402
from tests.runtime.images.published_processor import publish  # noqa: E402
from tests.vision_oracle import VisionOracle  # noqa: E402

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def model() -> VisionModel:
    return load_vision_model(VISION_FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(VISION_FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def pictures() -> list[Examined]:
    return [*held_out_pictures(90)]


def test_it_fits_into_eight_megabytes() -> None:
    assert sum((VISION_FOLDER / name).stat().st_size for name in FILES) <= 8_000_000
    others = {file.name for file in VISION_FOLDER.iterdir()} - set(FILES)
    assert others <= {"__init__.py", "__pycache__"}


def test_its_files_are_what_the_training_says() -> None:
    assert json.loads((VISION_FOLDER / "config.json").read_text()) == CONFIG
    written = json.loads((VISION_FOLDER / "tokenizer_config.json").read_text())
    assert written == vision_tokenizer_config()
    flags = {token["content"]: token["rstrip"] for token in written["added_tokens_decoder"].values()}
    # Phi-3-vision's own, which are not Phi-3's.
    assert not any(flags[token] for token in ("<|user|>", "<|system|>", "<|end|>"))
    assert flags["<|assistant|>"]


def test_edgephi_reads_it_as_phi_3_vision() -> None:
    checkpoint = open_checkpoint(VISION_FOLDER, id="demo-vision", revision="local")
    encoder = checkpoint.architecture.image_encoder
    assert encoder is not None
    assert (encoder.tile, encoder.patch, encoder.crops) == (FACTS.tile, FACTS.patch, CROPS)
    assert encoder.layers == CONFIG["img_processor"]["num_hidden_layers"] - 1
    assert (encoder.mean, encoder.std) == (FACTS.mean, FACTS.std)


def test_what_was_trained_is_what_the_published_code_computes(
    model: VisionModel, tokenizer: Tokenizer, pictures: list[Examined]
) -> None:
    """The training's own joining of CLIP and Phi-3 against the oracle's, of several grids."""
    oracle = VisionOracle(VISION_FOLDER)
    for each in pictures[:6]:
        image = publish(each.picture.image, CROPS, FACTS)
        prompt = make_prompt(tokenizer, [Turn(each.question, 0)], [image])
        grid = image.height // FACTS.tile, image.width // FACTS.tile
        places = iter(range(image.tokens))
        ids = [-1 - next(places) if token < 0 else token for token in prompt.ids]
        expected = oracle.logits(ids, oracle.image(image.pixels.numpy(), grid))
        with torch.no_grad():
            found = model([prompt])[0]
        np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=2e-3)


def test_it_reads_held_out_pictures(
    model: VisionModel, tokenizer: Tokenizer, pictures: list[Examined]
) -> None:
    """Its weights as they are stored, in bf16; the whole examination is `python -m tests.bench.vision`."""
    right = right_answers(model, tokenizer, pictures)
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("target", [*seeing_targets()])
def test_every_engine_reads_them_as_well_in_int4(
    tmp_path: Path, target: str, model: VisionModel, tokenizer: Tokenizer
) -> None:
    asked = [*islice(held_out_pictures(), 36)]
    build_vision_demo(target, tmp_path / "bundle")
    session = Session(tmp_path / "bundle", read_manifest(tmp_path / "bundle"), provider=PROVIDER)
    right = [said == each.question.answer for said, each in zip(answers(session, asked), asked, strict=True)]
    # One of these few more than the 2 % that it may lose.
    assert sum(right) >= sum(right_answers(model, tokenizer, asked)) - 2


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    build_vision_demo("cpu", bundle)
    return Session(bundle, read_manifest(bundle), provider=PROVIDER)


def test_a_conversation_about_one_picture_and_then_another(session: Session) -> None:
    gauge, display, *_ = held_out_pictures(3)
    talk = session.chat()
    assert "".join(talk.say(gauge.question.text, images=[gauge.picture.image])) == gauge.question.answer
    assert "".join(talk.say("What is in the picture?")) == "The picture shows a gauge."
    shown = "".join(talk.say(display.question.text, images=[display.picture.image]))
    assert shown == display.question.answer


def test_without_a_picture_it_asks_for_one(session: Session) -> None:
    assert "no picture" in session.generate("What does the gauge say?").text
    assert "edgephi" in session.generate("Who are you?").text
