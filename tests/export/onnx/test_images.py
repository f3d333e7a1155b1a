"""A model that sees in ONNX: the encoder, the engine's own pipeline, and the decoder as edgephi runs it."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai
import pytest
from onnx import numpy_helper

from edgephi.build.seeing.image_plans import plan_image_tensors
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.checkpoint.images.image_encoder import MATRICES
from edgephi.declared.target import Kernels, read_target
from edgephi.engines.onnxruntime_genai import IMAGE_ROWS_INPUT, TOLD_LENGTH_INPUT
from edgephi.export.onnx import exporter, image_encoder
from edgephi.export.stream.packed_tensor import row_count
from edgephi.export.tensor_names import tensor_name
from tests.export.onnx.artifacts import FLOAT32, INT8, Floats, divergences
from tests.export.vision_artifact import Grid, encoder_of, oracle_with, ordered, some_tiles
from tests.portable import portable
from tests.tiny_phi3_v import write_tiny_phi3_v
from tests.vision_oracle import VisionOracle

ImageQuant = Literal["int8", "float16"]
EXACT, ROUNDED = 1e-8, 1e-3
"""Nats: with float32 activations, and with those of 8 bits."""
CONTEXT = 8192


@dataclass(frozen=True)
class Seeing:
    """An artifact with an image encoder, and the oracle with its weights."""

    checkpoint: Checkpoint
    folder: Path
    oracle: VisionOracle

    @cached_property
    def tiles(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(self.folder / "tile.onnx", options)

    def pixels(self, grid: Grid, *, seed: int = 0) -> Floats:
        return some_tiles(encoder_of(self.checkpoint), grid, seed=seed)

    def images(self, grids: Sequence[Grid]) -> tuple[list[Floats], list[Floats]]:
        """Their pixels, and the tokens that the oracle makes of them."""
        pixels = [self.pixels(grid, seed=seed) for seed, grid in enumerate(grids)]
        pairs = zip(pixels, grids, strict=True)
        return pixels, [self.oracle.image(tiles, grid).numpy() for tiles, grid in pairs]


def export(folder: Path, kernels: Kernels, image_quant: ImageQuant, **shape: Any) -> Seeing:
    tiny = write_tiny_phi3_v(folder / "checkpoint", **shape)
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    quant = dataclasses.replace(portable(group_size=32), image_encoder=image_quant)
    target = dataclasses.replace(read_target("cpu"), kernels=kernels)
    encoder, architecture = encoder_of(checkpoint), checkpoint.architecture
    image_plans = plan_image_tensors(encoder, quant)
    artifact = folder / "artifact"
    artifact.mkdir()
    exporter.write_artifact(artifact, checkpoint, plan_tensors(architecture, quant), target, CONTEXT)
    report = image_encoder.write(artifact, checkpoint, image_plans, target)
    assert 0 <= image_encoder.data_bytes(encoder, image_plans, target) - report.data_size < 64
    assert not report.input_sha256
    oracle = oracle_with(
        checkpoint,
        exporter.artifact_weights(artifact, architecture),
        image_encoder.weights(artifact, encoder),
        folder / "dequantised",
    )
    return Seeing(checkpoint, artifact, oracle)


Exports = Callable[[Kernels, ImageQuant], Seeing]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Each kind of artifact, exported once."""
    made: dict[tuple[Kernels, ImageQuant], Seeing] = {}

    def get(kernels: Kernels, image_quant: ImageQuant) -> Seeing:
        key = (kernels, image_quant)
        if key not in made:
            made[key] = export(tmp_path_factory.mktemp("sees"), *key)
        return made[key]

    return get


@pytest.fixture
def exact(exports: Exports) -> Seeing:
    return exports(FLOAT32, "int8")


