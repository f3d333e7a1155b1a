"""The adapter of Qualcomm's NPU, on the demo's bundle and in Qualcomm's emulator of the Hexagon HTP."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.artifact.qnn_artifact import ArtifactSoc, decode_artifact, read_artifact
from edgephi.bundle.manifest import read_manifest
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.qnn import FACTS
from edgephi.errors import BadBundleError, EdgephiError, NotSupportedError
from edgephi.export.qnn.compiler import compile_graphs
from edgephi.runtime import load
from edgephi.runtime.adapter import Adapter, Engine, open_engine
from edgephi.runtime.engines.qnn import adapter
from edgephi.runtime.engines.qnn.adapter import QnnEngine
from edgephi.runtime.engines.qnn.chip import check_soc, chips_here, npu_problem
from edgephi.runtime.engines.qnn.library import (
    HtpSessions,
    binary_qairt_version,
    check_qairt,
    platform_problem,
    qairt_version,
)
from edgephi.runtime.session import Options, Session
from tests.cli.conftest import Edgephi, edgephi, is_one_error
from tests.installs import installs
from tests.runtime.engines.cache_behaviour import CacheBehaviour, Same, fresh_logits, greedy, some_ids

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime_qnn")

__all__ = ["edgephi"]

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator is for x86-64")

ADAPTER: Adapter = adapter

PROMPT = "turn on the kitchen light"
PROMPTS = [PROMPT, "What is your name?", "Which tea keeps me awake?"]
PHONE = ArtifactSoc("snapdragon-8-gen-3", 57, 75, ("SM8650",))

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def session(qnn_bundle: Path) -> Session:
    return load(qnn_bundle)


@pytest.fixture(scope="module")
def engine(session: Session) -> QnnEngine:
    assert isinstance(session.engine, QnnEngine)
    return session.engine


def changed(bundle: Path, folder: Path, change: Change) -> Path:
    """A copy of a bundle with another `qnn.json`, padded to the size that the manifest declares."""
    copy = folder / "changed"
    shutil.copytree(bundle, copy)
    file = copy / "model/qnn.json"
    size = file.stat().st_size
    document = json.loads(file.read_bytes())
    change(document)
    data = json.dumps(document).encode()
    assert len(data) <= size
    file.write_bytes(data.ljust(size))
    return copy


class TestAnswers:
    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_it_answers_as_the_cpu_does(self, session: Session, demo_bundle: Path, prompt: str) -> None:
        options = Options(max_tokens=24)
        assert session.generate(prompt, options).text == load(demo_bundle).generate(prompt, options).text

    def test_a_conversation_starts_from_what_is_computed(self, session: Session) -> None:
        chat = session.chat()
        answers = []
        for question in PROMPTS[:2]:
            answer = chat.say(question, Options(max_tokens=16))
            assert "".join(answer)
            answers.append(answer.generation)
        first, second = answers
        assert second.reused_tokens == first.prompt_tokens + first.generated_tokens

    def test_logits_do_not_depend_on_how_many_are_computed_at_once(self, engine: QnnEngine) -> None:
        ids = some_ids(70)
        whole = np.concatenate([*engine.logits(ids, step=70)])
        pieces = np.concatenate([*engine.logits(ids, step=13)])
        assert whole.shape == (70, engine.decoder.artifact.vocabulary)
        assert np.abs(whole - pieces).max() <= 2e-2 * whole.std()
        assert (whole.argmax(axis=1) == pieces.argmax(axis=1)).mean() > 0.95

    def test_a_token_that_no_row_of_the_embedding_stands_for(self, engine: QnnEngine) -> None:
        cache = engine.open_cache(4)
        with pytest.raises(BadBundleError, match="expected tokens below 768, found 768"):
            list(cache.append([768]))
        list(cache.append([30]))
        assert cache.next_greedy() == fresh_logits(engine, [30]).argmax()

    def test_a_prompt_may_fill_all_slots(self, engine: QnnEngine) -> None:
        slots = engine.decoder.artifact.context
        cache = engine.open_cache(slots)
        list(cache.append(some_ids(slots)))
        assert np.isfinite(cache.logits()).all()


class TestTheCache(CacheBehaviour):
    # An activation that falls on the other side of a rounding is one step of 65,536 of its range further.
    tolerance = 2e-2
    takes_pieces_of = 64

    @pytest.fixture
    def engine(self, engine: QnnEngine) -> QnnEngine:
        return engine

    @pytest.mark.parametrize("kept", [0, 33, 79])
    def test_a_rewound_cache_goes_on_as_a_fresh_one(self, engine: Engine, same: Same, kept: int) -> None:
        super().test_a_rewound_cache_goes_on_as_a_fresh_one(engine, same, kept)

    # Each of its examples takes seconds in emulation, and the steps are those of the other tests.
    test_whatever_happens_it_is_a_fresh_prefill = None  # type: ignore[assignment]


class TestEmulation:
    def test_every_report_says_so(self, edgephi: Edgephi, qnn_bundle: Path) -> None:
        done = edgephi("run", qnn_bundle, PROMPT, "--json")
        assert done.returncode == 0
        document = json.loads(done.stdout)
        assert document["text"] == '{"action": "turn_on", "room": "kitchen", "device": "light"}'
        assert (document["provider"], document["emulated"]) == ("htp-emulation", True)
        assert "on htp-emulation" in done.stderr
        assert "the speed is not" in done.stderr

    def test_nothing_but_the_answer_is_printed(self, edgephi: Edgephi, qnn_bundle: Path) -> None:
        """Qualcomm's emulator greets on standard output."""
        done = edgephi("run", qnn_bundle, PROMPT)
        assert done.stdout == '{"action": "turn_on", "room": "kitchen", "device": "light"}\n'

    def test_a_probe_in_emulation_tells_no_speed(
        self, edgephi: Edgephi, qnn_bundle: Path, tmp_path: Path
    ) -> None:
        done = edgephi("flash", qnn_bundle, tmp_path / "store")
        assert done.returncode == 0, done.stderr
        assert "probe: it answered in emulation, with " in done.stdout
        assert "tokens/s" not in done.stdout

    def test_the_npu_itself_is_not_emulated(self, edgephi: Edgephi, qnn_bundle: Path) -> None:
        done = edgephi("run", qnn_bundle, PROMPT, "--provider", "htp")
        assert is_one_error(done, 3)
        assert "an x86-64 processor has no Hexagon NPU" in done.stderr
        assert "--provider htp-emulation" in done.stderr

    def test_it_needs_the_graphs(self, qnn_bundle: Path, tmp_path: Path) -> None:
        def without_graphs(document: dict[str, Any]) -> None:
            for part in document["parts"]:
                del part["prefill"]["graph"]

        bundle = changed(qnn_bundle, tmp_path, without_graphs)
        with pytest.raises(NotSupportedError, match="holds context binaries only") as caught:
            open_engine(bundle, read_manifest(bundle))
        assert caught.value.hint == "run it on its device: snapdragon-8-gen-3"

    def test_what_the_npu_does_not_take_never_falls_back_to_the_cpu(self, tmp_path: Path) -> None:
        node = onnx.helper.make_node("Det", ["x"], ["y"], name="det")
        graph = onnx.helper.make_graph(
            [node],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 4])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(model, tmp_path / "det.onnx")
        with pytest.raises(Exception, match=r"CPU EP|cpu_ep_fallback|assigned"):
            HtpSessions({}).open(tmp_path / "det.onnx", compiles=True)


