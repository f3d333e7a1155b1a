"""One way to measure all: weights in transformers' Phi3ForCausalLM, float32, beside the original's.

KL(original || quantised) after every token of every piece of text, each piece in a context of its own.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

Floats = NDArray[np.float32]
Arrays = Mapping[str, Floats]
"""Weights by the names that transformers gives them; the head has one of its own, tied or not."""

Logits = Callable[[Sequence[int]], Floats]
"""What computes logits [tokens, vocabulary] for token ids by itself."""

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
_BLOCK_ROWS = 64  # rows of logits in float64 at a time: 25 MB of 49,152 words


@dataclass(frozen=True)
class Measured:
    """Means over the tokens of each piece: KL in nats, share of the same most likely token, nats of surprise.

    Tokens of one piece hang together, so it is the pieces that errors are computed from.
    """

    kl: tuple[float, ...]
    top1: tuple[float, ...]
    surprise: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        """Of all tokens but the first of each piece."""
        return math.exp(mean(self.surprise))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def mean(values: Sequence[float]) -> float:
    """The mean of pieces that are equally long."""
    return float(np.mean(values))


def standard_error(values: Sequence[float]) -> float:
    """That of the mean of independent pieces; NaN of a single one."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


class Harness:
    """The original model, and what it says about the text; it is told other weights, and says what they cost.

    Holds the model twice in float32 and, in a temporary file, the original's logits of the whole text.
    """

    def __init__(self, checkpoint: Path, pieces: Sequence[Sequence[int]]) -> None:
        torch.set_grad_enabled(False)
        disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._pieces = pieces
        self.original: Arrays = {
            name: value.numpy().copy() for name, value in self._model.state_dict().items()
        }
        # A tied head would follow the embedding, and many quantisers treat the two differently.
        self._model.lm_head.weight = torch.nn.Parameter(torch.from_numpy(self.original[HEAD]))
        shape = (len(pieces), len(pieces[0]), len(self.original[HEAD]))
        with tempfile.TemporaryFile() as file:
            self._reference: Floats = np.memmap(file, np.float32, "w+", shape=shape)
        for index, ids in enumerate(pieces):
            self._reference[index] = self.logits(ids)

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one matrix in the checkpoint."""
        return bool(self._model.config.tie_word_embeddings)

    @property
    def perplexity(self) -> float:
        """The original's."""
        rows = zip(self._reference, self._pieces, strict=True)
        return math.exp(mean([_piece(row, row, ids)[2] for row, ids in rows]))

    def logits(self, ids: Sequence[int]) -> Floats:
        """The logits of the weights that are in the model now, [tokens, vocabulary]."""
        logits: Floats = self._model(torch.tensor([ids])).logits[0].numpy()
        return logits

    def inputs(self, pieces: Sequence[Sequence[int]]) -> dict[str, Floats]:
        """Mean square of every input of every linear layer over some text, [columns], of the original.

        It is what llama.cpp calls an importance matrix.
        """
        self._fill(self.original)
        sums: dict[str, Floats] = {}
        hooks = []
        for name, module in self._model.named_modules():
            if isinstance(module, torch.nn.Linear):

                def add(_: Any, arguments: tuple[torch.Tensor, ...], name: str = f"{name}.weight") -> None:
                    squares = arguments[0].double().square().sum((0, 1)).numpy()
                    sums[name] = sums.get(name, 0) + squares

                hooks.append(module.register_forward_pre_hook(add))
        for ids in pieces:
            self.logits(ids)
        for hook in hooks:
            hook.remove()
        count = sum(map(len, pieces))
        return {name: (total / count).astype(np.float32) for name, total in sums.items()}

    def measure(self, quantised: Arrays | Logits, *, beside: Arrays | None = None) -> Measured:
        """What `quantised` costs, of the original, or of other weights.

        Raises ValueError for weights of other names or shapes than the model's.
        """
        compute = self._compute(quantised)
        found = []
        for index, ids in enumerate(self._pieces):
            logits = compute(ids)
            reference = self._reference[index] if beside is None else self._compute(beside)(ids)
            found.append(_piece(reference, logits, ids))
        return Measured(*zip(*found, strict=True))

    def _compute(self, model: Arrays | Logits) -> Logits:
        if callable(model):
            return model
        self._fill(model)
        return self.logits

    def _fill(self, weights: Arrays) -> None:
        parameters = dict(self._model.named_parameters())
        if set(parameters) != set(weights):
            raise ValueError(f"expected other weights than these: {set(parameters) ^ set(weights)}")
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                raise ValueError(f"{name}: expected {parameter.shape}, found {weights[name].shape}")
            parameter.data = torch.from_numpy(np.ascontiguousarray(weights[name], np.float32))


def _piece(reference: Floats, logits: Floats, ids: Sequence[int]) -> tuple[float, float, float]:
    """KL, top-1 and surprise of one piece; sums in float64, so that a KL of 1e-6 is still one."""
    kl = same = surprise = 0.0
    following = torch.tensor([*ids[1:], 0])
    for start in range(0, len(ids), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        p, q = (
            torch.log_softmax(torch.from_numpy(np.array(each[block])).double(), -1)
            for each in (reference, logits)
        )
        kl += float((p.exp() * (p - q)).sum())
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
        told = -q.gather(1, following[block, None])[:, 0]
        surprise += float(told[: len(ids) - 1 - start].sum())
    return kl / len(ids), same / len(ids), surprise / (len(ids) - 1)
