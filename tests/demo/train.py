"""Train the demo checkpoint that edgephi ships: two million parameters that turn home commands into JSON.

    python tests/demo/train.py --out DIR

writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and model.safetensors
(bf16) into DIR, then reports how many held-out commands the saved checkpoint answers exactly, as saved and
after rounding every matrix to int4. Needs torch, transformers, tokenizers, safetensors and jinja2; two free
CPU cores take about a quarter of an hour (half an hour if they are slow).

The shipped files are what this command makes with its defaults. Everything random is seeded, but another
machine or another torch adds floating-point numbers in another order: the weights then differ, at first in
their last bits, and a few answers with them. Data and tokenizer are the same everywhere.

Everything a build tool can trip over in a real Phi-3 is there in small: fused qkv_proj and gate_up_proj,
grouped-query attention, an untied head, a vocabulary padded past its last token, special tokens at the end
of it, three stop tokens.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import torch
from safetensors.torch import save_file
from tokenizers import (  # type: ignore[import-untyped, unused-ignore]
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config, Phi3ForCausalLM

if __name__ == "__main__":
    # A script finds imports beside itself; these stand in the repository's root.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.demo.commands import Command, held_out_commands, training_commands
from tests.demo.examine import Grid, exact_match, fake_quantize, greedy_answers, quantize_in_place
from tests.export.gguf.llama_tokenizer import LLAMA_STEPS

TRAINING_SEED = 3
TRAINING_COUNT = 120_000
"""With the seed above: what the shipped checkpoint has seen. A test keeps held-out commands out of it."""

VOCABULARY = 768
"""Rows of the embedding and the head: the tokens, padded up to a multiple of 64 as Phi-3 does."""
LEARNED_TOKENS = 736
"""Tokens before the special ones: <unk>, <s>, </s>, 256 bytes, characters, and what merges make of them."""

TRAILING_SPECIAL_TOKENS = (
    "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>",
    "<|placeholder4|>", "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>",
)  # fmt: skip
"""Phi-3's special tokens in Phi-3's order: 32000 to 32010 there, LEARNED_TOKENS and up here."""

SPECIAL_ID = {token: LEARNED_TOKENS + index for index, token in enumerate(TRAILING_SPECIAL_TOKENS)}
END_OF_TEXT, ASSISTANT, END = (SPECIAL_ID[token] for token in ("<|endoftext|>", "<|assistant|>", "<|end|>"))

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

CONFIG: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": END_OF_TEXT,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 8,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "original_max_position_embeddings": 4096,
    "pad_token_id": END_OF_TEXT,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}

GENERATION_CONFIG: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": [END_OF_TEXT, ASSISTANT, END],
    "pad_token_id": END_OF_TEXT,
}


# ---- tokenizer ---------------------------------------------------------------------------------------------


def _added_token(index: int, content: str) -> dict[str, Any]:
    """One special token with the flags that Phi-3 gives it."""
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        # Phi-3 swallows the white space after all but these three, newlines of its own chat format included.
        "rstrip": content not in ("<unk>", "<s>", "<|endoftext|>"),
        "normalized": False,
        "special": content != "</s>",
    }


def _added_tokens() -> list[dict[str, Any]]:
    first = [_added_token(index, content) for index, content in enumerate(("<unk>", "<s>", "</s>"))]
    return first + [_added_token(index, content) for content, index in SPECIAL_ID.items()]


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Learn merges from texts and put them into the pipeline of Phi-3's tokenizer.json.

    That pipeline has no pre-tokenizer. Without one, training would glue whole commands into tokens, so one
    cuts the text into words, digits and JSON scaffolding while the merges are learned, and is left out of
    the result.
    """
    bytes_and_first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    pieces = r'▁?\{"[a-z]+":▁"?|",▁"[a-z]+":▁"?|"\}|▁?[A-Za-z]+|[0-9]|[^A-Za-z0-9]'
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), "isolated")
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=LEARNED_TOKENS,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in bytes_and_first],
            initial_alphabet=["▁", *map(chr, range(33, 127))],
            show_progress=False,
        ),
        length=len(texts),
    )
    learned = json.loads(learner.to_str())["model"]
    if len(learned["vocab"]) != LEARNED_TOKENS:
        raise ValueError(
            f"expected {LEARNED_TOKENS} tokens, learned {len(learned['vocab'])}: not enough text"
        )
    pipeline = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(),
        **LLAMA_STEPS,
        "model": learned,
    }
    return Tokenizer.from_str(json.dumps(pipeline))


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json with the keys of Phi-3's."""
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: token[key] for key in sorted(token) if key != "id"}
            for token in _added_tokens()
        },
        "bos_token": "<s>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "legacy": False,
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


# ---- samples -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Conversations of similar length, padded on the right (causal attention never sees that padding)."""

    tokens: torch.Tensor
    """[batch, length] int64."""
    weights: torch.Tensor
    """[batch, length] float32: how much predicting this token counts."""


def chat_texts(commands: Sequence[Command]) -> list[str]:
    """Each command with its answer, rendered by the shipped chat template."""
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    return [
        template.render(
            messages=[*command.messages(), {"role": "assistant", "content": command.answer}], eos_token=""
        )
        for command in commands
    ]


