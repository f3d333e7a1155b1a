"""A checkpoint that ends early: the first layers of a model, without copying a weight.

Its answers are nonsense, but each of its layers takes as long as any of the whole model's, so it tells how
fast the whole model is going to be.
"""

import dataclasses
import itertools

from edgephi.checkpoint.checkpoint import Checkpoint


def first_layers(checkpoint: Checkpoint, layers: int) -> Checkpoint:
    """The checkpoint with its first `layers` layers only, between the same embedding and head.

    An image encoder stays whole. It reads the same files, at the places that are left. Their sha256, which a
    pass over them computes, is then that of these places alone. `layers` is at least 1, and at most what the
    checkpoint has.
    """
    if not 1 <= layers <= checkpoint.architecture.layers:
        raise ValueError(f"expected 1 to {checkpoint.architecture.layers} layers, found {layers}")
    architecture = dataclasses.replace(checkpoint.architecture, layers=layers)
    shapes = architecture.tensor_shapes()
    sources = {tensor: own for tensor, own in checkpoint.sources.items() if tensor in shapes}
    every = itertools.chain(sources.values(), checkpoint.image_sources.values())
    kept = {source.tensor for own in every for source in own}
    shards = []
    for shard in checkpoint.shards:
        entries = tuple(entry for entry in shard.entries if entry.name in kept)
        if entries:
            size = len(shard.raw) + sum(entry.size for entry in entries)
            shards.append(dataclasses.replace(shard, size=size, entries=entries))
    return dataclasses.replace(
        checkpoint,
        architecture=architecture,
        shards=tuple(shards),
        tensors={name: entry for name, entry in checkpoint.tensors.items() if name in kept},
        sources=sources,
    )
