"""A request of a compiled graph, which Ctrl-C can end."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgephi.runtime.engines.openvino_genai.low_rank import Factors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Milliseconds between two looks at Ctrl-C while several tokens are computed.
_POLL_MILLISECONDS = 50


class GraphRequest:
    """A request of a compiled graph whose inputs stay bound: to bind one costs more than to write into it."""

    def __init__(self, openvino: Any, compiled: Any) -> None:
        self._openvino = openvino
        self._names = frozenset(each.get_any_name() for each in compiled.inputs)
        self._bound: dict[str, NDArray[Any]] = {}
        self.infer_request = compiled.create_infer_request()

    def set_factors(self, factors: Factors) -> None:
        """Compute with these from now on."""
        for name, tensor in factors.items():
            self.infer_request.set_tensor(name, tensor)

    def run(self, inputs: Mapping[str, NDArray[Any]], *, at_once: bool) -> Any:
        """Compute with those of `inputs` that the graph has; returns its output, valid until the next call.

        With `at_once` Ctrl-C waits until it is done.
        """
        for name, value in inputs.items():
            bound = self._bound.get(name)
            if bound is not None and bound.shape == value.shape:
                bound[...] = value
            elif name in self._names:
                self._bound[name] = value
                tensor = self._openvino.Tensor(value, shared_memory=True)
                self.infer_request.set_tensor(name, tensor)
        if at_once:
            self.infer_request.infer(share_outputs=True)
        else:
            self._wait()
        return self.infer_request.get_output_tensor().data

    def _wait(self) -> None:
        try:
            self.infer_request.start_async()  # Ctrl-C may come as soon as it has begun
            while not self.infer_request.wait_for(_POLL_MILLISECONDS):
                pass
        except BaseException:
            self.infer_request.cancel()
            with contextlib.suppress(RuntimeError):  # it says that it was cancelled
                self.infer_request.wait()
            raise
