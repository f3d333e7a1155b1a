"""What a new system prompt and tokenizer cost over the network: bytes sent of the next release of a bundle.

`python -m tests.bench.delta CHECKPOINT [--targets cpu gguf openvino mlx]` builds the checkpoint for each
target, then once more with another tokenizer, no byte of whose file is where it was, and with a system prompt
in the chat template; flashes the one and then the other into a store, and prints what had to be sent. The
weights are read from the same files. Needs the disk of three bundles.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import read_manifest
from tests.bench.measure import edgephi, report

TARGETS = ("cpu", "gguf", "openvino", "mlx")
MOST = 0.01
"""The share of a bundle that may be sent."""

_PROMPT = "You answer for a shop that sells tea, in one sentence."
_OLD_TOKEN, _NEW_TOKEN = "<|placeholder1|>", "<|tea|>"
# A release of edgephi whose Phi-3 template says that when nobody says anything else.
_WITH_PROMPT = f"""
import dataclasses
from edgephi.chat import formats as phi
from edgephi.cli.main import main
system = "{{{{ '<|system|>\\n{_PROMPT}<|end|>\\n' }}}}"
template = "{{% if messages[0]['role'] != 'system' %}}" + system + "{{% endif %}}" + phi.PHI_3_CHAT.template
phi.PHI_3_CHAT = dataclasses.replace(phi.PHI_3_CHAT, template=template)
main()
"""


@dataclass(frozen=True)
class Delta:
    """Bytes of the second bundle, and those of them that were sent to a box with the first."""

    target: str
    total_bytes: int
    sent_bytes: int

    @property
    def share(self) -> float:
        """The part of the bundle that was sent."""
        return self.sent_bytes / self.total_bytes


def main() -> None:
    """Measure, print. Ends with 1 when more was sent than may be."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", type=Path, help="a folder with a Phi-3 checkpoint")
    arguments.add_argument("--targets", nargs="+", default=TARGETS)
    arguments.add_argument("--scratch", type=Path, help="a folder with room")
    given = arguments.parse_args()
    deltas = []
    for target in given.targets:
        with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
            deltas.append(measured(given.checkpoint, target, Path(folder)))
    rows = [
        [each.target, f"{each.total_bytes:,}", f"{each.sent_bytes:,}", f"{each.share:.3%}"] for each in deltas
    ]
    report(["another tokenizer and system prompt", "bytes", "sent", "share"], rows)
    if any(each.share > MOST for each in deltas):
        raise SystemExit(f"expected at most {MOST:.0%} of each bundle to be sent")


def measured(checkpoint: Path, target: str, scratch: Path, *options: str) -> Delta:
    """Build a checkpoint and the changed one for a target, and flash one over the other.

    `options` are more of the command `build`.
    """
    changed = change(checkpoint, scratch / "changed")
    sent = {}
    for release, source in enumerate((checkpoint, changed), start=1):
        bundle = scratch / f"bundle-{release}"
        words = ("build", source, "--target", target, "--sequence", release, "--verify", "off", *options)
        words = (*words, "-o", bundle)
        _run([sys.executable, "-c", _WITH_PROMPT, *words] if release == 2 else edgephi(*map(str, words)))
        _check_prompt(bundle, is_there=release == 2)
        outcome = json.loads(_run(edgephi("flash", bundle, scratch / "store", "--elsewhere", "--json")))
        sent[release] = (int(outcome["sent_bytes"]), int(outcome["saved_bytes"]))
    assert sent[1][1] == 0, sent  # else the first one had not been sent whole
    return Delta(target, sum(sent[2]), sent[2][0])


def change(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint with the weights of another, and another tokenizer."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        if path.name not in ("tokenizer.json", "tokenizer_config.json"):
            (folder / path.name).symlink_to(path.resolve())
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if token["content"] == _OLD_TOKEN:
            token["content"] = _NEW_TOKEN
    # Written in another way as well, so that all of the file moves.
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1, ensure_ascii=False))
    configuration = (checkpoint / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(configuration.replace(_OLD_TOKEN, _NEW_TOKEN))
    return folder


def _check_prompt(bundle: Path, *, is_there: bool) -> None:
    """See that the system prompt really is in the second bundle: in its manifest, whatever the engine."""
    if (_PROMPT in read_manifest(bundle).chat.template) != is_there:
        raise SystemExit(f"{bundle}: expected the system prompt in the second bundle only")


def _run(command: Sequence[object]) -> str:
    """Run a command, and return what it prints. Raises SystemExit with its errors when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


if __name__ == "__main__":
    main()
