"""Every engine's way from text to tokens: bundles of a tiny model with some tokenizer, opened for text."""

import importlib.util
import json
import platform
import shutil
from pathlib import Path

import pytest

from edgephi.bundle.manifest import Manifest
from edgephi.runtime.session import Session
from tests.agreement.conftest import build_for
from tests.chat.shapes import CHATML
from tests.tiny_checkpoint import write_tiny_checkpoint

ENGINES = {
    "cpu": "onnxruntime_genai",
    "openvino": "openvino_genai",
    "mlx": "mlx.core",
    "gguf": "xllamacpp",
    "qnn": "onnxruntime_qnn",
}
"""A target of each engine, and the engine's module."""


def can_open(target: str) -> bool:
    """Whether the engine of a target is here; Qualcomm's with its emulator."""
    if target == "qnn" and platform.machine() != "x86_64":
        return False
    return importlib.util.find_spec(ENGINES[target].partition(".")[0]) is not None


def write_checkpoint_with(tokenizer: Path, folder: Path) -> Path:
    """A tiny model, and a `tokenizer.json` that has `<|endoftext|>`."""
    data = json.loads(tokenizer.read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in data["added_tokens"]}
    size = max(*data["model"]["vocab"].values(), *ids.values()) + 1
    write_tiny_checkpoint(folder, vocab=-(-(size + 5) // 64) * 64, layers=1, context=512)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    end = ids["<|endoftext|>"]
    for name in ("config.json", "generation_config.json"):
        config = json.loads((folder / name).read_text())
        config.update(bos_token_id=end, eos_token_id=end, pad_token_id=end)
        (folder / name).write_text(json.dumps(config))
    roles = {"eos_token": "<|endoftext|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return folder


def build_with(tokenizer: Path, target: str, folder: Path) -> Path:
    """The bundle for a target of a tiny model with this tokenizer."""
    checkpoint = write_checkpoint_with(tokenizer, folder / "checkpoint")
    return build_for(target, str(checkpoint), folder / target)


def open_for_text(bundle: Path, manifest: Manifest) -> Session:
    """A session that turns text into tokens, and computes nothing with Qualcomm's engine."""
    with pytest.MonkeyPatch.context() as patch:
        # Its graphs take a second to compile, and no text goes through them.
        patch.setattr("edgephi.runtime.engines.qnn.decoder.QnnDecoder", lambda *_: None)
        return Session(bundle, manifest, provider=None if manifest.target.engine == "qnn" else "cpu")
