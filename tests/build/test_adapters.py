"""A build with an adapter is the build of the checkpoint that the two make together."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

import edgephi.runtime
from edgephi.bundle.manifest import AdapterFacts, read_manifest
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.checkpoint.adapter.merged import merged
from edgephi.checkpoint.checkpoint import open_checkpoint, read_rows
from tests.build.conftest import Here, here  # noqa: F401 - a fixture
from tests.chat.shapes import CHATML
from tests.checkpoint.adapter.peft_adapter import save_adapter
from tests.cli.conftest import Edgephi, is_one_error
from tests.tiny_checkpoint import write_tiny_checkpoint, write_weights

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.numpy")
transformers = pytest.importorskip("transformers")

TARGETS = ("cpu", "cuda", "gguf", "mlx", "openvino", "qnn")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("base") / "base", context=256)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose products are exact in float32, in whatever blocks they are computed. It has a head too."""
    folder = save_adapter(base, tmp_path_factory.mktemp("saved") / "adapter", modules_to_save=["lm_head"])
    random = np.random.default_rng(0)
    file = folder / "adapter_model.safetensors"
    tensors = safetensors.load_file(file)
    for name, values in tensors.items():
        if "lora" in name:
            tensors[name] = random.integers(-2, 3, values.shape).astype(np.float32) / 64
    safetensors.save_file(tensors, file)
    return folder


