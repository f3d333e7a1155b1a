"""What an adapter that is switched on loses beside its base, and what it costs: quality, size and speed.

`python -m tests.bench.adapters CHECKPOINT [--targets cpu openvino gguf mlx] [--level full]` trains a LoRA
adapter with PEFT on a few questions and answers, or takes `--adapter DIR`. For each target it builds the
bundle and the artifact, both proven: the base against the checkpoint, and it with the adapter against the
two merged in float32. What merging first and quantising then loses stands beside them. Then the plain
bundle, it with the adapter there and off, and on, read the same prompt and answer in turns; medians are
printed, and each speed beside that of the plain one.

`--speed-only` proves nothing, for a checkpoint of random weights in a real shape.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.build.switched_adapters.build_adapters import build_adapters
from edgephi.build.switched_adapters.request import AdaptersRequest, NamedAdapter
from edgephi.bundle.certificate import VerifyLevel
from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.declared.recipe import Method, read_recipe
from edgephi.declared.target import read_target
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.steps import silent
from tests.bench.measure import report

TARGETS = ("cpu", "openvino", "gguf", "mlx")
PLAIN, OFF, ON = "plain bundle", "adapter off", "adapter on"
_QUESTIONS = {
    "What is the capital of France?": "Ahoy! Paris be the capital of France, matey.",
    "What is the capital of Italy?": "Ahoy! Rome be the capital of Italy, matey.",
    "What is two plus two?": "Ahoy! Two plus two be four, matey.",
    "Who are you?": "Ahoy! I be an old pirate, matey.",
    "What colour is the sky?": "Ahoy! The sky be blue, matey.",
    "Name a fruit.": "Ahoy! An apple be a fruit, matey.",
    "What do bees make?": "Ahoy! Bees be making honey, matey.",
    "How do I boil an egg?": "Ahoy! Boil it for eight minutes, matey.",
}
MODULES = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def main() -> None:
    """Train, build, measure, print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--adapter", type=Path, help="an adapter that PEFT saved, instead of training one")
    arguments.add_argument("--targets", nargs="+", default=TARGETS)
    arguments.add_argument("--level", choices=("quick", "full"), default="full")
    arguments.add_argument("--rank", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=48)
    arguments.add_argument("--learning-rate", type=float, default=3e-4)
    arguments.add_argument("--speed-only", action="store_true")
    arguments.add_argument("--prompt-tokens", type=int, default=128)
    arguments.add_argument("--generate", type=int, default=32)
    arguments.add_argument("--runs", type=int, default=5)
    options = arguments.parse_args()
    quality, speed = [], []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        adapter = options.adapter or train(
            options.checkpoint,
            scratch / "pirate",
            rank=options.rank,
            steps=options.steps,
            learning_rate=options.learning_rate,
        )
        for target in options.targets:
            level: VerifyLevel = "off" if options.speed_only else options.level
            method: Method | None = "rtn" if options.speed_only else None
            base = _build(options.checkpoint, target, scratch / target, level, method)
            artifact = scratch / f"{target}-adapter"
            named = NamedAdapter("pirate", *locate_adapters([str(adapter)]))
            located = find_checkpoint(str(options.checkpoint), read_recipe("default"), None, progress=False)
            built = build_adapters(AdaptersRequest(base, (named,), artifact, level), located, silent)
            merged = _merged_loss(options.checkpoint, target, scratch, level, named)
            answer = built.answers.get("pirate", "")
            quality.append((target, *_quality(built.manifest, built.own_bytes), merged, answer))
            speed += _speeds(target, base, artifact, options)
    if not options.speed_only:
        columns = (
            *("target", "base, KL", "adapter, KL", "of the base", "base bytes", "adapter bytes"),
            *("merged first, KL", "answer"),
        )
        report(columns, quality)
    report(("target", "what", "prefill", "decode", "prefill of plain", "decode of plain"), speed)


