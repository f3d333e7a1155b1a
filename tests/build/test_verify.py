"""Measuring a bundle: three distances, and what they tell apart."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgephi.build.build import find_checkpoint
from edgephi.build.gate import check_gate
from edgephi.build.verify import certify
from edgephi.bundle.certificate import Certificate
from edgephi.bundle.manifest import encode_manifest, read_manifest
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.declared.recipe import read_recipe
from edgephi.errors import BadInputError, CannotServeError, QualityGateError
from edgephi.steps import silent
from tests.build.conftest import Here, names
from tests.build.counted_steps import CountedSteps
from tests.tiny_checkpoint import SHAPES, write_tiny_checkpoint


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, id="x", revision="local")


@pytest.fixture
def demo() -> Checkpoint:
    return opened(find_checkpoint("demo", read_recipe("demo"), None, progress=False).folder)


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def measured(checkpoint: Checkpoint, bundle: Path, **options: object) -> Certificate:
    manifest = read_manifest(bundle)
    given: dict[str, object] = {
        "level": "quick",
        "domain": "device",
        "gate": read_recipe("demo").gate,
        "step": silent,
        **options,
    }
    return certify(checkpoint, bundle, manifest, **given).certificate  # type: ignore[arg-type]


def test_measuring_again_gives_the_same_certificate(demo: Checkpoint, demo_bundle: Path) -> None:
    assert measured(demo, demo_bundle) == read_manifest(demo_bundle).certificate


def test_its_steps_are_counted_to_the_end(demo: Checkpoint, demo_bundle: Path, tmp_path: Path) -> None:
    steps = CountedSteps()

    measured(demo, demo_bundle, step=steps.step, scratch=tmp_path)
    assert list(steps.sizes) == ["verify: engine", "verify: reference"]
    assert steps.counted["verify: reference"] == steps.sizes["verify: reference"]
    assert 0 <= steps.counted["verify: engine"] <= steps.sizes["verify: engine"]
    assert names(tmp_path) == set()


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_shape_passes_through_build_and_verify(
    here: Here, tmp_path: Path, work: Path, shape: str
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "phi", shape, layers=1)
    # Random weights may well say one thing for ever.
    recipe = tmp_path / "own.toml"
    recipe.write_text('name = "own"\nsummary = "Random weights"\n[gate]\nanswers = false\n')
    assert here("build", folder, "-t", "cpu", "--recipe", recipe, "-o", work / "b").returncode == 0
    export = read_manifest(work / "b").certificate.export_error
    assert export is not None
    assert export.kl_mean <= 1e-3


def test_changed_weights_in_the_artifact_are_quantisation_loss(demo: Checkpoint, bundle: Path) -> None:
    """Reference and engine read the same file, so damage there is no export error."""
    data = bundle / "model/model.onnx.data"
    codes = np.memmap(data, np.uint8, "r+")
    codes[100_000:400_000] ^= 0x11
    codes.flush()
    good, bad = read_manifest(bundle).certificate, measured(demo, bundle)
    assert good.export_error is not None
    assert bad.export_error is not None
    assert good.quantisation_loss is not None
    assert bad.quantisation_loss is not None
    assert bad.quantisation_loss.kl_mean > 10 * good.quantisation_loss.kl_mean
    assert bad.export_error.kl_mean < bad.quantisation_loss.kl_mean / 10
    with pytest.raises(QualityGateError, match="quantisation loss"):
        check_gate(bad, read_recipe("demo").gate)


def test_an_engine_that_computes_something_else_is_export_error(demo: Checkpoint, bundle: Path) -> None:
    import onnx

    graph = onnx.load(bundle / "model/model.onnx", load_external_data=False)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1.0
    (bundle / "model/model.onnx").write_bytes(graph.SerializeToString())
    certificate = measured(demo, bundle)
    assert certificate.export_error is not None
    assert certificate.export_error.kl_mean > 1e-2
    with pytest.raises(QualityGateError, match="export error: mean KL"):
        check_gate(certificate, read_recipe("demo").gate)


def test_another_engine_version_is_named(demo: Checkpoint, bundle: Path) -> None:
    manifest = read_manifest(bundle)
    requires = dataclasses.replace(manifest.requires, engines={"onnxruntime-genai": ">=99"})
    (bundle / "bundle.json").write_bytes(encode_manifest(dataclasses.replace(manifest, requires=requires)))
    with pytest.raises(CannotServeError, match="the bundle needs onnxruntime-genai >=99, found 0") as caught:
        measured(demo, bundle)
    assert "pip install 'onnxruntime-genai>=99'" in caught.value.hint


def test_a_graph_that_the_engine_cannot_read(demo: Checkpoint, bundle: Path) -> None:
    shutil.copy(bundle / "model/tokenizer.json", bundle / "model/genai_config.json")
    with pytest.raises(BadInputError, match="expected a model that onnxruntime-genai") as caught:
        measured(demo, bundle)
    assert caught.value.hint == "copy the bundle again and check it with `edgephi verify`"


def test_no_room_for_the_logits(
    demo: Checkpoint, demo_bundle: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("100k")
    with pytest.raises(CannotServeError, match="No space left on device"):
        measured(demo, demo_bundle, scratch=disk)
    assert names(disk) == set()


def test_the_logits_of_the_engine_are_float32_rows(
    demo: Checkpoint, demo_bundle: Path, tmp_path: Path
) -> None:
    from edgephi.runtime.proof import logits

    output = tmp_path / "logits"
    passages = [logits.AskedPassage(tuple(range(3, 40)), first=34), logits.AskedPassage((5, 6, 7))]
    told: list[int] = []
    question = logits.LogitsQuestion(str(demo_bundle), str(output), tuple(passages), None)
    computed = logits.compute(question, told.append)
    assert computed.engine.startswith("onnxruntime-genai ")
    assert computed.provider == "cpu"
    assert computed.answer is None
    assert sum(told) == output.stat().st_size
    rows = np.fromfile(output, np.float32).reshape(3 + 3, demo.architecture.vocabulary_size)
    for passage, expected in zip(passages, (rows[:3], rows[3:]), strict=True):
        alone = dataclasses.replace(question, passages=(passage,))
        logits.compute(alone, told.append)
        np.testing.assert_array_equal(np.fromfile(output, np.float32).reshape(3, -1), expected)
