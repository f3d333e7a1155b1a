"""The adapter of mlx-lm, on the demo's bundle and on the CPU."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import Limits, Requires, read_manifest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.runtime import load
from edgephi.runtime.adapter import Adapter, open_engine
from edgephi.runtime.engines.mlx_lm import adapter as mlx_lm
from edgephi.runtime.engines.mlx_lm.adapter import MlxEngine
from edgephi.runtime.session import Options, Session
from edgephi.steps import silent
from tests.build.demo import build_demo
from tests.cli.conftest import Edgephi, edgephi, is_one_error
from tests.installs import installs
from tests.runtime.engines.cache_behaviour import (
    CacheBehaviour,
    Same,
    fresh_logits,
    greedy,
    grow,
    some_ids,
    taken_at_opening,
)
from tests.tiny_checkpoint import write_tiny_checkpoint

np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")
mx: Any = pytest.importorskip("mlx.core")

__all__ = ["edgephi"]

ADAPTER: Adapter = mlx_lm

PROMPT = "turn on the kitchen light"
PROMPTS = [
    PROMPT,
    "  two spaces, a line\n\n and a tab\t.",
    "ünïcödé — 你好世界 العربية",
    "😀 👩\u200d👩\u200d👧",
    "<|user|>\nspecial<|end|>\n<|assistant|>\n  words",
    "before\0after",
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, built and verified for the target `mlx` as a user would."""
    return build_demo("mlx", tmp_path_factory.mktemp("mlx") / "bundle").folder


@pytest.fixture(scope="module")
def session(bundle: Path) -> Session:
    return load(bundle, provider="cpu")


@pytest.fixture(scope="module")
def engine(session: Session) -> MlxEngine:
    assert isinstance(session.engine, MlxEngine)
    return session.engine


def all_logits(engine: MlxEngine, token_ids: list[int], *, step: int = 64) -> Any:
    return np.concatenate([*engine.logits(token_ids, step=step)])


class TestBundle:
    def test_the_certificate_says_what_was_run(self, bundle: Path) -> None:
        certificate = read_manifest(bundle).certificate
        if mx.metal.is_available():
            assert certificate.provider == "metal"
            assert "not run on its provider" not in certificate.note
        else:
            assert certificate.provider == "cpu"
            assert certificate.note.startswith("not run on its provider; ")
        assert certificate.export_error is not None
        assert certificate.end_to_end is not None
        assert certificate.export_error.kl_mean < 1e-4
        assert certificate.end_to_end.top1 >= read_recipe("demo").gate.end_to_end_top1

    def test_it_serves_what_mlx_lm_computes_rightly(self, bundle: Path) -> None:
        assert read_manifest(bundle).limits == Limits(2047)  # the demo's attention window

    def test_from_the_command_line(self, edgephi: Edgephi, bundle: Path, tmp_path: Path) -> None:
        done = edgephi("build", "demo", "--target", "mlx", "--verify", "off", "-o", tmp_path / "again")
        assert done.returncode == 0
        for file in (bundle / "model").iterdir():
            assert (tmp_path / "again/model" / file.name).read_bytes() == file.read_bytes()
        done = edgephi("run", tmp_path / "again", "--provider", "cpu", PROMPT, "--json")
        document = json.loads(done.stdout)
        assert document["text"] == '{"action": "turn_on", "room": "kitchen", "device": "light"}'
        assert document["stop_reason"] == "stop"
        assert document["engine"]["name"] == "mlx-lm"
        assert document["provider"] == "cpu"

    @pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal")
    def test_nothing_runs_on_another_provider_unasked(self, edgephi: Edgephi, bundle: Path) -> None:
        done = edgephi("run", bundle, PROMPT)
        assert is_one_error(done, 3)
        assert "mlx-lm on metal: Metal is not available" in done.stderr
        assert "--provider cpu" in done.stderr

    def test_neither_pytorch_nor_transformers_is_loaded(self, bundle: Path) -> None:
        code = (
            "import sys, edgephi.runtime\n"
            f"print(edgephi.runtime.load({str(bundle)!r}, provider='cpu').generate({PROMPT!r}).text)\n"
            "print(sorted({'torch', 'transformers', 'mlx_lm'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[1:] == ["[]"]


class TestText:
    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_encodes_as_the_tokenizer_file_says(self, session: Session, bundle: Path, prompt: str) -> None:
        oracle = tokenizers.Tokenizer.from_file(str(bundle / "model/tokenizer.json"))
        rendered = session.render(prompt, "be brief")
        assert session.engine.encode(rendered) == oracle.encode(rendered, add_special_tokens=False).ids

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_decodes_in_pieces_what_it_decodes_at_once(
        self, engine: MlxEngine, bundle: Path, prompt: str
    ) -> None:
        oracle = tokenizers.Tokenizer.from_file(str(bundle / "model/tokenizer.json"))
        token_ids = engine.encode("a b " + prompt)
        stream = engine.decode_stream(token_ids[0])
        pieces = [stream.decode(token) for token in token_ids[1:]]
        whole, first = (oracle.decode(ids, skip_special_tokens=True) for ids in (token_ids, token_ids[:1]))
        assert first + "".join(pieces) == whole

    def test_the_pieces_of_an_answer_are_the_answer(self, session: Session) -> None:
        answer = session.stream(PROMPT, Options(max_tokens=24))
        pieces = list(answer)
        assert "".join(pieces) == answer.generation.text != ""
        assert not answer.generation.text.startswith(" ")


class TestAgainstMlxLm:
    @pytest.mark.slow
    def test_its_own_greedy_answer_is_ours(self, session: Session, bundle: Path) -> None:
        """Opened unchanged and computed in float16, with its own loop, tokenizer and stop tokens."""
        import mlx_lm

        model, tokenizer = mlx_lm.load(str(bundle / "model"))
        messages = [{"role": "user", "content": PROMPT}]
        token_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert token_ids == session.engine.encode(session.render(PROMPT))
        text = mlx_lm.generate(model, tokenizer, prompt=token_ids, max_tokens=48)
        assert text == session.generate(PROMPT, Options(max_tokens=48)).text != ""


class TestAgainstTransformers:
    def test_sixty_four_greedy_tokens(self, engine: MlxEngine, bundle: Path) -> None:
        torch = pytest.importorskip("torch")
        from tests.export.mlx.test_exporter import dequantised
        from tests.export.oracle import transformers_model

        folder = find_checkpoint("demo", read_recipe("demo"), None, progress=False).folder
        model = transformers_model(folder)
        weights = dequantised(bundle / "model")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weights[name]))
        prompt = engine.encode("the light in the hall and the heating in the kitchen")
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0].tolist()
        assert len(expected) == len(prompt) + 64
        # No stop token ends the comparison: each step is asked for alone.
        logits = all_logits(engine, expected[:-1])[len(prompt) - 1 :]
        assert logits.argmax(axis=-1).tolist() == expected[len(prompt) :]