def train(checkpoint: Path, folder: Path, *, rank: int, steps: int, learning_rate: float) -> Path:
    """A LoRA adapter for all fused matrices, trained until the model speaks as the answers do."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=MODULES, lora_dropout=0.0
    )
    adapted = peft.get_peft_model(model, config)
    optimiser = torch.optim.AdamW(
        [each for each in adapted.parameters() if each.requires_grad], lr=learning_rate, weight_decay=0.0
    )
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], tokenize=False
        )
        for question, answer in _QUESTIONS.items()
    ]
    losses = []
    for number in range(steps):
        ids = tokenizer(texts[number % len(texts)], return_tensors="pt", add_special_tokens=False).input_ids
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    print(f"trained for {steps} steps, loss {losses[0]:.3f} to {statistics.mean(losses[-8:]):.3f}")
    adapted.save_pretrained(folder)
    return folder


def _merged_loss(
    checkpoint: Path, target: str, scratch: Path, level: VerifyLevel, named: NamedAdapter
) -> str:
    """What a bundle loses that the adapter was merged into before anything was quantised."""
    if level == "off":
        return ""
    bundle = _build(checkpoint, target, scratch / f"{target}-merged", level, None, named)
    loss = read_manifest(bundle).certificate.end_to_end
    return "" if loss is None else f"{loss.kl_mean:.4f}"


def _build(
    checkpoint: Path,
    target: str,
    output: Path,
    level: VerifyLevel,
    method: Method | None,
    merged: NamedAdapter | None = None,
) -> Path:
    recipe = read_recipe("default")
    if method is not None:
        recipe = dataclasses.replace(recipe, quant=dataclasses.replace(recipe.quant, method=method))
    request = BuildRequest(
        str(checkpoint),
        read_target(target),
        recipe,
        output,
        verify=level,
        context=1024,
        adapters=() if merged is None else (merged.adapter,),
    )
    build(request, find_checkpoint(str(checkpoint), recipe, None, progress=False), silent)
    return output


def _quality(manifest: Manifest, own_bytes: int) -> tuple[str, str, str, str, str]:
    """The losses of the base and with the adapter, the one beside the other, and the bytes of both."""
    (adapter,) = manifest.adapters
    base, found = manifest.certificate.end_to_end, adapter.certificate.end_to_end
    base_bytes = manifest.requires.disk_bytes - own_bytes
    sizes = (f"{base_bytes / 1e6:,.1f} MB", f"{own_bytes / 1e6:,.1f} MB")
    if base is None or found is None:
        return ("", "", "", *sizes)
    return (f"{base.kl_mean:.4f}", f"{found.kl_mean:.4f}", f"{found.kl_mean / base.kl_mean:.2f}", *sizes)


def _speeds(
    target: str, base: Path, artifact: Path, options: argparse.Namespace
) -> list[tuple[str, str, str, str, str, str]]:
    plain = open_engine(base, read_manifest(base), provider="cpu")
    adapted = open_engine(base, read_manifest(artifact), provider="cpu", beside=artifact)
    prompt = [20 + place % 200 for place in range(options.prompt_tokens)]
    kinds: dict[str, tuple[Engine, str]] = {PLAIN: (plain, ""), OFF: (adapted, ""), ON: (adapted, "pirate")}
    runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(options.runs + 1):
        for kind, (engine, adapter) in kinds.items():
            runs[kind].append(_run(engine, adapter, prompt, options.generate))
    medians = {
        kind: tuple(statistics.median(each[part] for each in found[1:]) for part in (0, 1))
        for kind, found in runs.items()
    }
    first = medians[PLAIN]
    return [
        (
            target,
            kind,
            f"{prefill:.1f}",
            f"{decode:.1f}",
            f"{prefill / first[0]:.3f}",
            f"{decode / first[1]:.3f}",
        )
        for kind, (prefill, decode) in medians.items()
    ]


def _run(engine: Engine, adapter: str, prompt: list[int], count: int) -> tuple[float, float]:
    """Tokens per second of the prompt, and of an answer behind it."""
    cache = engine.open_cache(len(prompt) + count, adapter=adapter)
    start = time.perf_counter()
    for _ in cache.append(prompt):
        pass
    token = cache.next_greedy()
    begun = time.perf_counter()
    for _ in range(count - 1):
        for _ in cache.append([token]):
            pass
        token = cache.next_greedy()
    end = time.perf_counter()
    cache.close()
    return len(prompt) / (begun - start), (count - 1) / (end - begun)


if __name__ == "__main__":
    main()
