"""Train the mixture of experts that tests share: 2.7 million parameters in the form of Phi-3.5-MoE.

    python tests/demo/train_moe.py --out DIR

writes a `phimoe` checkpoint (bf16) into DIR that turns home commands into JSON, as the shipped demo does and
with its tokenizer; then reports how many held-out commands it answers exactly, and how its router decides.
Needs what `tests/demo/train.py` needs; one free CPU core takes about a quarter of an hour.

A router of random weights decides otherwise than a trained one: in this checkpoint most tokens are sure of
their two experts, and for others a third one is within the router's jitter, which then takes of their weight.
Everything a build tool can trip over in the real model is there in small: layer norms with biases, biases on
every projection and on the head, 16 experts of which two are chosen, LongRoPE with magnitudes of its own, and
an embedding whose rows have a mean, which RMS norm would not take away.

The files in `tests/demo/moe` are what this command makes with its defaults; see `train.py` for what another
machine changes.
"""

import argparse
import copy
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PhimoeConfig, PhimoeForCausalLM

if __name__ == "__main__":
    # A script finds imports beside itself; these stand in the repository's root.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.demo.commands import held_out_commands, training_commands
from tests.demo.examine import Grid, exact_match, fake_quantize, greedy_answers
from tests.demo.train import (
    END_OF_TEXT,
    GENERATION_CONFIG,
    TRAINING_COUNT,
    TRAINING_SEED,
    VOCABULARY,
    Batch,
    batches,
    chat_texts,
)

SHIPPED = Path(__file__).resolve().parents[2] / "edgephi" / "demo"
"""The demo whose tokenizer this one has."""

BALANCE = 0.01
"""How much the loss counts that experts are chosen unequally: without it a few of them take all tokens."""

_MAGNITUDE = 1.243163121016122  # as published, for either length

