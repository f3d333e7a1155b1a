"""`edgephi run`, on the demo bundle."""

import dataclasses
import json
import platform
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import Limits, Manifest, Requires, encode_manifest, read_manifest
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.installs import installs

PROMPT = "turn on the kitchen light"
# A generation that takes seconds however fast the model is, and a Ctrl-C that works in a background job too.
SLOWLY = """
import signal, time
from edgephi.runtime.engines.sequence_cache import SequenceCache
signal.signal(signal.SIGINT, signal.default_int_handler)
quick = SequenceCache.append
def append(*arguments):
    for done in quick(*arguments):
        yield done
        time.sleep(1)
SequenceCache.append = append
"""


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def rewrite(bundle: Path, change: Callable[[Manifest], Manifest]) -> None:
    (bundle / "bundle.json").write_bytes(encode_manifest(change(read_manifest(bundle))))


def test_prints_the_answer_and_nothing_else(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("run", demo_bundle, PROMPT, "--max-tokens", 24)
    document = json.loads(edgephi("run", demo_bundle, PROMPT, "--max-tokens", 24, "--json").stdout)
    assert done.returncode == 0
    assert re.fullmatch(r"onnxruntime-genai [\d.]+ on cpu\n", done.stderr)
    assert done.stdout == document["text"] + "\n"
    assert "<|" not in done.stdout


def test_json_is_one_document(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("run", demo_bundle, PROMPT, "--max-tokens", 4, "--json")
    document = json.loads(done.stdout)
    manifest = read_manifest(demo_bundle)
    assert list(document) == [
        "text",
        "stop_reason",
        "tokens",
        "timings",
        "model",
        "adapter",
        "engine",
        "provider",
        "emulated",
        "context",
    ]
    assert document["emulated"] is False
    assert document["tokens"]["prompt"] > 4
    assert document["tokens"]["generated"] == 4
    assert document["stop_reason"] == "length"
    assert set(document["timings"]) == {
        "load_seconds",
        "first_token_seconds",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
    }
    assert all(value > 0 for value in document["timings"].values())
    assert document["model"] == manifest.model.id
    assert document["engine"]["name"] == "onnxruntime-genai"
    assert document["provider"] == manifest.target.provider


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_prompt_from_standard_input(edgephi: Edgephi, demo_bundle: Path, arguments: list[str]) -> None:
    options = ("--max-tokens", 12)
    piped = edgephi("run", demo_bundle, *arguments, *options, input=PROMPT + "\n")
    assert piped.stdout == edgephi("run", demo_bundle, PROMPT, *options).stdout


def test_a_seed_draws_the_same_again(edgephi: Edgephi, demo_bundle: Path) -> None:
    def draw(seed: int) -> str:
        options = ("--temperature", 30, "--seed", seed, "--max-tokens", 16)
        return edgephi("run", demo_bundle, PROMPT, *options).stdout

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in (1, 2, 3)}) > 1


def test_the_system_message_is_read(edgephi: Edgephi, demo_bundle: Path) -> None:
    def prompt_tokens(*options: str) -> int:
        done = edgephi("run", demo_bundle, PROMPT, "--max-tokens", 1, "--json", *options)
        return int(json.loads(done.stdout)["tokens"]["prompt"])

    assert prompt_tokens("--system", "You are a thermostat.") > prompt_tokens() + 3


def test_a_prompt_past_the_context(edgephi: Edgephi, demo_bundle: Path) -> None:
    context = read_manifest(demo_bundle).limits.context
    done = edgephi("run", demo_bundle, input="light " * (context + 1))
    assert is_one_error(done, 3)
    assert f"the context is {context} tokens" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--max-tokens", "0"], ["--temperature", "-1"], ["--top-p", "0"], ["--seed", "-1"], ["--seed", "x"]],
)
def test_options_that_make_no_sense(edgephi: Edgephi, tmp_path: Path, arguments: list[str]) -> None:
    assert is_one_error(edgephi("run", tmp_path, PROMPT, *arguments), 2)


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_prompt(edgephi: Edgephi, tmp_path: Path, text: str) -> None:
    assert is_one_error(edgephi("run", tmp_path, input=text), 2)


def test_no_prompt_on_a_terminal(edgephi: Edgephi, tmp_path: Path) -> None:
    _, terminal = pty.openpty()
    done = edgephi("run", tmp_path, stdin=terminal)
    assert is_one_error(done, 2)
    assert "hint: `edgephi run BUNDLE 'your question'`" in done.stderr


