"""The chunks of a file: where they begin, what they hash, and which of them survive a change."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.bundle.chunks import (
    CHUNK_BYTES,
    LARGEST_CHUNK_BYTES,
    Chunk,
    ChunkHashes,
    FileEntry,
    chunks_of,
    cut,
)

MIB = 1 << 20
sizes = st.integers(0, 40 * MIB)
starts = st.lists(st.integers(0, 40 * MIB), max_size=20)
tensors = st.lists(st.one_of(st.integers(1, MIB), st.integers(MIB, 20 * MIB)), min_size=1, max_size=20)


def offsets(tensor_sizes: list[int], *, header: int) -> list[int]:
    """Where tensors begin that lie one after the other behind a header."""
    return list(itertools.accumulate(tensor_sizes, initial=header))[:-1]


def begins(chunk_sizes: tuple[int, ...]) -> set[int]:
    """Where chunks of these sizes begin."""
    return set(itertools.accumulate(chunk_sizes, initial=0))


@given(sizes, starts)
def test_chunks_cover_the_file_and_none_is_too_large(size: int, starts: list[int]) -> None:
    chunks = cut(size, starts)
    assert sum(chunks) == size
    assert all(0 < chunk <= LARGEST_CHUNK_BYTES for chunk in chunks)


@given(tensors, sizes)
def test_there_are_about_as_many_chunks_as_mebibytes(tensor_sizes: list[int], header: int) -> None:
    chunks = cut(header + sum(tensor_sizes), offsets(tensor_sizes, header=header))
    large = sum(size >= MIB for size in tensor_sizes)
    # Half a chunk at least, but for the last one before the data or before a large tensor.
    assert sum(chunk < CHUNK_BYTES // 2 for chunk in chunks) <= large + 2
    assert all(chunk < CHUNK_BYTES * 2 for chunk in chunks)


@given(tensors, sizes)
def test_a_chunk_begins_at_the_first_tensor_and_at_each_large_one(
    tensor_sizes: list[int], header: int
) -> None:
    places = offsets(tensor_sizes, header=header)
    found = begins(cut(header + sum(tensor_sizes), places))
    large = {place for place, size in zip(places, tensor_sizes, strict=True) if size >= CHUNK_BYTES}
    assert large | {places[0]} <= found


@given(tensors, sizes, sizes)
def test_a_header_of_another_length_changes_no_chunk_of_the_tensors(
    tensor_sizes: list[int], header: int, other: int
) -> None:
    first, second = (
        {
            begin - length
            for begin in begins(cut(length + sum(tensor_sizes), offsets(tensor_sizes, header=length)))
            if begin >= length
        }
        for length in (header, other)
    )
    assert first == second


def test_a_tensor_that_grows_changes_chunks_up_to_the_next_large_tensor_only() -> None:
    before, after = [3 * MIB, 1000, 2000, 5 * MIB, 500], [3 * MIB, 1000, 2 * MIB, 5 * MIB, 500]
    ends = (sum(before), sum(after))
    from_the_end = [
        {end - begin for begin in begins(cut(end, offsets(sizes, header=0))) if end - begin <= 5 * MIB + 500}
        for end, sizes in zip(ends, (before, after), strict=True)
    ]
    assert from_the_end[0] == from_the_end[1]
    assert len(from_the_end[0]) >= 6


@given(st.binary(max_size=3000), st.lists(st.integers(1, 700), max_size=20), st.data())
def test_hashes_are_those_of_the_bytes_however_they_come(
    content: bytes, lengths: list[int], data: st.DataObject
) -> None:
    chunk_sizes = []
    left = len(content)
    for length in lengths:
        if length < left:
            chunk_sizes.append(length)
            left -= length
    chunk_sizes += [left] if left else []
    hashes = ChunkHashes(chunk_sizes)
    position = 0
    while position < len(content):
        step = data.draw(st.integers(1, 900))
        hashes.update(memoryview(content)[position : position + step])
        position += step
    entry = FileEntry("model/a", len(content), hashlib.sha256(content).hexdigest(), hashes.table())
    chunks = chunks_of(entry)
    assert b"".join(content[chunk.offset : chunk.offset + chunk.size] for chunk in chunks) == content
    for chunk in chunks:
        part = content[chunk.offset : chunk.offset + chunk.size]
        assert hashlib.sha256(part).hexdigest() == chunk.sha256


def test_a_table_is_refused_before_the_last_byte() -> None:
    hashes = ChunkHashes([3, 3])
    hashes.update(memoryview(b"abcd"))
    with pytest.raises(AssertionError, match="2 of a chunk are missing"):
        hashes.table()


class TestAFileWithoutATable:
    def test_an_empty_one_has_no_chunk(self) -> None:
        assert chunks_of(FileEntry("a", 0, "0" * 64)) == ()

    def test_a_small_one_is_a_single_chunk_with_its_own_digest(self) -> None:
        assert chunks_of(FileEntry("a", 4 * MIB, "0" * 64)) == (Chunk(0, 4 * MIB, "0" * 64),)

    def test_a_large_one_is_cut_without_digests(self) -> None:
        chunks = chunks_of(FileEntry("a", 4 * MIB + 1, "0" * 64))
        assert [chunk.offset for chunk in chunks] == [0, MIB, 2 * MIB, 3 * MIB]
        assert {chunk.sha256 for chunk in chunks} == {None}
        assert sum(chunk.size for chunk in chunks) == 4 * MIB + 1
