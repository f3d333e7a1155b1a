"""Whatever goes wrong in a build: one line and a hint, the right exit code, and nothing left behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import read_manifest
from tests.build.conftest import Here, building, fill, grown, names, verifying, wait_until
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.tiny_checkpoint import TinyShape, tiny_weights, write_tiny_checkpoint, write_weights

SHAPE = TinyShape(layers=1, hidden=128, ffn=128)
DOWN = "model.layers.0.mlp.down_proj.weight"
GATE = "model.layers.0.mlp.gate_up_proj.weight"
# Without the pass over a text that comes first: writing is to be interfered with.
SEARCHED = ("--method", "search")
Disk = Callable[[str], Path]


def is_error(done: subprocess.CompletedProcess[str], exit_code: int) -> bool:
    """Whether a build that had begun failed as the contract says: its steps, one error, one hint."""
    lines = done.stderr.splitlines()
    return (
        (done.returncode, done.stdout) == (exit_code, "")
        and [line.startswith(("error: ", "hint: ")) for line in lines].count(True) == 2
        and lines[-2].startswith("error: ")
        and lines[-1].startswith("hint: ")
        and "bug in edgephi" not in done.stderr
    )


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What a process said and how it ended."""
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def rewrite_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def with_value(value: float, dtype: str = "BF16", *, tensor: str = DOWN) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = tiny_weights(SHAPE)
        weights[tensor][100, 7] = value
        write_weights(folder, weights, dtype=dtype)  # type: ignore[arg-type]

    return damage


