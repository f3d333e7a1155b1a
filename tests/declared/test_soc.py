"""The table of chips, held against Qualcomm's own compiler."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.declared.soc import FOLDER, read_soc, socs
from edgephi.declared.target import for_soc, read_target
from edgephi.declared.toml_files import shipped_names
from edgephi.errors import BadDeclarationError, UsageError

# Compiles one small graph for a chip, of which nothing but its number is told.
COMPILE = """
import sys
import numpy as np, onnxruntime, onnxruntime_qnn
from onnx import TensorProto, helper, numpy_helper
provider = "QNNExecutionProvider"
onnxruntime.register_execution_provider_library(provider, onnxruntime_qnn.get_library_path())
device = next(each for each in onnxruntime.get_ep_devices() if each.ep_name == provider)
constants = [numpy_helper.from_array(np.float32(0.01), "scale"),
             numpy_helper.from_array(np.uint8(128), "zero")]
def rounded(name, out):
    return [helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}.q"]),
            helper.make_node("DequantizeLinear", [f"{name}.q", "scale", "zero"], [out])]
nodes = [*rounded("x", "x.r"), helper.make_node("Add", ["x.r", "x.r"], ["sum"]), *rounded("sum", "y")]
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16]) for name in ("x", "y")]
graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
for number in sys.argv[1:]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for key, value in {"session.disable_cpu_ep_fallback": "1", "ep.context_enable": "1",
                       "ep.context_embed_mode": "0", "ep.context_file_path": f"{number}.onnx"}.items():
        options.add_session_config_entry(key, value)
    backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": number}
    options.add_provider_for_devices([device], backend)
    onnxruntime.InferenceSession(model.SerializeToString(), options)
"""


@pytest.mark.slow
def test_every_number_is_the_compilers(tmp_path: Path) -> None:
    """A context binary names the chip that it is for, the generation of its HTP, and its VTCM."""
    pytest.importorskip("onnxruntime_qnn")
    pytest.importorskip("onnx")
    known = socs()
    numbers = [str(soc.soc_model) for soc in known]
    subprocess.run([sys.executable, "-c", COMPILE, *numbers], cwd=tmp_path, capture_output=True, check=True)
    for soc in known:
        binary = (tmp_path / f"{soc.soc_model}_qnn.bin").read_bytes()
        chip = re.search(rb"soc_type=(\w+);arch=(\d+);", binary)
        vtcm = re.search(rb"vtcm_size=(\d+);", binary)
        assert chip is not None
        assert vtcm is not None
        assert chip[1].decode() == soc.chips[0]
        assert int(chip[2]) == soc.htp_arch
        assert int(vtcm[1]) == soc.vtcm_mb << 20


class TestNames:
    def test_all_are_read_under_their_files_names(self) -> None:
        assert [soc.name for soc in socs()] == shipped_names(FOLDER)
        needed = {"SM8550", "SM8650", "SM8750", "SC8380XP", "QCS6490"}
        assert needed <= {chip for soc in socs() for chip in soc.chips}

    @pytest.mark.parametrize("name", ["snapdragon-8-gen-3", "SM8650", "sm8650", "Snapdragon-8-Gen-3"])
    def test_a_part_number_is_a_name_too(self, name: str) -> None:
        assert read_soc(name).soc_model == 57

    def test_no_part_number_stands_for_two(self) -> None:
        chips = [chip for soc in socs() for chip in soc.chips]
        assert len(set(chips)) == len(chips)

    @pytest.mark.parametrize(
        ("name", "meant"), [("snapdragon-8-gen3", "snapdragon-8-gen-3"), ("sm8651", "sm8650")]
    )
    def test_an_unknown_one(self, name: str, meant: str) -> None:
        with pytest.raises(BadDeclarationError, match=f"did you mean '{meant}'") as caught:
            read_soc(name)
        assert "qcs6490, " in caught.value.hint

    def test_one_of_ones_own(self, tmp_path: Path) -> None:
        own = tmp_path / "own.toml"
        own.write_text(
            'name = "own"\nsummary = "A new one"\nchips = ["SM9999"]\n'
            "soc_model = 1\nhtp_arch = 75\nvtcm_mb = 8\n"
        )
        assert read_soc(str(own)).chips == ("SM9999",)
        assert for_soc(read_target("qnn"), str(own)).soc == str(own)


class TestTargets:
    def test_the_targets_own_chip_unless_another_is_asked_for(self) -> None:
        target = read_target("qnn")
        assert for_soc(target, None) == target
        assert for_soc(target, "SM8750").soc == "snapdragon-8-elite"

    def test_a_target_that_is_compiled_for_no_chip(self) -> None:
        with pytest.raises(UsageError, match="target cpu is not compiled for a chip"):
            for_soc(read_target("cpu"), "sm8650")
