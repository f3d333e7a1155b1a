"""What an artifact names, as the formats' own libraries write it. More: `tests.store.hostile`."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from edgephi.bundle.artifact.foreign_files import check_artifact
from edgephi.bundle.artifact.onnx_names import named_files
from edgephi.bundle.manifest import read_manifest
from tests.bundle.tiny import tiny_manifest


def check(folder: Path, *names: str) -> None:
    """Check a bundle that consists of these files of a folder."""
    files = {f"model/{name}": (folder / name).read_bytes() for name in names}
    check_artifact(tiny_manifest(files), lambda entry: folder / Path(entry.path).name)


def test_our_own_bundle_keeps_to_itself(demo_bundle: Path) -> None:
    manifest = read_manifest(demo_bundle)
    check_artifact(manifest, lambda entry: demo_bundle / entry.path)


def test_the_names_are_those_that_onnx_reads(demo_bundle: Path) -> None:
    graph = demo_bundle / "model/model.onnx"
    model = onnx.load(graph, load_external_data=False)
    locations = {
        fact.value
        for tensor in model.graph.initializer
        for fact in tensor.external_data
        if fact.key == "location"
    }
    assert named_files(graph) == locations == {"model.onnx.data"}


@pytest.mark.parametrize("one_file", [True, False])
def test_graphs_that_onnx_writes(tmp_path: Path, one_file: bool) -> None:
    arrays = [numpy_helper.from_array(np.ones((40, 50), np.float32), name) for name in "abc"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [40, 50])
    graph = helper.make_graph([helper.make_node("Sum", list("abc"), ["y"])], "g", [], [output], arrays)
    onnx.save(
        helper.make_model(graph),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location="weights.bin",
        size_threshold=0,
    )
    written = sorted(path.name for path in tmp_path.iterdir())
    assert named_files(tmp_path / "model.onnx") == set(written) - {"model.onnx"}
    check(tmp_path, *written)


def test_weights_inside_the_graph_name_nothing(tmp_path: Path) -> None:
    array = numpy_helper.from_array(np.ones((400, 500), np.float32), "a")
    graph = helper.make_graph([], "g", [], [], [array])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert named_files(tmp_path / "model.onnx") == frozenset()


def test_safetensors_of_its_own_library(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "a": np.ones(7, np.uint8),
        "b": np.ones((3, 2), np.float16),
        "none": np.ones((0, 4), np.float32),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "mlx"})
    check(tmp_path, "model.safetensors")
    safetensors.numpy.save_file({}, tmp_path / "empty.safetensors")
    check(tmp_path, "empty.safetensors")


def test_gguf_of_its_own_library(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "phi3")
    writer.add_context_length(1)
    writer.add_tensor("a", np.ones((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check(tmp_path, "model.gguf")
