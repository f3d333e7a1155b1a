"""What a bundle says for its way to a device: the chunks of its files, and what it must answer there.

Built for every engine, because each lays out its weights in a file of its own kind.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.chunks import FileEntry, chunks_of
from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.bundle.probe import Probe
from edgephi.chat.formats import PHI_3_CHAT
from edgephi.declared.recipe import Quant, Question, Recipe, read_recipe
from edgephi.declared.target import Target, read_target
from edgephi.steps import silent
from tests.runtime.conftest import TARGETS
from tests.tiny_checkpoint import write_tiny_checkpoint

DATA_FILES = {
    "cpu": "model/model.onnx.data",
    "gguf": "model/model.gguf",
    "openvino": "model/openvino_model.bin",
    "mlx": "model/model.safetensors",
}
# Where bytes lie has nothing to do with how codes are found.
QUICK = dataclasses.replace(read_recipe("default"), quant=Quant(method="rtn"))
DEMO_ANSWER = '{"action": "turn_off", "room": "kitchen", "device": "light"}'


def built(
    checkpoint: Path | str,
    target: Target,
    output: Path,
    *,
    recipe: Recipe | None = None,
    verify: bool = False,
    context: int | None = 512,
) -> Manifest:
    """The manifest of a bundle that is built in `output`."""
    pytest.importorskip(TARGETS[target.name])
    used = recipe or QUICK
    request = BuildRequest(
        str(checkpoint), target, used, output, verify="quick" if verify else "off", context=context
    )
    build(request, find_checkpoint(str(checkpoint), used, None, progress=False), silent)
    return read_manifest(output)


def digests(*entries: FileEntry) -> set[str | None]:
    return {chunk.sha256 for entry in entries for chunk in chunks_of(entry)}


def named(manifest: Manifest, path: str) -> FileEntry:
    return next(entry for entry in manifest.files if entry.path == path)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights are nearly all of its bundle, as it is with real ones: 21 MB at 4 bits."""
    folder = tmp_path_factory.mktemp("heavy") / "heavy-phi"
    return write_tiny_checkpoint(folder, hidden=1024, layers=4, heads=8, ffn=2048, vocab=2048)


@pytest.mark.parametrize("target", DATA_FILES)
class TestChunks:
    def test_they_cover_every_file_and_their_digests_hold(
        self, heavy: Path, tmp_path: Path, target: str
    ) -> None:
        manifest = built(heavy, read_target(target), tmp_path / "bundle")
        for entry in manifest.files:
            content = (tmp_path / "bundle" / entry.path).read_bytes()
            position = 0
            for chunk in chunks_of(entry):
                assert chunk.offset == position
                position += chunk.size
                assert hashlib.sha256(content[chunk.offset : position]).hexdigest() == chunk.sha256
            assert position == entry.size == len(content)
        data = named(manifest, DATA_FILES[target])
        assert data.size / 1.5e6 < len(data.chunks) < data.size / 0.5e6

    def test_another_tokenizer_and_chat_template_change_hardly_any(
        self, heavy: Path, tmp_path: Path, target: str
    ) -> None:
        before = built(heavy, read_target(target), tmp_path / "before")
        changed = shutil.copytree(heavy, tmp_path / "heavy-phi")
        rename_a_token(changed / "tokenizer.json")
        answers_briefly = f"<|system|>\nAnswer in one sentence.<|end|>\n{PHI_3_CHAT.template}"
        (changed / "chat_template.jinja").write_text(answers_briefly, encoding="utf-8")
        after = built(changed, read_target(target), tmp_path / "after")

        assert after.chat.template != before.chat.template
        known = digests(*before.files)
        total = sum(entry.size for entry in after.files)
        new = sum(c.size for entry in after.files for c in chunks_of(entry) if c.sha256 not in known)
        assert 0 < new <= 0.01 * total
        old_data, new_data = (named(manifest, DATA_FILES[target]) for manifest in (before, after))
        headers = 1 if target == "gguf" else 0  # there tokenizer and template lie in front of the tensors
        assert len(digests(new_data) - digests(old_data)) == headers

    def test_another_context_leaves_the_weights_alone(self, heavy: Path, tmp_path: Path, target: str) -> None:
        short, long = (
            named(
                built(heavy, read_target(target), tmp_path / str(tokens), context=tokens), DATA_FILES[target]
            )
            for tokens in (256, 2048)
        )
        # Rotary tables or literals at the end of the data, or a number in the header.
        assert len(digests(short) - digests(long)) <= 2


def rename_a_token(file: Path) -> None:
    """Give a special token of a tokenizer a longer name, and take a merge away."""
    tokenizer = json.loads(file.read_text())
    (token,) = (token for token in tokenizer["added_tokens"] if token["content"] == "<|placeholder1|>")
    token["content"] = "<|answer_of_a_tool|>"
    tokenizer["model"]["merges"].pop()
    file.write_text(json.dumps(tokenizer, ensure_ascii=False))


@pytest.mark.parametrize("target", DATA_FILES)
def test_every_engine_gives_the_demo_the_same_probe(target: str, tmp_path: Path) -> None:
    faster = dataclasses.replace(
        read_target(target),
        limits=dataclasses.replace(read_target(target).limits, minimum_tokens_per_second=2.5),
    )
    manifest = built("demo", faster, tmp_path / "bundle", recipe=read_recipe("demo"), verify=True)
    assert manifest.probe == Probe("turn off the kitchen light", DEMO_ANSWER, 32, 2.5)


class TestProbe:
    def test_a_model_that_is_sure_of_nothing_may_answer_anything(self, tmp_path: Path) -> None:
        checkpoint = write_tiny_checkpoint(tmp_path / "tiny", layers=1, hidden=128, ffn=128)
        manifest = built(checkpoint, read_target("cpu"), tmp_path / "bundle", verify=True)
        assert manifest.probe == Probe("What is the capital of France?", "", 32)

    def test_a_recipe_asks_its_own_question_or_none(self, tmp_path: Path) -> None:
        recipe = dataclasses.replace(read_recipe("demo"), probe=Question("set a timer for ten minutes", 6))
        manifest = built("demo", read_target("cpu"), tmp_path / "own", recipe=recipe, verify=True)
        expected = '{"action": "set_timer", "duration": "1'  # six tokens
        assert manifest.probe == Probe("set a timer for ten minutes", expected, 6)
        recipe = dataclasses.replace(recipe, probe=Question(""))
        assert built("demo", read_target("cpu"), tmp_path / "none", recipe=recipe, verify=True).probe is None

    def test_without_proof_there_is_none(self, tmp_path: Path) -> None:
        manifest = built("demo", read_target("cpu"), tmp_path / "bundle", recipe=read_recipe("demo"))
        assert manifest.probe is None

    def test_nor_where_the_question_fills_the_context(self, tmp_path: Path) -> None:
        recipe = dataclasses.replace(read_recipe("demo"), probe=Question("turn off the light " * 20))
        manifest = built("demo", read_target("cpu"), tmp_path / "b", recipe=recipe, verify=True, context=64)
        assert manifest.probe is None
