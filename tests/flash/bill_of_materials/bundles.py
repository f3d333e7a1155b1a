"""Bundles that have all that a bill of materials can name."""

import dataclasses
import ensurepip
from pathlib import Path
from typing import Any

from edgephi.build.wheels.own_wheel import pack_wheel
from edgephi.bundle.manifest import AdapterFacts, CalibrationFacts, Manifest, Provenance, Wheelhouse
from edgephi.bundle.unfinished import write_manifest
from tests.bundle.tiny import FILES, tiny_manifest, write_tiny_bundle

COMMIT = "0a67737cc96d2554230f90338b163bc6380a2a85"
FOLDER = "wheels/linux-x86_64-cp311"
PIP = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
"""A real wheel, which comes with Python."""


def wheel(name: str, *fields: str) -> bytes:
    """A wheel of version 2.0 whose METADATA has these lines too."""
    info = f"{name}-2.0.dist-info"
    metadata = "\n".join([f"Metadata-Version: 2.4\nName: {name}\nVersion: 2.0", *fields, "", "Text."])
    contents = {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": b"Wheel-Version: 1.0\n"}
    return pack_wheel(contents, info)


WHEELS = {
    f"{FOLDER}/{PIP.name}": PIP.read_bytes(),
    f"{FOLDER}/edgephi-2.0-py3-none-any.whl": wheel("edgephi", "License-Expression: MIT"),
    f"{FOLDER}/Own_Words-2.0-py3-none-any.whl": wheel("Own_Words", "License: The Words' License"),
    f"{FOLDER}/either-2.0-py3-none-any.whl": wheel("either", "License-Expression: MIT OR Apache-2.0"),
    f"{FOLDER}/classified-2.0-py3-none-any.whl": wheel(
        "classified",
        f"License: {'the whole text of it ' * 20}",
        "Classifier: License :: OSI Approved :: BSD License",
        "Classifier: License :: OSI Approved :: Apache Software License",
        "Classifier: Programming Language :: Python",
    ),
    f"{FOLDER}/silent-2.0-py3-none-any.whl": wheel("silent"),
}


def write_full_bundle(folder: Path, **changes: Any) -> Manifest:
    """Write a bundle of a model of the hub, with an adapter merged, calibrated, and with wheels."""
    files = {**FILES, **WHEELS, f"{FOLDER}/requirements.txt": b"edgephi\n"}
    plain = tiny_manifest(files)
    wheelhouse = Wheelhouse("linux-x86_64-cp311", "3.11", "2.28", ("cpu",), 1000)
    write_tiny_bundle(folder, files)
    manifest = dataclasses.replace(
        plain,
        model=dataclasses.replace(
            plain.model,
            id="microsoft/Phi-3.5-mini-instruct",
            revision=COMMIT,
            adapters=(AdapterFacts("acme/kitchen", "b" * 40, 0.5),),
        ),
        quant=dataclasses.replace(
            plain.quant,
            kept=("model.layers.0.mlp.down_proj", "lm_head"),
            calibration=CalibrationFacts("edgephi-calibration", "c" * 64, 4096, "d" * 64),
        ),
        provenance=Provenance(
            "0.1.0",
            "edgephi build phi-3.5-mini --target cpu -o tiny-cpu",
            {"config.json": "1" * 64, "model.safetensors": "2" * 64, "acme/kitchen/adapter.json": "3" * 64},
        ),
        wheels=(wheelhouse,),
        **changes,
    )
    write_manifest(folder, manifest)
    return manifest
