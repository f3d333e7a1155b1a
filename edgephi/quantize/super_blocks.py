"""Codes whose scales and minimums are small whole numbers: the K-quants of llama.cpp.

A super-block is 256 weights of a row, in groups of 32 or 16. It has one or two float16 steps; the scale of
each of its groups is a whole number of the one, and its minimum, where it has any, a whole number of the
other:

    weight = step * scale * code - minimum_step * minimum      4 or 5 bits, groups of 32, both numbers 0 to 63
    weight = step * scale * (code - 32)                        6 bits, groups of 16, scale -127 to 127

So a group pays 12 bits for a scale and a minimum, where float16 numbers would take 32. The search first finds
what would suit each group best if both could be any number. Then, turn by turn, each group takes the whole
numbers near these that are best with the steps as they are, and each super-block the steps that are best with
the whole numbers as they are; the codes are always those of the numbers that the engine will multiply by.

Formats: `block_q4_K`, `block_q5_K` and `block_q6_K` of ggml.
"""

import contextlib
import importlib
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.group_fit import Candidate, Floats, GroupFit, total
from edgephi.quantize.groups import ErrorSums, Groups, NotFiniteError, error_sums, restored
from edgephi.quantize.scheme import SUPER_BLOCK, Scheme
from edgephi.quantize.tensor_plan import TensorPlan

# Found on the matrices of a trained model: more of them take a percent off the squared error. The wide ones
# are for groups with one dominant input; without a minimum only a negative scale may reach far enough.
_WITH_MINIMUM: tuple[Candidate, ...] = (
    *((multiple, end) for multiple in (0.94, 1.0, 1.05, 1.1, 1.15) for end in (0.0, 1.0)),
    (0.6, 0.5),
    (0.8, 0.5),
)
_WITHOUT: tuple[Candidate, ...] = tuple(
    (multiple, 0.0) for multiple in (-1.0, -0.95, 0.5, 0.7, 0.85, 0.94, 0.97, 1.0, 1.03)
)
_REFINEMENTS = 2
_TURNS = 2
_NEARBY = (1, -1, 2, -2)
# Compiling takes as long as NumPy's search of so many weights: a demo is done before.
_WORTH_COMPILING = 1 << 24
# Super-blocks whose numbers and scratch memory lie in a core's own cache together, and so many that compiled
# sums take longer than what NumPy does with each of their results.
_CHUNK_BLOCKS, _COMPILED_CHUNK_BLOCKS = 128, 512
_LEAST_IMPORTANCE = np.float32(1e-9)
_FLOAT16_MAX = np.float32(np.finfo(np.float16).max)


@dataclass
class _Blocks:
    """Super-blocks while they are searched: the steps float32 [blocks], the rest float32 [groups, blocks]."""

    step: Floats
    minimum_step: Floats
    scales: Floats
    minimums: Floats
    error: Floats

    def numbers(self) -> tuple[Floats, Floats]:
        """Scale and minimum of each group, as the engine computes them."""
        return self.step * self.scales, self.minimum_step * self.minimums

    def take(self, better: NDArray[np.bool_], scales: Floats, minimums: Floats, error: Floats) -> None:
        """Take other whole numbers for the groups where they are better."""
        self.scales = np.where(better, scales, self.scales)
        self.minimums = np.where(better, minimums, self.minimums)
        self.error = np.where(better, error, self.error)

    def take_blocks(self, better: NDArray[np.bool_], other: "_Blocks") -> None:
        """Take all of another search where it is better, bool [blocks]."""
        self.step = np.where(better, other.step, self.step)
        self.minimum_step = np.where(better, other.minimum_step, self.minimum_step)
        self.take(better, other.scales, other.minimums, other.error)