@pytest.mark.parametrize("image_quant", ["int8", "float16"])
class TestEncoder:
    def test_tiles_are_what_transformers_makes_of_them(
        self, exports: Exports, image_quant: ImageQuant
    ) -> None:
        seeing, grid = exports(FLOAT32, image_quant), (2, 2)
        pixels = seeing.pixels(grid)
        [rows] = seeing.tiles.run(["rows"], {"pixel_values": pixels})
        expected = seeing.oracle.image(pixels, grid).numpy()
        np.testing.assert_allclose(ordered(rows, grid, encoder_of(seeing.checkpoint)), expected, atol=3e-5)
        alone = [seeing.tiles.run(["rows"], {"pixel_values": tile[None]})[0] for tile in pixels]
        one_by_one = np.concatenate([alone[0][:2], *(each[2:] for each in alone)])
        np.testing.assert_allclose(one_by_one, rows, atol=1e-5)

    def test_weights_are_read_as_the_onnx_library_does(
        self, exports: Exports, image_quant: ImageQuant
    ) -> None:
        seeing = exports(FLOAT32, image_quant)
        encoder = encoder_of(seeing.checkpoint)
        ours = image_encoder.weights(seeing.folder, encoder)
        graph = onnx.load(seeing.folder / "tile.onnx").graph  # with its external data
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for tensor, shape in encoder.tensor_shapes().items():
            name, rows = tensor_name(tensor), row_count(shape)
            if f"{name}.codes" in stored:
                codes = stored[f"{name}.codes"].astype(np.float32) - 128  # [rows, groups, 32]
                scales = stored[f"{name}.scales"].reshape(rows, -1, 1)
                expected = (codes * scales).reshape(rows, -1)
            else:
                expected = stored[name].astype(np.float32).reshape(rows, *shape[1:][-1:])
            np.testing.assert_array_equal(ours.rows(tensor, 0, rows), expected, strict=True)
            middle = slice(rows // 3, rows // 2 + 1)
            np.testing.assert_array_equal(
                ours.rows(tensor, middle.start, middle.stop), expected[middle], strict=True
            )

    def test_matrices_are_as_the_recipe_says(self, exports: Exports, image_quant: ImageQuant) -> None:
        graph = onnx.load(exports(FLOAT32, image_quant).folder / "tile.onnx", load_external_data=False).graph
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        encoder = encoder_of(exports(FLOAT32, image_quant).checkpoint)
        expected = {"int8": onnx.TensorProto.UINT8, "float16": onnx.TensorProto.FLOAT16}[image_quant]
        suffix = ".codes" if image_quant == "int8" else ""
        for tensor in encoder.tensor_shapes():
            if tensor.role in MATRICES:
                assert kinds[f"{tensor_name(tensor)}{suffix}"] == expected
            else:
                assert kinds[tensor_name(tensor)] == onnx.TensorProto.FLOAT

    def test_rounded_activations_lose_little(self, exports: Exports, image_quant: ImageQuant) -> None:
        seeing, grid = exports(INT8, image_quant), (1, 2)
        pixels = seeing.pixels(grid)
        [rows] = seeing.tiles.run(["rows"], {"pixel_values": pixels})
        expected = seeing.oracle.image(pixels, grid).numpy()
        difference = ordered(rows, grid, encoder_of(seeing.checkpoint)) - expected
        assert np.linalg.norm(difference) <= 0.03 * np.linalg.norm(expected)


def test_float16_weights_become_float32_one_matrix_after_the_other(exports: Exports) -> None:
    """What is converted waits for the state that it is multiplied with, and is not in memory before."""
    graph = onnx.load(exports(FLOAT32, "float16").folder / "tile.onnx", load_external_data=False).graph
    made_by = {output: node for node in graph.node for output in node.output}
    matrices = [node for node in graph.node if node.op_type == "FusedMatMul"]
    assert len(matrices) == 4 * 2 + 2

    def needs(value: str) -> set[str]:
        node = made_by.get(value)
        return {value} | {each for part in (node.input if node else ()) for each in needs(part)}

    for node in matrices:
        state, weights = node.input
        assert state in needs(weights)


@pytest.mark.parametrize(
    "grids",
    [[(2, 2)], [(2, 2), (1, 3)], [(4, 1), (1, 1), (2, 1)], [(4, 4)], [(1, 16), (3, 5)]],
    ids=lambda grids: " and ".join(f"{rows}x{columns}" for rows, columns in grids),
)
def test_images_are_in_the_order_of_the_device(exact: Seeing, grids: list[Grid]) -> None:
    """The graph of whole images computes what `row_order` says, padding or not."""
    pixels, expected = exact.images(grids)
    session = onnxruntime.InferenceSession(exact.folder / "vision.onnx")
    for filler in (0, 2):
        together, sizes = padded(exact, pixels, grids, filler=filler)
        [found] = session.run(None, {"pixel_values": together, "image_sizes": sizes})
        np.testing.assert_allclose(found, np.concatenate(expected), atol=3e-5)


def padded(
    seeing: Seeing, pixels: Sequence[Floats], grids: Sequence[Grid], *, filler: int = 0
) -> tuple[Floats, Any]:
    """Images as the engine's pipeline takes them: as many tiles for each, and their sizes in pixels."""
    encoder = encoder_of(seeing.checkpoint)
    together = np.zeros(
        (len(pixels), max(map(len, pixels)) + filler, 3, encoder.tile, encoder.tile), np.float32
    )
    for place, tiles in enumerate(pixels):
        together[place, : len(tiles)] = tiles
    return together, np.array(grids, np.int64) * encoder.tile


def spread_over(images: Sequence[Floats]) -> tuple[list[int], list[int]]:
    """A prompt with images: as edgephi has it, each token its own id, and as the engine has it."""
    ours, theirs, first = [1, 20, 21], [1, 20, 21], -1
    for number, tokens in enumerate(images, 1):
        ours += [*range(first, first - len(tokens), -1), 30 + number]
        theirs += [-number] * len(tokens) + [30 + number]
        first -= len(tokens)
    return [*ours, 40, 41], [*theirs, 40, 41]


ANSWER = [50, 51, 52, 7]
GRIDS: list[Grid] = [(2, 2), (1, 3)]


class TestEnginesOwnPipeline:
    """The folder opened as it is, with pixels that we prepared."""

    @pytest.mark.parametrize(
        ("kernels", "image_quant", "limit"),
        [(FLOAT32, "int8", EXACT), (FLOAT32, "float16", EXACT), (INT8, "int8", ROUNDED)],
    )
    @pytest.mark.parametrize("grids", [GRIDS, [(4, 4)]], ids=["two images", "16 crops"])
    def test_it_says_what_transformers_says(
        self,
        exports: Exports,
        grids: list[Grid],
        kernels: Kernels,
        image_quant: ImageQuant,
        limit: float,
    ) -> None:
        seeing = exports(kernels, image_quant)
        pixels, images = seeing.images(grids)
        ours, theirs = spread_over(images)
        expected = seeing.oracle.logits([*ours, *ANSWER], np.concatenate(images)).numpy()
        tensors = onnxruntime_genai.NamedTensors()
        together, sizes = padded(seeing, pixels, grids)
        tensors["input_ids"] = np.array([theirs], np.int32)
        tensors["pixel_values"], tensors["image_sizes"] = together, sizes
        tensors["num_image_tokens"] = np.array(list(map(len, images)), np.int64)
        model = onnxruntime_genai.Model(str(seeing.folder))
        assert model.type == "phi3v"
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ours) + len(ANSWER))
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.set_inputs(tensors)
        prompt = generator.get_output("logits")[0].copy()
        generator.append_tokens(ANSWER)
        found = np.concatenate([prompt, generator.get_output("logits")[0]])
        assert divergences(expected, found).mean() <= limit

    def test_its_configuration(self, exact: Seeing) -> None:
        config = json.loads((exact.folder / "genai_config.json").read_text())
        assert config["model"]["type"] == "phi3v"
        assert config["model"]["context_length"] == CONTEXT
        # It does not change LongRoPE's factors on the way.
        assert config["search"]["max_length"] == 4096
        processor = json.loads((exact.folder / "processor_config.json").read_text())["processor"]
        assert processor["transforms"][-1]["operation"]["attrs"] == {"num_crops": 4, "num_img_tokens": 4}

    def test_its_processor_reads_what_is_there_for_it(self, exact: Seeing) -> None:
        model = onnxruntime_genai.Model(str(exact.folder))
        model.create_multimodal_processor()


