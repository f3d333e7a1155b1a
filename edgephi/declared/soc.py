"""A system on a chip that has a Hexagon HTP: one file of `targets/socs/` each. `--soc` names one.

The numbers are those of Qualcomm's own compiler: `soc_model` is `QNN_SOC_MODEL_*` of its QnnTypes.h, and a
context binary compiled with it names the chip, the generation of its HTP and the size of its VTCM. A test
holds every file against that.
"""

import difflib
from dataclasses import dataclass

from edgephi.commands import edgephi_command
from edgephi.declared.toml_files import find_file, read_all, read_toml
from edgephi.errors import BadDeclarationError

FOLDER = "targets/socs"


@dataclass(frozen=True)
class Soc:
    """`soc_model` is Qualcomm's number of the chip, `htp_arch` the generation of its HTP (75 is v75).

    `chips` are the part numbers, the compiler's own one first; `vtcm_mb` is the HTP's fast memory.
    """

    name: str
    summary: str
    chips: tuple[str, ...]
    soc_model: int
    htp_arch: int
    vtcm_mb: int


def read_soc(name: str) -> Soc:
    """The chip of that name, of that part number, or in that TOML file. Raises BadDeclarationError."""
    if name.endswith(".toml"):
        return read_toml(find_file(name, FOLDER), Soc)
    known = socs()
    for soc in known:
        if name.lower() == soc.name or name.upper() in soc.chips:
            return soc
    names = [each for soc in known for each in (soc.name, *(chip.lower() for chip in soc.chips))]
    close = difflib.get_close_matches(name.lower(), names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    raise BadDeclarationError(
        f"{name}: expected a chip, found none of that name{meant}",
        hint=f"known are {', '.join(soc.name for soc in known)}; "
        f"`{edgephi_command('targets', 'socs')}` shows their part numbers, "
        "and a path to a TOML file works too",
    )


def socs() -> list[Soc]:
    """All chips that edgephi knows, by name."""
    return list(read_all(FOLDER, Soc))
