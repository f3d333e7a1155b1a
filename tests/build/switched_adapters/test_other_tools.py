"""What others read and compute with the adapters that we write: the formats' own libraries, unchanged.

There is no Ollama here: of a Modelfile is held that what it names is there, from where it lies.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.adapter import open_engine
from tests.build.demo import build_demo
from tests.build.switched_adapters.demo_adapters import build_demo_adapters
from tests.checkpoint.adapter.peft_adapter import peft
from tests.export.oracle import mean_kl
from tests.runtime.engines.cache_behaviour import some_ids

Floats = NDArray[np.float32]
Built = Callable[[str], tuple[Path, Path]]

MATRICES = 4 * 3  # of the demo's three layers
LAYER = "base_model.model.model.layers.2.mlp.down_proj"
HEAD = "base_model.model.lm_head"


@pytest.fixture(scope="module")
def built(
    demo_bundle: Path, demo_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """The demo's bundle for a target and the artifact for it, each built once."""
    folder = tmp_path_factory.mktemp("built")

    def build(target: str) -> tuple[Path, Path]:
        base = demo_bundle if target == "cpu" else folder / target
        if not base.exists():
            build_demo(target, base, verify="off")
        artifact = folder / f"{target}-adapters"
        if not artifact.exists():
            build_demo_adapters(base, demo_adapters, artifact, verify="off")
        return base, artifact

    return build


def product(saved: Path, module: str, factor: float) -> Floats:
    """What PEFT's file says that is added to a module's weight."""
    tensors = load_file(saved / "adapter_model.safetensors")
    found: Floats = factor * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
    return found


def is_that_of_peft(base: Path, adapters: dict[str, Path], name: str, found: Floats) -> None:
    """Hold a product, which was float16, against PEFT's numbers, folded as the base's columns are."""
    # alpha / rank
    module, factor = (HEAD, 1.0) if name == "opposite" else (LAYER, 2.0)
    scales = load_file(base / "folded_scales.safetensors")
    expected = product(adapters[name], module, factor)
    expected = expected * scales.get(module.removeprefix("base_model.model."), np.float32(1))
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["opposite", "faint"])
def test_gguf_reads_ours(built: Built, demo_adapters: dict[str, Path], name: str) -> None:
    import gguf

    base, artifact = built("gguf")
    reader = gguf.GGUFReader(artifact / f"model/adapters/{name}/adapter.gguf")
    facts = {key: field.contents() for key, field in reader.fields.items()}
    assert facts["general.type"] == "adapter"
    assert (facts["general.architecture"], facts["adapter.type"]) == ("phi3", "lora")
    assert (facts["general.name"], facts["adapter.lora.alpha"]) == (name, 0.0)
    # numpy's order: rows first.
    tensors = {tensor.name: np.asarray(tensor.data, np.float32) for tensor in reader.tensors}
    assert len(tensors) == 2 * (1 if name == "opposite" else MATRICES)
    matrix = "output.weight" if name == "opposite" else "blk.2.ffn_down.weight"
    is_that_of_peft(base, demo_adapters, name, tensors[f"{matrix}.lora_b"] @ tensors[f"{matrix}.lora_a"])


def test_a_modelfile_names_what_is_there(built: Built) -> None:
    """With both in one folder, as a device has them, or copied together."""
    base, artifact = built("gguf")
    for name in ("opposite", "faint"):
        file = artifact / f"model/adapters/{name}/Modelfile"
        lines = file.read_text().splitlines()
        named = dict(line.split(" ", 1) for line in lines if line.startswith(("FROM ", "ADAPTER ")))
        assert (file.parent / named["ADAPTER"]).is_file()
        beside = base / file.parent.relative_to(artifact) / named["FROM"]
        assert (base / "model/model.gguf").samefile(Path(*_without_parents(beside)))
        own = (base / "model/Modelfile").read_text().splitlines()
        assert [line for line in lines if not line.startswith(("FROM ", "ADAPTER "))] == [
            line for line in own if not line.startswith("FROM ")
        ]


