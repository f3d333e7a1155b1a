"""`edgephi adapter build`: what the artifact holds, what is said of it, and what is refused."""

import dataclasses
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import AdapterFacts, Manifest, TargetFacts, read_manifest
from tests.build.conftest import Here, building, names, verifying, wait_until
from tests.build.switched_adapters.conftest import BuildAdapters
from tests.build.switched_adapters.demo_adapters import ASKED, demo_checkpoint
from tests.checkpoint.adapter.peft_adapter import save_adapter, save_exchange
from tests.store.bundles import remade
from tests.tiny_checkpoint import write_tiny_checkpoint

Adapters = dict[str, Path]
FACTS = {
    "model/adaptable.onnx",
    "model/adapters/faint.onnx_adapter",
    "model/adapters/opposite.onnx_adapter",
}


def is_refused(done: subprocess.CompletedProcess[str], exit_code: int, said: str, work: Path) -> None:
    """Hold a refusal against the contract: its exit code, one error, one hint, and nothing left."""
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (exit_code, ""), done.stderr
    assert lines[-2].startswith("error: ") and lines[-1].startswith("hint: ")
    assert [line.startswith(("error: ", "hint: ")) for line in lines].count(True) == 2
    assert said in lines[-2], lines[-2]
    assert names(work) == set()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class TestTheArtifact:
    """Of two adapters for the demo, measured on little text."""

    @pytest.fixture
    def manifest(self, demo_artifact: Path) -> Manifest:
        return read_manifest(demo_artifact)

    def test_holds_the_adapters_files_and_no_others(self, demo_artifact: Path, manifest: Manifest) -> None:
        own = [entry for entry in manifest.files if entry.path in FACTS]
        assert contents(demo_artifact).keys() == FACTS | {"bundle.json"}
        check_files(demo_artifact, manifest, entries=own)
        assert [each.file for each in manifest.adapters] == [
            "model/adapters/opposite.onnx_adapter",
            "model/adapters/faint.onnx_adapter",
        ]

    def test_is_small_beside_its_base(self, demo_artifact: Path, demo_bundle: Path) -> None:
        base = sum(map(len, contents(demo_bundle).values()))
        assert sum(map(len, contents(demo_artifact).values())) < base / 3

    def test_names_its_base_and_all_of_its_files(self, demo_bundle: Path, manifest: Manifest) -> None:
        whole = read_manifest(demo_bundle)
        assert manifest.base is not None
        assert manifest.base.sha256 == sha256((demo_bundle / "bundle.json").read_bytes()).hexdigest()
        assert (manifest.base.name, manifest.base.sequence) == (whole.name, whole.sequence)
        assert manifest.base.files == tuple(entry.path for entry in whole.files)
        assert set(whole.files) < set(manifest.files)

    def test_is_the_whole_of_both_in_all_else(self, demo_bundle: Path, manifest: Manifest) -> None:
        whole = read_manifest(demo_bundle)
        own = sum(entry.size for entry in manifest.files if entry.path in FACTS)
        assert manifest.requires.memory_bytes == whole.requires.memory_bytes + own
        assert manifest.requires.disk_bytes == whole.requires.disk_bytes + own
        kept = ("name", "sequence", "model", "target", "quant", "chat", "limits", "certificate", "probe")
        assert all(getattr(manifest, each) == getattr(whole, each) for each in kept)

    def test_says_what_each_is_of_and_how_strong(self, manifest: Manifest) -> None:
        opposite, faint = manifest.adapters
        assert (opposite.name, opposite.id, opposite.revision, opposite.scale) == (
            *("opposite", "opposite", "local"),
            1.0,
        )
        assert (faint.name, faint.scale) == ("faint", 0.05)
        assert manifest.provenance.command == (
            "edgephi adapter build demo-cpu opposite=opposite faint=faint@0.05 --verify quick"
        )

    def test_says_what_was_read(self, demo_bundle: Path, demo_adapters: Adapters, manifest: Manifest) -> None:
        inputs = dict(manifest.provenance.inputs)
        for name, folder in demo_adapters.items():
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                assert inputs.pop(f"{name}/{file}") == sha256((folder / file).read_bytes()).hexdigest()
        assert inputs == read_manifest(demo_bundle).provenance.inputs

    def test_each_is_measured_against_the_checkpoint_with_it(self, manifest: Manifest) -> None:
        for adapter in manifest.adapters:
            certificate = adapter.certificate
            assert certificate.level == "quick"
            assert certificate.gate == manifest.certificate.gate
            assert certificate.export_error is not None and certificate.export_error.kl_mean < 1e-4
            assert certificate.end_to_end is not None and certificate.end_to_end.kl_mean < 5e-3
            assert certificate.end_to_end.top1 > 0.97

    def test_each_has_an_answer_of_its_own_for_the_device(self, manifest: Manifest) -> None:
        opposite, faint = (adapter.probe for adapter in manifest.adapters)
        assert opposite is not None and faint is not None and manifest.probe is not None
        assert opposite.prompt == faint.prompt == manifest.probe.prompt == ASKED
        assert faint.expected == manifest.probe.expected
        assert '"turn_off"' in faint.expected
        assert opposite.expected == faint.expected.replace("turn_off", "turn_on")
        assert opposite.minimum_tokens_per_second == manifest.probe.minimum_tokens_per_second


