"""What runs on the device: load a bundle, answer prompts, hold conversations.

    import edgephi.runtime

    model = edgephi.runtime.load("phi-3.5-mini-bundle")
    print(model.generate("Which tea keeps me awake?").text)
    for piece in model.stream("Tell me a story."):
        print(piece, end="", flush=True)
    chat = model.chat(system="You are a tea shop.")
    for question in ("Which tea is mild?", "And a stronger one?"):
        print("".join(chat.say(question)))

This package imports nothing of the build side, and an engine only when a bundle is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgephi.runtime.session import Session

__all__ = ["load"]


def load(
    bundle: str | os.PathLike[str],
    *,
    context: int | None = None,
    provider: str | None = None,
    warn: Callable[[str], None] | None = None,
    cache_bytes: int | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> Session:
    """Open the bundle in a folder: check its files (presence, size, what they name), memory; load its engine.

    `context` is the most tokens of prompt and answer together; without it, all that the bundle serves and
    memory allows. `provider` runs the bundle on another of its engine's providers than its own. `warn` is
    told when memory is short, or the engine computes otherwise than the model; without it that is a Python
    warning. `cache_bytes` is the most memory for what
    was computed for earlier prompts; without it, half of what is available once the model is loaded, and
    room for one full context at least and for eight at most. `adapter` is the name of one of the bundle's
    adapters, or the folder of an artifact with adapters for it, whose first one is meant: answers are
    computed with it, unless their options name another.

    Raises BadBundleError, also for an artifact that leads out of its bundle; BadInputError when there is no
    such adapter; DoesNotFitError when weights or context cannot fit into memory or `cache_bytes`; and
    NotSupportedError for a bundle of another architecture, without the right engine, or when the provider
    cannot be used here.
    """
    from edgephi.bundle.adapter_artifact import open_bundle
    from edgephi.bundle.artifact.foreign_files import check_artifact
    from edgephi.bundle.files import check_architecture
    from edgephi.chat.template import ChatTemplate
    from edgephi.machine.memory import available_memory, check_memory
    from edgephi.runtime.session import Session

    folder = Path(bundle)
    if folder.is_symlink():  # it may lead to another bundle before this one is read to its end
        folder = folder.resolve()
    opened = open_bundle(folder, adapter)
    manifest = opened.manifest
    check_architecture(manifest)
    ChatTemplate(manifest.chat.template, manifest.chat.variables).check()
    check_artifact(manifest, opened.place)
    served, shortage = check_memory(manifest, available_memory(), context)
    for problem in filter(None, (manifest.deviation, shortage)):
        if warn is None:
            import warnings

            warnings.warn(problem, RuntimeWarning, stacklevel=2)
        else:
            warn(problem)
    return Session(
        folder,
        manifest,
        context=served,
        provider=provider,
        cache_bytes=cache_bytes,
        adapter=opened.adapter,
        beside=opened.beside,
    )
