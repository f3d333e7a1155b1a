"""How many texts become other tokens than the `tokenizers` library makes of them, for each kind of tokenizer.

On every engine's way from text to tokens, as `edgephi run` and `edgephi serve` go it, and beside it with the
tokenizer that the engine itself would take from the same artifact. The texts are joins of hard pieces and
random characters, and the lines of edgephi's own passages in 27 languages.
"""

import argparse
import ctypes
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.errors import EdgephiError
from tests.agreement.text_paths import ENGINES, build_with, can_open, open_for_text
from tests.bench.measure import report
from tests.tokenizer_texts import KINDS, random_texts, real_texts, tokenizer_of_kind

Encode = Callable[[str], list[int]]


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--texts", type=int, default=10_000, help="random ones")
    arguments.add_argument(
        "--tokenizer", type=Path, action="append", default=[], help="a tokenizer.json more"
    )
    options = arguments.parse_args()
    texts = {"random": random_texts(options.texts), "real": real_texts()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: tokenizer_of_kind(Path(folder), kind) for kind in KINDS}
        files |= {str(file.parent): file for file in options.tokenizer}
        for place, (kind, file) in enumerate(files.items()):
            library = Tokenizer.from_file(str(file))
            library.no_truncation()
            library.no_padding()
            wanted = {
                name: [library.encode(text, add_special_tokens=False).ids for text in each]
                for name, each in texts.items()
            }
            for target in filter(can_open, ENGINES):
                rows += _rows(kind, target, file, Path(folder) / f"{place}-{target}", texts, wanted)
    report(("tokenizer", "engine", "texts", "edgephi: other tokens", "engine's own: other tokens"), rows)


def _rows(
    kind: str,
    target: str,
    file: Path,
    folder: Path,
    texts: dict[str, list[str]],
    wanted: dict[str, list[list[int]]],
) -> list[tuple[str, ...]]:
    try:
        bundle = build_with(file, target, folder)
    except EdgephiError as error:
        return [(kind, target, "", f"refused: {error.message[-60:]}", "")]
    session = open_for_text(bundle, read_manifest(bundle))
    encode_too = OWN[target](bundle / ARTIFACT_FOLDER) if target in OWN else None
    rows: list[tuple[str, ...]] = []
    for name, each in texts.items():
        differ = _differing(session.engine.encode, each, wanted[name])
        differ_too = "" if encode_too is None else str(_differing(encode_too, each, wanted[name]))
        rows.append((kind, target, f"{len(each)} {name}", str(differ), differ_too))
    return rows


def _differing(encode: Encode, texts: Sequence[str], wanted: Sequence[list[int]]) -> int:
    return sum(encode(text) != ids for text, ids in zip(texts, wanted, strict=True))


def _genai(artifact: Path) -> Encode:
    import onnxruntime_genai

    tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(artifact)))
    return lambda text: [int(token) for token in tokenizer.encode(text)]


def _openvino(artifact: Path) -> Encode:
    import openvino_genai

    tokenizer = openvino_genai.Tokenizer(str(artifact))

    def encode(text: str) -> list[int]:
        ids: Any = tokenizer.encode(text, add_special_tokens=False).input_ids.data
        return [int(token) for token in ids.reshape(-1)]

    return encode


def _llama_cpp(artifact: Path) -> Encode:
    from edgephi.engines.llama_cpp import MODEL_FILE
    from edgephi.runtime.engines.llama_cpp.library import load_library, token_array

    library = load_library()
    parameters = library.llama_model_default_params()
    model = library.llama_model_load_from_file(os.fsencode(artifact / MODEL_FILE), parameters)
    vocabulary = library.llama_model_get_vocab(model)
    tokenize = library.llama_tokenize
    tokenize.argtypes = [
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32)),
        *(ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
    ]

    def encode(text: str) -> list[int]:
        data = text.encode()
        ids = token_array([0] * (len(data) + 16))
        count: int = tokenize(vocabulary, data, len(data), ids, len(ids), False, True)
        return ids[:count]

    return encode


OWN: dict[str, Callable[[Path], Encode]] = {"cpu": _genai, "openvino": _openvino, "gguf": _llama_cpp}
"""The tokenizers that engines have themselves, by target; MLX's is the library, and Qualcomm's has none."""

if __name__ == "__main__":
    main()