def _without_parents(path: Path) -> list[str]:
    """The parts of a path without those that go up again; its folders need not be there."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return parts


@pytest.mark.parametrize("name", ["opposite", "faint"])
def test_mlx_lm_computes_what_we_do(built: Built, name: str) -> None:
    mx: Any = pytest.importorskip("mlx.core")
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    base, artifact = built("mlx")
    ids = some_ids(8)
    model, _ = load_model(base / "model")
    plain = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    model = load_adapters(model, str(artifact / f"model/adapters/{name}"))
    theirs = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    engine = open_engine(base, read_manifest(artifact), provider="cpu", beside=artifact)
    ours = np.concatenate([*engine.logits(ids, step=8, adapter=name)])
    # MLX sums in float16 on a CPU, and we have it sum in float32.
    assert mean_kl(theirs, ours) < 2e-3
    assert np.square(theirs - ours).sum() < 0.1 * np.square(theirs - plain).sum()


@pytest.mark.parametrize("name", ["opposite", "faint"])
def test_onnxruntime_reads_ours(built: Built, demo_adapters: dict[str, Path], name: str) -> None:
    import onnxruntime

    base, artifact = built("cpu")
    adapter = onnxruntime.AdapterFormat.read_adapter(str(artifact / f"model/adapters/{name}.onnx_adapter"))
    arrays = {key: value.numpy() for key, value in adapter.get_parameters().items()}
    assert len(arrays) == 2 * (1 if name == "opposite" else MATRICES)
    graph = onnx.load(artifact / "model/adaptable.onnx", load_external_data=False).graph
    assert arrays.keys() < {value.name for value in graph.input}
    matrix = "lm_head" if name == "opposite" else "model.layers.2.mlp.down_proj"
    found = arrays[f"{matrix}.lora_A"].astype(np.float32) @ arrays[f"{matrix}.lora_B"].astype(np.float32)
    is_that_of_peft(base, demo_adapters, name, found.T)


@pytest.mark.parametrize("name", ["opposite", "faint"])
def test_peft_reads_what_openvino_is_given(built: Built, demo_adapters: dict[str, Path], name: str) -> None:
    """It is an adapter of PEFT's own form, with all factors in its matrices."""
    base, artifact = built("openvino")
    folder = artifact / f"model/adapters/{name}"
    config = peft.PeftConfig.from_pretrained(folder)
    assert config.peft_type == peft.PeftType.LORA
    assert config.lora_alpha == config.r == (2 if name == "opposite" else 4)
    found = product(folder, HEAD if name == "opposite" else LAYER, 1.0)
    is_that_of_peft(base, demo_adapters, name, found)


def test_the_graph_has_places_for_all_of_them_and_is_else_the_same(built: Built, demo_bundle: Path) -> None:
    _, artifact = built("cpu")
    file = artifact / "model/adaptable.onnx"
    adapted = onnx.load(file, load_external_data=False)
    plain = onnx.load(demo_bundle / "model/model.onnx", load_external_data=False)
    names = {value.name for value in plain.graph.input}
    added = [value for value in adapted.graph.input if value.name not in names]
    assert len(added) == 2 * (MATRICES + 1)
    defaults = {each.name for each in adapted.graph.initializer}
    assert {value.name for value in added} <= defaults
    assert {value.name for value in adapted.graph.output} == {value.name for value in plain.graph.output}
    produced = [name for node in adapted.graph.node for name in node.output if name]
    assert len(produced) == len(set(produced))


@pytest.mark.parametrize("target", ["cpu", "gguf", "mlx", "openvino"])
def test_the_same_inputs_make_the_same_bytes(
    built: Built,
    demo_adapters: dict[str, Path],
    work: Path,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    base, before = built(target)
    again = build_demo_adapters(base, demo_adapters, work / "again", verify="off")
    assert again.manifest.created == "2023-11-14T22:13:20Z"
    assert contents(again.folder, but="bundle.json") == contents(before, but="bundle.json")
    once_more = build_demo_adapters(base, demo_adapters, work / "once", verify="off")
    assert (again.folder / "bundle.json").read_bytes() == (once_more.folder / "bundle.json").read_bytes()
    assert len(again.manifest.files) - len(read_manifest(base).files) >= 3


def contents(folder: Path, *, but: str) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != but]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
