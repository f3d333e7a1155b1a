"""Every exporter and adapter against its Protocol: mypy compares them, the tests that none is missing."""

from edgephi.engines.facts.registry import known_engines
from edgephi.export.exporter import Exporter, exporter_module
from edgephi.export.gguf import exporter as gguf
from edgephi.export.mlx import exporter as mlx
from edgephi.export.onnx import exporter as onnx
from edgephi.export.openvino import exporter as openvino
from edgephi.export.qnn import exporter as qnn
from edgephi.runtime.adapter import Adapter, adapter_of
from edgephi.runtime.engines import mlx_lm, onnxruntime_genai
from edgephi.runtime.engines.llama_cpp import adapter as llama_cpp
from edgephi.runtime.engines.openvino_genai import adapter as openvino_genai
from edgephi.runtime.engines.qnn import adapter as qnn_runtime

EXPORTERS: tuple[Exporter, ...] = (gguf, mlx, onnx, openvino, qnn)
ADAPTERS: tuple[Adapter, ...] = (llama_cpp, mlx_lm, onnxruntime_genai, openvino_genai, qnn_runtime)


def test_mypy_sees_every_exporter() -> None:
    modules = {exporter_module(facts) for facts in known_engines().values()}
    assert modules == {vars(each)["__name__"] for each in EXPORTERS}


def test_mypy_sees_every_adapter() -> None:
    adapters = [adapter_of(facts) for facts in known_engines().values()]
    assert all(adapter in ADAPTERS for adapter in adapters)
    assert len(adapters) == len(ADAPTERS)