class TestContextBinaries:
    """What a device runs. The emulator loads those of one graph only, so each is compiled for itself."""

    @pytest.fixture
    def singly(self, qnn_bundle: Path, tmp_path: Path) -> Path:
        folder = tmp_path / "bundle"
        shutil.copytree(qnn_bundle, folder)
        artifact = read_artifact(folder / "model")
        for number, part in enumerate(artifact.parts):
            for kind, graph in (("prefill", part.prefill), ("decode", part.decode)):
                binary = f"part_{number}_{kind}.bin"
                (folder / "model" / graph.wrapper).unlink()
                compile_graphs(folder / "model", [graph], binary, artifact.provider_options, where="here")
        return folder

    def test_they_compute_what_their_graphs_do(self, singly: Path, engine: QnnEngine) -> None:
        device = QnnEngine(
            singly / "model",
            read_artifact(singly / "model"),
            read_manifest(singly),
            context=256,
            provider="htp",
            version="",
        )
        for prompt in (some_ids(70), some_ids(3)):
            np.testing.assert_array_equal(fresh_logits(device, prompt), fresh_logits(engine, prompt))
        assert greedy(device, some_ids(20), 4) == greedy(engine, some_ids(20), 4)


class TestVersions:
    def test_the_library_and_the_binaries_tell_theirs(self, qnn_bundle: Path) -> None:
        import onnxruntime_qnn

        found = qairt_version()
        assert len(found.split(".")) == 4
        assert found == binary_qairt_version(qnn_bundle / "model/head.bin")
        assert found == read_artifact(qnn_bundle / "model").qairt
        assert onnxruntime_qnn.__version__ == installed_version(FACTS)

    def test_a_file_without_a_version(self, tmp_path: Path) -> None:
        (tmp_path / "empty.bin").write_bytes(b"v2.51 and more")
        assert binary_qairt_version(tmp_path / "empty.bin") == ""

    @pytest.mark.parametrize("found", ["2.51.0.260929181845", "2.51.1.250101000000", "3.0.0.250101000000"])
    def test_the_same_or_a_newer_one_may_load(self, found: str) -> None:
        check_qairt("2.51.0.260929181845", found, onnxruntime_qnn="2.7.0")

    @pytest.mark.parametrize("found", ["2.9.0.260929181845", "2.51.0.260929181844", ""])
    def test_an_older_one_may_not(self, found: str) -> None:
        with pytest.raises(NotSupportedError) as caught:
            check_qairt("2.51.0.260929181845", found, onnxruntime_qnn="2.7.0")
        assert "2.51.0.260929181845" in caught.value.message
        assert found in caught.value.message
        assert "pip install 'onnxruntime-qnn>=2.7.0'" in caught.value.hint

    def test_an_older_library_refuses_before_loading(
        self, edgephi: Edgephi, qnn_bundle: Path, tmp_path: Path
    ) -> None:
        def newer(document: dict[str, Any]) -> None:
            document["qairt"] = "2.99.0.290101000000"

        done = edgephi("run", changed(qnn_bundle, tmp_path, newer), PROMPT)
        assert is_one_error(done, 3)
        assert (
            f"compiled by QAIRT 2.99.0.290101000000, this machine has QAIRT {qairt_version()}" in done.stderr
        )

    def test_a_binary_that_is_newer_than_the_description_says(self, qnn_bundle: Path, tmp_path: Path) -> None:
        copy = tmp_path / "bundle"
        shutil.copytree(qnn_bundle, copy)
        file = copy / "model/head.bin"
        file.write_bytes(file.read_bytes().replace(qairt_version().encode(), b"2.99.0.290101000000"))
        with pytest.raises(NotSupportedError, match=r"compiled by QAIRT 2\.99\.0\.290101000000"):
            open_engine(copy, read_manifest(copy))

    def test_without_the_package(self, edgephi: Edgephi, qnn_bundle: Path) -> None:
        missing = (
            "from importlib import metadata\n"
            "def missing(name, version=metadata.version):\n"
            "    if name == 'onnxruntime-qnn': raise metadata.PackageNotFoundError(name)\n"
            "    return version(name)\n"
            "metadata.version = missing"
        )
        done = edgephi("run", qnn_bundle, PROMPT, before=missing)
        assert is_one_error(done, 3)
        assert "onnxruntime-qnn, which is not installed" in done.stderr
        assert installs(done.stderr, "qnn")


