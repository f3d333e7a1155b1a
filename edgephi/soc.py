"""A system on a chip that has a Hexagon HTP: one file of `targets/socs/` each. `--soc` names one.

Sources of the numbers: `QNN_SOC_MODEL_*` of Qualcomm's QnnTypes.h, and its table of supported devices.
"""

from dataclasses import dataclass

from edgephi.declarations import find_file, read_all, read_toml

FOLDER = "targets/socs"


@dataclass(frozen=True)
class Soc:
    """`soc_model` is Qualcomm's number of the chip, `htp_arch` the generation of its HTP (75 is v75)."""

    name: str
    summary: str
    soc_model: int
    htp_arch: int


def read_soc(name: str) -> Soc:
    """The chip of that name, or in that TOML file. Raises BadDeclarationError."""
    return read_toml(find_file(name, FOLDER), Soc)


def socs() -> list[Soc]:
    """All chips that edgephi knows, by name."""
    return list(read_all(FOLDER, Soc))
