"""Train the demo that sees: two million parameters in the form of Phi-3-vision.

    python tests/demo/train_vision.py --out DIR

writes a `phi3_v` checkpoint (bf16) into DIR that reads drawn gauges, displays of seven segments and rows of
lights; then reports how many held-out pictures it reads exactly. Needs what `tests/demo/train.py` needs, and
Pillow; two free CPU cores take about half an hour.

All that Phi-3-vision does is there in small: tiles of 56 pixels instead of 336, at most four of them and a
thumbnail; CLIP up to the layer before its last; 2x2 patches that become one token; a learned token that ends
every line of them and one that separates the thumbnail; the projection of two layers; Phi-3's decoder.
Encoder and decoder are trained together, from nothing.

See `train.py` for what another machine changes.
"""

import argparse
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence

if __name__ == "__main__":
    # A script finds imports beside itself; these stand in the repository's root.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.demo.commands import training_commands
from tests.demo.examine import Grid, fake_quantize
from tests.demo.picture_questions import (
    LABELS,
    NO_LABEL,
    Examined,
    Picture,
    Question,
    Subject,
    Turn,
    held_out_pictures,
    some_conversation,
    some_picture,
)
from tests.demo.train import (
    ASSISTANT,
    END,
    END_OF_TEXT,
    GENERATION_CONFIG,
    SPECIAL_ID,
    VOCABULARY,
    chat_texts,
    tokenizer_config,
    train_tokenizer,
)
from tests.demo.vision_model import Prompt, VisionModel, load_vision_model
from tests.runtime.images.published_processor import PUBLISHED, Published, publish, published_ids

TRAINING_SEED = 7
TRAINING_PICTURES = 36_000

_FIRST_DEVIATION = 0.05
"""Of the decoder's weights before training: so narrow a model takes long to leave smaller ones behind."""

MONITORED_SEED = 16
"""Of pictures that are looked at while it trains; the held-out ones are not."""

TILE, PATCH, CROPS = 56, 14, 4
FACTS = replace(PUBLISHED, tile=TILE, patch=PATCH, crops=CROPS)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
    "{{- '<|assistant|>\n' -}}{% endif %}"
)
"""As published for Phi-3-vision."""

_TEMPLATE = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)

