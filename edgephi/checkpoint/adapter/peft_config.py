"""`adapter_config.json` of PEFT: what an adapter's matrices mean, and a refusal of all that is not said here.

The keys are those of `LoraConfig` in https://github.com/huggingface/peft, read at version 0.21. One that
would change the merged weights in a way that we do not compute is refused by its name.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from edgephi.checkpoint.config_keys import read_json_object
from edgephi.errors import BadCheckpointError, NotSupportedError

CONFIG_FILE = "adapter_config.json"
LARGEST_RANK = 1024

_Value = TypeVar("_Value")
_HINT = "give the folder or hub id of a LoRA adapter as PEFT's save_pretrained wrote it"
_MERGE_HINT = (
    "merge it where it was trained, with merge_and_unload of PEFT, and build the checkpoint that results"
)
_SAYS_NOTHING_OF_WEIGHTS = frozenset(
    {
        *(
            "auto_mapping",
            "base_model_name_or_path",
            "inference_mode",
            "peft_type",
            "peft_version",
            "revision",
        ),
        *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
        *("ephemeral_gpu_offload", "eva_config", "lora_dropout", "megatron_core", "qalora_group_size"),
        *("runtime_config", "task_type"),
    }
)
"""Keys about training, or about which modules are meant, which the file of the weights says by itself."""

_READ = frozenset(
    {
        *("alpha_pattern", "init_lora_weights", "lora_alpha", "modules_to_save", "r", "rank_pattern"),
        *("use_dora", "use_rslora"),
    }
)
# Ways to begin that subtract from the base what the adapter begins with: only their converted form is LoRA.
_CHANGES_THE_BASE = ("corda", "lora_ga", "loftq", "olora", "pissa")
# No groups and few stars: nothing that a stranger writes can make `re` slow on a name of a module.
_PATTERN = re.compile(r"\^?[\w.\\*|-]{1,200}\$?", re.ASCII)
_MOST_STARS = 3


@dataclass(frozen=True)
class PeftConfig:
    """How strong an adapter's changes are. Patterns are regular expressions for ends of modules' names."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    decomposed: bool = False
    """DoRA: every row has a magnitude of its own."""

    def rank_of(self, module: str) -> int:
        """The rank of a module's change."""
        return _first_match(self.rank_pattern, module, self.rank)

    def factor_of(self, module: str) -> float:
        """By what the product of a module's two matrices is multiplied before it is added."""
        rank = self.rank_of(module)
        divisor = math.sqrt(rank) if self.rank_stabilised else rank
        return _first_match(self.alpha_pattern, module, self.alpha) / divisor


def read_peft_config(folder: Path) -> PeftConfig:
    """Read the adapter's configuration in `folder`.

    Raises BadCheckpointError for what is no such file, NotSupportedError naming what cannot be merged here.
    """
    where = str(folder / CONFIG_FILE)
    data = read_json_object(folder / CONFIG_FILE, where=where)
    _check_kind(data, where)
    for key, value in sorted(data.items()):
        if key not in _READ | _SAYS_NOTHING_OF_WEIGHTS and value not in (None, False, "none", {}, []):
            _refuse(where, key, value)
    initial = data.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(_CHANGES_THE_BASE):
        _refuse(where, "init_lora_weights", initial)
    return PeftConfig(
        rank=_rank(data.get("r"), f"{where}: r"),
        alpha=_number(data.get("lora_alpha"), f"{where}: lora_alpha"),
        rank_pattern={
            pattern: _rank(value, f"{where}: rank_pattern: {pattern}")
            for pattern, value in _patterns(data, "rank_pattern", where)
        },
        alpha_pattern={
            pattern: _number(value, f"{where}: alpha_pattern: {pattern}")
            for pattern, value in _patterns(data, "alpha_pattern", where)
        },
        rank_stabilised=data.get("use_rslora") is True,
        decomposed=data.get("use_dora") is True,
    )


def base_model_of(folder: Path) -> str:
    """The model that the adapter in `folder` was trained on, as it says; "" if it does not.

    A hint only: what is there now may be another.
    """
    name = read_json_object(folder / CONFIG_FILE, where=str(folder / CONFIG_FILE)).get(
        "base_model_name_or_path"
    )
    return name if isinstance(name, str) else ""


def _check_kind(data: Mapping[str, Any], where: str) -> None:
    kind = data.get("peft_type")
    if not isinstance(kind, str):
        raise BadCheckpointError(f"{where}: peft_type: expected 'LORA', found {_shown(kind)}", hint=_HINT)
    if kind != "LORA":
        _refuse(where, "peft_type", kind)
    if data.get("task_type") not in (None, "CAUSAL_LM"):
        _refuse(where, "task_type", data["task_type"])


def _patterns(data: Mapping[str, Any], key: str, where: str) -> list[tuple[str, object]]:
    table = data.get(key) or {}
    if not isinstance(table, dict):
        raise BadCheckpointError(f"{where}: {key}: expected a table, found {_shown(table)}", hint=_HINT)
    for pattern in table:
        if _PATTERN.fullmatch(pattern) is None or pattern.count("*") > _MOST_STARS:
            _refuse(where, key, pattern)
        try:
            re.compile(pattern)
        except re.error as cause:
            raise BadCheckpointError(
                f"{where}: {key}: expected a regular expression, found {_shown(pattern)}: {cause}", hint=_HINT
            ) from None
    return list(table.items())


def _first_match(patterns: Mapping[str, _Value], module: str, other: _Value) -> _Value:
    """The value of the first pattern that a module's name, or an end of it, matches: as PEFT looks it up."""
    matches = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(matches, other)


def _rank(value: object, where: str) -> int:
    if type(value) is not int or not 1 <= value <= LARGEST_RANK:
        raise BadCheckpointError(
            f"{where}: expected a whole number from 1 to {LARGEST_RANK}, found {_shown(value)}", hint=_HINT
        )
    return value


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e6 < value < 1e6:
        raise BadCheckpointError(f"{where}: expected a number below 1e6, found {_shown(value)}", hint=_HINT)
    return float(value)


def _refuse(where: str, key: str, value: object) -> NoReturn:
    raise NotSupportedError(
        f"{where}: {key}: expected what edgephi can merge, found {_shown(value)}", hint=_MERGE_HINT
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
