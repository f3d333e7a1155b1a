"""An adapter's files for OpenVINO: what openvino-genai and PEFT themselves compute with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from edgephi.bundle.manifest import TargetFacts
from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors, LowRankFactors, low_rank_factors
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.roles import HEAD
from edgephi.export.openvino.adapter import write_adapter
from edgephi.export.tensor_names import tensor_name
from tests.checkpoint.adapter.peft_adapter import save_adapter
from tests.export.openvino.oracle import ON_ANY_CPU, openvino, openvino_genai, tensors_of
from tests.export.openvino.test_exporter import Exported, export, model_with, some_ids
from tests.export.oracle import Floats, expected_logits, mean_kl

TARGET = TargetFacts("openvino", "openvino-genai", "cpu", ("x86_64",))
PROMPT = some_ids(30, seed=4)


@dataclass(frozen=True)
class Adapted:
    """An artifact, the folder with an adapter's files for it, and what the two compute together."""

    exported: Exported
    factors: AdapterFactors
    folder: Path
    oracle: Any


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder = tmp_path_factory.mktemp("adapted")
    exported = export(folder, "mini-4k")
    trained = save_adapter(
        exported.checkpoint.folder,
        folder / "trained",
        rank_pattern={"o_proj": 2},
        alpha_pattern={"down_proj": 3},
    )
    factors = {**factors_of(exported.checkpoint.folder, trained), HEAD: head_factors(exported)}
    file = folder / write_adapter(folder, "kitchen", factors, exported.folder, TARGET)
    tensors = with_factors(tensors_of(exported.folder), factors)
    return Adapted(exported, factors, file.parent, model_with(exported.checkpoint.folder, tensors))


def factors_of(checkpoint: Path, adapter: Path) -> AdapterFactors:
    """The matrices of PEFT's adapter for a checkpoint."""
    opened = open_checkpoint(checkpoint, id="base", revision="local")
    return low_rank_factors(opened, StrengthenedAdapter(Located(adapter.name, "local", adapter)))


def head_factors(exported: Exported) -> LowRankFactors:
    """A change of the head, with which PEFT would save the head's own weights."""
    architecture, random = exported.checkpoint.architecture, np.random.default_rng(0)
    rows, columns = architecture.tensor_shapes()[HEAD]
    left, right = (0.1 * random.standard_normal(shape) for shape in ((rows, 3), (3, columns)))
    return LowRankFactors(left.astype(np.float32), right.astype(np.float32))


def with_factors(tensors: Mapping[str, Floats], factors: AdapterFactors) -> dict[str, Floats]:
    products = {tensor_name(tensor): own.left @ own.right for tensor, own in factors.items()}
    return {name: tensor + products.get(name, np.float32(0)) for name, tensor in tensors.items()}


class TestLlmPipeline:
    @pytest.mark.parametrize("options", [{}, {"ATTENTION_BACKEND": "SDPA"}], ids=["default", "sdpa"])
    def test_switches_it_on_and_off(
        self, adapted: Adapted, options: dict[str, str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        adapter = openvino_genai.Adapter(str(adapted.folder / "adapter_model.safetensors"))
        on, off = openvino_genai.AdapterConfig(adapter, 1.0), openvino_genai.AdapterConfig()
        pipeline = openvino_genai.LLMPipeline(
            str(adapted.exported.folder), "CPU", adapters=on, **(ON_ANY_CPU | options)
        )
        for oracle, switch in ((adapted.oracle, on), (adapted.exported.oracle, off), (adapted.oracle, on)):
            config = openvino_genai.GenerationConfig(max_new_tokens=12, ignore_eos=True, do_sample=False)
            config.adapters = switch
            found = pipeline.generate(openvino.Tensor(np.array([PROMPT], np.int64)), config)
            check_answer(oracle, [int(token) for token in found.tokens[0]])
        assert (
            "unused" not in capfd.readouterr().err.lower()
        )  # it warns of what it does not find in the graph

    def test_it_matters(self, adapted: Adapted) -> None:
        expected, base = (
            expected_logits(oracle, PROMPT) for oracle in (adapted.oracle, adapted.exported.oracle)
        )
        assert mean_kl(base, expected) > 0.1


def check_answer(oracle: Any, answer: list[int]) -> None:
    """Every token is the most likely one, or as good as."""
    assert len(answer) == 12
    logits = expected_logits(oracle, [*PROMPT, *answer[:-1]])[len(PROMPT) - 1 :]
    for row, token in zip(logits, answer, strict=True):
        assert row.max() - row[token] < 0.02


def test_peft_reads_it(adapted: Adapted) -> None:
    base = model_with(adapted.exported.checkpoint.folder, tensors_of(adapted.exported.folder))
    model = peft.PeftModel.from_pretrained(base, adapted.folder).eval()
    with torch.no_grad():
        found = model(torch.tensor([PROMPT])).logits[0].numpy()
    assert mean_kl(expected_logits(adapted.oracle, PROMPT), found) < 5e-6  # rounding to float16