def test_a_prompt_that_is_no_text(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAIN, "run", str(tmp_path)]
    for arguments, data in (([b"\xff"], b""), ([], b"\xff\xfe")):
        done = subprocess.run(
            [*command, *arguments], input=data, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 2
        assert b"error: expected UTF-8 text as prompt" in done.stderr


def test_no_such_bundle(edgephi: Edgephi, tmp_path: Path) -> None:
    assert is_one_error(edgephi("run", tmp_path / "none", PROMPT), 4)


def test_a_missing_file(edgephi: Edgephi, bundle: Path) -> None:
    (bundle / "model/genai_config.json").unlink()
    done = edgephi("run", bundle, PROMPT)
    assert is_one_error(done, 4)
    assert "model/genai_config.json: expected a file of" in done.stderr


def test_a_changed_file(edgephi: Edgephi, bundle: Path) -> None:
    with (bundle / "model/tokenizer.json").open("ab") as file:
        file.write(b" ")
    done = edgephi("run", bundle, PROMPT)
    assert is_one_error(done, 4)
    assert "model/tokenizer.json: expected" in done.stderr


def test_an_extra_file(edgephi: Edgephi, bundle: Path) -> None:
    (bundle / "model/extra.so").write_bytes(b"")
    done = edgephi("run", bundle, PROMPT)
    assert is_one_error(done, 4)
    assert "model/extra.so" in done.stderr


def test_a_link_out_of_the_bundle(edgephi: Edgephi, bundle: Path) -> None:
    shutil.move(bundle / "model/tokenizer.json", bundle.parent / "tokenizer.json")
    (bundle / "model/tokenizer.json").symlink_to(bundle.parent / "tokenizer.json")
    done = edgephi("run", bundle, PROMPT)
    assert is_one_error(done, 4)
    assert "model/tokenizer.json: expected a plain file, found a symbolic link" in done.stderr


def test_a_path_out_of_the_bundle(edgephi: Edgephi, bundle: Path) -> None:
    hostile = FileEntry("model/../../secret", 1, "0" * 64)
    rewrite(bundle, lambda manifest: dataclasses.replace(manifest, files=(*manifest.files, hostile)))
    done = edgephi("run", bundle, PROMPT)
    assert is_one_error(done, 4)
    assert "'model/../../secret' leaves the bundle's folder" in done.stderr


def test_a_broken_graph(edgephi: Edgephi, bundle: Path) -> None:
    graph = bundle / "model/model.onnx"
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    done = edgephi("run", bundle, PROMPT)
    assert is_one_error(done, 4)
    assert "model.onnx: expected an ONNX graph" in done.stderr


def test_another_engine_version(edgephi: Edgephi, bundle: Path) -> None:
    requires = Requires(1, 1, {"onnxruntime-genai": ">=99.1,<99.2"})
    rewrite(bundle, lambda manifest: dataclasses.replace(manifest, requires=requires))
    done = edgephi("run", bundle, PROMPT)
    assert is_one_error(done, 3)
    assert "the bundle needs onnxruntime-genai >=99.1,<99.2, found 0." in done.stderr


def test_an_engine_that_is_not_installed(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("run", demo_bundle, PROMPT, before="import sys; sys.modules['onnxruntime_genai'] = None")
    assert is_one_error(done, 3)
    assert installs(done.stderr.splitlines()[-1], "cpu")


def test_memory_that_may_not_do_is_said_on_stderr(edgephi: Edgephi, bundle: Path) -> None:
    engines = read_manifest(bundle).requires.engines
    rewrite(bundle, lambda manifest: dataclasses.replace(manifest, requires=Requires(1 << 49, 1, engines)))
    done = edgephi("run", bundle, PROMPT, "--max-tokens", 2)
    assert done.returncode == 0
    warning, engine = done.stderr.splitlines()
    assert warning.startswith("warning: ")
    assert engine.endswith(" on cpu")


def test_a_smaller_context(edgephi: Edgephi, bundle: Path) -> None:
    rewrite(bundle, lambda manifest: dataclasses.replace(manifest, limits=Limits(512)))
    done = edgephi("run", bundle, PROMPT, "--max-tokens", 2, "--context", 100, "--json")
    assert json.loads(done.stdout)["context"] == 100
    assert is_one_error(edgephi("run", bundle, "light " * 120, "--context", 100), 3)
    refused = edgephi("run", bundle, PROMPT, "--context", 513)
    assert is_one_error(refused, 3)
    assert "expected a context of at most 512 tokens, found 513" in refused.stderr


def test_a_context_that_does_not_fit(edgephi: Edgephi, bundle: Path) -> None:
    def large(manifest: Manifest) -> Manifest:
        token = 1 << 37
        return dataclasses.replace(
            manifest,
            limits=Limits(4096),
            requires=Requires(4096 * token, 1, manifest.requires.engines, token),
        )

    rewrite(bundle, large)
    refused = edgephi("run", bundle, PROMPT, "--context", 2048)
    assert is_one_error(refused, 3)
    assert "a context of 2048 tokens needs 281474.98 GB of memory" in refused.stderr


def test_a_bundle_for_another_architecture(edgephi: Edgephi, bundle: Path) -> None:
    def elsewhere(manifest: Manifest) -> Manifest:
        return dataclasses.replace(manifest, target=dataclasses.replace(manifest.target, arch=("riscv64",)))

    rewrite(bundle, elsewhere)
    refused = edgephi("run", bundle, PROMPT)
    assert is_one_error(refused, 3)
    assert f"made for riscv64, this machine is {platform.machine()}" in refused.stderr


def test_a_provider_that_the_engine_does_not_have(edgephi: Edgephi, demo_bundle: Path) -> None:
    refused = edgephi("run", demo_bundle, PROMPT, "--provider", "abacus")
    assert is_one_error(refused, 3)
    assert "found 'abacus'" in refused.stderr


def test_ctrl_c(demo_bundle: Path) -> None:
    command = [sys.executable, "-c", SLOWLY + MAIN, "run", str(demo_bundle), PROMPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)  # it has begun to answer
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().strip().endswith(b" on cpu")


@pytest.mark.parametrize(
    ("option", "content", "pattern"),
    [
        ("--schema", '\ufeff{"enum": ["on", "off"]}', '"on"|"off"'),
        ("--regex", None, "[0-9]{2}"),
        ("--grammar", 'start: "level " /[1-9]/', "level [1-9]"),
    ],
)
def test_rules_for_the_answer(
    edgephi: Edgephi, demo_bundle: Path, tmp_path: Path, option: str, content: str | None, pattern: str
) -> None:
    (tmp_path / "rules").write_text(content or "")
    done = edgephi("run", demo_bundle, PROMPT, option, pattern if content is None else tmp_path / "rules")
    assert re.fullmatch(pattern, done.stdout.removesuffix("\n")), done.stdout


def test_rules_that_are_none(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
    done = edgephi("run", demo_bundle, PROMPT, "--regex", "(")
    assert is_one_error(done, 4)
    assert "expected a regular expression" in done.stderr
    assert edgephi("run", demo_bundle, PROMPT, "--schema", tmp_path / "none").returncode == 4
    both = edgephi("run", demo_bundle, PROMPT, "--regex", "a", "--schema", Path(__file__))
    assert both.returncode == 2
    assert "expected one kind of rules for an answer" in both.stderr


def test_how_tokens_are_chosen_and_where_the_answer_stops(edgephi: Edgephi, demo_bundle: Path) -> None:
    def answer(*options: object) -> str:
        done = edgephi("run", demo_bundle, PROMPT, "--max-tokens", 24, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    free = answer()
    assert answer("--stop", "never", "--stop", free[5:9]) == free[:5]
    assert answer("--repetition-penalty", 5) != free
    assert answer("--temperature", 9, "--seed", 1, "--top-k", 1) == free
    assert answer("--temperature", 9, "--seed", 1, "--top-k", 0, "--min-p", 1) == free
    biased = edgephi("run", demo_bundle, PROMPT, "--max-tokens", 3, "--logit-bias", "400=100", "--json")
    assert json.loads(biased.stdout)["tokens"]["generated"] == 3
    biased_text = json.loads(biased.stdout)["text"]
    assert not free.startswith(biased_text)
    held = answer("--logit-bias", "400=40", "--frequency-penalty", 2, "--presence-penalty", 2)
    assert held.startswith(biased_text)
    assert held != answer("--logit-bias", "400=40")


@pytest.mark.parametrize("bias", ["400", "x=1", "5=", "=1", "5=1e9"])
def test_a_bias_that_is_none(edgephi: Edgephi, demo_bundle: Path, bias: str) -> None:
    done = edgephi("run", demo_bundle, PROMPT, "--logit-bias", bias)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_beams(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("run", demo_bundle, PROMPT, "--beams", 3, "--max-tokens", 24)
    document = json.loads(
        edgephi("run", demo_bundle, PROMPT, "--beams", 3, "--max-tokens", 24, "--json").stdout
    )
    assert done.stdout == document["text"] + "\n"
    scores = [beam["score"] for beam in document["beams"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert document["beams"][0]["text"] == document["text"]
    assert document["engine"]["name"] == "onnxruntime-genai"
    for option, value in (
        ("--temperature", 1),
        ("--seed", 1),
        ("--top-k", 3),
        ("--top-p", 0.5),
        ("--min-p", 0.5),
    ):
        assert is_one_error(edgephi("run", demo_bundle, PROMPT, "--beams", 3, option, value), 2)
    assert is_one_error(edgephi("run", demo_bundle, PROMPT, "--length-penalty", 2), 2)
