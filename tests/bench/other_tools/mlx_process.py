"""mlx-lm as it is, in a process of its own, of this environment or of another one."""

import dataclasses
import json
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench.other_tools.asked import Answers, Asked

_PROGRAM = Path(__file__).with_name("stock_mlx.py")


@dataclass(frozen=True)
class Ended:
    """What became of the process: its answers, or in `reason` why there are none; `version` of mlx-lm."""

    version: str
    answers: Answers | None
    reason: str = ""


def ask_mlx(python: Path, checkpoint: Path, asked: Asked, *, short: bool = False) -> Ended:
    """What mlx-lm in the environment of that interpreter answers.

    `short`: on a copy of the checkpoint in which LongRoPE's long factors are the short ones, since mlx-lm
    computes with the long ones whatever the length.
    """
    with tempfile.TemporaryDirectory() as folder:
        if short:
            checkpoint = _with_short_factors(checkpoint, Path(folder) / "short")
        question, answer = Path(folder) / "question.json", Path(folder) / "answer.npz"
        question.write_text(json.dumps(dataclasses.asdict(asked)))
        done = subprocess.run(
            [python, _PROGRAM, checkpoint, question, answer], capture_output=True, text=True, check=False
        )
        version = done.stdout.partition("\n")[0]
        if done.returncode < 0:
            return Ended(version, None, f"ended by {signal.Signals(-done.returncode).name}")
        if done.returncode:
            return Ended(version, None, done.stderr.strip().rpartition("\n")[2])
        with np.load(answer) as found:
            return Ended(
                version,
                Answers(
                    tuple(found[f"logits{place}"] for place in range(len(asked.texts))),
                    tuple(tuple(found[f"continued{place}"].tolist()) for place in range(len(asked.prompts))),
                ),
            )


def _with_short_factors(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_bytes())
    config["rope_scaling"]["long_factor"] = config["rope_scaling"]["short_factor"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder
