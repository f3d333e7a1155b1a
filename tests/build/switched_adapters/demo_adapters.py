"""Adapters for the demo that PEFT saved, and artifacts with them: one changes answers so that it shows."""

import json
from collections.abc import Mapping
from pathlib import Path

from edgephi.build.build import find_checkpoint
from edgephi.build.switched_adapters.build_adapters import BuiltAdapters, build_adapters
from edgephi.build.switched_adapters.request import AdaptersRequest, NamedAdapter
from edgephi.bundle.certificate import VerifyLevel
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.checkpoint.located import Located
from edgephi.declared.recipe import read_recipe
from edgephi.steps import silent

ASKED = "turn off the kitchen light"
"""What the demo answers with "turn_off", and with the adapter `opposite` with "turn_on"."""


def demo_checkpoint() -> Located:
    """The checkpoint that comes with edgephi."""
    return find_checkpoint("demo", read_recipe("demo"), None, progress=False)


def save_demo_adapters(folder: Path) -> dict[str, Path]:
    """Have PEFT save two adapters, each in a folder of its name.

    `opposite` exchanges the words "on" and "off" in the head; `faint` changes all layers, and no answer where
    it is asked for at a twentieth.
    """
    from tests.checkpoint.adapter.peft_adapter import save_adapter, save_exchange

    base = demo_checkpoint().folder
    words = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    return {
        "opposite": save_exchange(base, folder / "opposite", words["on"], words["off"]),
        "faint": save_adapter(base, folder / "faint", seed=1),
    }


def build_demo_adapters(
    bundle: Path,
    adapters: Mapping[str, Path | str],
    output: Path,
    *,
    verify: VerifyLevel = "quick",
    sequence: int | None = None,
) -> BuiltAdapters:
    """Build the artifact of these adapters for a bundle of the demo, by their names."""
    named = tuple(NamedAdapter(name, *locate_adapters([str(asked)])) for name, asked in adapters.items())
    return build_adapters(AdaptersRequest(bundle, named, output, verify, sequence), demo_checkpoint(), silent)
