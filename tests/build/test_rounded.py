"""What plain rounding would have made of a checkpoint is what a build that rounds plainly makes of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgephi.build.build import find_checkpoint
from edgephi.build.rounded import plainly_rounded
from edgephi.bundle.manifest import Manifest
from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.declared.recipe import Formats, Keep, read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import BadBundleError
from edgephi.export.exporter import exporter
from edgephi.reference.weights import Weights
from tests.build.demo import build_demo

DEMO = read_recipe("demo")


def demo_weights() -> Weights:
    folder = find_checkpoint("demo", DEMO, None, progress=False).folder
    return CheckpointWeights(open_checkpoint(folder, id="x", revision="local"))


def with_quant(manifest: Manifest, **changes: object) -> Manifest:
    return dataclasses.replace(manifest, quant=dataclasses.replace(manifest.quant, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "formats"),
    [
        ("cpu", "portable"),
        ("gguf", "portable"),
        ("gguf", "native"),
        ("cpu", "native"),
        ("mlx", "native"),
        ("qnn", "native"),
    ],
)
def test_has_the_weights_of_such_a_build(tmp_path: Path, target: str, formats: Formats) -> None:
    keep = Keep(("model.layers.*.mlp.down_proj", "model.layers.0.self_attn.qkv_proj"))
    quant = dataclasses.replace(
        DEMO.quant, method="rtn", head_bits=8, embedding_bits=8, formats=formats, keep=keep
    )
    recipe = dataclasses.replace(DEMO, quant=quant)
    chosen = read_target(target)
    if target == "qnn":
        chosen = dataclasses.replace(chosen, soc="snapdragon-8-gen-3")
    built = build_demo(chosen, tmp_path / "bundle", recipe=recipe, context=96, verify="off")
    original = demo_weights()
    rounded = plainly_rounded(original, with_quant(built.manifest, method="search"))
    assert rounded is not None
    artifact = exporter(chosen.engine).artifact_weights(built.folder / "model", original.architecture)
    for tensor, shape in original.architecture.tensor_shapes().items():
        ours, theirs, first = (weights.rows(tensor, 0, shape[0]) for weights in (rounded, artifact, original))
        np.testing.assert_array_equal(ours, theirs, err_msg=str(tensor))
        assert np.array_equal(ours, first) == (len(shape) == 1)


def test_reads_any_rows(demo_manifest: Manifest) -> None:
    rounded = plainly_rounded(demo_weights(), demo_manifest)
    assert rounded is not None
    for tensor, shape in rounded.architecture.tensor_shapes().items():
        whole = rounded.rows(tensor, 0, shape[0])
        np.testing.assert_array_equal(rounded.rows(tensor, 3, 10), whole[3:10])


def test_is_nothing_else_where_all_methods_find_the_same(demo_manifest: Manifest) -> None:
    weights = demo_weights()
    assert plainly_rounded(weights, with_quant(demo_manifest, method="rtn")) is None
    eight = with_quant(demo_manifest, bits=8, embedding_bits=8, head_bits=8)
    assert plainly_rounded(weights, eight) is None
    assert plainly_rounded(weights, with_quant(eight, bits=4)) is not None


def test_a_manifest_with_a_scheme_that_no_recipe_has(demo_manifest: Manifest) -> None:
    with pytest.raises(BadBundleError, match="quant: group_size: expected one of 32, 64, 128, found 48"):
        plainly_rounded(demo_weights(), with_quant(demo_manifest, group_size=48))


def test_a_manifest_that_keeps_what_no_model_has(demo_manifest: Manifest) -> None:
    with pytest.raises(BadBundleError, match=r"expected the name of a matrix .* found 'model.layers.9.x'"):
        plainly_rounded(demo_weights(), with_quant(demo_manifest, kept=("model.layers.9.x",)))


@pytest.fixture
def demo_manifest(demo_bundle: Path) -> Manifest:
    from edgephi.bundle.manifest import read_manifest

    return read_manifest(demo_bundle)