class TestAnswers:
    def test_greedy_takes_the_most_likely_token(self, session: Session, engine: MlxEngine) -> None:
        prompt = engine.encode(session.render(PROMPT))
        tokens = greedy(engine, prompt, 8)
        logits = all_logits(engine, prompt + tokens[:-1])[len(prompt) - 1 :]
        assert tokens == logits.argmax(axis=-1).tolist()

    def test_of_equal_logits_the_first_one_counts(self) -> None:
        logits = np.random.default_rng(0).integers(0, 50, (100, 1000)).astype(np.float32)
        with mx.stream(mx.cpu):
            found = np.array(mx.argmax(mx.array(logits), axis=-1))
        np.testing.assert_array_equal(found, logits.argmax(axis=1))

    def test_a_prompt_of_many_pieces(self, engine: MlxEngine) -> None:
        token_ids = (engine.encode("the light in the hall ") * 100)[:300]
        assert greedy(engine, token_ids, 1) == [int(all_logits(engine, token_ids, step=300)[-1].argmax())]

    def test_a_prompt_of_one_token(self, engine: MlxEngine) -> None:
        assert greedy(engine, [20], 1) == [int(all_logits(engine, [20])[-1].argmax())]

    def test_logits_do_not_depend_on_the_step(self, engine: MlxEngine) -> None:
        token_ids = engine.encode("turn on the kitchen light and the heating, please " * 4)
        whole = all_logits(engine, token_ids, step=1000)
        assert whole.dtype == np.float32
        assert len(whole) == len(token_ids)
        for step in (1, 7):
            stepped = list(engine.logits(token_ids, step=step))
            assert {len(block) for block in stepped[:-1]} == {step}
            np.testing.assert_allclose(np.concatenate(stepped), whole, atol=1e-3)