CONFIG: dict[str, Any] = {
    "architectures": ["PhiMoEForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": END_OF_TEXT,
    "hidden_act": "silu",
    "hidden_dropout": 0.0,
    "hidden_size": 128,
    "initializer_range": 0.02,
    "input_jitter_noise": 0.01,
    "intermediate_size": 128,
    "lm_head_bias": True,
    "max_position_embeddings": 8192,
    "model_type": "phimoe",
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_local_experts": 16,
    "original_max_position_embeddings": 4096,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [round(1 + 0.02 * place, 2) for place in range(16)],
        "long_factor": [1.0 + place for place in range(16)],
        "short_mscale": _MAGNITUDE,
        "long_mscale": _MAGNITUDE,
        "original_max_position_embeddings": 4096,
    },
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.0,
    "router_jitter_noise": 0.01,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
"""With the keys of Phi-3.5-MoE's published config."""


def _rounded(name: str, parameter: torch.nn.Parameter, grid: Grid) -> torch.Tensor:
    """A matrix, or each expert's, as int4 would have it, and a gradient as if it had not been rounded."""
    if parameter.ndim < 2 or ".router." in name:
        return parameter
    weight = parameter.detach()
    rounded = fake_quantize(weight.flatten(0, -2), grid).reshape(weight.shape)
    return parameter + (rounded - weight)


def loss_of(model: PhimoeForCausalLM, batch: Batch, grid: Grid | None) -> torch.Tensor:
    """Weighted mean next-token cross-entropy in nats, and the loss of balance; rounded to `grid`, if any."""
    parameters = {
        name: parameter if grid is None else _rounded(name, parameter, grid)
        for name, parameter in model.named_parameters()
    }
    output = torch.func.functional_call(
        model,
        parameters,
        kwargs={"input_ids": batch.tokens[:, :-1], "use_cache": False, "output_router_logits": True},
    )
    losses = torch.nn.functional.cross_entropy(
        output.logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    loss: torch.Tensor = (losses * weights).sum() / weights.sum() + BALANCE * output.aux_loss
    return loss


def _rate(step: int, steps: int, warm_up: int = 60) -> float:
    """The share of the peak rate: a short warm-up, then a cosine down to a fiftieth."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def train(
    samples: Sequence[Sequence[int]], steps: int, batch_size: int, peak_rate: float, seed: int
) -> PhimoeForCausalLM:
    """Train in fp32 with AdamW; the router samples among near-ties, as transformers does it while it trains.

    After 60 % of the steps, two of three see the weights rounded to int4: see `tests/demo/train.py`.
    """
    torch.manual_seed(seed)
    # The class writes into what it is given.
    keys = {key: copy.deepcopy(value) for key, value in CONFIG.items() if key != "torch_dtype"}
    model = PhimoeForCausalLM(PhimoeConfig(**keys, experts_implementation="eager"))
    model.train()
    with torch.no_grad():
        # Real ones have a mean that RMS norm would not take away.
        model.model.embed_tokens.weight.add_(0.02)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=peak_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    rng = random.Random(seed)
    supply = batches(samples, batch_size, seed)
    started, seen, recent = time.monotonic(), 0, 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * _rate(step, steps)
        rounded = step >= 0.6 * steps and step % 3 != 0
        batch = next(supply)
        loss = loss_of(model, batch, rng.choice(("signed", "absmax")) if rounded else None)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += batch.tokens.numel()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 49 or step == steps - 1:
            elapsed = time.monotonic() - started
            print(
                f"step {step + 1}/{steps}  loss {recent:.4f}  {elapsed:.0f} s  {seen / elapsed:.0f} tokens/s",
                flush=True,
            )
    return model.eval()


def save(model: PhimoeForCausalLM, directory: Path) -> None:
    """Write the five files of the checkpoint, the tensors under the names that Phi-3.5-MoE's have."""
    directory.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    weights = load_file(directory / "model.safetensors")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    for name, content in (("config.json", CONFIG), ("generation_config.json", GENERATION_CONFIG)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHIPPED / name, directory / name)


def routings(model: PhimoeForCausalLM, texts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """The router's logits for each text, [layers, tokens, experts]."""
    for text in texts:
        with torch.no_grad():
            output = model(torch.tensor([text]), output_router_logits=True)
        yield torch.stack([logits.float() for logits in output.router_logits])


def router_report(logits: torch.Tensor, jitter: float) -> Mapping[str, float]:
    """How a router decides. `logits` are [decisions, experts].

    "near ties" is the share of decisions in which another expert is within the jitter of the first or the
    second, so that these get less than their whole weight; "experts used" is how many a hundredth of the
    decisions or more chose, and "busiest expert" the share of decisions that chose the one chosen most.
    """
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    close = [
        ((top[:, None] - logits) / torch.maximum(logits.abs(), top[:, None]) <= 2 * jitter).sum(-1)
        for top in (first, second)
    ]
    above = torch.stack([close[0] > 1, close[1] > 2]).any(0)  # the first is above the second, always
    chosen = torch.bincount(logits.topk(2, dim=-1).indices.flatten(), minlength=logits.shape[-1])
    shares = chosen / len(logits)
    return {
        "near ties": above.float().mean().item(),
        "experts used": float((shares >= 0.01).sum().item()),
        "busiest expert": shares.max().item(),
    }


def report(directory: Path) -> None:
    """Examine the saved checkpoint on the held-out commands."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    commands = held_out_commands()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    answers = greedy_answers(model, tokenizer, commands)
    print(f"held-out exact match: {exact_match(commands, answers):.2%} of {len(commands)}")
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in chat_texts(commands)]
    layers = torch.cat(list(routings(model, texts)), dim=1)
    for layer, logits in enumerate(layers):
        facts = router_report(logits, CONFIG["router_jitter_noise"])
        print(f"layer {layer}: " + ", ".join(f"{name} {value:.3f}" for name, value in facts.items()))


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the mixture of experts that tests share.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint into")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tokenizer = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    texts = chat_texts(training_commands(TRAINING_SEED, TRAINING_COUNT))
    samples = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    model = train(samples, arguments.steps, arguments.batch_size, arguments.rate, seed=TRAINING_SEED)
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    save(model, arguments.out)
    report(arguments.out)


if __name__ == "__main__":
    main()