def with_norm(value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = tiny_weights(SHAPE)
        weights["model.norm.weight"][3] = value
        write_weights(folder, weights)

    return damage


def as_integers(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"BF16"', b'"I16" '))


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_a_shard(folder: Path) -> None:
    write_weights(folder, tiny_weights(SHAPE), shards=2)
    (folder / "model.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()


def without_head(folder: Path) -> None:
    weights = tiny_weights(SHAPE)
    del weights["lm_head.weight"]
    write_weights(folder, weights)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing shard": (without_a_shard, 4, "found no model-00002-of-00002.safetensors"),
    "truncated": (
        lambda folder: os.truncate(folder / "model.safetensors", 9000),
        4,
        "bytes by its header, found 9000",
    ),
    "huge header": (
        lambda folder: (folder / "model.safetensors").write_bytes((1 << 30).to_bytes(8, "little") * 4),
        4,
        "model.safetensors",
    ),
    "NaN": (with_value(np.nan), 4, f"tensor {DOWN}: expected finite weights, found NaN"),
    "infinity": (with_value(-np.inf), 4, f"tensor {DOWN}: expected finite weights, found"),
    "infinity in fp32": (with_value(np.inf, "F32"), 4, f"tensor {DOWN}: expected finite weights, found"),
    "too large": (with_value(1e19), 4, f"tensor {DOWN}: expected finite weights, found a weight of 1e+19"),
    "too large for what follows": (with_value(1e19, tensor=GATE), 4, f"tensor {GATE}: expected finite"),
    "too large for 4 bits": (with_value(5e6), 4, "found a group whose largest weight 5.01e+06 is past"),
    "NaN in a norm": (with_norm(np.nan), 4, "tensor model.norm.weight: expected finite weights, found NaN"),
    "integers": (as_integers, 4, "expected one of BF16, F16, F32, found I16"),
    "pickle": (as_pickle, 4, "found pytorch_model.bin"),
    "no head": (without_head, 4, "lm_head.weight: expected shape [512, 128] by the config"),
    "other layers": (
        lambda folder: rewrite_config(folder, num_hidden_layers=2),
        4,
        "model.layers.1.input_layernorm.weight: expected shape [128] by the config",
    ),
    "other width": (
        lambda folder: rewrite_config(folder, intermediate_size=256),
        4,
        "gate_up_proj.weight: expected shape [512, 128] by the config, found [256, 128]",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        4,
        "tokenizer.json: expected the tokenizer, found no such file",
    ),
    "odd tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        4,
        "tokenizer.json: expected a tokenizer, found",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), 4, "config.json"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), 4, "config.json"),
    "MoE": (lambda folder: rewrite_config(folder, model_type="phimoe"), 3, "attention_bias"),
    "vision": (lambda folder: rewrite_config(folder, model_type="phi3_v"), 4, "embd_layer"),
    "multimodal": (lambda folder: rewrite_config(folder, model_type="phi4mm"), 3, "Phi-4-multimodal"),
    "small": (lambda folder: rewrite_config(folder, model_type="phi3small"), 3, "gegelu"),
    "not Phi": (lambda folder: rewrite_config(folder, model_type="gemma"), 3, "gemma"),
    "Llama's name": (lambda folder: rewrite_config(folder, model_type="llama"), 4, "those of a 'phi3'"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_bad_checkpoint(here: Here, tmp_path: Path, work: Path, name: str) -> None:
    damage, exit_code, message = CHECKPOINTS[name]
    folder = write_tiny_checkpoint(tmp_path / "phi", SHAPE)
    damage(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's would stand before the error
        done = here("build", folder, "-t", "cpu", "-o", work / "b")
    assert is_error(done, exit_code), done.stderr
    assert message in done.stderr
    assert names(work) == set()


def test_a_bare_config_of_another_family_is_refused_by_name(here: Here, tmp_path: Path, work: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "phi4mm"}')
    done = here("build", tmp_path, "-t", "cpu", "-o", work / "b")
    assert is_error(done, 3)
    assert "Phi-4-multimodal" in done.stderr


def test_a_checkpoint_of_another_shape_than_its_recipe(here: Here, tiny: Path, work: Path) -> None:
    done = here("build", tiny, "-t", "cpu", "-o", work / "b", "--recipe", "phi-3.5-mini")
    assert is_error(done, 4)
    assert "recipe phi-3.5-mini expects vocabulary_size 32064, found 512" in done.stderr


class TestRequests:
    """What is wrong with the command line or the declarations is said before any work."""

    def test_the_output_exists(self, here: Here, tiny: Path, work: Path) -> None:
        for make in (Path.mkdir, Path.touch):
            make(work / make.__name__)
            assert is_one_error(here("build", tiny, "-t", "cpu", "-o", work / make.__name__), 2)
        (work / "link").symlink_to("nowhere")
        assert is_one_error(here("build", tiny, "-t", "cpu", "-o", work / "link"), 2)
        assert names(work) == {"mkdir", "touch", "link"}

    def test_no_parent(self, here: Here, tiny: Path, work: Path) -> None:
        done = here("build", tiny, "-t", "cpu", "-o", work / "none" / "b")
        assert is_one_error(done, 2)
        assert f"hint: mkdir -p {work / 'none'}" in done.stderr

    def test_a_file_as_parent(self, here: Here, tiny: Path, work: Path) -> None:
        (work / "file").touch()
        assert is_one_error(here("build", tiny, "-t", "cpu", "-o", work / "file" / "b"), 2)

    def test_a_parent_that_may_not_be_written_to(self, here: Here, tiny: Path, small_disk: Disk) -> None:
        disk = small_disk("1m")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = here("build", tiny, "-t", "cpu", "-o", disk / "b")
        assert is_error(done, 4)
        assert "Read-only file system" in done.stderr
        assert names(disk) == set()

    def test_a_name_that_is_too_long(self, here: Here, tiny: Path, work: Path) -> None:
        done = here("build", tiny, "-t", "cpu", "-o", work / ("b" * 250))
        assert is_error(done, 4)
        assert "File name too long" in done.stderr

    def test_no_such_model(self, here: Here, work: Path) -> None:
        assert is_one_error(here("build", "phi-99", "-t", "cpu", "-o", work / "b"), 4)
        assert is_one_error(here("build", "./phi", "-t", "cpu", "-o", work / "b"), 4)

    def test_unknown_names_are_met_with_the_nearest(self, here: Here, tiny: Path, work: Path) -> None:
        done = here("build", tiny, "-t", "cpuu", "-o", work / "b")
        assert is_one_error(done, 4)
        assert "expected a target, found none of that name; did you mean 'cpu'?" in done.stderr
        done = here("build", tiny, "-t", "cpu", "--recipe", "phi-3.5-mni", "-o", work / "b")
        assert is_one_error(done, 4)
        assert "did you mean 'phi-3.5-mini'?" in done.stderr

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[quant]\ngroupsize = 32", "unknown key 'groupsize'; did you mean 'group_size'?"),
            ("[quant]\ngroup_size = 48", "group_size: expected one of 32, 64, 128, found 48"),
            ('[quant]\nbits = "4"', "bits: expected one of 4, 8, found '4'"),
            ("[quant", "expected TOML"),
            ("summary = 1", "expected TOML"),  # given twice
        ],
    )
    def test_a_recipe_with_a_mistake(
        self, here: Here, tiny: Path, work: Path, tmp_path: Path, text: str, message: str
    ) -> None:
        recipe = tmp_path / "own.toml"
        recipe.write_text(f'name = "own"\nsummary = "x"\n{text}\n')
        done = here("build", tiny, "-t", "cpu", "--recipe", recipe, "-o", work / "b")
        assert is_one_error(done, 4)
        assert message in done.stderr
        assert str(recipe) in done.stderr

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("context = 4096", 'context = "4096"', "context: expected a whole number, found '4096'"),
            ("context = 4096", "contxt = 4096", "unknown key 'contxt'; did you mean 'context'?"),
            ('provider = "cpu"', "", "key 'provider' is missing"),
        ],
    )
    def test_a_target_with_a_mistake(
        self, here: Here, tiny: Path, work: Path, tmp_path: Path, old: str, new: str, message: str
    ) -> None:
        target = tmp_path / "own.toml"
        target.write_text(here("targets", "show", "cpu").stdout.replace(old, new))
        done = here("build", tiny, "-t", target, "-o", work / "b")
        assert is_one_error(done, 4)
        assert message in done.stderr

    def test_an_engine_that_is_not_built_for(
        self, here: Here, tiny: Path, work: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "own.toml"
        target.write_text(
            here("targets", "show", "cpu").stdout.replace('engine = "onnxruntime-genai"', 'engine = "abacus"')
        )
        assert is_error(here("build", tiny, "-t", target, "-o", work / "b"), 3)

    def test_a_context_past_the_models(self, here: Here, tiny: Path, work: Path) -> None:
        done = here("build", tiny, "-t", "cpu", "--context", 4097, "-o", work / "b")
        assert is_error(done, 3)
        assert "was made for at most 4096 tokens" in done.stderr

    def test_a_device_that_is_too_small(self, here: Here, tiny: Path, work: Path, tmp_path: Path) -> None:
        target = tmp_path / "own.toml"
        text = here("targets", "show", "cpu").stdout
        target.write_text(text.replace("context = 4096", "context = 4096\nmemory_bytes = 1_000_000"))
        done = here("build", tiny, "-t", target, "-o", work / "b")
        assert is_error(done, 3)
        assert "hint: choose a smaller model or a larger device" in done.stderr

    def test_a_group_that_does_not_divide(self, here: Here, tmp_path: Path, work: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "phi", layers=1, hidden=64, ffn=80)
        done = here("build", folder, "-t", "cpu", "-o", work / "b")
        assert is_error(done, 3)
        assert "group size 32 does not divide its 80 columns" in done.stderr
        assert names(work) == set()


class TestInterrupted:
    @pytest.mark.parametrize(
        ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    def test_while_it_quantises(self, slow: Path, work: Path, number: signal.Signals, exit_code: int) -> None:
        with building(slow, "-t", "cpu", "-o", work / "b", *SEARCHED) as process:
            wait_until(lambda: grown(work / "b"), process)
            process.send_signal(number)
            done = ended(process)
        assert (done.returncode, done.stdout) == (exit_code, "")
        assert "Traceback" not in done.stderr
        assert "error" not in done.stderr
        assert names(work) == set()

    @pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_while_the_engine_works(
        self, tiny: Path, work: Path, number: signal.Signals, exit_code: int
    ) -> None:
        with building(tiny, "-t", "cpu", "-o", work / "b") as process:
            wait_until(lambda: verifying(work / "b"), process)
            wait_until(lambda: psutil.Process(process.pid).children(), process)
            engines = psutil.Process(process.pid).children()
            process.send_signal(number)
            done = ended(process)
        assert done.returncode == exit_code
        assert "Traceback" not in done.stderr
        assert names(work) == set()
        psutil.wait_procs(engines, timeout=10)
        assert not any(engine.is_running() for engine in engines)

    def test_nohup_is_respected(self, tiny: Path, work: Path) -> None:
        command = [
            "nohup",
            sys.executable,
            "-c",
            MAIN,
            "build",
            str(tiny),
            "-t",
            "cpu",
            "-o",
            str(work / "b"),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: verifying(work / "b"), process)
            process.send_signal(signal.SIGHUP)
            assert process.wait(60) == 0
        assert names(work) == {"b"}


class TestKilled:
    def test_the_next_build_of_the_same_bundle_cleans_up(
        self, here: Here, slow: Path, tiny: Path, work: Path
    ) -> None:
        with building(slow, "-t", "cpu", "-o", work / "b", *SEARCHED) as process:
            wait_until(lambda: grown(work / "b"), process)
            process.kill()
            process.wait()
        assert names(work) == {".b.partial", ".b.lock"}
        assert here("build", tiny, "-t", "cpu", "-o", work / "b", "--verify", "off").returncode == 0
        assert names(work) == {"b"}
        check_files(work / "b", read_manifest(work / "b"))

    def test_no_engine_goes_on_alone(self, slow: Path, work: Path) -> None:
        with building(slow, "-t", "cpu", "-o", work / "b", "--method", "rtn") as process:
            wait_until(lambda: psutil.Process(process.pid).children(), process)
            engines = psutil.Process(process.pid).children()
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(engines, timeout=20)
        assert not alive

    def test_an_engine_that_is_killed(self, tiny: Path, work: Path) -> None:
        with building(tiny, "-t", "cpu", "-o", work / "b") as process:
            wait_until(lambda: psutil.Process(process.pid).children(), process)
            psutil.Process(process.pid).children()[0].kill()
            done = ended(process)
        assert is_error(done, 3)
        assert "was killed by signal 9" in done.stderr
        assert names(work) == set()


class TestTwoAtOnce:
    def test_one_wins_and_the_others_are_told(
        self, edgephi: Edgephi, here: Here, slow: Path, tiny: Path, work: Path
    ) -> None:
        with building(slow, "-t", "cpu", "-o", work / "b", "--verify", "off", *SEARCHED) as process:
            wait_until(lambda: grown(work / "b"), process)
            process.send_signal(signal.SIGSTOP)
            for build in (edgephi, here, here):  # the refused ones must leave the lock alone
                done = build("build", tiny, "-t", "cpu", "-o", work / "b")
                assert is_error(done, 2)
                assert (
                    f"process {process.pid} (" in done.stderr
                    and "is building this bundle right now" in done.stderr
                )
            process.send_signal(signal.SIGCONT)
            assert ended(process).returncode == 0
        assert names(work) == {"b"}
        manifest = read_manifest(work / "b")
        assert manifest.model.id == "slow-phi"
        check_files(work / "b", manifest)

    def test_a_destination_that_appears_meanwhile(self, slow: Path, work: Path) -> None:
        with building(slow, "-t", "cpu", "-o", work / "b", "--verify", "off", *SEARCHED) as process:
            wait_until(lambda: grown(work / "b"), process)
            (work / "b").mkdir()
            done = ended(process)
        assert is_error(done, 2)
        assert names(work) == {"b"}
        assert names(work / "b") == set()


class TestFullDisk:
    def test_too_little_room_is_said_before(self, here: Here, small_disk: Disk) -> None:
        disk = small_disk("1m")
        done = here("build", "demo", "-t", "cpu", "-o", disk / "b")
        assert is_error(done, 3)
        assert "MB of disk, 1.0 MB are free" in done.stderr
        assert names(disk) == set()

    def test_filled_while_it_quantises(self, slow: Path, small_disk: Disk) -> None:
        disk = small_disk("60m")
        with building(slow, "-t", "cpu", "-o", disk / "b", *SEARCHED) as process:
            wait_until(lambda: grown(disk / "b"), process)
            process.send_signal(signal.SIGSTOP)
            fill(disk)
            process.send_signal(signal.SIGCONT)
            done = ended(process)
        assert is_error(done, 3), done.stderr
        assert "No space left on device" in done.stderr
        assert names(disk) == {"filler"}

    def test_filled_while_the_engine_works(self, tiny: Path, small_disk: Disk) -> None:
        disk = small_disk("20m")
        with building(tiny, "-t", "cpu", "-o", disk / "b", "--verify", "full") as process:
            wait_until(lambda: verifying(disk / "b"), process)
            fill(disk)
            done = ended(process)
        assert is_error(done, 3), done.stderr
        assert "No space left on device" in done.stderr
        assert names(disk) == {"filler"}

    def test_a_limit_on_the_size_of_files(self, edgephi: Edgephi, work: Path) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

        done = edgephi("build", "demo", "-t", "cpu", "-o", work / "b", preexec_fn=limit)
        assert is_error(done, 3), done.stderr
        assert "File too large" in done.stderr
        assert names(work) == set()


def test_the_checkpoint_is_never_written_to(here: Here, tmp_path: Path, work: Path, tiny: Path) -> None:
    folder = tmp_path / "phi"
    shutil.copytree(tiny, folder)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    assert here("build", folder, "-t", "cpu", "-o", work / "b").returncode == 0
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()} == before