class SuperBlocks:
    """Quantises blocks of rows by plans whose scales are "superblocks".

    The sums are compiled once so many weights have come that it is worth that, where Numba is installed.
    """

    def __init__(self, compile_after: int = _WORTH_COMPILING) -> None:
        self._uncompiled_weights = compile_after
        self._kernels: ModuleType | None = None

    def quantize(self, weights: Floats, plan: TensorPlan) -> Groups:
        """Quantise float32 [rows, columns]; columns must be a multiple of 256.

        Raises NotFiniteError when a weight is NaN, infinite or too large for the float16 steps.
        """
        scheme, searched = plan.quantised, plan.method != "rtn"
        self._compile_after(weights.size)
        rows, columns = weights.shape
        grouped = weights.reshape(-1, SUPER_BLOCK // scheme.group_size, scheme.group_size)
        per_row = _importance(plan, columns).reshape(-1, *grouped.shape[1:])
        parts = []
        step = _CHUNK_BLOCKS if self._kernels is None else _COMPILED_CHUNK_BLOCKS
        for start in range(0, len(grouped), step):
            chunk = grouped[start : start + step]
            places = np.arange(start, start + len(chunk)) % len(per_row)
            # [size, groups, blocks]: sums over a group, and over the groups, run along the first axis.
            x = np.ascontiguousarray(chunk.transpose(2, 1, 0))
            importance = np.ascontiguousarray(per_row[places].transpose(2, 1, 0))
            parts.append(_quantize_blocks(x, importance, scheme, self._kernels, searched=searched))
        codes, multiples, minimums, steps = (np.concatenate(each) for each in zip(*parts, strict=True))
        groups = Groups(
            codes=codes.reshape(rows, columns),
            scales=steps.reshape(rows, columns // SUPER_BLOCK, -1),
            zero_points=None,
            multiples=multiples.reshape(rows, -1),
            minimums=None if scheme.symmetric else minimums.reshape(rows, -1),
            sums=ErrorSums(),
        )
        return replace(groups, sums=error_sums(weights, restored(groups, scheme), plan.importance))

    def _compile_after(self, weights: int) -> None:
        """NumPy's sums for the first so many weights, then the compiled ones."""
        self._uncompiled_weights -= weights
        if self._uncompiled_weights < 0 and self._kernels is None:
            with contextlib.suppress(ImportError):
                self._kernels = importlib.import_module("edgephi.quantize.compiled_fit")


def _importance(plan: TensorPlan, columns: int) -> Floats:
    """The importance of each column, as multiples of the greatest; all the same where it was not measured."""
    if plan.importance is None:
        return np.ones(columns, np.float32)
    greatest = plan.importance.max()
    # Not less: a group of which nothing counts has no best scale.
    importance: Floats = np.maximum(plan.importance / greatest, _LEAST_IMPORTANCE)
    return importance


def _quantize_blocks(
    x: Floats, importance: Floats, scheme: Scheme, kernels: ModuleType | None, *, searched: bool
) -> tuple[NDArray[np.generic], ...]:
    """Codes [blocks, groups, size], scales and minimums [blocks, groups], steps [blocks, 1 or 2] of x.

    x is [size, groups, blocks].
    """
    lowest = -scheme.middle if scheme.symmetric else 0
    fit = GroupFit(
        x,
        importance,
        lowest=lowest,
        highest=lowest + scheme.levels - 1,
        minimums="none" if scheme.symmetric else "positive",
        kernels=kernels,
    )
    if not (np.isfinite(fit.high).all() and np.isfinite(fit.low).all()):
        raise NotFiniteError("NaN or infinity")
    top = _top(scheme)
    for number in fit.spanning():
        _check_range(np.abs(number) / np.float32(top))
    blocks = _start(fit, *fit.spanning(), scheme)
    if searched:
        candidates = _WITHOUT if scheme.symmetric else _WITH_MINIMUM
        found = _start(fit, *fit.best(candidates, _REFINEMENTS), scheme)
        for _ in range(_TURNS):
            _choose_numbers(fit, found, scheme)
            _choose_steps(fit, found)
        # Weights of few values may lie on the spanning codes exactly.
        blocks.take_blocks(total(found.error) < total(blocks.error), found)
    codes = fit.round(*blocks.numbers())
    steps = [blocks.step] if scheme.symmetric else [blocks.step, blocks.minimum_step]
    kind = np.int8 if scheme.symmetric else np.uint8
    return (
        (codes - np.float32(lowest)).astype(np.uint8).transpose(2, 1, 0),
        blocks.scales.astype(kind).T,
        blocks.minimums.astype(np.uint8).T,
        np.stack(steps, axis=1).astype(np.float16),
    )


def _start(fit: GroupFit, scale: Floats, minimum: Floats, scheme: Scheme) -> _Blocks:
    """Scales and minimums [groups, blocks] as whole numbers of steps that reach the largest of a block."""
    top = _top(scheme)
    step, minimum_step = _reaching(scale, top), _reaching(minimum, top)
    blocks = _Blocks(
        step=step,
        minimum_step=minimum_step,
        scales=_whole(scale, step, scheme),
        minimums=_whole(minimum, minimum_step, scheme),
        error=np.zeros_like(scale),
    )
    blocks.error, _ = fit.error(*blocks.numbers())
    return blocks


def _choose_numbers(fit: GroupFit, blocks: _Blocks, scheme: Scheme) -> None:
    """Give each group the whole numbers near its own with the least error under the block's steps."""
    mean_code = fit.moments(*blocks.numbers())[0] / fit.total
    middle, minimums = blocks.scales, blocks.minimums
    for away in (0, *_NEARBY):
        scales = np.clip(
            middle + np.float32(away), 0 if not scheme.symmetric else -_top(scheme), _top(scheme)
        )
        # A larger scale goes with a minimum that leaves the mean weight where it is.
        moved = blocks.minimum_step * minimums + blocks.step * (scales - middle) * mean_code
        tried = _whole(moved, blocks.minimum_step, scheme)
        for _ in range(1 if scheme.symmetric else 2):
            scale, minimum = blocks.step * scales, blocks.minimum_step * tried
            error, high = fit.error(scale, minimum)
            blocks.take(error < blocks.error, scales, tried, error)
            tried = _whole(minimum + high / fit.total, blocks.minimum_step, scheme)


def _choose_steps(fit: GroupFit, blocks: _Blocks) -> None:
    """Give each super-block the steps that suit its codes and whole numbers best, where that helps."""
    moments = fit.moments(*blocks.numbers())
    scales, both, minimums, along, below = fit.block_sums(moments, blocks.scales, blocks.minimums)
    determinant = scales * minimums - both * both
    sound = determinant > np.float32(1e-6) * scales * minimums
    alone = np.divide(along + blocks.minimum_step * both, scales, out=blocks.step.copy(), where=scales > 0)
    step = np.divide(minimums * along - both * below, determinant, out=alone, where=sound)
    minimum_step = both * along - scales * below
    np.divide(minimum_step, determinant, out=minimum_step, where=sound)
    step = _as_float16(step)
    minimum_step = np.where(sound, _as_float16(minimum_step), blocks.minimum_step)
    error, _ = fit.error(step * blocks.scales, minimum_step * blocks.minimums)
    other = _Blocks(step, minimum_step, blocks.scales, blocks.minimums, error)
    blocks.take_blocks(total(error) < total(blocks.error), other)


def _top(scheme: Scheme) -> int:
    """The largest whole number that a scale or a minimum can be."""
    return 127 if scheme.symmetric else 63


def _reaching(numbers: Floats, top: int) -> Floats:
    """Steps [blocks] that float16 can hold, of which `top` reach the largest of numbers [groups, blocks]."""
    largest = np.abs(numbers).max(axis=0)
    exact = np.minimum(largest / np.float32(top), _FLOAT16_MAX)
    steps = exact.astype(np.float16)
    # Near 0 float16 is so coarse that the nearest may be far too small, or nothing.
    short = steps.astype(np.float32) * np.float32(top + 0.5) < largest
    up = np.nextafter(steps, np.float16(np.inf))
    reaching: Floats = np.where(short & np.isfinite(up), up, steps).astype(np.float32)
    return reaching


def _whole(numbers: Floats, step: Floats, scheme: Scheme) -> Floats:
    """Numbers [groups, blocks] as whole numbers of the steps [blocks]."""
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
    lowest = -_top(scheme) if scheme.symmetric else 0
    whole: Floats = np.clip(np.rint(numbers * inverse), np.float32(lowest), np.float32(_top(scheme)))
    return whole


def _as_float16(numbers: Floats) -> Floats:
    """The nearest float16 numbers that are not negative, as float32."""
    nearest: Floats = np.clip(numbers, 0, _FLOAT16_MAX).astype(np.float16).astype(np.float32)
    return nearest


def _check_range(numbers: NDArray[np.floating]) -> None:
    """Raise NotFiniteError when float16 cannot hold so large a number."""
    largest = np.abs(numbers).max(initial=0)
    if not largest <= _FLOAT16_MAX:
        raise NotFiniteError(f"a group whose scale or minimum {largest:.3g} is past float16's range")
