"""`edgephi targets`: the devices that edgephi can build for."""

from edgephi.cli.declared import list_command
from edgephi.target import FOLDER
from edgephi.target import targets as all_targets

targets = list_command(FOLDER, all_targets, "List the devices and what each can take.")
