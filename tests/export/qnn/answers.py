"""The demo's answers to held-out commands on the NPU's emulator, beside bf16's and the CPU bundle's.

An answer is held against a text in one pass: it is what greedy decoding says exactly when each of its tokens,
and the stop token after them, is the most likely one after those before it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.locate import locate
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.export.onnx import exporter as onnx
from edgephi.export.qnn import exporter as qnn
from tests.demo.commands import Command, held_out_commands
from tests.demo.examine import exact_match, greedy_answers
from tests.export.oracle import Engine
from tests.export.qnn.emulator import Emulator

_CONTEXT = 128  # all but a fiftieth of the commands, which are long conversations, fit with their answers
_LONGEST_ANSWER = 64


@dataclass(frozen=True)
class Answers:
    """Shares of `commands` that were answered right, and of those whose text is the CPU bundle's."""

    commands: int
    bf16: float
    cpu: float
    qnn: float
    same_as_cpu: float


def held_out_answers(scratch: Path, *, every: int = 1) -> Answers:
    """Answer every `every`-th held-out command that fits with the demo, built for the CPU and for the NPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    located = locate("demo", revision=None, progress=False)
    checkpoint = open_checkpoint(located.folder, id=located.id, revision=located.revision)
    plans = plan_tensors(checkpoint.architecture, read_recipe("demo").quant)
    artifacts = {}
    for name, exporter in (("cpu", onnx), ("qnn", qnn)):
        artifacts[name] = scratch / name
        artifacts[name].mkdir(parents=True)
        exporter.write_artifact(artifacts[name], checkpoint, plans, read_target(name), _CONTEXT)
    tokenizer = AutoTokenizer.from_pretrained(located.folder)

    def prompt_of(command: Command) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            command.messages(), add_generation_prompt=True, return_dict=False
        )
        return ids

    fitting = [each for each in held_out_commands() if len(prompt_of(each)) <= _CONTEXT - _LONGEST_ANSWER]
    commands = fitting[::every]
    model = AutoModelForCausalLM.from_pretrained(located.folder, dtype=torch.bfloat16).eval()
    emulator = Emulator(artifacts["qnn"], checkpoint.architecture)
    engine = Engine(artifacts["cpu"])
    stops = set(checkpoint.tokenizer.stop_token_ids)
    cpu_right = qnn_right = same = 0
    for command in commands:
        prompt = prompt_of(command)
        right = tokenizer.encode(command.answer, add_special_tokens=False)
        cpu = greedy_answer(engine, prompt, stops)
        cpu_right += tokenizer.decode(cpu) == command.answer
        says_cpu = emulator_says(emulator, prompt, cpu, stops)
        same += says_cpu
        qnn_right += says_cpu if cpu == right else emulator_says(emulator, prompt, right, stops)
    count = len(commands)
    bf16 = exact_match(commands, greedy_answers(model, tokenizer, commands))
    return Answers(count, bf16, cpu_right / count, qnn_right / count, same / count)


def greedy_answer(engine: Engine, prompt: list[int], stops: set[int]) -> list[int]:
    """What the CPU's engine answers, without the stop token."""
    generator: Any = engine.generator(_CONTEXT)
    generator.append_tokens(prompt)
    answer: list[int] = []
    while len(answer) < _LONGEST_ANSWER:
        token = int(generator.get_output("logits")[0, -1].argmax())
        if token in stops:
            break
        answer.append(token)
        generator.append_tokens([token])
    return answer


def emulator_says(emulator: Emulator, prompt: list[int], answer: list[int], stops: set[int]) -> bool:
    """Whether greedy decoding in the emulator answers exactly this."""
    emulator.reset()
    found = emulator.prefill([*prompt, *answer], last=len(answer) + 1).argmax(axis=1)
    return bool(np.array_equal(found[:-1], answer)) and int(found[-1]) in stops
