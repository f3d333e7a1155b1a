"""The facts of one engine, whoever asks: exporters, adapters, plans, registries, the service's unit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.facts.processors import MeasuredProcessor
from edgephi.errors import NotSupportedError

"""Pieces of letters, and bytes for what is in none of them; or words of bytes, as GPT-2 has them."""


@dataclass(frozen=True)
class Prefill:
    """`tokens` of a prompt are computed in one call: the runner does it so, and a plan counts its memory.

    A call into an engine is seen to its end, Ctrl-C included, and its memory grows with its tokens; too few
    of them keep no processor busy.

    An engine that is not `told_factors` finds out by the last position of a call which of LongRoPE's factors
    hold, so the first call for a long sequence must reach that far. It may still be told of some models whose
    first call would be large: `told_large`, those with experts, block-sparse attention or images.
    """

    tokens: int
    told_factors: bool = True
    told_large: bool = False


@dataclass(frozen=True)
class Provider:
    """A device back end of an engine.

    package: what brings the engine for it, by its name in an index of packages
    extra: of edgephi, which installs that package and what the adapter needs beside it
    stand_in: another provider that computes the same artifact where this one is missing, "" for none. Only a
    certificate may be measured with it, and then it says so; nothing else runs on it unasked, but on an
    emulator of this one: see `edgephi.runtime.adapter.is_emulated`.
    opens_device: whether it computes on a device whose driver has files of its own
    own_memory: whether the model lies in that device's memory, where it has some
    makes_code: whether machine code is written while it runs, which a service may forbid
    decode_shares: what was reached on a processor, as a share of the decode speed that its memory allows, for
    Phi-3-mini's shape at int4, with a prompt of 128 tokens and 32 new ones. `edgephi tune` measures.
    """

    package: str
    extra: str
    prefill: Prefill
    footprint: Footprint
    stand_in: str = ""
    opens_device: bool = True
    own_memory: bool = True
    makes_code: bool = False
    decode_shares: Mapping[MeasuredProcessor, float] = field(default_factory=dict)


NativeGroups = Literal["symmetric", "zero points", "offsets", "K-quants"]
"""Nothing; a code for zero; the weight of code zero, in float16; llama.cpp's super-blocks of 256 weights."""


@dataclass(frozen=True)
class EngineFacts:
    """One engine.

    name: as manifests and targets write it
    exporter: the folder of `edgephi/export` that writes its artifacts
    artifact_format: what the artifact is called in a registry of models
    providers: by the names that targets use
    build_modules: module -> the extra that installs it, for what a build needs beyond that of any engine
    file_copies: how many times an artifact's files hold the weights
    unloaded_folders: of the artifact, whose files no device loads
    row_scales: whether its matrices have one scale a row, of which those of groups are whole multiples
    native_groups: what its own format of 4 bits can say of a group beside its scale
    seeing_extra: what a device needs beside the provider's extra for a model that sees
    blind_tools: that its own tools see nothing with a model that sees, in a few words; "" where they do
    """

    name: str
    exporter: str
    artifact_format: str
    providers: Mapping[str, Provider]
    build_modules: Mapping[str, str] = field(default_factory=dict)
    file_copies: int = 1
    unloaded_folders: tuple[str, ...] = ()
    row_scales: bool = False
    native_groups: NativeGroups = "symmetric"
    seeing_extra: str = "vision"
    blind_tools: str = ""

    @property
    def module(self) -> str:
        """Its name as one of a module: of its file here, and of its adapter."""
        return re.sub(r"\W", "_", self.name)

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that bring the engine; a machine has one of them."""
        return tuple(dict.fromkeys(provider.package for provider in self.providers.values()))

    def provider(self, name: str) -> Provider:
        """The provider of that name. Raises NotSupportedError."""
        if name not in self.providers:
            raise NotSupportedError(
                f"{self.name}: expected one of the providers {', '.join(self.providers)}, found {name!r}",
                hint="leave --provider out to use the bundle's own",
            )
        return self.providers[name]