class TestThePlatform:
    @pytest.mark.parametrize(
        ("system", "machine", "works"),
        [
            ("Linux", "x86_64", True),
            ("Linux", "aarch64", True),
            ("Darwin", "arm64", False),
            ("Linux", "riscv64", False),
        ],
    )
    def test_wheels_are_for_some_only(
        self, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, works: bool
    ) -> None:
        monkeypatch.setattr(platform, "system", lambda: system)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        problem = platform_problem()
        assert (problem is None) == works
        if problem is not None:
            assert f"no wheel for {system} on {machine}" in problem

    def test_a_mac_is_told_that_no_installation_helps(self, edgephi: Edgephi, qnn_bundle: Path) -> None:
        before = (
            "import platform; from importlib import metadata\n"
            "platform.system = lambda: 'Darwin'; platform.machine = lambda: 'arm64'\n"
            "def missing(name): raise metadata.PackageNotFoundError(name)\n"
            "metadata.version = missing"
        )
        done = edgephi("run", qnn_bundle, PROMPT, before=before)
        assert is_one_error(done, 3)
        assert "onnxruntime-qnn has no wheel for Darwin on arm64" in done.stderr


def device(root: Path, *, compatible: str = "", machine: str = "", node: bool = False) -> Path:
    """A machine's files below `root`, as Linux shows them."""
    for file, text in (
        ("proc/device-tree/compatible", compatible),
        ("sys/devices/soc0/machine", machine),
    ):
        if text:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)
    if node:
        (root / "dev").mkdir(parents=True, exist_ok=True)
        (root / "dev/fastrpc-cdsp").touch()
    return root