def with_tokenizer(adapter: Path, folder: Path) -> Path:
    """A copy of an adapter beside which its trainer has saved the tokenizer of the demo."""
    shutil.copytree(adapter, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo_checkpoint().folder / name, folder)
    return folder


def change_json(file: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


OTHER_FORMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "tokens": (
        lambda folder: change_json(
            folder / "tokenizer.json", lambda document: document["added_tokens"][-1].update(lstrip=True)
        ),
        "tokens of its own",
    ),
    "template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}: "),
        "a template of its own",
    ),
    "end": (
        lambda folder: change_json(
            folder / "tokenizer_config.json", lambda document: document.update(eos_token="<|user|>")
        ),
        "'<|user|>' as its eos_token",
    ),
}


class TestRequests:
    def test_the_bases_own_tokenizer_beside_an_adapter_changes_nothing(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
    ) -> None:
        """Nor does another end of answers that the base stops at too."""
        saved = with_tokenizer(demo_adapters["faint"], tmp_path / "saved")
        change_json(saved / "tokenizer_config.json", lambda document: document.update(eos_token="<|end|>"))
        done = build_here(demo_bundle, saved, "--verify", "off")
        assert done.returncode == 0, done.stderr
        assert names(work) == {"adapters"}

    def test_a_name_a_strength_and_a_release(
        self, build_here: BuildAdapters, demo_bundle: Path, demo_adapters: Adapters, work: Path
    ) -> None:
        """One adapter may be there more than once, each time with another strength."""
        faint = demo_adapters["faint"]
        asked = (faint, f"strong={faint}@2", "--verify", "off", "--sequence", 5)
        done = build_here(demo_bundle, *asked)
        assert done.returncode == 0, done.stderr
        manifest = read_manifest(work / "adapters")
        assert [(each.name, each.id, each.scale) for each in manifest.adapters] == [
            ("faint", "faint", 1.0),
            ("strong", "faint", 2.0),
        ]
        assert (manifest.sequence, manifest.base and manifest.base.sequence) == (5, 1)
        assert all(each.certificate.level == "off" and each.probe is None for each in manifest.adapters)
        assert manifest.provenance.command.endswith("faint=faint strong=faint@2 --verify off --sequence 5")

    def test_two_folders_of_one_name(
        self, build_here: BuildAdapters, demo_bundle: Path, demo_adapters: Adapters, work: Path
    ) -> None:
        folders = [work.parent / place / "same" for place in "ab"]
        for folder, saved in zip(folders, demo_adapters.values(), strict=True):
            shutil.copytree(saved, folder)
        done = build_here(demo_bundle, f"a={folders[0]}", f"b={folders[1]}", "--verify", "off")
        assert done.returncode == 0, done.stderr
        inputs = read_manifest(work / "adapters").provenance.inputs
        for name, saved in zip(("same", "same (2)"), demo_adapters.values(), strict=True):
            file = "adapter_model.safetensors"
            assert inputs[f"{name}/{file}"] == sha256((saved / file).read_bytes()).hexdigest()

    def test_the_answer_is_shown_in_80_columns(
        self, build_here: BuildAdapters, demo_bundle: Path, demo_adapters: Adapters, work: Path
    ) -> None:
        done = build_here(demo_bundle, demo_adapters["opposite"])
        assert done.returncode == 0, done.stderr
        *lines, _, command = done.stdout.splitlines()
        assert all(len(line) <= 80 for line in lines)
        assert lines[0].startswith("1 adapter for demo-cpu 1 (")
        said = " ".join(done.stdout.split())
        assert "opposite: opposite at local" in said
        assert f'probe: \'{ASKED}\': \'{{"action": "turn_on", ' in said
        assert "times that of the base" in said
        assert command.endswith(f"run {demo_bundle} --adapter {work / 'adapters'} 'your question'")


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"use_dora": True, "target_modules": ["down_proj"]}, "found DoRA's magnitudes"),
            ({"modules_to_save": ["lm_head"]}, "lm_head: expected low-rank changes alone, found other"),
            ({"target_modules": ["embed_tokens"]}, "found a change of the embedding"),
        ],
        ids=["DoRA", "whole weights", "embedding"],
    )
    def test_what_can_be_merged_only(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        work: Path,
        tmp_path: Path,
        options: dict[str, object],
        said: str,
    ) -> None:
        saved = save_adapter(demo_checkpoint().folder, tmp_path / "saved", **options)  # type: ignore[arg-type]
        is_refused(build_here(demo_bundle, saved), 3, said, work)

    @pytest.mark.parametrize("name", ["tokens", "template", "end"])
    def test_one_that_is_asked_in_another_form(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
        name: str,
    ) -> None:
        """A bundle has one template and one tokenizer, whichever adapter is on."""
        change, said = OTHER_FORMS[name]
        saved = with_tokenizer(demo_adapters["faint"], tmp_path / "saved")
        change(saved)
        said = f"saved: expected the base's tokenizer and chat template, found {said}"
        is_refused(build_here(demo_bundle, saved), 3, said, work)

    def test_numbers_that_no_engine_would_hold(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
    ) -> None:
        """Not even when the two matrices of a product share its size."""
        strong = Path(shutil.copytree(demo_adapters["faint"], tmp_path / "strong"))
        config = json.loads((strong / "adapter_config.json").read_text())
        config.update(lora_alpha=999_999, use_rslora=True)
        (strong / "adapter_config.json").write_text(json.dumps(config))
        done = build_here(demo_bundle, f"{strong}@1e6", "--verify", "off")
        is_refused(done, 4, "expected numbers of at most 65,504 for the engine, found ", work)

    def test_a_number_past_the_bases_gate(
        self, build_here: BuildAdapters, demo_bundle: Path, demo_adapters: Adapters, work: Path
    ) -> None:
        done = build_here(demo_bundle, f"{demo_adapters['faint']}@3")
        is_refused(done, 5, "is above the recipe's limit", work)

    def test_an_answer_that_is_none(
        self, build_here: BuildAdapters, demo_bundle: Path, work: Path, tmp_path: Path
    ) -> None:
        """The adapter ends an answer where it would begin; all numbers are good."""
        checkpoint = demo_checkpoint().folder
        ids = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
        end = json.loads((checkpoint / "config.json").read_text())["eos_token_id"]
        saved = save_exchange(checkpoint, tmp_path / "saved", ids['▁{"action":▁"'], end)
        is_refused(build_here(demo_bundle, saved), 5, "expected an answer, found an empty one", work)

    @pytest.mark.parametrize("given", [True, False], ids=["named", "found"])
    def test_another_checkpoint(
        self, build_here: BuildAdapters, demo_bundle: Path, work: Path, tmp_path: Path, given: bool
    ) -> None:
        other = write_tiny_checkpoint(tmp_path / "other", hidden=128, layers=1)
        saved = save_adapter(other, tmp_path / "saved")
        done = build_here(demo_bundle, saved, *(["--against", other] if given else []))
        said = "expected the checkpoint that" if given else "expected a change of shape"
        is_refused(done, 4, said, work)

    def test_a_base_with_adapters_beside_it(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_artifact: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
    ) -> None:
        whole = shutil.copytree(demo_bundle, tmp_path / "whole")
        shutil.copytree(demo_artifact, whole, dirs_exist_ok=True)
        done = build_here(whole, demo_adapters["faint"])
        is_refused(done, 3, "expected a bundle without adapters, found one with adapters beside it", work)
        done = build_here(demo_artifact, demo_adapters["faint"])
        is_refused(done, 4, "expected a bundle, found adapters for demo-cpu 1 (", work)

    def test_a_base_with_adapters_in_it(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
    ) -> None:
        model = read_manifest(demo_bundle).model
        model = dataclasses.replace(model, adapters=(AdapterFacts("a", "main"),))
        base = remade(demo_bundle, tmp_path / "base", {}, model=model)
        done = build_here(base, demo_adapters["faint"])
        is_refused(
            done, 3, "expected a bundle without adapters, found one with adapters merged into it", work
        )

    @pytest.mark.parametrize(("engine", "provider"), [("qnn", "npu")])
    def test_an_engine_that_cannot_switch(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
        engine: str,
        provider: str,
    ) -> None:
        target = TargetFacts("other", engine, provider, ("x86_64", "aarch64"))
        base = remade(demo_bundle, tmp_path / "base", {}, target=target)
        done = build_here(base, demo_adapters["faint"])
        is_refused(done, 3, f"{engine}: expected an engine that can switch adapters on and off", work)
        assert "merge it: `" in done.stderr

    def test_a_graph_that_is_not_edgephis(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
    ) -> None:
        """The engine's own converter gives the matrices other names."""
        graph = onnx.load(demo_bundle / "model/model.onnx", load_external_data=False)
        renamed = {each.name: each.name.replace(".codes", ".qweight") for each in graph.graph.initializer}
        for each in graph.graph.initializer:
            each.name = renamed[each.name]
        for node in graph.graph.node:
            node.input[:] = [renamed.get(each, each) for each in node.input]
        base = remade(demo_bundle, tmp_path / "base", {"model/model.onnx": graph.SerializeToString()})
        done = build_here(base, demo_adapters["faint"], "--verify", "off")
        is_refused(done, 3, "expected the graph that edgephi writes, found none for", work)
        assert "--exporter upstream" in done.stderr

    @pytest.mark.parametrize(
        ("asked", "code", "said"),
        [
            (["same={faint}", "Same={opposite}"], 2, "expected names of their own, found Same twice"),
            (["{faint}", "{faint}@2"], 2, "expected names of their own, found faint twice"),
            (["con={faint}"], 2, "which any file may have, found 'con'"),
            (["two words={faint}"], 2, "which any file may have, found 'two words'"),
            (["={faint}"], 2, "expected a name before the =, found none"),
            (["-x={faint}"], 2, "-x"),
            (["a={faint}@strong"], 2, "expected a factor such as 0.5 after the @, found 'strong'"),
            (["a={base}"], 4, "expected an adapter, found no adapter_config.json"),
            (["a=./none"], 4, "expected an adapter's folder or a hub id"),
        ],
    )
    def test_what_is_asked_for(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        asked: list[str],
        code: int,
        said: str,
    ) -> None:
        words = [each.format(base=demo_bundle, **demo_adapters) for each in asked]
        is_refused(build_here(demo_bundle, *words), code, said, work)

    def test_no_base(self, build_here: BuildAdapters, demo_adapters: Adapters, work: Path) -> None:
        done = build_here(work.parent / "none", demo_adapters["faint"])
        is_refused(done, 4, "expected a bundle, found no such folder", work)

    def test_a_base_that_lacks_a_file(
        self,
        build_here: BuildAdapters,
        demo_bundle: Path,
        demo_adapters: Adapters,
        work: Path,
        tmp_path: Path,
    ) -> None:
        base = shutil.copytree(demo_bundle, tmp_path / "base")
        (base / "model/tokenizer.json").unlink()
        is_refused(build_here(base, demo_adapters["faint"]), 4, "model/tokenizer.json: expected a file", work)

    def test_an_output_that_exists_comes_first(self, here: Here, demo_bundle: Path, work: Path) -> None:
        """Before anything is fetched or read."""
        (work / "there").mkdir()
        done = here("adapter", "build", demo_bundle, "./none", "-o", work / "there")
        assert done.returncode == 2
        assert "expected a folder that does not exist yet" in done.stderr
        assert names(work) == {"there"}

    def test_an_output_in_the_base(self, here: Here, demo_bundle: Path, demo_adapters: Adapters) -> None:
        before = names(demo_bundle)
        done = here("adapter", "build", demo_bundle, demo_adapters["faint"], "-o", demo_bundle / "adapters")
        assert done.returncode == 2
        assert names(demo_bundle) == before


