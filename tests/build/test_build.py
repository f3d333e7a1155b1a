"""What a build makes: the manifest, the certificate, the same bytes each time, and a model that answers."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

import edgephi as package
import edgephi.runtime
from edgephi.build.build import Built
from edgephi.build.matrix_names import tensors_named
from edgephi.bundle.manifest import read_manifest
from edgephi.bundle.quantisation import read_quantisation
from edgephi.quantize.tensor_plan import quantised_tensors
from edgephi.runtime.session import Options
from tests.build.conftest import Here, names
from tests.checkpoint.hub.server import serve_hub
from tests.cli.conftest import Edgephi, is_one_error
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_phi3small import write_tiny_phi3small

DEMO = Path(package.__file__).parent / "demo"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(file.relative_to(bundle)): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}


def own_recipe(folder: Path, text: str) -> Path:
    recipe = folder / "own.toml"
    recipe.write_text(f'name = "own"\nsummary = "a test\'s"\n{text}')
    return recipe


class TestManifest:
    def test_what_it_says_about_the_demo(self, built_demo: Built) -> None:
        manifest = built_demo.manifest
        assert manifest == read_manifest(built_demo.folder)
        assert (manifest.schema, manifest.name, manifest.sequence) == ("edgephi.bundle/1", "demo-cpu", 1)
        assert (manifest.model.id, manifest.model.revision) == ("edgephi/demo", package.__version__)
        assert manifest.model.parameters == built_demo.plan.architecture.parameters
        assert (manifest.model.variant, manifest.model.context, manifest.limits.context) == (
            "demo",
            4096,
            4096,
        )
        assert (manifest.target.engine, manifest.target.provider) == ("onnxruntime-genai", "cpu")
        assert "x86_64" in manifest.target.arch
        assert (manifest.quant.bits, manifest.quant.group_size, manifest.quant.symmetric) == (4, 32, True)
        assert 4 < manifest.quant.bits_per_weight < 8
        assert manifest.requires.engines == {"onnxruntime-genai": ">=0.18,<0.19"}
        assert manifest.requires.memory_bytes > manifest.requires.disk_bytes
        assert manifest.provenance.edgephi == package.__version__
        assert manifest.provenance.command.startswith("edgephi build demo --target cpu")

    def test_every_file_is_listed_with_its_hash(self, built_demo: Built) -> None:
        folder, manifest = built_demo.folder, built_demo.manifest
        assert names(folder) == {"bundle.json", "model", "quantisation.json", "folded_scales.safetensors"}
        assert {entry.path for entry in manifest.files} == set(contents(folder)) - {"bundle.json"}
        for entry in manifest.files:
            assert (entry.size, entry.sha256) == (
                (folder / entry.path).stat().st_size,
                sha256(folder / entry.path),
            )
        assert manifest.requires.disk_bytes == sum(entry.size for entry in manifest.files)

    def test_every_input_is_listed_with_its_hash(self, built_demo: Built) -> None:
        inputs = built_demo.manifest.provenance.inputs
        assert inputs == {file.name: sha256(file) for file in DEMO.iterdir() if file.name in inputs}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(inputs)

    def test_the_stop_tokens_are_phi3s_three(self, built_demo: Built) -> None:
        folder, stops = built_demo.folder, built_demo.manifest.chat.stop_token_ids
        assert list(stops) == json.loads((DEMO / "generation_config.json").read_text())["eos_token_id"]
        assert len(stops) == 3
        config = json.loads((folder / "model/genai_config.json").read_text())
        assert config["model"]["eos_token_id"] == list(stops)
        assert config["search"]["max_length"] == 4096

    def test_the_plan_foresees_the_artifact(self, built_demo: Built) -> None:
        data = built_demo.folder / "model/model.onnx.data"
        assert data.stat().st_size == pytest.approx(built_demo.plan.artifact_bytes, rel=0.01)

    def test_options_are_recorded(self, here: Here, tiny: Path, work: Path) -> None:
        options = (
            *("--context", 100, "--sequence", 7, "--security-floor", 5),
            *("--method", "rtn", "--verify", "off"),
        )
        done = here("build", tiny, "-t", "cpu", "-o", work / "b", *options)
        assert done.returncode == 0
        assert "nothing was measured (built with --verify off)" in done.stdout
        manifest = read_manifest(work / "b")
        assert (manifest.name, manifest.sequence, manifest.limits.context) == ("tiny-phi-cpu", 7, 100)
        assert manifest.security_floor == 5
        assert (manifest.quant.method, manifest.certificate.level) == ("rtn", "off")
        assert manifest.certificate.export_error is None
        assert manifest.model.revision == "local"
        assert manifest.provenance.command == (
            "edgephi build tiny-phi --target cpu --recipe default --method rtn --verify off "
            "--context 100 --sequence 7 --security-floor 5"
        )

    @pytest.mark.parametrize("letter", ["\x1b", "\u202e", "\udcff"])
    def test_a_name_that_steers_a_terminal_makes_a_bundle_that_reads(
        self, here: Here, tiny: Path, work: Path, tmp_path: Path, letter: str
    ) -> None:
        text = tmp_path / f"my{letter}text"
        text.mkdir()
        (text / "a.txt").write_text("Turn on the light in the kitchen, please. " * 400)
        recipe = own_recipe(tmp_path, "")
        # The same byte of no UTF-8 can stand in no file of TOML.
        named = "my recipe" if letter == "\udcff" else f"my\\u{ord(letter):04x}recipe"
        recipe.write_text(recipe.read_text().replace('"own"', f'"{named}"'))
        options = ("--calibrate", text, "--recipe", recipe, "--verify", "off")
        done = here("build", tiny, "-t", "gguf", "-o", work / "b", *options)
        assert done.returncode == 0, done.stderr
        manifest = read_manifest(work / "b")
        calibration = manifest.quant.calibration
        assert calibration is not None
        assert calibration.text == f"my{ascii(letter)[1:-1]}text"
        words = subprocess.check_output(  # what bash makes of it is what the user gave
            ["bash", "-c", f"printf '%s\\n' {manifest.provenance.command}"], env={"LC_ALL": "C.UTF-8"}
        )
        assert os.fsencode(text.name) in words.splitlines()


class TestQuantisation:
    def test_every_matrix_has_its_error(self, built_demo: Built) -> None:
        quantisation = built_demo.quantisation
        assert quantisation is not None
        assert quantisation == read_quantisation(built_demo.folder, built_demo.manifest)
        schemes = quantised_tensors(built_demo.plan.tensors)
        assert {(tensor.role, tensor.layer) for tensor in quantisation.tensors} == {
            (tensor.role.value, tensor.layer) for tensor in schemes
        }
        assert all(0 < tensor.relative_squared_error < 0.05 for tensor in quantisation.tensors)

    def test_the_name_is_what_a_recipe_keeps_it_by(self, built_demo: Built) -> None:
        quantisation = built_demo.quantisation
        assert quantisation is not None
        architecture = built_demo.plan.architecture
        for tensor in quantisation.tensors:
            (meant,) = tensors_named([tensor.name], architecture)
            assert (meant.role.value, meant.layer) == (tensor.role, tensor.layer)

    def test_the_bytes_are_those_of_the_artifact(self, built_demo: Built) -> None:
        """Norms, rotary tables and gaps are all else that is in the data file."""
        quantisation = built_demo.quantisation
        assert quantisation is not None
        stored = sum(tensor.bytes for tensor in quantisation.tensors)
        assert 0.5 * built_demo.plan.artifact_bytes < stored < built_demo.plan.artifact_bytes
        for tensor in quantisation.tensors:
            assert tensor.bits < tensor.bits_per_weight < tensor.bits + 1.25  # a scale and a zero point


class TestCertificate:
    def test_the_three_numbers_of_the_demo(self, built_demo: Built) -> None:
        certificate = built_demo.manifest.certificate
        assert certificate.level == "quick"
        assert certificate.tokens >= 48 * certificate.passages  # 64 of each, without the first 16
        assert certificate.text == "edgephi-eval-2 (device)"
        assert certificate.engine.startswith("onnxruntime-genai 0.18")
        export, loss, end = certificate.export_error, certificate.quantisation_loss, certificate.end_to_end
        assert export is not None
        assert loss is not None
        assert end is not None
        assert 0 < export.kl_mean <= 1e-3
        assert export.top1 >= 0.99
        assert export.kl_mean < loss.kl_mean
        assert loss.perplexity_from == end.perplexity_from
        assert loss.perplexity_to == export.perplexity_from
        assert export.perplexity_to == end.perplexity_to

    def test_full_measures_enough_to_judge_by(self, here: Here, tiny: Path, work: Path) -> None:
        """Random weights, on which methods differ little, must pass: only what is surely worse fails."""
        assert here("build", tiny, "-t", "cpu", "-o", work / "b", "--verify", "full").returncode == 0
        certificate = read_manifest(work / "b").certificate
        assert certificate.can_judge
        assert certificate.note == ""
        assert certificate.plain_rounding is not None
        assert {"chat", "code", "prose"} <= set(certificate.domains)
        assert {"en", "de"} <= set(certificate.languages)
        for parts in (certificate.domains, certificate.languages):
            assert sum(part.tokens for part in parts.values()) == certificate.tokens

    def test_a_context_smaller_than_the_text(self, here: Here, tiny: Path, work: Path) -> None:
        assert here("build", tiny, "-t", "cpu", "-o", work / "b", "--context", 2).returncode == 0
        certificate = read_manifest(work / "b").certificate
        assert certificate.tokens == 2 * certificate.passages
        assert "this saw no text longer than 2 tokens" in certificate.note

    @pytest.mark.parametrize(
        ("limit", "said"),
        [
            ("export_error_kl", "export error: mean KL"),
            ("quantisation_loss_kl", "quantisation loss: mean KL"),
            ("end_to_end_kl", "end to end: mean KL"),
        ],
    )
    def test_past_the_gate_there_is_no_bundle(
        self, edgephi: Edgephi, tiny: Path, work: Path, tmp_path: Path, limit: str, said: str
    ) -> None:
        recipe = own_recipe(tmp_path, f"[gate]\n{limit} = 1e-12")
        done = edgephi("build", tiny, "-t", "cpu", "-o", work / "b", "--recipe", recipe)
        *_, error, hint = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (5, "")
        assert error.startswith(f"error: {said} ")
        assert error.endswith(" is above the recipe's limit 1e-12")
        assert hint.startswith("hint: ")
        assert names(work) == set()

    def test_top1_has_a_gate_too(self, here: Here, tiny: Path, work: Path, tmp_path: Path) -> None:
        recipe = own_recipe(tmp_path, "[gate]\nend_to_end_top1 = 1.1")
        done = here("build", tiny, "-t", "cpu", "-o", work / "b", "--recipe", recipe)
        assert done.returncode == 5
        assert "is below the recipe's limit 1.1" in done.stderr
        assert names(work) == set()


class TestReproducible:
    @pytest.fixture
    def one_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    @pytest.mark.usefixtures("one_day")
    def test_the_same_inputs_make_the_same_bytes(self, edgephi: Edgephi, work: Path) -> None:
        for name in "ab":
            assert edgephi("build", "demo", "-t", "cpu", "-o", work / name).returncode == 0
        first = contents(work / "a")
        assert first == contents(work / "b")
        assert json.loads(first["bundle.json"])["created"] == "2023-11-14T22:13:20Z"

    def test_on_any_number_of_processors(self, edgephi: Edgephi, tmp_path: Path, work: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "phi", hidden=512, layers=3, ffn=1024, shards=2)
        one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
        for name, before in (("a", ""), ("b", one_core)):
            options = ("-t", "cpu", "-o", work / name, "--verify", "off")
            assert edgephi("build", folder, *options, before=before).returncode == 0
        one, other = (contents(work / name) | {"bundle.json": b"has a date"} for name in "ab")
        assert one == other

    def test_a_date_that_is_none(
        self, here: Here, work: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
        done = here("build", tiny, "-t", "cpu", "-o", work / "b")
        assert is_one_error(done, 2)
        assert "SOURCE_DATE_EPOCH: expected seconds since 1970, found 'yesterday'" in done.stderr
        assert names(work) == set()


class TestOutput:
    def test_json_is_one_document_and_progress_is_elsewhere(
        self, edgephi: Edgephi, tiny: Path, work: Path
    ) -> None:
        done = edgephi("build", tiny, "-t", "cpu", "-o", work / "b", "--json")
        document = json.loads(done.stdout)
        assert list(document) == ["bundle", "manifest", "quantisation"]
        assert document["manifest"] == json.loads((work / "b/bundle.json").read_text())
        assert document["quantisation"] == json.loads((work / "b/quantisation.json").read_text())
        steps = [line[:22].strip() for line in done.stderr.splitlines()]
        assert steps == [
            "open and plan",
            "measure inputs",
            "fold outliers",
            "quantise and export",
            "verify: engine",
            "verify: reference",
            "seal",
        ]
        assert "\x1b" not in done.stderr
        assert names(work) == {"b"}

    def test_modules_in_the_working_folder_are_not_ours(
        self, edgephi: Edgephi, tiny: Path, work: Path
    ) -> None:
        (work / "json.py").write_text("raise SystemExit('imported')")
        as_installed = "import sys; sys.path.remove('')"  # `python -c` looks there, a console script does not
        done = edgephi("build", tiny, "-t", "cpu", "-o", "b", cwd=work, before=as_installed)
        assert done.returncode == 0, done.stderr


class TestOwnRecipe:
    def test_for_a_model_by_its_name(self, here: Here, work: Path, tmp_path: Path) -> None:
        recipe = own_recipe(tmp_path, "[quant]\ngroup_size = 32\nhead_bits = 8")
        done = here("build", "demo", "-t", "cpu", "-o", work / "b", "--recipe", recipe, "--verify", "off")
        assert done.returncode == 0
        assert read_manifest(work / "b").quant.group_size == 32

    def test_a_plan_with_it_needs_no_network(
        self, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        recipe = own_recipe(tmp_path, "[quant]\ngroup_size = 32")
        assert here("plan", "phi-3.5-mini", "-t", "cpu", "--recipe", recipe).returncode == 0


class TestPlanned:
    @pytest.mark.parametrize("words", [[], ["--method", "rtn"], ["--portable", "--method", "search"]])
    def test_a_build_with_the_same_words_is_what_was_planned(
        self, here: Here, tiny: Path, work: Path, words: list[str]
    ) -> None:
        planned = json.loads(here("plan", tiny, "-t", "gguf", *words, "--json").stdout)
        done = here("build", tiny, "-t", "gguf", "-o", work / "b", "--verify", "off", *words)
        assert done.returncode == 0, done.stderr
        built = read_manifest(work / "b")
        for key in ("method", "bits", "group_size", "symmetric", "formats", "bits_per_weight"):
            assert planned["quant"][key] == getattr(built.quant, key), key
        assert planned["quant"]["method"] == (words[-1] if words else "weighted")
        assert planned["quant"]["formats"] == ("portable" if "--portable" in words else "native")

    def test_another_method_has_no_quality_that_needs_a_measuring_one(self, here: Here) -> None:
        done = here("plan", "phi-4-mini", "-t", "cpu", "--method", "search", "--json")
        document = json.loads(done.stdout)
        assert document["quant"]["method"] == "search"
        assert "found search, which does not measure" in document["qualities"]["best"]["reason"]


class TestFromTheHub:
    def test_the_revision_is_recorded_and_the_hubs_hashes_hold(
        self, edgephi: Edgephi, tmp_path: Path, work: Path
    ) -> None:
        published = write_tiny_checkpoint(tmp_path / "phi", layers=1, hidden=128, ffn=128, shards=2)
        with serve_hub("someone/tiny-phi", published) as hub:
            environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}

            def build(name: str) -> subprocess.CompletedProcess[str]:
                options = ("-t", "cpu", "-o", work / name, "--verify", "off")
                return edgephi("build", "someone/tiny-phi", *options, env=environment)

            done = build("b")
            assert done.returncode == 0, done.stderr
            manifest = read_manifest(work / "b")
            assert (manifest.model.id, manifest.model.revision) == ("someone/tiny-phi", hub.commit)
            assert f"someone/tiny-phi --target cpu --revision {hub.commit}" in manifest.provenance.command

            shard = next((tmp_path / "cache").rglob("model-00001-of-00002.safetensors"))
            with shard.resolve().open("r+b") as file:
                file.seek(-8, os.SEEK_END)
                file.write(bytes(8))
            done = build("c")
            assert done.returncode == 4
            assert "error: model-00001-of-00002.safetensors: expected sha256" in done.stderr
            assert names(work) == {"b"}

    @pytest.mark.parametrize(
        ("options", "code", "message"),
        [
            (("-t", "qnn"), 3, "Phi-3-small on qnn: expected"),
            (("-t", "cpu", "--context", "9000"), 3, "was made for at most 8192 tokens"),
        ],
    )
    def test_what_cannot_be_built_costs_no_weights(
        self,
        edgephi: Edgephi,
        tmp_path: Path,
        work: Path,
        options: tuple[str, ...],
        code: int,
        message: str,
    ) -> None:
        """Neither a model that has no recipe, nor one whose recipe declares its shape."""
        published = write_tiny_phi3small(tmp_path / "phi", layers=1)
        for model in ("someone/tiny-phi", "phi-3-small-8k"):
            with serve_hub("someone/tiny-phi", published) as hub:
                environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
                done = edgephi("build", model, *options, "-o", work / "b", "--verify", "off", env=environment)
                assert is_one_error(done, code), done.stderr
                assert message in done.stderr
                assert hub.weight_requests() == []


class TestAnswers:
    def test_run_answers_from_the_demo_bundle(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        done = edgephi("run", demo_bundle, "could you turn the kitchen lights down to thirty percent")
        assert json.loads(done.stdout) == {
            "action": "set_brightness",
            "room": "kitchen",
            "device": "light",
            "value": 30,
        }

    def test_held_out_commands_as_well_as_bf16(self, demo_bundle: Path) -> None:
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        from tests.demo.commands import held_out_commands
        from tests.demo.examine import exact_match, greedy_answers

        commands = [command for command in held_out_commands() if not command.history][::3][:160]
        assert len(commands) >= 150
        session = edgephi.runtime.load(demo_bundle)
        answers = [session.generate(c.prompt, Options(max_tokens=64, system=c.system)).text for c in commands]
        torch.set_num_threads(1)  # more of them wait for each other on a busy machine
        model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.bfloat16).eval()
        original = greedy_answers(model, transformers.AutoTokenizer.from_pretrained(DEMO), commands)
        assert exact_match(commands, answers) >= exact_match(commands, original) - 0.02


def test_a_name_and_a_group_size_of_ones_own(here: Here, tiny: Path, work: Path) -> None:
    words = ("-t", "cpu", "--method", "rtn", "--verify", "off", "--group-size", "128", "--name", "door-7")
    assert here("build", tiny, *words, "-o", work / "b").returncode == 0
    manifest = read_manifest(work / "b")
    assert (manifest.name, manifest.quant.group_size) == ("door-7", 128)
    assert "--group-size 128 --name door-7" in manifest.provenance.command
    assert manifest.model.variant == tiny.name


@pytest.mark.parametrize("name", [" door", "x" * 201])
def test_a_name_that_no_bundle_may_have(here: Here, tiny: Path, work: Path, name: str) -> None:
    done = here("build", tiny, "-t", "cpu", "--name", name, "-o", work / "b")
    assert done.returncode == 2
    assert "--name: expected at most 200 letters" in done.stderr


@pytest.mark.parametrize("target", ["cpu", "openvino", "mlx"])
def test_groups_that_do_not_divide_every_matrix(here: Here, tmp_path: Path, work: Path, target: str) -> None:
    """128 columns in the residual stream, and 96, which is three groups of 32, in the feed-forward."""
    folder = write_tiny_checkpoint(tmp_path / "phi", layers=1, hidden=128, ffn=96)
    (tmp_path / "own.toml").write_text('name = "own"\nsummary = "x"\n[gate]\nanswers = false\n')
    words = (
        folder,
        "-t",
        target,
        "--recipe",
        tmp_path / "own.toml",
        "--method",
        "rtn",
        "--group-size",
        "128",
    )
    said = "1 matrix in smaller groups: those of 128 do not divide the columns"
    assert said in here("plan", *words).stdout
    done = here("build", *words, "-o", work / "b")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    manifest = read_manifest(work / "b")
    assert manifest.certificate.export_error is not None
    assert manifest.certificate.export_error.kl_mean < 1e-3
    quantisation = read_quantisation(work / "b", manifest)
    assert quantisation is not None
    sizes = {tensor.name: tensor.group_size for tensor in quantisation.tensors}
    assert [name for name, size in sizes.items() if size != 128] == ["model.layers.0.mlp.down_proj"]
