"""lm-evaluation-harness on 20 items that lie here, and what transformers finds of the same."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "lm_eval.txt"
BEGINNINGS = [json.loads(line)["beginning"] for line in (HERE / "beginnings.jsonl").read_text().splitlines()]
UNTIL, MOST_TOKENS = ("\n\n", "\nclass", "\ndef", "\n#", "\nif", "\nprint"), 12

_TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    },
    "beginnings": {
        "output_type": "generate_until",
        "doc_to_text": "{{beginning}}",
        "doc_to_target": "{{end}}",
        "generation_kwargs": {"until": list(UNTIL), "max_gen_toks": MOST_TOKENS, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@dataclass(frozen=True)
class Likelihood:
    """What the harness makes of one continuation: its log-likelihood, and whether greedy writes it."""

    context: str
    continuation: str
    value: float
    is_greedy: bool


@dataclass(frozen=True)
class Evaluated:
    """The harness' own results: of each continuation, of each text that was generated, and by its metric."""

    likelihoods: list[Likelihood]
    texts: list[str]
    accuracy: float


def evaluate(
    python: Path, url: str, model: str, tokenizer: Path, folder: Path, *, batch: int = 1
) -> Evaluated:
    """Run the harness of an environment's `python` in `folder`; nothing is downloaded."""
    for name, task in _TASKS.items():
        files = {"test": str(HERE / f"{name}.jsonl")}
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
        # JSON is YAML.
        text = json.dumps({"task": name, "test_split": "test", **data, **task})
        (folder / f"{name}.yaml").write_text(text)
    place = f"{url}/v1/completions"
    arguments = {"model": model, "base_url": place, "tokenizer": tokenizer, "max_retries": 1}
    command = [
        *(python, "-m", "lm_eval", "run", "--model", "local-completions"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
        *("--batch_size", str(batch), "--tasks", ",".join(_TASKS), "--include_path", folder),
        *("--log_samples", "--output_path", folder / "results"),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    samples = {name: _samples(folder / "results", name) for name in _TASKS}
    (results,) = (folder / "results").rglob("results_*.json")
    return Evaluated(
        [
            Likelihood(each["arg_0"], each["arg_1"], float(response[0][0]), response[0][1] == "True")
            for sample in samples["choices"]
            for each, response in zip(sample["arguments"].values(), sample["resps"], strict=True)
        ],
        [sample["resps"][0][0] for sample in samples["beginnings"]],
        json.loads(results.read_text())["results"]["choices"]["acc,none"],
    )


def expected_likelihood(model: Any, tokenizer: Any, context: str, continuation: str) -> tuple[float, bool]:
    """The same of transformers: the tokens of both texts together, scored behind those of the context."""
    before = len(tokenizer.encode(context, add_special_tokens=False))
    tokens: Sequence[int] = tokenizer.encode(context + continuation, add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0].double()
    wanted = torch.tensor(tokens[before:])
    rows = logits[before - 1 : -1].log_softmax(-1)
    value = rows.gather(1, wanted[:, None]).sum()
    return float(value), bool((rows.argmax(-1) == wanted).all())


def _samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """What the harness has written of each item, in order."""
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(lines, key=lambda line: int(line["doc_id"]))
