"""`python -m edgephi.runtime.proof.logits BUNDLE OUTPUT`: what the engine computes, in a process of its own.

Standard input is one JSON object: `tokens`, and `question` (`prompt` and `max_tokens`) or null. OUTPUT gets
the logits after each token, float32 [tokens, vocabulary]. Standard output gets one JSON object: `engine`
(name and version), `provider`, and `answer` to the question (`text` and `max_tokens`, see `ClearAnswer`) or
null; or `error` (message and hint), with the error's exit code. The builder proves a bundle with this; the
engine's memory is gone afterwards.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from edgephi.bundle.manifest import ARTIFACT_FOLDER, Manifest, read_manifest
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import DoesNotFitError, EdgephiError, from_os_error
from edgephi.processes.answer_stream import take_standard_output
from edgephi.runtime.adapter import Engine, adapter_of, open_engine
from edgephi.runtime.proof.clear_answer import clear_answer
from edgephi.runtime.text.chat_prompt import ChatPrompts
from edgephi.runtime.text.tokenizer_file import added_tokens

_STEP = 32  # tokens in one call: bounds the engine's copy of the logits, and is what a progress bar sees
_QUESTION_TOKENS = 512  # room for a question and its answer


def main(
    bundle: Path, output: Path, token_ids: list[int], question: dict[str, Any] | None
) -> dict[str, object]:
    """Write the logits of `token_ids` to `output`; returns what standard output gets.

    Where the bundle's provider is missing, its stand-in computes the same artifact.
    """
    builder = os.getppid()
    manifest = read_manifest(bundle)
    context = min(max(len(token_ids) + 1, _QUESTION_TOKENS), manifest.limits.context)
    engine = open_engine(bundle, manifest, context=context, provider=_provider(manifest))
    with output.open("wb") as file:
        for block in engine.logits(token_ids, step=_STEP):
            file.write(block.astype("<f4", copy=False).data)
            file.flush()
            if os.getppid() != builder:  # it was killed: nobody waits for this
                return {}
    answer = None if question is None else _answer(bundle, manifest, engine, question, context)
    return {"engine": f"{engine.name} {engine.version}", "provider": engine.provider, "answer": answer}


def _answer(
    bundle: Path, manifest: Manifest, engine: Engine, question: dict[str, Any], context: int
) -> dict[str, object] | None:
    """`text` and `max_tokens`: see `ClearAnswer`."""
    answer = clear_answer(
        engine,
        ChatPrompts(engine, added_tokens(bundle / ARTIFACT_FOLDER / "tokenizer.json")),
        question["prompt"],
        max_tokens=question["max_tokens"],
        context=context,
        stop_token_ids=manifest.chat.stop_token_ids,
    )
    return None if answer is None else {"text": answer.text, "max_tokens": answer.max_tokens}


def _provider(manifest: Manifest) -> str:
    """The bundle's provider or, where that cannot be used here, its stand-in."""
    wanted = manifest.target.provider
    facts = known_engines().get(manifest.target.engine)
    if facts is None or wanted not in facts.providers:
        return wanted  # it is refused with a reason later
    if adapter_of(facts).provider_problem(wanted) is None:
        return wanted
    return facts.providers[wanted].stand_in or wanted


def _main(answers: TextIO) -> int:
    try:
        asked = json.load(sys.stdin)
        computed = main(Path(sys.argv[1]), Path(sys.argv[2]), asked["tokens"], asked["question"])
        print(json.dumps(computed), file=answers)
    except EdgephiError as caught:
        error = caught
    except OSError as cause:
        error = from_os_error(cause, place=sys.argv[2])
    except MemoryError:
        error = DoesNotFitError("the engine ran out of memory", hint="stop other programs")
    else:
        return 0
    print(json.dumps({"error": [error.message, error.hint]}), file=answers)
    return error.exit_code


if __name__ == "__main__":
    with take_standard_output() as stream:
        code = _main(stream)
    sys.exit(code)
