"""The names of all commands, in groups: what is needed to start, to build, to ship and to run."""

GROUPS: dict[str, dict[str, str]] = {
    "Start": {
        "quickstart": "Build, prove and run an embedded demo model on this machine.",
        "doctor": "Say what this machine is, and what it can build and run.",
        "recipes": "List the models and how each is quantised.",
        "targets": "List the devices and what each can take.",
        "list": "List bundles, stores and downloads, with their sizes.",
        "rm": "Remove bundles, downloads, and what a cut command has left.",
    },
    "Build": {
        "plan": "Print all that a build would do, and write nothing.",
        "pull": "Download a model into the cache, or a bundle into a folder.",
        "build": "Build a model for a target: quantise, export, verify, seal.",
        "adapter": "Make LoRA adapters that a device switches on and off.",
        "import": "Make a bundle of what somebody else has compiled.",
        "inspect": "Show what a bundle is, what it needs and how good it is.",
        "verify": "Check a bundle's files; with --against, its quality too.",
        "tune": "Find the fastest target for a model here, by measuring.",
    },
    "Ship": {
        "keygen": "Make a key pair for signing bundles.",
        "sign": "Vouch for a bundle with your secret key.",
        "sbom": "Make the bill of materials of a bundle, by CycloneDX.",
        "push": "Put a bundle into a registry, where devices can fetch it.",
        "flash": "Put a bundle on a device, proven before it is active.",
        "status": "Show what is on a device, and how it is.",
        "rollback": "Go back to the bundle that a device ran before.",
        "trust": "Say whose bundles a store takes.",
        "gc": "Remove from a device what nothing needs.",
    },
    "Run": {
        "run": "Answer one prompt with a bundle.",
        "chat": "Talk with a bundle.",
        "serve": "Answer over HTTP, by OpenAI's API.",
        "service": "Print a systemd unit that serves a bundle.",
        "bench": "Measure bundles here: load, prefill, decode and memory.",
    },
}
"""Heading of each group, and name and first help line of each command in it, in the order of the listing.

The command itself is the function NAME in `edgephi/cli/NAME.py`, with "_" behind a NAME that is a word of
Python's or of its built-in functions. That file is imported when the command is used: the listing and the
other commands do not pay for it, and a device need not have all it imports.
"""

COMMANDS: dict[str, str] = {name: text for group in GROUPS.values() for name, text in group.items()}
"""Name and first help line of each command."""
