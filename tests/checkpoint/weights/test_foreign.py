"""Checkpoints that are no original language model are named as what they are, and no weight is read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.errors import BadCheckpointError, EdgephiError, NotSupportedError
from tests.tiny_checkpoint import TinyShape, tiny_weights, write_tiny_checkpoint

SMALL = TinyShape(layers=1, hidden=64, ffn=96)
QKV = "model.layers.0.self_attn.qkv_proj"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 7642159104\n"


def refused(folder: Path) -> EdgephiError:
    with pytest.raises(EdgephiError) as caught:
        open_checkpoint(folder, id="tiny", revision="local")
    assert "\n" not in caught.value.message
    return caught.value


def with_tensors(folder: Path, tensors: dict[str, NDArray[np.generic]], *, without: str = "") -> Path:
    """The checkpoint with some more tensors, and without one of its own."""
    kept = {name: array for name, array in tiny_weights(SMALL).items() if name != without}
    save_file({**kept, **tensors}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("method", "names", "dtype"),
    [
        ("GPTQ or AWQ", (f"{QKV}.qweight", f"{QKV}.qzeros", f"{QKV}.scales"), np.int32),
        ("bitsandbytes", (f"{QKV}.weight", f"{QKV}.weight.absmax", f"{QKV}.weight.quant_map"), np.uint8),
        ("compressed-tensors", (f"{QKV}.weight_packed", f"{QKV}.weight_shape"), np.int32),
        ("FP8", (f"{QKV}.weight", f"{QKV}.weight_scale_inv"), np.uint8),
        ("FP8", (f"{QKV}.weight", "model.layers.0.self_attn.k_scale"), np.uint8),
        ("HQQ", (f"{QKV}.W_q", f"{QKV}.meta"), np.uint8),
        ("MLX", (f"{QKV}.weight", f"{QKV}.scales", f"{QKV}.biases"), np.uint32),
    ],
)
def test_a_checkpoint_that_is_quantised_already(
    tiny: Path, method: str, names: tuple[str, ...], dtype: type[np.generic]
) -> None:
    tensors = {name: np.zeros((8, 8), dtype) for name in names}
    error = refused(with_tensors(tiny, tensors, without=f"{QKV}.weight"))
    assert isinstance(error, NotSupportedError)
    assert f"quantised already ({method})" in error.message
    assert error.hint == "give the original checkpoint: edgephi quantises it itself"


def test_a_type_of_eight_bits_says_so_itself(tiny: Path) -> None:
    file = tiny / "model.safetensors"
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    header.pop("__metadata__", None)
    end = 0
    for entry in header.values():
        entry["dtype"] = "F8_E4M3"
        size = int(np.prod(entry["shape"]))
        entry["data_offsets"] = [end, end + size]
        end += size
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(end))
    assert "quantised already (FP8)" in refused(tiny).message


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_its_config_may_say_so(tiny: Path, key: str) -> None:
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**config, key: {"bits": 4, "group_size": 64}}))
    assert f"{key}: expected original weights" in refused(tiny).message


@pytest.mark.parametrize("name", ["score.weight", "classifier.weight"])
def test_a_classifier(tiny: Path, name: str) -> None:
    error = refused(with_tensors(tiny, {name: np.zeros((2, 64), np.float32)}, without="lm_head.weight"))
    assert isinstance(error, NotSupportedError)
    assert f"found a classifier: its head is {name}" in error.message


def test_numbers_of_64_bits(tiny: Path) -> None:
    weights = {name: array.astype(np.float64) for name, array in tiny_weights(SMALL).items()}
    save_file(weights, tiny / "model.safetensors")
    error = refused(tiny)
    assert "expected one of BF16, F16, F32, found F64" in error.message
    assert "save the model in float32 or bfloat16" in (error.hint or "")


def test_a_gguf_file_only(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "model-q4.gguf")
    error = refused(tiny)
    assert "expected a checkpoint as transformers saves it, found model-q4.gguf" in error.message
    assert "give the original checkpoint" in (error.hint or "")


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    ],
)
def test_pointers_of_git_lfs(tiny: Path, name: str) -> None:
    (tiny / name).write_text(POINTER)
    error = refused(tiny)
    assert isinstance(error, BadCheckpointError)
    assert name in error.message
    assert "found Git LFS's pointer to it" in error.message
    assert "`git lfs pull`" in (error.hint or "")


def test_a_pad_token_of_minus_one_is_none(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**config, "pad_token_id": -1}))
    assert open_checkpoint(tiny, id="tiny", revision="local").architecture.pad_token_id is None


def test_a_short_file_is_no_pointer(tiny: Path) -> None:
    (tiny / "config.json").write_text("v")
    assert "expected JSON, found Expecting value" in refused(tiny).message


def test_the_tensors_of_an_adapter(tiny: Path) -> None:
    name = f"base_model.model.{QKV}.lora_A.weight"
    assert "found the tensors of an adapter" in refused(with_tensors(tiny, {name: np.ones((2, 2))})).message


@pytest.mark.parametrize("config", [False, True], ids=["without a config", "with one"])
@pytest.mark.parametrize(
    ("maker", "files"),
    [
        ("Mistral", ("consolidated.safetensors", "params.json", "tekken.json")),
        ("Mistral", ("consolidated-00001-of-00002.safetensors", "params.json", "tokenizer.model.v3")),
        ("Meta", ("consolidated.00.pth", "params.json", "tokenizer.model")),
    ],
)
def test_a_format_of_the_makers_own(tiny: Path, maker: str, files: tuple[str, ...], config: bool) -> None:
    for name in () if config else ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tiny / name).unlink()
    (tiny / "model.safetensors").unlink()
    for name in files:
        (tiny / name).write_bytes(b"{}")
    error = refused(tiny)
    assert error.message == (
        f"{tiny}: expected a checkpoint as transformers saves it, found {maker}'s own format: {files[0]}"
    )
    assert f"convert_{'mistral' if maker == 'Mistral' else 'llama'}_weights_to_hf.py" in (error.hint or "")


def test_a_format_of_the_makers_own_beside_the_checkpoint(tiny: Path) -> None:
    (tiny / "consolidated.safetensors").write_bytes(b"{}")
    open_checkpoint(tiny, id="tiny", revision="local")


@pytest.mark.parametrize("tied", [False, True], ids=["two matrices", "tied"])
def test_an_inner_model_as_transformers_saves_it(tmp_path: Path, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    whole = write_tiny_checkpoint(tmp_path / "whole", layers=1, hidden=64, ffn=96, tied=tied)
    transformers.AutoModel.from_pretrained(whole).save_pretrained(tmp_path / "inner")
    shutil.copy(whole / "tokenizer.json", tmp_path / "inner")
    error = refused(tmp_path / "inner")
    assert isinstance(error, NotSupportedError)
    assert "found the inner model alone, whose names have no 'model.' before them: embed_t" in error.message
    assert "AutoModelForCausalLM" in (error.hint or "")


@pytest.mark.parametrize("around", ["_orig_mod.", "module.", "base_model.model."])
def test_what_is_wrapped_around_a_model(tiny: Path, around: str) -> None:
    save_file({around + name: each for name, each in tiny_weights(SMALL).items()}, tiny / "model.safetensors")
    error = refused(tiny)
    assert isinstance(error, NotSupportedError)
    assert f"expected model.embed_tokens.weight, found {around}model.embed_tokens.weight" in error.message


def test_a_gguf_file_beside_what_a_trainer_leaves_behind(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "model.gguf")
    (tiny / "training_args.bin").write_bytes(b"x")
    assert "found model.gguf" in refused(tiny).message


@pytest.mark.parametrize("value", [{}, False, None])
def test_a_config_that_says_nothing_of_it_is_of_an_original(tiny: Path, value: object) -> None:
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**config, "quantization_config": value}))
    open_checkpoint(tiny, id="tiny", revision="local")