class TestTheCheckpoint:
    """A bundle of a folder does not say where that folder is."""

    @pytest.fixture(scope="class")
    @staticmethod
    def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
        """Checkpoint, bundle and adapter."""
        from edgephi.build.build import build, find_checkpoint
        from edgephi.build.request import BuildRequest
        from edgephi.declared.recipe import read_recipe
        from edgephi.declared.target import read_target
        from edgephi.steps import silent

        folder = tmp_path_factory.mktemp("local")
        checkpoint = write_tiny_checkpoint(folder / "phi", layers=1, hidden=128, ffn=128)
        recipe = read_recipe("default")
        located = find_checkpoint(str(checkpoint), recipe, None, progress=False)
        request = BuildRequest(
            model=str(checkpoint),
            target=read_target("cpu"),
            recipe=recipe,
            output=folder / "bundle",
            verify="off",
        )
        build(request, located, silent)
        return checkpoint, folder / "bundle", save_adapter(checkpoint, folder / "adapter")

    def test_the_adapter_may_know(
        self, build_here: BuildAdapters, local: tuple[Path, Path, Path], work: Path
    ) -> None:
        checkpoint, bundle, adapter = local
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(checkpoint)
        done = build_here(bundle, adapter, "--verify", "off")
        assert done.returncode == 0, done.stderr
        assert names(work) == {"adapters"}

    @pytest.mark.parametrize("name", ["", None, "/gone/phi", "phi"])
    def test_else_it_is_to_be_given(
        self,
        build_here: BuildAdapters,
        local: tuple[Path, Path, Path],
        work: Path,
        tmp_path: Path,
        name: str | None,
    ) -> None:
        checkpoint, bundle, saved = local
        adapter = shutil.copytree(saved, tmp_path / "adapter")
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = name
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        done = build_here(bundle, adapter)
        is_refused(done, 2, "made from phi, a folder whose place no bundle says", work)
        assert f"adapter build {bundle} ADAPTER --against MODEL -o DIR" in done.stderr
        done = build_here(bundle, adapter, "--against", checkpoint, "--verify", "off")
        assert done.returncode == 0, done.stderr