CONFIG: dict[str, Any] = {
    "architectures": ["Phi3VForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embd_layer": {
        "embedding_cls": "image",
        "hd_transform_order": "sub_glb",
        "projection_cls": "mlp",
        "use_hd_transform": True,
        "with_learnable_separator": True,
    },
    "embd_pdrop": 0.0,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 128,
    "img_processor": {
        "image_dim_out": 128,
        "name": "clip_vision_model",
        "num_img_tokens": FACTS.side**2,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": TILE,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-05,
    },
    "initializer_range": 0.02,
    "intermediate_size": 384,
    "max_position_embeddings": 4096,
    "model_type": "phi3_v",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "original_max_position_embeddings": 4096,
    "pad_token_id": END_OF_TEXT,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
"""Phi-3.5-vision's published keys, and the encoder's sizes under CLIPVisionConfig's names."""

PREPROCESSOR_CONFIG: dict[str, Any] = {
    "do_convert_rgb": True,
    "image_mean": list(FACTS.mean),
    "image_processor_type": "Phi3VImageProcessor",
    "image_std": list(FACTS.std),
    "num_crops": CROPS,
    "num_img_tokens": FACTS.side**2,
    "processor_class": "Phi3VProcessor",
}

_KEEPS_SPACE_AFTER = ("<|system|>", "<|end|>", "<|user|>")
"""These swallow no white space in Phi-3-vision's tokenizer, unlike in Phi-3's."""


# ---- tokenizer ---------------------------------------------------------------------------------------------


def rendered(turns: Sequence[Turn]) -> str:
    """A conversation with its answers, as the shipped template writes it."""
    messages = []
    for turn in turns:
        image = "" if turn.picture is None else f"<|image_{turn.picture + 1}|>\n"
        messages.append({"role": "user", "content": image + turn.question.text})
        messages.append({"role": "assistant", "content": turn.question.answer})
    return _TEMPLATE.render(messages=messages)


def train_vision_tokenizer(pictures: Sequence[Subject]) -> Tokenizer:
    """As many tokens as the text demo has; their words are those of questions about pictures and a home."""
    rng = np.random.default_rng(TRAINING_SEED)
    texts = [
        rendered(some_conversation(rng, [picture] if rng.random() < 0.9 else [])) for picture in pictures
    ]
    learned = json.loads(
        train_tokenizer([*texts, *chat_texts(training_commands(TRAINING_SEED, 4000))]).to_str()
    )
    for token in learned["added_tokens"]:
        if token["content"] in _KEEPS_SPACE_AFTER:
            token["rstrip"] = False
    return Tokenizer.from_str(json.dumps(learned))


def vision_tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json with the template and the flags of Phi-3-vision's."""
    config = {**tokenizer_config(), "chat_template": CHAT_TEMPLATE}
    for token in _KEEPS_SPACE_AFTER:
        config["added_tokens_decoder"][str(SPECIAL_ID[token])]["rstrip"] = False
    return config


# ---- samples -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """What can be asked about a picture, and what the processor made of it."""

    subject: str
    questions: tuple[tuple[Question, ...], ...]
    labels: tuple[int, ...]
    image: Published


_DRAWN_AT_ONCE = 500


def draw_pictures(count: int, seed: int, processes: int) -> list[Drawn]:
    """The pictures of training, as tiles in float16; the same for any number of processes."""
    with ProcessPoolExecutor(processes) as pool:
        parts = pool.map(
            _draw_some, *zip(*((seed, part) for part in range(count // _DRAWN_AT_ONCE)), strict=True)
        )
        return [
            replace(each, image=replace(each.image, pixels=torch.from_numpy(each.image.pixels)))
            for part in parts
            for each in part
        ]


def _draw_some(seed: int, part: int) -> list[Drawn]:
    """Some of them. Their pixels are an array: a tensor would take a file handle on its way."""
    torch.set_num_threads(1)  # as many processes as cores are at work
    rng = np.random.default_rng((seed, part))
    drawn = []
    for _ in range(_DRAWN_AT_ONCE):
        picture = some_picture(rng)
        image: Any = publish(picture.image, CROPS, FACTS)
        image = replace(image, pixels=image.pixels.numpy().astype(np.float16))
        drawn.append(Drawn(picture.subject, picture.questions, picture.labels, image))
    return drawn


def make_prompt(tokenizer: Tokenizer, turns: Sequence[Turn], images: Sequence[Published]) -> Prompt:
    """The conversation with its answers."""
    ids = published_ids(
        rendered(turns),
        [image.tokens for image in images],
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    )
    return Prompt(tuple(ids), tuple(images))


def _weights(ids: Sequence[int], prompt_weight: float = 0.02) -> list[float]:
    """1 for every token of an answer, its <|end|> included, a little for the user's words, 0 for pictures."""
    weights, in_answer = [], False
    for token in ids:
        weights.append(0.0 if token < 0 else 1.0 if in_answer else prompt_weight)
        in_answer = token == ASSISTANT or (in_answer and token != END)
    return weights


def single_questions(
    drawn: Sequence[Drawn], tokens: Sequence[torch.Tensor], tokenizer: Tokenizer, size: int, seed: int
) -> Iterator[list[Prompt]]:
    """Endless batches of one question about a picture, mostly the ordinary one. `tokens` are theirs."""
    rng = np.random.default_rng(seed)
    while True:
        batch = []
        for place in rng.integers(0, len(drawn), size).tolist():
            each = drawn[place]
            which = 0 if rng.random() < 0.8 else int(rng.integers(len(each.questions)))
            wordings = each.questions[which]
            asked = Turn(wordings[int(rng.integers(len(wordings)))], 0)
            batch.append(replace(make_prompt(tokenizer, [asked], [each.image]), tokens=(tokens[place],)))
        yield batch


_TOGETHER = 8


def conversations(
    drawn: Sequence[Drawn], tokenizer: Tokenizer, size: int, seed: int
) -> Iterator[list[Prompt]]:
    """Endless batches of conversations about pictures in shuffled order, with new questions every time.

    Those of one batch are of similar length, as far as a few batches at a time allow.
    """
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        some = []
        for _ in range(_TOGETHER * size):
            if len(waiting) < 2:
                waiting = [*rng.permutation(len(drawn)).tolist(), *waiting]
            chance = rng.random()
            count = 0 if chance < 0.06 else 2 if chance < 0.16 else 1
            chosen = [drawn[waiting.pop()] for _ in range(count)]
            turns = some_conversation(rng, chosen)
            some.append(make_prompt(tokenizer, turns, [each.image for each in chosen]))
        some.sort(key=lambda prompt: len(prompt.ids))
        for start in rng.permutation(_TOGETHER) * size:
            yield some[start : start + size]


# ---- training ----------------------------------------------------------------------------------------------


def _rounded(name: str, parameter: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A matrix of the decoder as int4 would have it; its gradient passes as if nothing had been rounded."""
    if parameter.ndim != 2 or not name.startswith("decoder."):
        return parameter
    return parameter + (fake_quantize(parameter.detach(), grid) - parameter.detach())


def loss_of(model: VisionModel, batch: Sequence[Prompt], grid: Grid | None) -> torch.Tensor:
    """Weighted mean next-token cross-entropy, in nats; with a grid, of the decoder rounded to that grid."""
    if grid is None:
        logits = model(batch)
    else:
        parameters = {name: _rounded(name, each, grid) for name, each in model.named_parameters()}
        logits = torch.func.functional_call(model, parameters, (batch,))
    ids = pad_sequence([torch.tensor(prompt.ids) for prompt in batch], batch_first=True).clamp(min=0)
    weights = pad_sequence([torch.tensor(_weights(prompt.ids)) for prompt in batch], batch_first=True)[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return (losses * weights.flatten()).sum() / weights.sum()


def _rate(step: int, steps: int, warm_up: int = 100) -> float:
    """The share of the peak rate: a short warm-up, then a cosine down to a fiftieth."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def learn_to_see(
    model: VisionModel, drawn: Sequence[Drawn], steps: int, batch_size: int, peak_rate: float, seed: int
) -> None:
    """Train encoder and projection on thumbnails alone, to tell each picture's labels by a linear layer.

    What they find out in these minutes would take hours through a decoder that does not yet know what to look
    at. It is told from the mean of a tile's tokens, as a decoder sees them that attends to all alike. Light
    and noise vary, so that the few pictures are not learned by heart.
    """
    labels = torch.tensor([each.labels for each in drawn])
    thumbnails = torch.stack([each.image.pixels[0] for each in drawn])
    watched = [each.picture for each in held_out_pictures(300, seed=MONITORED_SEED)]
    head = torch.nn.Linear(CONFIG["hidden_size"], sum(LABELS))
    optimizer = torch.optim.AdamW(
        [*model.clip.parameters(), *model.projection.parameters(), *head.parameters()],
        lr=peak_rate,
        weight_decay=0.05,
        fused=True,
    )
    rng = torch.Generator().manual_seed(seed)
    started, recent = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * _rate(step, steps)
        chosen = torch.randint(len(drawn), (batch_size,), generator=rng)
        light = 1 + 0.2 * torch.randn(batch_size, 1, 1, 1, generator=rng)
        colour = 0.1 * torch.randn(batch_size, 3, 1, 1, generator=rng)
        noise = 0.1 * torch.randn(batch_size, 3, TILE, TILE, generator=rng)
        guesses = _guesses(model, head, thumbnails[chosen].float() * light + colour + noise)
        wanted = labels[chosen]
        losses = [
            torch.nn.functional.cross_entropy(guess, each, ignore_index=NO_LABEL, reduction="sum")
            for guess, each in zip(guesses, wanted.unbind(-1), strict=True)
        ]
        loss = torch.stack(losses).sum() / (wanted != NO_LABEL).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 500 == 499:
            line = f"seeing {step + 1}/{steps}  loss {recent:.4f}  {time.monotonic() - started:.0f} s"
            print(f"{line}  {_recognised(model, head, watched):.1%} of {len(watched)}", flush=True)


def _guesses(model: VisionModel, head: torch.nn.Linear, thumbnails: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """For each of LABELS, [thumbnails, classes]."""
    seen = model.projection(model.encode(thumbnails))
    told: torch.Tensor = head(seen.reshape(len(thumbnails), FACTS.side**2, -1).mean(1))
    ends = [*itertools.accumulate(LABELS)]
    return tuple(told[:, end - classes : end] for classes, end in zip(LABELS, ends, strict=True))


@torch.no_grad()
def _recognised(model: VisionModel, head: torch.nn.Linear, pictures: Sequence[Picture]) -> float:
    """The share of pictures of which all labels are told."""
    thumbnails = torch.stack([publish(each.image, CROPS, FACTS).pixels[0] for each in pictures])
    best = torch.stack([guess.argmax(-1) for guess in _guesses(model, head, thumbnails)], dim=-1)
    wanted = torch.tensor([each.labels for each in pictures])
    return ((best == wanted) | (wanted == NO_LABEL)).all(-1).float().mean().item()


@torch.no_grad()
def image_tokens(model: VisionModel, drawn: Sequence[Drawn]) -> list[torch.Tensor]:
    """What each picture is to the decoder, [its tokens, hidden]."""
    found: list[torch.Tensor] = []
    for start in range(0, len(drawn), 64):
        images = [each.image for each in drawn[start : start + 64]]
        embedded = iter(model.image_embeddings(images))
        found += [torch.stack([*itertools.islice(embedded, image.tokens)]) for image in images]
    return found


@dataclass(frozen=True)
class Course:
    """How long to train, in steps: the encoder, the decoder alone, both together; and the peak rates."""

    seeing: int
    answering: int
    together: int
    batch_size: int
    seeing_rate: float = 1.5e-3
    answering_rate: float = 3e-3
    together_rate: float = 1e-3


def learn_to_answer(
    model: VisionModel,
    tokenizer: Tokenizer,
    supply: Iterator[Sequence[Prompt]],
    steps: int,
    peak_rate: float,
    *,
    seeing_share: float,
    rounded: bool,
) -> None:
    """Train the decoder; the encoder too, at that share of its rate, if it is not 0.

    If `rounded`, two steps of three see the decoder rounded to int4, on either grid by chance, so that the
    weights settle where rounding does no harm.
    """
    decoder = [*model.decoder.parameters(), model.line_end, model.separator]
    groups = [{"params": decoder, "share": 1.0}]
    if seeing_share:
        seeing = [*model.clip.parameters(), *model.projection.parameters()]
        groups.append({"params": seeing, "share": seeing_share})
    optimizer = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    rng = random.Random(steps)
    examined = [*held_out_pictures(60, seed=MONITORED_SEED)]
    started, recent = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * group["share"] * _rate(step, steps)
        grid: Grid | None = rng.choice(("signed", "absmax")) if rounded and step % 3 != 0 else None
        loss = loss_of(model, next(supply), grid)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 49 or step == steps - 1:
            line = f"step {step + 1}/{steps}  loss {recent:.4f}  {time.monotonic() - started:.0f} s"
            if step % 250 == 249:
                line += f"  {shares(examined, right_answers(model, tokenizer, examined))}"
            print(line, flush=True)


def train(drawn: Sequence[Drawn], tokenizer: Tokenizer, course: Course, seed: int) -> VisionModel:
    """Train in fp32 with AdamW: the encoder, then the decoder on what that sees, then both together."""
    torch.manual_seed(seed)
    model = VisionModel({**CONFIG, "initializer_range": _FIRST_DEVIATION})
    model.train()
    with torch.no_grad():
        # Where something is matters from the first step on.
        model.clip.embeddings.position_embedding.weight.mul_(10)
    size = course.batch_size
    learn_to_see(model, drawn, course.seeing, 2 * size, course.seeing_rate, seed)
    alone = single_questions(drawn, image_tokens(model, drawn), tokenizer, size, seed)
    learn_to_answer(
        model, tokenizer, alone, course.answering, course.answering_rate, seeing_share=0, rounded=False
    )
    together = conversations(drawn, tokenizer, size, seed)
    learn_to_answer(
        model, tokenizer, together, course.together, course.together_rate, seeing_share=0.5, rounded=True
    )
    return model.eval()


# ---- examination -------------------------------------------------------------------------------------------


@torch.no_grad()
def right_answers(model: VisionModel, tokenizer: Any, examined: Sequence[Examined]) -> list[bool]:
    """Whether greedy decoding gives each right answer and ends there.

    That is so exactly if, after the question and each beginning of the right answer, the most likely token is
    the answer's next one: one pass over all of it tells.
    """
    right = []
    for start in range(0, len(examined), 32):
        batch = [
            make_prompt(tokenizer, [Turn(each.question, 0)], [publish(each.picture.image, CROPS, FACTS)])
            for each in examined[start : start + 32]
        ]
        best = model(batch).argmax(-1)
        for prompt, row in zip(batch, best, strict=True):
            first, last = prompt.ids.index(ASSISTANT) + 1, len(prompt.ids) - prompt.ids[::-1].index(END)
            right.append(row[first - 1 : last - 1].tolist() == list(prompt.ids[first:last]))
    return right


def shares(examined: Sequence[Examined], right: Sequence[bool]) -> str:
    """The share of right answers, of all and of each subject, as a line."""
    subjects = [each.picture.subject for each in examined]
    parts = [f"{sum(right) / len(right):.1%} of {len(right)}"]
    for subject in dict.fromkeys(subjects):
        own = [good for good, of in zip(right, subjects, strict=True) if of == subject]
        parts.append(f"{subject} {sum(own)}/{len(own)}")
    return ", ".join(parts)


def save(model: VisionModel, tokenizer: Tokenizer, directory: Path) -> None:
    """Write the six files of the checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", CONFIG),
        ("generation_config.json", GENERATION_CONFIG),
        ("preprocessor_config.json", PREPROCESSOR_CONFIG),
        ("tokenizer_config.json", vision_tokenizer_config()),
    ):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"))
    weights = {name: each.to(torch.bfloat16).contiguous() for name, each in model.published_names().items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes a file for its owner only; package data is for everyone.
    (directory / "model.safetensors").chmod(0o644)


def report(directory: Path) -> None:
    """Examine the saved checkpoint on the held-out pictures, as saved and rounded to int4."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    examined = [*held_out_pictures()]
    grids: tuple[Grid | None, ...] = (None, "absmax", "signed")
    for grid in grids:
        model = load_vision_model(directory)
        if grid is not None:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(_rounded(name, parameter, grid))
        label = "bf16" if grid is None else f"int4 group 128 ({grid} grid)"
        print(f"{label}: {shares(examined, right_answers(model, tokenizer, examined))}")


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the demo that sees.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint into")
    parser.add_argument("--seeing-steps", type=int, default=6000, help="of the encoder alone")
    parser.add_argument("--answering-steps", type=int, default=2000, help="of the decoder alone")
    parser.add_argument("--steps", type=int, default=1500, help="of both together")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=TRAINING_PICTURES)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    started = time.monotonic()
    drawn = draw_pictures(arguments.pictures, TRAINING_SEED, arguments.threads)
    tokenizer = train_vision_tokenizer(drawn)
    print(f"{len(drawn)} pictures, {tokenizer.get_vocab_size()} tokens, {time.monotonic() - started:.0f} s")
    course = Course(arguments.seeing_steps, arguments.answering_steps, arguments.steps, arguments.batch_size)
    model = train(drawn, tokenizer, course, TRAINING_SEED)
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    save(model, tokenizer, arguments.out)
    report(arguments.out)


if __name__ == "__main__":
    main()
