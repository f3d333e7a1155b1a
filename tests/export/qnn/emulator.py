"""Runs a QNN artifact's graphs in Qualcomm's emulator: the contract of docs/targets/qnn.md, in few lines."""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxruntime_qnn
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.engines.qnn import PLUGIN


def htp_session(model: Path | bytes, options: dict[str, str]) -> Any:
    """A session all of whose nodes are on the HTP."""
    if not any(device.ep_name == PLUGIN for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(PLUGIN, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PLUGIN]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    settings.add_provider_for_devices(devices[:1], backend | options)
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), settings)


def embedding(artifact: Path) -> NDArray[np.float32]:
    """The embedding, float32 [vocabulary, hidden]."""
    config = json.loads((artifact / "qnn.json").read_text())
    facts, rows, columns = config["embedding"], config["vocabulary"], config["hidden"]
    data = (artifact / facts["file"]).read_bytes()
    codes = np.frombuffer(data, np.uint8, rows * columns * facts["bits"] // 8, facts["codes_offset"])
    if facts["bits"] == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1)
    groups = rows * columns // facts["group_size"]
    scales = np.frombuffer(data, np.float16, groups, facts["scales_offset"]).astype(np.float32)
    centred = codes.reshape(groups, -1).astype(np.float32) - 2 ** (facts["bits"] - 1)
    table: NDArray[np.float32] = (centred * scales[:, None]).reshape(rows, columns)
    return table


class Emulator:
    """One sequence: `prefill` and `step` give the logits after each token."""

    def __init__(self, artifact: Path, architecture: Architecture) -> None:
        self._artifact = artifact
        self._architecture = architecture
        self._embedding = embedding(artifact)
        self.config: dict[str, Any] = json.loads((artifact / "qnn.json").read_text())
        self._slots: int = self.config["context"]
        self._rope = np.fromfile(artifact / "rope.bin", np.uint16).reshape(2, self._slots, -1)
        self._caches: dict[str, NDArray[Any]] = {}
        self.reset()

    def reset(self) -> None:
        self.length = 0
        heads, size = self.config["kv_heads"], self.config["head_size"]
        for layer in range(self._architecture.layers):
            for name, shape in (("key", (size, self._slots)), ("value", (self._slots, size))):
                cache = np.zeros((1, heads, *shape), self.config["cache_type"])
                self._caches[f"past_{name}_{layer}"] = cache

    @cached_property
    def _prefill(self) -> list[Any]:
        return [self._session(part["prefill"]) for part in self.config["parts"]]

    @cached_property
    def _decode(self) -> list[Any]:
        return [self._session(part["decode"]) for part in self.config["parts"]]

    @cached_property
    def _head(self) -> Any:
        return self._session(self.config["head"])

    def _session(self, part: dict[str, str]) -> Any:
        return htp_session(self._artifact / part["graph"], self.config["provider_options"])

    def prefill(self, ids: Iterable[int], *, last: int | None = None) -> NDArray[np.float32]:
        """Logits after each token of a prompt, or after its `last` ones: [tokens, vocabulary]."""
        tokens, chunk = list(ids), self.config["chunk"]
        rows = [self._run(self._prefill, tokens[at : at + chunk]) for at in range(0, len(tokens), chunk)]
        hidden = np.concatenate(rows)[-(last or len(tokens)) :]
        return np.stack([self._logits(row) for row in hidden])

    def step(self, token: int) -> NDArray[np.float32]:
        """Logits after one more token, [vocabulary]."""
        return self._logits(self._run(self._decode, [token], size=1)[0])

    def _run(self, sessions: list[Any], ids: list[int], size: int | None = None) -> NDArray[np.float32]:
        """The hidden states of one call of all parts, [tokens, hidden]."""
        count, start, size = len(ids), self.length, size or self.config["chunk"]
        hidden = np.zeros((1, 1, size, self.config["hidden"]), np.float32)
        hidden[0, 0, :count] = self._embedding[ids]
        at = np.minimum(start + np.arange(size), self._slots - 1)
        feed = {"cos": self._rope[0, at][None, None], "sin": self._rope[1, at][None, None]}
        feed["mask"] = self._mask(start, size)
        for session in sessions:
            names = [each.name for each in session.get_inputs()]
            wanted = {name: self._caches[name] for name in names if name.startswith("past_")}
            outputs = [each.name for each in session.get_outputs()]
            values = session.run(outputs, feed | wanted | {"hidden": hidden})
            for name, value in zip(outputs, values, strict=True):
                if name == "hidden_out":
                    hidden = value
                elif "key" in name:
                    cache = self._caches[name.replace("new", "past")]
                    cache[..., start : start + count] = value[..., :count]
                else:
                    cache = self._caches[name.replace("new", "past")]
                    cache[:, :, start : start + count] = value[:, :, :count]
        self.length += count
        states: NDArray[np.float32] = hidden[0, 0, :count]
        return states

    def _mask(self, start: int, size: int) -> NDArray[np.uint16]:
        window = self.config["sliding_window"] or self._slots + size
        queries = start + np.arange(size)[:, None]
        slots, own = np.arange(self._slots)[None], np.arange(size)[None]
        cached = (slots < start) & (slots > queries - window)
        new = (start + own <= queries) & (start + own > queries - window)
        seen = np.concatenate([cached, new], axis=1)
        return (seen * np.uint16(65535)).astype(np.uint16)[None, None]

    def _logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        (raw,) = self._head.run(["logits"], {"hidden": hidden[None, None, None]})
        encoding = self.config["logits"]
        shifted = raw.ravel().astype(np.float32) - encoding["zero_point"]
        logits: NDArray[np.float32] = shifted * np.float32(encoding["scale"])
        return logits