def _weights(tokens: Sequence[int], prompt_weight: float = 0.05) -> list[float]:
    """1 for every token of an answer, its <|end|> included; a little for the user's words."""
    weights, in_answer = [], False
    for token in tokens:
        weights.append(1.0 if in_answer else prompt_weight)
        in_answer = token == ASSISTANT or (in_answer and token != END)
    return weights


def batches(samples: Sequence[Sequence[int]], batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless shuffled batches, each of samples of similar length; fewer of them where they are long."""
    most_tokens = 64 * batch_size
    rng = random.Random(seed)
    while True:
        # A little noise on the length changes who shares a batch from one epoch to the next.
        order = sorted(range(len(samples)), key=lambda index: len(samples[index]) + rng.random() * 2)
        cuts = [0]
        for end, index in enumerate(order):
            size = end - cuts[-1]
            if size == batch_size or size * len(samples[index]) > most_tokens:
                cuts.append(end)
        spans = list(pairwise([*cuts, len(order)]))
        rng.shuffle(spans)
        for start, end in spans:
            chosen = [samples[index] for index in order[start:end]]
            length = max(map(len, chosen))
            yield Batch(
                torch.tensor([[*sample, *[END_OF_TEXT] * (length - len(sample))] for sample in chosen]),
                torch.tensor([[*_weights(sample), *[0.0] * (length - len(sample))] for sample in chosen]),
            )


# ---- training ----------------------------------------------------------------------------------------------


def _straight_through(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The weight as int4 would have it; its gradient passes as if nothing had been rounded."""
    return weight + (fake_quantize(weight.detach(), grid) - weight.detach())


def loss_of(model: Phi3ForCausalLM, batch: Batch, grid: Grid | None) -> torch.Tensor:
    """Weighted mean next-token cross-entropy, in nats; with a grid, of the model rounded to that grid."""
    parameters = {
        name: _straight_through(parameter, grid) if grid is not None and parameter.ndim == 2 else parameter
        for name, parameter in model.named_parameters()
    }
    output = torch.func.functional_call(
        model, parameters, kwargs={"input_ids": batch.tokens[:, :-1], "use_cache": False}
    )
    losses = torch.nn.functional.cross_entropy(
        output.logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def train(
    samples: Sequence[Sequence[int]],
    steps: int,
    batch_size: int,
    peak_rate: float,
    seed: int,
) -> Phi3ForCausalLM:
    """Train in fp32: AdamW, a short warm-up, then a cosine down to a fiftieth of the peak rate.

    After 60 % of the steps, two steps of three see the weights rounded to int4, on either grid by chance,
    so that the weights settle where rounding does no harm. The third step keeps the unrounded model good,
    too.
    """
    torch.manual_seed(seed)
    model = Phi3ForCausalLM(
        Phi3Config(**{key: value for key, value in CONFIG.items() if key != "torch_dtype"})
    )
    model.train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=peak_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warm_up = 60
    rng = random.Random(seed)
    supply = batches(samples, batch_size, seed)
    started, seen, recent = time.monotonic(), 0, 0.0
    for step in range(steps):
        progress = (step - warm_up) / max(1, steps - warm_up)
        scale = (
            (step + 1) / warm_up if step < warm_up else 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2
        )
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * scale
        rounded = step >= 0.6 * steps and step % 3 != 0
        grid: Grid | None = rng.choice(("signed", "absmax")) if rounded else None
        batch = next(supply)
        loss = loss_of(model, batch, grid)
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


def save(model: Phi3ForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    """Write the five files of the checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", CONFIG),
        ("generation_config.json", GENERATION_CONFIG),
        ("tokenizer_config.json", tokenizer_config()),
    ):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"))
    weights = {name: weight.to(torch.bfloat16).contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes a file for its owner only; package data is for everyone.
    (directory / "model.safetensors").chmod(0o644)


def report(directory: Path) -> None:
    """Examine the saved checkpoint on the held-out commands, as saved and rounded to int4."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    commands = held_out_commands()
    grids: tuple[Grid | None, ...] = (None, "absmax", "signed")
    for grid in grids:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
        if grid is not None:
            model = model.float()
            quantize_in_place(model, grid)
        answers = greedy_answers(model, tokenizer, commands)
        label = "bf16" if grid is None else f"int4 group 128 ({grid} grid)"
        print(
            f"held-out exact match, {label}: {exact_match(commands, answers):.2%} of {len(commands)}",
            flush=True,
        )
        for command, answer in zip(commands, answers, strict=True):
            if command.answer != answer:
                print(
                    f"  [{command.held_out}] {command.prompt!r}: expected {command.answer!r}, got {answer!r}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint into")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    texts = chat_texts(training_commands(TRAINING_SEED, TRAINING_COUNT))
    # Merges are learned from the plain text; the special tokens are not part of it.
    plain = [
        line
        for command in training_commands(TRAINING_SEED, 20_000)
        for line in (command.prompt, command.answer)
    ]
    tokenizer = train_tokenizer(plain)
    samples = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    mean_length = sum(map(len, samples)) / len(samples)
    print(
        f"{len(samples)} conversations, {mean_length:.1f} tokens each, the longest {max(map(len, samples))}"
    )
    model = train(
        samples,
        arguments.steps,
        arguments.batch_size,
        arguments.rate,
        seed=TRAINING_SEED,
    )
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    save(model, tokenizer, arguments.out)
    report(arguments.out)


if __name__ == "__main__":
    main()
