"""What a certificate says of a bundle that sees: encoder and decoder, each against the reference."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi.build.build import build
from edgephi.build.gate import check_gate
from edgephi.build.request import BuildRequest
from edgephi.build.seeing.proof import certify_images, seen_passages
from edgephi.bundle.certificate import ImageProof
from edgephi.bundle.image_tokens import ImageFacts, token_count
from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.checkpoint.locate import locate
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import QualityGateError
from edgephi.reference.pictures.evaluation_pictures import evaluation_pictures
from edgephi.steps import silent
from tests.build.conftest import Here
from tests.tiny_phi3_v import write_tiny_phi3_v

RECIPE = """
name = "sees"
summary = "A tiny model that sees"
[gate]
answers = false
quantisation_loss_kl = 10
end_to_end_kl = 10
"""


@dataclasses.dataclass(frozen=True)
class Made:
    checkpoint: Checkpoint
    bundle: Path
    manifest: Manifest

    @property
    def facts(self) -> ImageFacts:
        facts = self.manifest.model.images
        assert facts is not None
        return facts

    def measured(self, **options: Any) -> ImageProof:
        given: dict[str, Any] = {"level": "quick", "domain": "general", "step": silent, **options}
        return certify_images(self.checkpoint, self.bundle, self.manifest, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("sees")
    write_tiny_phi3_v(folder / "checkpoint")
    (folder / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(str(folder / "recipe.toml"))
    request = BuildRequest(str(folder / "checkpoint"), read_target("cpu"), recipe, folder / "bundle")
    build(request, locate(request.model, revision=None, progress=False), silent)
    checkpoint = open_checkpoint(folder / "checkpoint", id="x", revision="local")
    return Made(checkpoint, request.output, read_manifest(request.output))


def test_the_bundle_carries_the_proof(made: Made) -> None:
    proof = made.manifest.certificate.images
    assert proof is not None
    assert proof.pictures == 3
    assert proof.sizes == ("448x336", "640x200", "700x900")
    assert proof.export_error.kl_mean < 1e-3
    assert proof.encoder_error < 1e-3
    assert 1e-5 < proof.encoder_loss < 1e-3
    assert proof.quantisation_loss.kl_mean < proof.end_to_end.kl_mean * 1.1


def test_measuring_again_gives_the_same(made: Made) -> None:
    assert made.measured() == made.manifest.certificate.images


def test_the_full_level_has_more_pictures_with_larger_grids(made: Made) -> None:
    quick, full = (
        seen_passages(made.checkpoint, made.manifest, evaluation_pictures(level), made.facts)
        for level in ("quick", "full")
    )
    assert [passage.image.grid for passage in quick] == [(1, 1), (1, 2), (1, 1)]
    assert [passage.image.grid for passage in full] == [(2, 2), (1, 3), (3, 1), (2, 2), (2, 2), (2, 2)]


def test_only_text_behind_a_picture_is_counted(made: Made) -> None:
    passages = seen_passages(made.checkpoint, made.manifest, evaluation_pictures("quick"), made.facts)
    assert all(id_ >= 0 for passage in passages for id_ in passage.ids[passage.first :])
    assert all(passage.ids[passage.first - 1] < 0 for passage in passages)
    assert sum(len(passage.ids) - passage.first for passage in passages) == made.measured().tokens
    for passage in passages:
        seen = [id_ for id_ in passage.ids if id_ < 0]
        assert len(seen) == token_count(passage.image.grid, made.facts) == len(set(seen))


def test_a_context_that_a_picture_does_not_fit_into_goes_without_it(made: Made) -> None:
    small = dataclasses.replace(made.manifest, limits=dataclasses.replace(made.manifest.limits, context=100))
    passages = seen_passages(made.checkpoint, small, evaluation_pictures("full"), made.facts)
    assert all(len(passage.ids) < 100 for passage in passages)


def damaged(made: Made, folder: Path, name: str) -> Made:
    """The bundle with a checkpoint whose tensor of that name has other numbers."""
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    write_tiny_phi3_v(folder)
    state = {key: each.float().numpy() for key, each in load_file(folder / "model.safetensors").items()}
    random = np.random.default_rng(0)
    state[name] = state[name] + random.standard_normal(state[name].shape, dtype=np.float32)
    save_file(state, folder / "model.safetensors")
    return dataclasses.replace(made, checkpoint=open_checkpoint(folder, id="x", revision="local"))


def test_a_bundle_of_another_encoder_is_told(made: Made, tmp_path: Path) -> None:
    """The engine does what its own weights say: what is lost is the encoder's, and all behind it."""
    prefix = "model.vision_embed_tokens.img_processor.vision_model.encoder.layers.0."
    other = damaged(made, tmp_path / "other", f"{prefix}self_attn.q_proj.weight").measured()
    own = made.measured()
    assert other.export_error == own.export_error
    assert other.encoder_loss > 100 * own.encoder_loss
    assert other.quantisation_loss.kl_mean > 1.2 * own.quantisation_loss.kl_mean


def test_the_gate_holds_pictures_against_its_limits(made: Made) -> None:
    certificate = made.manifest.certificate
    gate = certificate.gate
    assert gate is not None and certificate.images is not None
    check_gate(certificate, gate)
    bad = dataclasses.replace(certificate.images.export_error, kl_mean=0.5)
    seen_wrongly = dataclasses.replace(
        certificate, images=dataclasses.replace(certificate.images, export_error=bad)
    )
    with pytest.raises(QualityGateError, match=r"export error with images: mean KL 0.5 is above .* 0.02"):
        check_gate(seen_wrongly, gate)


def test_people_and_scripts_are_told(made: Made, here: Here) -> None:
    shown = here("inspect", made.bundle)
    assert "with images" in shown.stdout
    assert "image encoder, quantisation loss" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    told = json.loads(here("inspect", made.bundle, "--json").stdout)
    assert told["certificate"]["images"]["pictures"] == 3
    assert told["model"]["images"]["tile"] == 56