class TestDecoderOfIdsAndRows:
    """The graph that edgephi's runtime opens: a plain decoder that reads rows for ids below 0."""

    def generator(self, seeing: Seeing, length: int, rows: Floats) -> Any:
        config = onnxruntime_genai.Config(str(seeing.folder))
        inputs = {"input_ids": "input_ids"}
        plain = {"type": "llama", "decoder": {"filename": "image_rows.onnx", "inputs": inputs}}
        config.overlay(json.dumps({"model": {**plain, "embedding": {"filename": ""}}}))
        model = onnxruntime_genai.Model(config)
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=length)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.set_model_input(IMAGE_ROWS_INPUT, rows)
        self.told = np.zeros(1, np.int64)
        generator.set_model_input(TOLD_LENGTH_INPUT, self.told)
        return generator

    @pytest.mark.parametrize("piece", [1, 7, 500])
    def test_it_says_what_transformers_says(self, exact: Seeing, piece: int) -> None:
        _, images = exact.images(GRIDS)
        table = np.concatenate(images)
        ids = [*spread_over(images)[0], *ANSWER]
        rows = np.zeros((piece, table.shape[1]), np.float32)
        generator, found = self.generator(exact, len(ids), rows), []
        for start in range(0, len(ids), piece):
            part = ids[start : start + piece]
            seen = [-1 - each for each in part if each < 0]
            rows[: len(seen)] = table[seen]
            numbers = iter(range(-1, -1 - len(seen), -1))
            generator.append_tokens([next(numbers) if each < 0 else each for each in part])
            found.append(generator.get_output("logits")[0].copy())
        expected = exact.oracle.logits(ids, table).numpy()
        assert divergences(expected, np.concatenate(found)).mean() <= EXACT

    def test_it_holds_every_weight(self, exact: Seeing) -> None:
        graph = onnx.load(exact.folder / "image_rows.onnx", load_external_data=False).graph
        names = {tensor.name.removesuffix(".codes") for tensor in graph.initializer}
        shapes = exact.checkpoint.architecture.tensor_shapes()
        assert {tensor_name(tensor) for tensor in shapes} <= names


def test_float16_activations_are_those_of_float16(tmp_path: Path) -> None:
    """For CUDA: pixels and rows come in float32, and what is computed has the type of the decoder."""
    seeing = export(tmp_path, Kernels(0, "float16"), "int8")
    for name in ("tile.onnx", "vision.onnx", "embedding.onnx"):
        onnx.checker.check_model(seeing.folder / name)  # with the shapes and types of its data
        graph = onnx.load(seeing.folder / name, load_external_data=False).graph
        kinds = {tensor.data_type for tensor in graph.initializer}
        assert onnx.TensorProto.FLOAT16 in kinds
        assert onnx.TensorProto.FLOAT not in kinds
