"""The C functions of llama.cpp that we call, in the library that the `xllamacpp` wheel brings.

The wheel is a Python extension that holds all of llama.cpp and leaves its C interface visible, on Linux as on
macOS. Its own Python interface is llama.cpp's HTTP server, which opens a port even when it is only called
from Python, allocates its context once and for all, and gives no logits but a list of probabilities in JSON.
We call the C functions: no port, any context at any time, and the logits of every token.

Two structures are passed by value, and their later fields have moved from one release to the next. We set
only first fields, which have stood still since September 2026 (but for `load_mode`, since April), and look at
their defaults before anything is called. How long the structures are does not matter: a longer copy is passed
in the same way.

Source: `include/llama.h` and `ggml/include/ggml-backend.h` of llama.cpp.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgephi.commands import install_command, pip_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.llama_cpp import FACTS
from edgephi.errors import NotSupportedError
from edgephi.processes.uninterrupted import uninterrupted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

(PACKAGE,) = FACTS.packages

Token = c_int32

_WAITING = frozenset({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"})
_ERROR_LEVEL = 4  # of ggml's log
_CONTINUED_LEVEL = 5
READ_INTO_MEMORY = 0
"""A `load_mode` without a mapped file: the CPU repacks the weights, and a mapping would hold them twice."""


class ModelParameters(ctypes.Structure):
    """`llama_model_params`: its first fields, and more room than the others take."""

    _fields_: ClassVar = [
        ("devices", POINTER(c_void_p)),  # ends with a null pointer; a null pointer itself stands for all
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("others", c_int32 * 120),
    ]


class ContextParameters(ctypes.Structure):
    """`llama_context_params`: its first fields, and more room than the others take."""

    _fields_: ClassVar = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("others", c_int32 * 120),
    ]


class Batch(ctypes.Structure):
    """`llama_batch`: tokens to compute. Null positions: after those before; null sequences: the first one."""

    _fields_: ClassVar = [
        ("n_tokens", c_int32),
        ("token", POINTER(Token)),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", POINTER(c_int8)),  # which tokens' logits are wanted; a null pointer: the last one's
    ]


_LogCallback = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

# Result and arguments of every function. Models, contexts, vocabularies and the like are pointers that only
# llama.cpp looks into.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_backend_init": (None,),
    "llama_log_set": (None, c_void_p, c_void_p),
    "llama_model_default_params": (ModelParameters,),
    "llama_context_default_params": (ContextParameters,),
    "llama_model_load_from_file": (c_void_p, c_char_p, ModelParameters),
    "llama_model_free": (None, c_void_p),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_model_meta_val_str": (c_int32, c_void_p, c_char_p, c_char_p, c_size_t),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
    "llama_adapter_lora_init": (c_void_p, c_void_p, c_char_p),
    "llama_set_adapters_lora": (c_int32, c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)),
    "llama_init_from_model": (c_void_p, c_void_p, ContextParameters),
    "llama_free": (None, c_void_p),
    "llama_n_ctx": (c_uint32, c_void_p),
    "llama_set_n_threads": (None, c_void_p, c_int32, c_int32),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_memory_seq_rm": (c_bool, c_void_p, c_int32, c_int32, c_int32),
    "llama_memory_seq_cp": (None, c_void_p, c_int32, c_int32, c_int32, c_int32),
    "llama_state_seq_get_size": (c_size_t, c_void_p, c_int32),
    "llama_state_seq_get_data": (c_size_t, c_void_p, c_void_p, c_size_t, c_int32),
    "llama_state_seq_set_data": (c_size_t, c_void_p, c_void_p, c_size_t, c_int32),
    "llama_batch_get_one": (Batch, POINTER(Token), c_int32),
    "llama_decode": (c_int32, c_void_p, Batch),
    "llama_get_logits_ith": (POINTER(c_float), c_void_p, c_int32),
    "llama_sampler_init_greedy": (c_void_p,),
    "llama_sampler_sample": (Token, c_void_p, c_void_p, c_int32),
    "llama_sampler_free": (None, c_void_p),
    "llama_max_devices": (c_size_t,),
    "ggml_backend_dev_count": (c_size_t,),
    "ggml_backend_dev_get": (c_void_p, c_size_t),
    "ggml_backend_dev_backend_reg": (c_void_p, c_void_p),
    "ggml_backend_reg_name": (c_char_p, c_void_p),
}


@functools.cache
def load_library() -> ctypes.CDLL:
    """The library with its functions declared, found to be laid out as we know it, and quiet.

    Raises NotSupportedError when the wheel is missing, is not for this machine, or is laid out otherwise.
    """
    package = util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise NotSupportedError(
            f"this bundle runs on llama.cpp, and its wheel {PACKAGE} is not installed",
            hint=install_command("gguf"),
        )
    version = installed_version(FACTS)
    files = sorted(Path(package.submodule_search_locations[0]).glob(f"{PACKAGE}*.so"))
    _let_threads_wait()
    try:
        library = ctypes.CDLL(str(files[0]))
    except (OSError, IndexError) as cause:
        raise NotSupportedError(
            f"this bundle runs on llama.cpp, and {PACKAGE} {version} cannot be loaded: {cause}",
            hint=pip_command("install", "--force-reinstall", f"{PACKAGE}=={version}"),
        ) from None
    for name, (result, *arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise _unknown_layout(f"no function {name}") from None
        function.restype, function.argtypes = result, arguments
    _check_layout(library)
    # A function that ignores its arguments and does nothing: a callback that Python need not answer.
    library.llama_log_set(ctypes.cast(library.llama_max_devices, c_void_p), None)
    library.llama_backend_init()
    return library


def _let_threads_wait() -> None:
    """Have OpenMP's threads sleep when they have waited for others a moment, unless the user says otherwise.

    They meet after every operation, hundreds of times a token. Where another program has one of the cores,
    GNU's library lets the others turn in place for a time slice at each of these, and a token takes a hundred
    times as long. It reads its settings when it is loaded. Source: "GOMP_SPINCOUNT" in the manual of GNU
    libgomp, whose own number for more threads than cores this is.
    """
    if not _WAITING.intersection(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _check_layout(library: ctypes.CDLL) -> None:
    """Hold the defaults of the structures, and what a function makes of one, against what we know."""
    context = library.llama_context_default_params()
    found = (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max)
    if found != (512, 2048, 512, 1):
        raise _unknown_layout(f"other defaults of a context: {found}")
    model = library.llama_model_default_params()
    chosen = (
        bool(model.devices),
        model.tensor_buft_overrides,
        model.n_gpu_layers,
        model.split_mode,
        model.load_mode,
    )
    if chosen != (False, None, -1, 1, -1):  # all devices, all layers, split by layers, the best way to load
        raise _unknown_layout(f"other defaults of a model: {chosen}")
    tokens = (Token * 3)(5, 6, 7)
    batch = library.llama_batch_get_one(tokens, 3)
    others = (batch.embd, batch.pos, batch.n_seq_id, batch.seq_id, bool(batch.logits))
    if batch.n_tokens != 3 or batch.token[:3] != [5, 6, 7] or any(others):
        raise _unknown_layout("another kind of batch")


def _unknown_layout(found: str) -> NotSupportedError:
    return NotSupportedError(
        f"expected the C interface of llama.cpp as of 2026, found {found} "
        f"in {PACKAGE} {installed_version(FACTS)}",
        hint=f"`{install_command('gguf')}` brings a version that this edgephi knows",
    )


@contextlib.contextmanager
def collected_errors(library: ctypes.CDLL) -> Iterator[list[str]]:
    """A list that gets llama.cpp's error messages until the block ends; nothing is printed."""
    messages: list[str] = []
    level = 0

    @uninterrupted  # an exception that comes out of here, C does not hand on
    def take(new_level: int, text: bytes, _data: object) -> None:
        nonlocal level
        level = level if new_level == _CONTINUED_LEVEL else new_level
        if level >= _ERROR_LEVEL:
            messages.append(" ".join(text.decode(errors="replace").split()))

    callback = _LogCallback(take)
    library.llama_log_set(ctypes.cast(callback, c_void_p), None)
    try:
        yield messages
    finally:
        library.llama_log_set(ctypes.cast(library.llama_max_devices, c_void_p), None)


def devices(library: ctypes.CDLL) -> list[tuple[str, int]]:
    """Every device that the wheel can use here: its back end's name in lower case, and a handle."""
    handles = [library.ggml_backend_dev_get(index) for index in range(library.ggml_backend_dev_count())]
    names = [library.ggml_backend_reg_name(library.ggml_backend_dev_backend_reg(each)) for each in handles]
    return [(name.decode().lower(), handle) for name, handle in zip(names, handles, strict=True)]


def token_array(token_ids: Sequence[int]) -> ctypes.Array[c_int32]:
    """Tokens as llama.cpp takes them."""
    return (Token * len(token_ids))(*token_ids)


def float_rows(rows: int, width: int) -> NDArray[np.float32]:
    """An array for logits, float32 [rows, width], not filled yet. Only this and what fills it need NumPy."""
    import numpy as np

    return np.empty((rows, width), np.float32)


def copy_floats(source: Any, row: NDArray[np.float32]) -> None:
    """Fill one row, float32 [width], from a pointer to as many numbers."""
    import numpy as np

    np.copyto(row, np.ctypeslib.as_array(source, row.shape))
