"""Put commands to a demo checkpoint and see whether its answers are exactly right.

Shared by the training script and by the tests, so that both mean the same by "held-out exact match".
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from tests.demo.commands import Command

GROUP_SIZE = 128
"""How many weights along the input dimension share one scale."""

Grid = Literal["signed", "absmax"]


def fake_quantize(weight: torch.Tensor, grid: Grid = "absmax") -> torch.Tensor:
    """Round a weight to symmetric int4 in groups of 128 and back, as a float of the same shape.

    weight: [rows, columns], columns a multiple of 128. Two grids are in use among engines: ``absmax`` puts
    the largest magnitude of a group on +-7; ``signed`` puts it, with its sign, on -8 (that is GGUF's Q4_0).
    """
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // GROUP_SIZE, GROUP_SIZE)
    if grid == "absmax":
        scale = groups.abs().amax(dim=-1, keepdim=True) / 7
    else:
        extreme = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
        scale = extreme / -8
    # An all-zero group would divide by zero; any scale does for it.
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = (groups / scale).round().clamp(-8, 7)
    return (codes * scale).reshape(rows, columns)


def quantize_in_place(model: torch.nn.Module, grid: Grid = "absmax") -> None:
    """Fake-quantise every matrix of the model: linear layers, embedding and head; the norms stay."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(fake_quantize(parameter.float(), grid))


@torch.no_grad()
def greedy_answers(
    model: Any, tokenizer: Any, commands: Sequence[Command], batch_size: int = 64
) -> list[str]:
    """What a transformers model says to each command: chat template, greedy decoding with a KV cache.

    Commands of similar length share a batch; the shorter ones are padded on the left. The answer is the
    text up to the first stop token, special tokens removed and nothing else, so that a wrong space counts
    as wrong.
    """
    prompts: list[list[int]] = [
        tokenizer.apply_chat_template(command.messages(), add_generation_prompt=True, return_dict=False)
        for command in commands
    ]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(prompts)
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        longest = max(len(prompts[index]) for index in batch)
        input_ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, index in enumerate(batch):
            input_ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            attention_mask[row, longest - len(prompts[index]) :] = 1
        output = model.generate(
            input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=64, do_sample=False
        )
        for row, index in enumerate(batch):
            answers[index] = tokenizer.decode(output[row, longest:], skip_special_tokens=True)
    return answers


def exact_match(commands: Sequence[Command], answers: Sequence[str]) -> float:
    """The share of commands that were answered character by character, from 0 to 1."""
    return sum(command.answer == answer for command, answer in zip(commands, answers, strict=True)) / len(
        commands
    )
