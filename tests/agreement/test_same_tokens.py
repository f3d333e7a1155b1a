"""One tokenizer of each kind, every engine: texts become the tokens of the `tokenizers` library.

`python -m tests.bench.token_ids` measures it on thousands of texts, beside the engines' own tokenizers.
"""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, read_manifest
from tests.agreement.text_paths import ENGINES, build_with, can_open, open_for_text
from tests.tokenizer_texts import KINDS, random_texts, real_texts, tokenizer_of_kind

TEXTS = [*random_texts(300), *real_texts()[::5]]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of a tokenizer of each kind."""
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: tokenizer_of_kind(folder, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def for_qnn(tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graphs take seconds to compile, so that one bundle gets the tokenizers of the others in turn."""
    return build_with(next(iter(tokenizers.values())), "qnn", tmp_path_factory.mktemp("qnn"))


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_become_the_librarys_tokens(
    kind: str,
    target: str,
    tokenizers: dict[str, Path],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if not can_open(target):
        pytest.skip(f"no {ENGINES[target]} here")
    if target == "qnn":
        bundle = request.getfixturevalue("for_qnn")
        shutil.copyfile(tokenizers[kind], bundle / ARTIFACT_FOLDER / TOKENIZER_FILE)
    else:
        bundle = build_with(tokenizers[kind], target, tmp_path)
    session = open_for_text(bundle, read_manifest(bundle))
    library = Tokenizer.from_file(str(tokenizers[kind]))
    for text in TEXTS:
        assert session.engine.encode(text) == library.encode(text, add_special_tokens=False).ids
