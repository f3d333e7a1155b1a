"""The graphs of a model that sees: OpenVINO's own pipeline opens them, and what lies in them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgephi.build.seeing.image_plans import plan_image_tensors
from edgephi.build.tensor_plans import plan_tensors
from edgephi.bundle.image_tokens import ImageFacts, token_count
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointImageWeights, open_checkpoint
from edgephi.checkpoint.images.image_encoder import MATRICES, ImageEncoder
from edgephi.checkpoint.roles import EMBEDDING, Role
from edgephi.declared.recipe import ImagePrecision, Quant
from edgephi.export.openvino import exporter, image_encoder
from edgephi.export.stream.packed_tensor import row_count
from edgephi.export.tensor_names import tensor_name
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.runtime.images.encode import encode_image
from tests.export.openvino.artifacts import TARGET
from tests.export.openvino.oracle import ON_ANY_CPU, openvino, openvino_genai
from tests.export.openvino.weights import weights_of
from tests.export.oracle import Floats
from tests.export.vision_artifact import encoder_of
from tests.portable import portable
from tests.runtime.engines.seeing_behaviour import SomeImage, seeing_manifest
from tests.tiny_phi3_v import MEAN, STD, TinyVision, write_tiny_phi3_v

LANGUAGE, WORDS = "openvino_language_model", "openvino_text_embeddings_model"
ENCODER, PROJECTION = "openvino_vision_embeddings_model", "openvino_vision_projection_model"
AS_PUBLISHED = TinyVision(tile=336, image_hidden=1024, image_heads=16, image_layers=2, image_ffn=64)
"""What `VLMPipeline` takes for granted: tiles of 336 pixels, and 1,024 numbers for each patch."""


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact."""

    checkpoint: Checkpoint
    folder: Path
    quant: Quant
    errors: tuple[str, ...]

    @property
    def encoder(self) -> ImageEncoder:
        return encoder_of(self.checkpoint)


def export(folder: Path, shape: TinyVision, precision: ImagePrecision = "int8") -> Exported:
    checkpoint = open_checkpoint(write_tiny_phi3_v(folder / "tiny", shape), id="tiny", revision="local")
    quant = dataclasses.replace(portable(method="rtn", group_size=32), image_encoder=precision)
    artifact = folder / "bundle" / "model"
    artifact.mkdir(parents=True)
    plans = plan_tensors(checkpoint.architecture, quant)
    exporter.write_artifact(artifact, checkpoint, plans, TARGET, 4096)
    images = plan_image_tensors(encoder_of(checkpoint), quant)
    report = image_encoder.write(artifact, checkpoint, images, TARGET)
    return Exported(checkpoint, artifact, quant, tuple(error.name for error in report.errors))


