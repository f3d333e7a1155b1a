"""Runs the commands that documents show, and puts in what they print: `python -m tests.docs.refresh_outputs`.

Every line `$ command` of a ```console block is run, in the order of the document, in one empty folder a
document. Times and hashes differ from run to run: look at the difference before you keep it.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    *(f"docs/{name}.md" for name in ("guide", "bundle", "chat", "choosing", "flash", "signing")),
)


def refreshed(text: str, folder: Path) -> str:
    """The document `text` with the outputs of its commands as they are now."""
    code = 0

    def run(block: re.Match[str]) -> str:
        nonlocal code
        shown = []
        for command in re.findall(r"^\$ (.+)$", block[1], re.MULTILINE):
            environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            done = subprocess.run(
                ["bash", "-c", f"(exit {code}); {command}"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            code = done.returncode
            shown.append(f"$ {command}\n{done.stdout.rstrip()}".rstrip() + "\n")
        return "```console\n" + "".join(shown) + "```"

    return re.sub(r"^```console\n(.*?)^```$", run, text, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    for name in DOCUMENTS:
        with tempfile.TemporaryDirectory() as scratch:
            document = ROOT / name
            document.write_text(
                refreshed(document.read_text(encoding="utf-8"), Path(scratch)), encoding="utf-8"
            )