@pytest.fixture(scope="module")
def together(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the base's weights with the adapter, in float32."""
    folder = tmp_path_factory.mktemp("together") / "base"
    shutil.copytree(base, folder)
    checkpoint = merged(
        open_checkpoint(base, id="base", revision="local"), locate_adapters([f"{adapter}@0.5"])
    )
    plain = open_checkpoint(base, id="base", revision="local")
    shapes = checkpoint.architecture.tensor_shapes()
    weights = {
        plain.sources[tensor][0].tensor: read_rows(checkpoint, tensor, 0, shapes[tensor][0])
        for tensor in plain.sources
    }
    write_weights(folder, weights, dtype="F32")
    return folder


def artifact(bundle: Path) -> dict[str, bytes]:
    files = sorted(path for path in (bundle / "model").rglob("*") if path.is_file())
    return {str(path.relative_to(bundle)): path.read_bytes() for path in files}


@pytest.mark.parametrize("target", TARGETS)
def test_every_engine_gets_the_changed_weights(
    base: Path,
    adapter: Path,
    together: Path,
    tmp_path: Path,
    target: str,
    here: Here,  # noqa: F811
) -> None:
    words = ("--target", target, "--verify", "off", "-o")
    assert here("build", base, "--adapter", f"{adapter}@0.5", *words, tmp_path / "a").returncode == 0
    assert here("build", together, *words, tmp_path / "b").returncode == 0
    assert here("build", base, *words, tmp_path / "c").returncode == 0
    found, expected, other = (artifact(tmp_path / name) for name in "abc")
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert found != other


class TestBundle:
    @pytest.fixture(scope="class")
    @staticmethod
    def bundle(base: Path, adapter: Path, edgephi: Edgephi, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("built") / "bundle"
        done = edgephi("build", base, "--adapter", f"{adapter}@0.5", "--target", "cpu", "-o", folder)
        assert done.returncode == 0, done.stderr
        assert "merged: adapter adapter at local, 0.5 times as strong" in done.stdout
        return folder

    def test_says_what_it_was_made_from(self, bundle: Path, adapter: Path, here: Here) -> None:  # noqa: F811
        manifest = read_manifest(bundle)
        assert manifest.model.adapters == (AdapterFacts("adapter", "local", 0.5),)
        assert "--adapter adapter@0.5" in manifest.provenance.command
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            expected = sha256((adapter / name).read_bytes()).hexdigest()
            assert manifest.provenance.inputs[f"adapter/{name}"] == expected
        assert "adapter adapter at local, 0.5 times as strong" in here("inspect", bundle).stdout
        document = json.loads(here("inspect", bundle, "--json").stdout)
        assert document["model"]["adapters"] == [{"id": "adapter", "revision": "local", "scale": 0.5}]

    def test_is_measured_against_both(
        self,
        bundle: Path,
        base: Path,
        adapter: Path,
        here: Here,  # noqa: F811
    ) -> None:
        against = ("verify", bundle, "--against", base)
        assert here(*against, "--adapter", f"{adapter}@0.5").returncode == 0
        for words in ((), ("--adapter", adapter)):
            done = here(*against, *words)
            assert done.returncode == 4
            assert "expected the adapters that the bundle was made with, adapter@0.5, found" in done.stderr


class TestItsOwnForm:
    """An adapter as trainers save it, with a tokenizer and a template of its own beside it."""

    @pytest.fixture(scope="class")
    @staticmethod
    def spoken(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("spoken") / "tune"
        shutil.copytree(adapter, folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template, tokenizer.eos_token = CHATML, "<|im_end|>"
        tokenizer.save_pretrained(folder)
        return folder

    @pytest.mark.parametrize("target", ["cpu", "gguf", "mlx", "openvino"])
    def test_is_what_every_engine_reads(
        self,
        base: Path,
        spoken: Path,
        tmp_path: Path,
        target: str,
        here: Here,  # noqa: F811
    ) -> None:
        words = ("--target", target, "--verify", "off", "--method", "rtn", "-o", tmp_path / "bundle")
        done = here("build", base, "--adapter", spoken, *words)
        assert done.returncode == 0, done.stderr
        assert "tokenizer: that of adapter tune, 2 tokens more ('<|im_start|>'," in done.stdout
        assert "chat: the template of adapter tune (chat_template.jinja)" in done.stdout
        session = edgephi.runtime.load(tmp_path / "bundle", provider="cpu")
        tokenizer = transformers.AutoTokenizer.from_pretrained(spoken)
        asked = [{"role": "user", "content": "who are you?"}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert session.encode_chat(asked) == tokenizer.encode(text, add_special_tokens=False)
        manifest = read_manifest(tmp_path / "bundle")
        assert manifest.chat.source == "adapter tune: chat_template.jinja"
        assert tokenizer.eos_token_id in manifest.chat.stop_token_ids
        inputs = manifest.provenance.inputs
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert inputs[f"tune/{name}"] == sha256((spoken / name).read_bytes()).hexdigest()
            assert name not in inputs
        told = here("inspect", tmp_path / "bundle").stdout
        assert "the template of adapter tune (chat_template.jinja)" in told

    def test_is_planned_and_measured_too(
        self,
        base: Path,
        spoken: Path,
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        told = here("plan", base, "--target", "cpu", "--adapter", spoken).stdout
        assert "that of adapter tune, 2 tokens more" in told
        assert "chat       the template of adapter tune (chat_template.jinja)" in told
        document = json.loads(here("plan", base, "--target", "cpu", "--adapter", spoken, "--json").stdout)
        assert document["chat"]["source"] == "adapter tune: chat_template.jinja"
        assert len(document["tokenizer"]["remarks"]) == 2
        words = ("--target", "cpu", "--method", "rtn", "-o", tmp_path / "bundle")
        done = here("build", base, "--adapter", spoken, *words)
        assert done.returncode == 0, done.stderr
        measured = json.loads(
            here("verify", tmp_path / "bundle", "--against", base, "--adapter", spoken, "--json").stdout
        )["certificate"]
        built = read_manifest(tmp_path / "bundle").certificate.end_to_end
        assert built is not None
        assert measured["end_to_end"]["kl_mean"] == pytest.approx(built.kl_mean, rel=1e-6)

    def test_that_does_not_fit_leaves_nothing(
        self,
        base: Path,
        spoken: Path,
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        wrong = tmp_path / "wrong"
        shutil.copytree(spoken, wrong)
        file = wrong / "tokenizer.json"
        table = json.loads(file.read_text())
        table["added_tokens"] = [each for each in table["added_tokens"] if each["content"] != "<|end|>"]
        file.write_text(json.dumps(table))
        for words in (("build", "-o", tmp_path / "bundle"), ("plan",)):
            done = here(words[0], base, "--adapter", wrong, "--target", "cpu", *words[1:])
            assert is_one_error(done, 4)
            assert "adapter wrong: tokenizer.json: expected '<|end|>' as token" in done.stderr
        assert [*tmp_path.iterdir()] == [wrong]


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "code", "said"),
        [
            (["{adapter}@strong"], 2, "expected a factor such as 0.5 after the @, found 'strong'"),
            (["{adapter}", "{adapter}@2"], 2, "expected each adapter once"),
            (["{base}"], 4, "expected an adapter, found no adapter_config.json"),
            (["{adapter}:v1@2"], 2, "found 'v1' with the folder "),
            (["./none"], 4, "expected an adapter's folder or a hub id owner/name"),
        ],
    )
    def test_what_is_no_adapter(
        self,
        base: Path,
        adapter: Path,
        tmp_path: Path,
        here: Here,  # noqa: F811
        given: list[str],
        code: int,
        said: str,
    ) -> None:
        names = [each.format(adapter=adapter, base=base) for each in given]
        words = [word for name in names for word in ("--adapter", name)]
        done = here("build", base, *words, "--target", "cpu", "-o", tmp_path / "b")
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_an_adapter_in_the_place_of_a_model(self, adapter: Path, tmp_path: Path, here: Here) -> None:  # noqa: F811
        done = here("build", adapter, "--target", "cpu", "-o", tmp_path / "b")
        assert done.returncode == 4
        assert "expected a checkpoint, found an adapter for one" in done.stderr
        assert f"edgephi build CHECKPOINT --adapter {adapter}" in done.stderr

    def test_with_the_engines_own_converter(
        self,
        base: Path,
        adapter: Path,
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        words = ("--adapter", adapter, "--target", "cpu", "--exporter", "upstream", "-o", tmp_path / "b")
        done = here("build", base, *words)
        assert done.returncode == 2
        assert "expected edgephi's own exporter" in done.stderr


def test_a_plan_names_them_and_holds_them_against_the_model(
    base: Path,
    adapter: Path,
    tmp_path: Path,
    here: Here,  # noqa: F811
) -> None:
    done = here("plan", base, "--target", "cpu", "--adapter", f"{adapter}@0.5")
    assert done.returncode == 0, done.stderr
    assert "adapter    adapter@0.5" in done.stdout
    assert "tokenizer  sentencepiece, " in done.stdout
    document = json.loads(here("plan", base, "--target", "cpu", "--adapter", adapter, "--json").stdout)
    assert document["adapters"] == ["adapter"]
    assert document["tokenizer"]["kind"] == "sentencepiece"
    other = write_tiny_checkpoint(tmp_path / "other", hidden=128)
    for target in ("cpu", "auto"):
        done = here("plan", other, "--target", target, "--adapter", adapter)
        assert done.returncode == 4
        assert "give the adapter with the checkpoint that it was trained on" in done.stderr
