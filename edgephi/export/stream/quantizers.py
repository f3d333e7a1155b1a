"""The quantisers of a pool of threads: each thread's own, in this process or in one that it starts."""

import contextlib
import threading

from edgephi.export.stream.quantized_block import BlockQuantizer
from edgephi.export.stream.quantizing_process import QuantizingProcess

# So many weights to quantise are worth starting processes, which takes as long as quantising 2**24 of them.
_WORTH_PROCESSES = 1 << 27


def worth_processes(weights: int) -> bool:
    """Whether so many weights are quantised sooner by processes."""
    return weights >= _WORTH_PROCESSES


class Quantizers(contextlib.AbstractContextManager["Quantizers"]):
    """A quantiser for each thread that asks for one: in this process, or in one of its own."""

    def __init__(self, processes: bool) -> None:
        self._processes = processes
        self._mine = threading.local()
        self._started = contextlib.ExitStack()

    def mine(self) -> BlockQuantizer | QuantizingProcess:
        """The quantiser of the thread that asks."""
        quantizer: BlockQuantizer | QuantizingProcess | None = getattr(self._mine, "quantizer", None)
        if quantizer is None:
            quantizer = QuantizingProcess() if self._processes else BlockQuantizer()
            if isinstance(quantizer, QuantizingProcess):
                self._started.callback(quantizer.close)
            self._mine.quantizer = quantizer
        return quantizer

    def __exit__(self, *_: object) -> None:
        self._started.close()
