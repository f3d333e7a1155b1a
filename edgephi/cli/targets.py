"""`edgephi targets`: the devices that edgephi can build for."""

from edgephi.cli.list_command import list_command
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document
from edgephi.cli.show.table import table
from edgephi.declared.target import FOLDER
from edgephi.declared.target import targets as all_targets

targets = list_command(FOLDER, all_targets, "List the devices and what each can take.")


@targets.command()
@json_option
def socs(*, as_json: bool) -> None:
    """List the chips that `--target qnn` compiles for, by the names that `--soc` takes."""
    from edgephi.declared.soc import socs as all_socs
    from edgephi.records import write_record

    known = all_socs()
    if as_json:
        say_document([write_record(soc) for soc in known])
        return
    rows = [
        (soc.name, ", ".join(soc.chips), f"v{soc.htp_arch}", str(soc.soc_model), f"{soc.vtcm_mb} MB")
        for soc in known
    ]
    say(table(rows, ("name", "part numbers", "HTP", "model", "VTCM"), right=(3, 4)))
