"""The adapter of ONNX Runtime GenAI, on the demo bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import edgephi.runtime
from edgephi.errors import BadBundleError, BadInputError, NotSupportedError
from edgephi.manifest import Requires, read_manifest
from edgephi.runtime.engines import open_engine
from edgephi.runtime.onnxruntime_genai import GenaiEngine
from edgephi.runtime.session import Options, Session

np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")

PROMPTS = [
    "turn on the kitchen light",
    "  two spaces, a line\n\n and a tab\t.",
    "ünïcödé — 你好世界 العربية",
    "😀 👩\u200d👩\u200d👧",
    "<|user|>\nspecial<|end|>\n<|assistant|>\n  words",
]


@pytest.fixture(scope="module")
def session(demo_bundle: Path) -> Session:
    return edgephi.runtime.load(demo_bundle)


@pytest.fixture(scope="module")
def engine(session: Session) -> GenaiEngine:
    assert isinstance(session.engine, GenaiEngine)
    return session.engine


@pytest.mark.parametrize("prompt", PROMPTS)
def test_encodes_as_the_tokenizer_file_says(session: Session, demo_bundle: Path, prompt: str) -> None:
    oracle = tokenizers.Tokenizer.from_file(str(demo_bundle / "model/tokenizer.json"))
    rendered = session.render(prompt, "be brief")
    assert session.engine.encode(rendered) == oracle.encode(rendered, add_special_tokens=False).ids


def test_renders_as_jinja_does(session: Session) -> None:
    assert session.render("hi\n<é>", "sys") == (
        "<|system|>\nsys<|end|>\n<|user|>\nhi\n<é><|end|>\n<|assistant|>\n"
    )


def test_the_pieces_of_an_answer_are_the_answer(session: Session) -> None:
    answer = session.stream("turn on the kitchen light", Options(max_tokens=24))
    pieces = list(answer)
    assert "".join(pieces) == answer.generation.text != ""
    assert not answer.generation.text.startswith(" ")
    assert (
        answer.generation.text == session.generate("turn on the kitchen light", Options(max_tokens=24)).text
    )


def test_logits_do_not_depend_on_the_step(engine: GenaiEngine) -> None:
    token_ids = engine.encode("turn on the kitchen light and the heating, please " * 4)
    whole = engine.logits_after(token_ids)
    assert whole.shape[0] == len(token_ids)
    for step in (1, 7):
        stepped = np.concatenate(list(engine.logits(token_ids, step=step)))
        # A single row takes another kernel, whose int8 activations round differently.
        np.testing.assert_allclose(stepped, whole, atol=0.1 * whole.std())


def test_greedy_takes_the_most_likely_token(session: Session, engine: GenaiEngine) -> None:
    prompt = engine.encode(session.render("turn on the kitchen light"))
    token = next(
        engine.generate(prompt, length=len(prompt) + 1, temperature=0.0, top_p=1.0, top_k=50, seed=None)
    )
    assert token == int(engine.logits_after(prompt)[-1].argmax())


def test_a_prompt_of_many_pieces(session: Session, engine: GenaiEngine) -> None:
    context = session.manifest.limits.context
    token_ids = (engine.encode("the light in the hall ") * context)[: context - 1]
    tokens = list(engine.generate(token_ids, length=context, temperature=0.0, top_p=1.0, top_k=50, seed=None))
    assert tokens == [int(engine.logits_after(token_ids)[-1].argmax())]


def test_a_nul_would_cut_the_prompt(session: Session) -> None:
    with pytest.raises(BadInputError, match="NUL"):
        session.render("before\0after")


def test_another_engine_version(demo_bundle: Path) -> None:
    manifest = read_manifest(demo_bundle)
    object.__setattr__(manifest, "requires", Requires(1, 1, {"onnxruntime-genai": ">=99,<100"}))
    with pytest.raises(NotSupportedError, match=r"needs onnxruntime-genai >=99,<100, found \d"):
        open_engine(demo_bundle, manifest)


@pytest.mark.parametrize("name", ["model.onnx", "genai_config.json", "tokenizer.json"])
def test_a_model_the_engine_cannot_read(demo_bundle: Path, tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    (bundle / "model" / name).write_bytes(b"{" * (bundle / "model" / name).stat().st_size)
    with pytest.raises(BadBundleError, match="expected a model that onnxruntime-genai"):
        edgephi.runtime.load(bundle)