@pytest.fixture
def snapdragon(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process believes that it runs on 64-bit Arm."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


class TestTheChip:
    def test_no_chip_of_qualcomm(self, tmp_path: Path) -> None:
        assert chips_here(tmp_path) == ()
        assert chips_here(device(tmp_path, compatible="raspberrypi,5-model-b\0brcm,bcm2712\0")) == ()

    def test_the_device_tree_names_it(self, tmp_path: Path) -> None:
        root = device(tmp_path, compatible="qcom,sm8650-qrd\0qcom,sm8650\0", machine="PINEAPPLE\n")
        assert chips_here(root) == ("SM8650", "PINEAPPLE")

    def test_the_bus_of_the_chip_names_it(self, tmp_path: Path) -> None:
        assert chips_here(device(tmp_path, machine="QCS6490\n")) == ("QCS6490",)

    @pytest.mark.usefixtures("snapdragon")
    def test_what_keeps_the_npu_from_being_used(self, tmp_path: Path) -> None:
        problem = npu_problem(tmp_path)
        assert problem is not None
        assert "no Qualcomm chip found" in problem
        problem = npu_problem(device(tmp_path, compatible="qcom,sm8650-qrd\0qcom,sm8650\0"))
        assert problem is not None
        assert "the chip is SM8650, but there is no /dev/fastrpc-cdsp" in problem
        assert npu_problem(device(tmp_path, node=True)) is None

    @pytest.mark.parametrize("compatible", ["qcom,sm8650", "acme,phone\0qcom,sm8650", "qcom,sm8650p"])
    def test_a_bundle_for_this_chip(self, tmp_path: Path, compatible: str) -> None:
        check_soc(PHONE, device(tmp_path, compatible=compatible))

    def test_a_bundle_for_another_chip(self, tmp_path: Path) -> None:
        with pytest.raises(NotSupportedError, match="this machine's chip is SM8550") as caught:
            check_soc(PHONE, device(tmp_path, compatible="qcom,sm8550"))
        assert "compiled for snapdragon-8-gen-3 (SM8650)" in caught.value.message
        assert "--soc" in caught.value.hint

    def test_a_chip_that_nobody_names_is_for_the_library_to_judge(self, tmp_path: Path) -> None:
        check_soc(PHONE, tmp_path)
        check_soc(ArtifactSoc("own", 1, 75), device(tmp_path, compatible="qcom,sm8550"))


class TestTheDescription:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda it: it.update(schema="edgephi.qnn/9"), "expected schema 'edgephi.qnn/1'"),
            (lambda it: it.update(chunk=0), "chunk: expected 1 or more, found 0"),
            (lambda it: it.update(parts=[]), "expected layers, found none"),
            (lambda it: it["parts"][0].update(layers=[1, 3]), "expected layers from 0 on"),
            (lambda it: it["embedding"].update(file="../../secret"), "expected names of the artifact's own"),
            (lambda it: it["embedding"].update(group_size=7), "expected a divisor of 256, found 7"),
            (lambda it: it.update(provider_options={"backend_path": "/tmp/own.so"}), "'backend_path'"),
            (lambda it: it.update(provider_options={"htp_arch": "75;x"}), "'75;x'"),
        ],
    )
    def test_what_cannot_be_trusted(self, qnn_bundle: Path, change: Change, message: str) -> None:
        document = json.loads((qnn_bundle / "model/qnn.json").read_bytes())
        change(document)
        with pytest.raises(BadBundleError, match=message.replace("[", r"\[")) as caught:
            decode_artifact(json.dumps(document).encode(), where="qnn.json")
        assert "\n" not in caught.value.message

    @pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"null", b"\xff"])
    def test_no_description(self, data: bytes) -> None:
        with pytest.raises(BadBundleError):
            decode_artifact(data, where="qnn.json")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda it: it.update(context=200), "expected the shape"),
            (lambda it: it["rope"].update(file="tokenizer_config.json"), "expected .* bytes from 0 on"),
            (lambda it: it["embedding"].update(scales_offset=10**9), "bytes from 1000000000 on"),
            (
                lambda it: it["head"].update(graph="graphs/part_0_decode.onnx"),
                "expected nothing of that name",
            ),
        ],
    )
    def test_shapes_and_sizes_are_those_of_the_files(
        self, qnn_bundle: Path, tmp_path: Path, change: Change, message: str
    ) -> None:
        bundle = changed(qnn_bundle, tmp_path, change)
        with pytest.raises(EdgephiError, match=message) as caught:
            open_engine(bundle, read_manifest(bundle))
        assert caught.value.exit_code == 4


def test_importing_the_adapter_imports_no_engine() -> None:
    code = (
        "import sys, edgephi.runtime.engines.qnn.adapter\n"
        "print(sorted({'numpy', 'onnxruntime', 'onnxruntime_qnn', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_greedy_is_what_the_logits_say(engine: QnnEngine) -> None:
    prompt = some_ids(20)
    first, second = greedy(engine, prompt, 2)
    assert first == fresh_logits(engine, prompt).argmax()
    assert second == fresh_logits(engine, [*prompt, first]).argmax()
