"""A process that quantises blocks of rows for a thread of this one.

NumPy lets go of the GIL for every call and takes it back after it, some ten microseconds later. Two threads
that quantise spend a third of their time on waiting for it, two processes none. So each thread that reads a
checkpoint hands what it read to a process of its own, over a pair of sockets.

The process is `python -m edgephi.export.stream.quantizing_process DESCRIPTOR`. It ends when the other end of
its socket is closed, which the kernel does whatever happens to us, and does not see the terminal's Ctrl-C.
"""

import contextlib
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from edgephi.errors import DoesNotFitError
from edgephi.export.stream.quantized_block import BlockQuantizer, Pack, QuantizedBlock
from edgephi.processes.child_process import start_child
from edgephi.processes.ending import ending
from edgephi.quantize.groups import NotFiniteError
from edgephi.quantize.tensor_plan import TensorPlan

_MODULE = "edgephi.export.stream.quantizing_process"  # this one
_END_SECONDS = 5


class QuantizingProcess:
    """The near end of such a process, for one thread; `close` ends it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: a module of the user's working directory must not stand in for one of ours.
            command = [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())]
            # A group of its own: Ctrl-C reaches it by way of us, who close the socket.
            self._process = start_child(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )
        self._connection = Connection(ours.detach())

    def quantize(
        self, raw: NDArray[np.uint8], dtype: str, rows: int, plan: TensorPlan, pack: Pack
    ) -> QuantizedBlock:
        """What `BlockQuantizer.quantize` does, and raises.

        Raises DoesNotFitError when the process has ended: only the system that is out of memory ends it.
        """
        try:
            self._connection.send((dtype, rows, plan, pack))
            self._connection.send_bytes(raw.data)
            answer = self._connection.recv()
            if isinstance(answer, NotFiniteError):
                raise answer
            sums, layouts = answer
            regions = []
            for dtype_name, shape in layouts:
                region = np.empty(shape, dtype_name)
                self._connection.recv_bytes_into(region.reshape(-1).view(np.uint8).data)
                regions.append(region)
        except (EOFError, OSError):
            raise DoesNotFitError(
                f"expected an answer of the process that quantises, found that it {self._status()}",
                hint="most likely memory ran out: stop other programs, then build again",
            ) from None
        return QuantizedBlock(tuple(regions), sums)

    def close(self) -> None:
        """End the process, in the middle of a block too."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _status(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return ending(self._process.wait(_END_SECONDS))
        return "ended its connection only"


def serve(connection: Connection) -> None:
    """Answer one `quantize` after the other until the other end is closed."""
    quantizer = BlockQuantizer()
    while True:
        dtype, rows, plan, pack = connection.recv()
        raw = np.frombuffer(connection.recv_bytes(), np.uint8)
        try:
            block = quantizer.quantize(raw, dtype, rows, plan, pack)
        except NotFiniteError as cause:
            connection.send(cause)
            continue
        regions = [np.ascontiguousarray(region) for region in block.regions]
        layouts = [(region.dtype.str, region.shape) for region in regions]
        connection.send((block.sums, layouts))
        for region in regions:
            connection.send_bytes(region.reshape(-1).view(np.uint8).data)


def main() -> None:
    """Run as the far end of the descriptor that is the only argument."""
    with Connection(int(sys.argv[1])) as connection, contextlib.suppress(EOFError, OSError):
        serve(connection)


if __name__ == "__main__":
    main()
