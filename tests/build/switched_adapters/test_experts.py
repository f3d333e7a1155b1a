"""Adapters beside a mixture of experts: for its attention, which every engine holds in its own way."""

from pathlib import Path

import pytest

from edgephi.build.switched_adapters.build_adapters import build_adapters
from edgephi.build.switched_adapters.request import AdaptersRequest, NamedAdapter
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.checkpoint.adapter.low_rank_factors import low_rank_factors
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.locate import locate
from edgephi.errors import NotSupportedError
from edgephi.steps import silent
from tests.checkpoint.adapter.peft_adapter import save_adapter
from tests.demo.moe_demo import MOE_DEMO, build_moe_demo


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that PEFT saved, for query, value and output."""
    folder = tmp_path_factory.mktemp("attentive")
    return save_adapter(MOE_DEMO, folder, target_modules=["q_proj", "v_proj", "o_proj"])


@pytest.mark.parametrize(("target", "most"), [("cpu", 2e-2), ("openvino", 2e-3), ("mlx", 1e-3)])
def test_engines_compute_it_as_the_reference_does(
    tmp_path: Path, attentive: Path, target: str, most: float
) -> None:
    """The CPU's kernels round activations to 8 bits; the others compute in floats."""
    build_moe_demo(target, tmp_path / "base", verify="off")
    named = (NamedAdapter("attentive", *locate_adapters([str(attentive)])),)
    request = AdaptersRequest(tmp_path / "base", named, tmp_path / "adapters")
    (adapter,) = build_adapters(request, locate(str(MOE_DEMO)), silent).manifest.adapters
    assert adapter.certificate.export_error is not None
    assert adapter.certificate.export_error.kl_mean < most


def test_beside_a_routing_that_was_accepted(tmp_path: Path, attentive: Path) -> None:
    """llama.cpp's graph has the adapter too, and nothing but its routing is further from the reference."""
    manifest = build_moe_demo("gguf", tmp_path / "base", accept_wrong_routing=True).manifest
    named = (NamedAdapter("attentive", *locate_adapters([str(attentive)])),)
    request = AdaptersRequest(tmp_path / "base", named, tmp_path / "adapters")
    (adapter,) = build_adapters(request, locate(str(MOE_DEMO)), silent).manifest.adapters
    assert adapter.certificate.export_error is not None
    assert manifest.certificate.export_error is not None
    assert adapter.certificate.export_error.kl_mean < 3 * manifest.certificate.export_error.kl_mean


def test_a_change_of_the_router_can_be_merged_only(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(MOE_DEMO, id="demo", revision="")
    router = save_adapter(MOE_DEMO, tmp_path / "router", target_modules=["router"])
    (adapter,) = locate_adapters([str(router)])
    with pytest.raises(NotSupportedError, match="mixture of experts"):
        low_rank_factors(checkpoint, adapter)