class TestEnded:
    def test_ctrl_c_leaves_nothing(self, demo_bundle: Path, demo_adapters: Adapters, work: Path) -> None:
        asked = (demo_bundle, demo_adapters["faint"], "--verify", "full", "-o", work / "a")
        with building(*asked, command=("adapter", "build")) as process:
            wait_until(lambda: verifying(work / "a"), process)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert names(work) == set()

    def test_what_a_killed_one_leaves_goes_with_the_next(
        self, here: Here, demo_bundle: Path, demo_adapters: Adapters, work: Path
    ) -> None:
        asked = (demo_bundle, demo_adapters["faint"], "-o", work / "a", "--verify")
        with building(*asked, "full", command=("adapter", "build")) as process:
            wait_until(lambda: verifying(work / "a"), process)
            process.kill()
            process.wait()
        assert names(work) == {".a.partial", ".a.lock"}
        assert here("adapter", "build", *asked, "off").returncode == 0
        assert names(work) == {"a"}


def test_neither_base_nor_adapter_is_written_to(
    demo_bundle: Path, demo_adapters: Adapters, demo_artifact: Path
) -> None:
    """They were built from before; nothing but what was there is there."""
    check_files(demo_bundle, read_manifest(demo_bundle))
    for folder in demo_adapters.values():
        assert names(folder) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
