"""A context of llama.cpp: the keys and values of one sequence, and the logits of what was computed last.

llama.cpp has no sliding window for Phi-3, so here a token that has left the window is taken out of what the
next one sees. The last ones that left stay in the same context for a while, in another sequence, and come
back when the text is rewound by a few tokens. Both are marks on the cells of the cache; nothing is copied.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Never, TypeVar

from edgephi.commands import edgephi_command, install_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.llama_cpp import CACHE_STEP, FACTS, KEPT_PAST_WINDOW
from edgephi.errors import BadBundleError, DoesNotFitError, NotSupportedError
from edgephi.runtime.engines.llama_cpp.library import (
    PACKAGE,
    Batch,
    collected_errors,
    copy_floats,
    token_array,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.images.rows import ImageRows

_SEEN, _OUT_OF_SIGHT = 0, 1  # the two sequences
_HINT = f"copy the bundle again and check it with `{edgephi_command('verify')}`"

Owner = TypeVar("Owner")


class LlamaContext:
    """A context for `tokens` tokens of a model, whose memory llama.cpp takes and fills at once.

    `window` is how many tokens each one sees, itself included; 0 for all of them. With one, the context has
    room for little more than that, unless `whole`. `batch` is the most that are computed in one call.
    All is computed with `adapter`, an opened one, or without any. Tokens below 0 are those of `images`.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        model: int,
        *,
        tokens: int,
        window: int,
        batch: int,
        whole: bool,
        adapter: int | None = None,
        images: ImageRows | None = None,
    ) -> None:
        if window and not whole:
            tokens = min(tokens, window + KEPT_PAST_WINDOW)
        self._library = library
        self._model = model
        self._tokens = tokens
        self._window = window
        self._batch = batch
        self._adapter = adapter
        self._images = images
        self._gone = self._out_of_sight = 0  # the first so many tokens, and the first so many with those
        parameters = library.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_batch = parameters.n_ubatch = batch
        with collected_errors(library) as errors:
            pointer: int | None = library.llama_init_from_model(model, parameters)
        if not pointer:
            refuse(f"expected a KV cache for {tokens} tokens", errors)
        self.pointer = pointer
        self.free = finalizer(self, library.llama_free, pointer)
        self._memory = library.llama_get_memory(pointer)
        allocated = library.llama_n_ctx(pointer)
        if not tokens <= allocated < tokens + CACHE_STEP:
            raise NotSupportedError(
                f"expected {PACKAGE} {installed_version(FACTS)} to allocate {tokens} tokens, "
                f"found {allocated}",
                hint=f"`{install_command('gguf')}` brings a version that this edgephi knows",
            )
        if adapter is not None:
            one, strength = (ctypes.c_void_p * 1)(adapter), (ctypes.c_float * 1)(1.0)
            if library.llama_set_adapters_lora(pointer, one, 1, strength):
                refuse("expected to switch an adapter on", [])
        threads = computing_threads()
        library.llama_set_n_threads(pointer, threads, threads)

    def piece_size(self, past: int) -> int:
        """How many tokens may be computed at once after `past`.

        All tokens of a call see the same cache: once the window moves, that is right for one of them only.
        """
        return min(self._batch, max(self._window - past, 1)) if self._window else self._batch

    def compute(self, tokens: Sequence[int], past: int, *, all_logits: bool = False) -> None:
        """Put `tokens` after the first `past`, and compute the logits of the last one or of each.

        Those of each only where all tokens are words, or none: see `runs`.
        """
        for end in list(runs(tokens)):
            self._compute_run(tokens[:end], past, all_logits=all_logits)
            tokens, past = tokens[end:], past + end

    def _compute_run(self, tokens: Sequence[int], past: int, *, all_logits: bool) -> None:
        library, count = self._library, len(tokens)
        if self._window:
            oldest = past + count - self._window  # the first one that the last of them sees
            if oldest > self._out_of_sight:
                self._move(_SEEN, _OUT_OF_SIGHT, self._out_of_sight, oldest)
                self._out_of_sight = oldest
                self._gone = max(self._gone, oldest - KEPT_PAST_WINDOW)
                library.llama_memory_seq_rm(self._memory, _OUT_OF_SIGHT, 0, self._gone)
        batch = Batch(n_tokens=count)
        if tokens[0] >= 0 or self._images is None:
            batch.token = token_array(tokens)
        else:
            rows = self._images.take(tokens)  # [tokens, hidden], held until they are computed
            batch.embd = rows.ctypes.data
        if all_logits:
            batch.logits = (ctypes.c_int8 * count)(*[1] * count)
        code = library.llama_decode(self.pointer, batch)
        if code:
            raise BadBundleError(
                f"expected to compute {count} tokens after {past}, found llama.cpp's code {code}", hint=_HINT
            )

    def keep(self, count: int) -> int:
        """Drop all but the first `count` tokens; returns `count`, or 0 where what they see is gone."""
        first = max(0, count - self._window) if self._window else 0
        if first < self._gone:
            count = first = self._gone = 0
            self._library.llama_memory_seq_rm(self._memory, _OUT_OF_SIGHT, 0, -1)
        elif first < self._out_of_sight:
            self._move(_OUT_OF_SIGHT, _SEEN, first, self._out_of_sight)
        self._out_of_sight = min(self._out_of_sight, first)
        self._library.llama_memory_seq_rm(self._memory, _SEEN, count, -1)
        return count

    def copy_logits(self, row: int, target: NDArray[np.float32]) -> None:
        """Copy logits, [vocabulary], of one of the tokens that were computed last; -1 is the last."""
        copy_floats(self._library.llama_get_logits_ith(self.pointer, row), target)

    def copy(self) -> LlamaContext:
        """Another context with the same keys and values. On the way they are in memory a third time."""
        library = self._library
        other = LlamaContext(
            library,
            self._model,
            tokens=self._tokens,
            window=self._window,
            batch=self._batch,
            whole=True,
            adapter=self._adapter,
            images=self._images,
        )
        self._move(_OUT_OF_SIGHT, _SEEN, 0, self._out_of_sight)
        try:
            size = library.llama_state_seq_get_size(self.pointer, _SEEN)
            state = (ctypes.c_uint8 * size)()
            library.llama_state_seq_get_data(self.pointer, state, size, _SEEN)
        except MemoryError:
            raise DoesNotFitError(
                "expected memory to copy a KV cache, found too little", hint="stop other programs"
            ) from None
        finally:
            self._move(_SEEN, _OUT_OF_SIGHT, 0, self._out_of_sight)
        with collected_errors(library) as errors:
            if not library.llama_state_seq_set_data(other.pointer, state, size, _SEEN):
                refuse("expected to copy a KV cache", errors)
        other._move(_SEEN, _OUT_OF_SIGHT, 0, self._out_of_sight)
        other._gone, other._out_of_sight = self._gone, self._out_of_sight
        return other

    def _move(self, source: int, target: int, start: int, end: int) -> None:
        """Move the tokens from `start` to before `end` from one of the two sequences to the other."""
        if start < end:
            self._library.llama_memory_seq_cp(self._memory, source, target, start, end)
            self._library.llama_memory_seq_rm(self._memory, source, start, end)


def runs(tokens: Sequence[int]) -> Iterator[int]:
    """How many tokens go into each call, in turn: words in one, parts of images in another."""
    for _, run in itertools.groupby(tokens, lambda token: token < 0):
        yield len(list(run))


def refuse(expected: str, errors: list[str]) -> Never:
    """Raise the error that llama.cpp has logged."""
    found = errors[-1] if errors else "an error without a message"
    if any("alloc" in error.lower() for error in errors):
        raise DoesNotFitError(
            f"{expected}: not enough memory: {found}",
            hint="stop other programs, or ask for fewer tokens (--context)",
        )
    raise BadBundleError(f"{expected}, found: {found}", hint=_HINT)


def finalizer(owner: Owner, free: Callable[[int], None], pointer: int) -> weakref.finalize[[int], Owner]:
    """What frees a pointer of the library when its owner goes, or when it is called before."""
    finalize = weakref.finalize(owner, free, pointer)
    # At the end of the process the system takes everything back, and the library may be half gone by then.
    finalize.atexit = False
    return finalize


def computing_threads() -> int:
    """Threads to compute with: the cores that this process may use, each once."""
    import psutil  # type: ignore[import-untyped]

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)