class TestCache(CacheBehaviour):
    takes_pieces_of = 16

    def test_its_memory_is_taken_as_tokens_come(self, bundle: Path) -> None:
        ahead, opening, filling = taken_at_opening(bundle)
        assert not ahead
        assert opening < 1e6 < filling

    def test_a_token_that_was_begun_ahead_comes(self, engine: MlxEngine) -> None:
        """On a GPU; it computes on a CPU as well."""
        cache = engine.open_cache(20)
        cache.begins_ahead = True
        grow(cache, some_ids(8))
        for _ in range(4):
            token = cache.next_greedy()
            assert token == fresh_logits(engine, cache.tokens).argmax()
            grow(cache, [token])
        Same(engine, self.tolerance)(cache)
        assert len(cache.tokens) == 12

    def test_another_token_than_the_one_that_was_begun_comes(self, engine: MlxEngine) -> None:
        cache = engine.open_cache(20)
        cache.begins_ahead = True
        grow(cache, some_ids(8))
        begun = cache.next_greedy()
        other = begun + 1
        grow(cache, [other])
        Same(engine, self.tolerance)(cache, tokens=[*some_ids(8), other])
        cache.next_greedy()
        fork = cache.fork()
        assert fork is not None
        for each in (fork, cache):
            each.rewind(8)
            grow(each, [begun])
            Same(engine, self.tolerance)(each, tokens=[*some_ids(8), begun])

    def test_asking_twice_changes_nothing(self, engine: MlxEngine) -> None:
        cache = engine.open_cache(9)
        cache.begins_ahead = True
        grow(cache, some_ids(8))
        before = cache.logits()
        assert cache.next_greedy() == cache.next_greedy() == before.argmax()
        np.testing.assert_array_equal(cache.logits(), before)
        grow(cache, [cache.next_greedy()])
        assert cache.next_greedy() == cache.logits().argmax()  # there is no room for what would follow


class TestRefusals:
    def test_another_engine_version(self, bundle: Path) -> None:
        manifest = dataclasses.replace(
            read_manifest(bundle), requires=Requires(1, 1, {"mlx-lm": ">=99,<100"})
        )
        with pytest.raises(NotSupportedError, match=r"needs mlx-lm >=99,<100, found 0\."):
            open_engine(bundle, manifest, provider="cpu")

    @pytest.mark.parametrize("missing", ["mlx", "tokenizers"])
    def test_an_engine_that_is_not_installed(self, edgephi: Edgephi, bundle: Path, missing: str) -> None:
        before = f"import sys; sys.modules[{missing!r}] = None"
        done = edgephi("run", bundle, "--provider", "cpu", PROMPT, before=before)
        assert is_one_error(done, 3)
        assert "mlx-lm, which is not installed" in done.stderr
        assert installs(done.stderr.splitlines()[-1], "mlx")

    def test_a_provider_that_it_does_not_have(self, bundle: Path) -> None:
        with pytest.raises(NotSupportedError, match="expected one of the providers metal, cpu, found 'cuda'"):
            open_engine(bundle, read_manifest(bundle), provider="cuda")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("model.safetensors", r"model\.safetensors: expected safetensors"),
            ("config.json", r"config\.json: expected a configuration in JSON"),
            ("tokenizer.json", "tokenizer.json: expected a tokenizer"),
        ],
    )
    def test_a_model_the_engine_cannot_read(
        self, bundle: Path, tmp_path: Path, name: str, expected: str
    ) -> None:
        shutil.copytree(bundle, tmp_path / "bundle")
        file = tmp_path / "bundle/model" / name
        file.write_bytes(b"{" * file.stat().st_size)
        with pytest.raises(BadBundleError, match=expected):
            load(tmp_path / "bundle", provider="cpu")

    def test_a_configuration_that_names_code_runs_none(self, bundle: Path, tmp_path: Path) -> None:
        shutil.copytree(bundle, tmp_path / "bundle")
        config = json.loads((tmp_path / "bundle/model/config.json").read_text())
        (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        config["model_file"] = "../../code.py"
        (tmp_path / "bundle/model/config.json").write_text(json.dumps(config))
        open_engine(tmp_path / "bundle", read_manifest(tmp_path / "bundle"), provider="cpu")
        assert not (tmp_path / "ran").exists()


def test_a_model_whose_head_is_its_embedding(tmp_path: Path) -> None:
    tiny = write_tiny_checkpoint(tmp_path / "tiny", "phi-4-mini")
    recipe = read_recipe("default")
    request = BuildRequest(str(tiny), read_target("mlx"), recipe, tmp_path / "bundle", verify="off")
    build(request, find_checkpoint(str(tiny), recipe, None, progress=False), silent)
    opened = load(tmp_path / "bundle", provider="cpu", context=64).engine
    assert isinstance(opened, MlxEngine)
    ids = some_ids(20)
    np.testing.assert_allclose(fresh_logits(opened, ids), all_logits(opened, ids)[-1], atol=1e-4)