@pytest.fixture(scope="module", params=["int8", "float16"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("exported"), TinyVision(), request.param)


def size(exported: Exported, *stems: str) -> int:
    return sum((exported.folder / f"{stem}.bin").stat().st_size for stem in stems)


class TestArtifact:
    def test_its_sizes_were_known(self, exported: Exported) -> None:
        architecture, quant = exported.checkpoint.architecture, exported.quant
        decoder = exporter.artifact_bytes(architecture, plan_tensors(architecture, quant), TARGET, 4096)
        assert decoder == size(exported, LANGUAGE, WORDS)
        plans = plan_image_tensors(exported.encoder, quant)
        assert image_encoder.data_bytes(exported.encoder, plans, TARGET) == size(
            exported, ENCODER, PROJECTION
        )

    def test_there_is_no_graph_of_a_model_of_texts(self, exported: Exported) -> None:
        graphs = {file.stem for file in exported.folder.glob("*.xml")}
        tokenizers = {"openvino_tokenizer", "openvino_detokenizer"}
        assert graphs == {LANGUAGE, WORDS, ENCODER, PROJECTION} | tokenizers

    def test_every_code_has_its_error_in_the_report(self, exported: Exported) -> None:
        plans = plan_image_tensors(exported.encoder, exported.quant)
        expected = {tensor_name(tensor) for tensor, plan in plans.items() if plan.scheme is not None}
        assert set(exported.errors) == expected
        assert len(expected) == len(exported.errors) == (10 if exported.quant.image_encoder == "int8" else 0)

    def test_our_reader_reads_what_openvino_reads(self, exported: Exported) -> None:
        theirs: dict[str, Floats] = {}
        for stem in (LANGUAGE, WORDS, ENCODER, PROJECTION):
            theirs |= weights_of(exported.folder, f"{stem}.xml")
        config = json.loads((exported.folder / "config.json").read_text())
        theirs["image_encoder.sub_GN"] = np.array(config["sub_GN"], np.float32)
        theirs["image_encoder.glb_GN"] = np.array(config["glb_GN"], np.float32)
        architecture = exported.checkpoint.architecture
        for ours, shapes in (
            (exporter.artifact_weights(exported.folder, architecture), architecture.tensor_shapes()),
            (image_encoder.weights(exported.folder, exported.encoder), exported.encoder.tensor_shapes()),
        ):
            for tensor, shape in shapes.items():
                count = row_count(shape)
                expected = theirs[tensor_name(tensor)].reshape(count, *shape[-1:][: len(shape) - 1])
                np.testing.assert_array_equal(ours.rows(tensor, 0, count), expected, strict=True)
                start, stop = count // 3, count // 2
                np.testing.assert_array_equal(ours.rows(tensor, start, stop), expected[start:stop])

    def test_it_is_the_checkpoint(self, exported: Exported) -> None:
        stored = image_encoder.weights(exported.folder, exported.encoder)
        original = CheckpointImageWeights(exported.checkpoint)
        for tensor, shape in exported.encoder.tensor_shapes().items():
            count = row_count(shape)
            wanted, found = (each.rows(tensor, 0, count) for each in (original, stored))
            error = float(((found - wanted) ** 2).sum() / (wanted**2).sum())
            codes = tensor.role in MATRICES and exported.quant.image_encoder == "int8"
            # Eight bits; or bfloat16, all of which float16 holds but for the smallest.
            assert 1e-8 < error < 1e-4 if codes else error < 1e-12, tensor

    def test_matrices_are_multiplied_as_they_are_stored(self, exported: Exported) -> None:
        for stem, count in ((ENCODER, 8), (PROJECTION, 2)):
            compiled = openvino.Core().compile_model(exported.folder / f"{stem}.xml", "CPU", ON_ANY_CPU)
            kinds = [
                [each.get_element_type().get_type_name() for each in node.inputs()]
                for node in compiled.get_runtime_model().get_ordered_ops()
                if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
            ]
            assert len(kinds) == count
            stored = "u8" if exported.quant.image_encoder == "int8" else "f16"
            assert {(first, second) for first, second, *_ in kinds} == {("f32", stored)}

    def test_a_tied_head_has_the_matrix_too(self, tmp_path: Path) -> None:
        exported = export(tmp_path, TinyVision())
        architecture = dataclasses.replace(exported.checkpoint.architecture, tied_embeddings=True)
        checkpoint = dataclasses.replace(exported.checkpoint, architecture=architecture)
        folder = tmp_path / "tied"
        folder.mkdir()
        plans = plan_tensors(architecture, exported.quant)
        sources = {key: own for key, own in checkpoint.sources.items() if key.role is not Role.HEAD}
        checkpoint = dataclasses.replace(checkpoint, sources=sources)
        exporter.write_artifact(folder, checkpoint, plans, TARGET, 4096)
        head = weights_of(folder, f"{LANGUAGE}.xml")["lm_head.weight"]
        words = weights_of(folder, f"{WORDS}.xml")[tensor_name(EMBEDDING)]
        np.testing.assert_array_equal(head, words, strict=True)


class TestVlmPipeline:
    """Where its way to cut an image is the model's: one tile, which needs no resizing."""

    @pytest.fixture(scope="class")
    @staticmethod
    def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
        shape = dataclasses.replace(AS_PUBLISHED, crops=1)
        return export(tmp_path_factory.mktemp("pipeline"), shape)

    @pytest.mark.parametrize("backend", ["SDPA", "PA"])
    def test_it_says_the_same(self, exported: Exported, backend: str) -> None:
        facts = exported.encoder.facts
        colours = np.random.default_rng(0).integers(0, 256, (336, 336, 3), np.uint8)
        answer, prompt_tokens = pipeline_answer(exported.folder, colours, backend)
        manifest = seeing_manifest("openvino", facts, 4096)
        engine = open_engine(exported.folder.parent, manifest, provider="cpu")
        before, after = (engine.encode(text) for text in ("hello ", "\n what is it"))
        ids = [*before, *image_ids(engine, colours, facts), *after]
        assert len(ids) == prompt_tokens
        assert greedy_answer(engine, ids, len(answer)) == answer


def pipeline_answer(folder: Path, colours: Any, backend: str) -> tuple[list[int], int]:
    """The tokens that it finds most likely about an image [height, width, 3], and those of its prompt."""
    pipeline = openvino_genai.VLMPipeline(str(folder), "CPU", ATTENTION_BACKEND=backend, **ON_ANY_CPU)
    config = openvino_genai.GenerationConfig(max_new_tokens=12, ignore_eos=True, do_sample=False)
    config.apply_chat_template = False
    found: list[int] = []
    result = pipeline.generate(
        "hello <|image_1|>\n what is it",
        images=[openvino.Tensor(colours[None])],
        generation_config=config,
        streamer=Listening(found),
    )
    return found, result.perf_metrics.get_num_input_tokens()


class Listening(openvino_genai.StreamerBase):  # type: ignore[misc]
    """Hears every token."""

    def __init__(self, found: list[int]) -> None:
        super().__init__()
        self._found = found

    def write(self, token: int | list[int]) -> Any:
        self._found += [token] if isinstance(token, int) else token
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


def image_ids(engine: Engine, colours: Any, facts: ImageFacts) -> list[int]:
    """The tokens of an image that is one tile, whose thumbnail is the same tile."""
    assert engine.image_rows is not None
    scaled = torch.from_numpy(colours).permute(2, 0, 1).float() / 255
    tile = (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    pixels = torch.stack([tile, tile]).numpy()
    image = SomeImage(pixels, (1, 1), token_count((1, 1), facts), "image")
    ids = list(engine.image_rows.place(image.key, image.tokens))
    assert list(encode_image(engine, image, facts)) == [1, 2]
    return ids


def greedy_answer(engine: Engine, ids: list[int], count: int) -> list[int]:
    cache = engine.open_cache(len(ids) + count)
    answer: list[int] = []
    for _ in range(count):
        list(cache.append(ids if not answer else answer[-1:]))
        answer.append(cache.next_greedy())
    return answer
