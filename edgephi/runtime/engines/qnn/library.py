"""Qualcomm's libraries as onnxruntime-qnn brings them: their version, their devices, and a session on one.

QAIRT is Qualcomm's runtime. A context binary is made by one version of it, and older ones cannot load it.

Sources: https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html and the plugin's own
sources (github.com/onnxruntime/onnxruntime-qnn) for the options and for what a wrapper holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgephi.commands import edgephi_command, pip_command
from edgephi.engines.qnn import FACTS, PLUGIN
from edgephi.errors import NotSupportedError

(PACKAGE,) = FACTS.packages
EMULATING_MACHINES = ("x86_64", "AMD64")
"""Processors for which Qualcomm's libraries emulate the HTP, as `platform.machine()` names them."""

NPU_MACHINES = ("aarch64", "arm64")
_SYSTEMS = ("Linux", "Android")
# The libraries carry the version that they were built as: v2.51.0.260929181845, release and time.
_BUILD = re.compile(rb"v(\d+\.\d+\.\d+\.\d{12})(?!\d)")
_MOST_SCANNED_BYTES = 1 << 20  # of a context binary; its head has the version


def emulates() -> bool:
    """Whether this processor has no HTP, but the libraries have an emulator of it."""
    return platform.machine() in EMULATING_MACHINES


def platform_problem() -> str | None:
    """Why there is no onnxruntime-qnn for this machine, None when there is."""
    system, machine = platform.system(), platform.machine()
    if system in _SYSTEMS and machine in (*EMULATING_MACHINES, *NPU_MACHINES):
        return None
    return (
        f"{PACKAGE} has no wheel for {system} on {machine}: it runs on Snapdragon's Linux (aarch64), "
        "and in emulation on Linux on x86-64"
    )


def qairt_version(library: Path | None = None) -> str:
    """The version of QAIRT that is installed, such as "2.51.0.260929181845"; "" when it does not tell.

    It is read from the file of the HTP's library, which is not loaded: on a device that would start the NPU.
    """
    if library is None:
        import onnxruntime_qnn

        library = Path(onnxruntime_qnn.get_qnn_htp_path())
    return _build_in(library, None)


def binary_qairt_version(binary: Path) -> str:
    """The version of QAIRT that wrote a context binary; "" when it does not tell."""
    return _build_in(binary, _MOST_SCANNED_BYTES)


def check_qairt(needed: str, found: str, *, onnxruntime_qnn: str) -> None:
    """Raise NotSupportedError when the QAIRT here is older than the one that compiled a bundle.

    `onnxruntime_qnn` is the version of the package that brought the compiler.
    """
    if found and _numbers(found) >= _numbers(needed):
        return
    raise NotSupportedError(
        f"the bundle was compiled by QAIRT {needed}, this machine has QAIRT {found or '(unknown)'}, "
        "and older versions cannot load it",
        hint=f"`{pip_command('install', f'{PACKAGE}>={onnxruntime_qnn}')}`, "
        "or build the bundle with the older version",
    )


class HtpSessions:
    """Opens graphs on the HTP or its emulator, and on nothing else."""

    def __init__(self, options: dict[str, str]) -> None:
        """`options` are the provider's, for graphs that are compiled here. Raises NotSupportedError."""
        import onnxruntime
        import onnxruntime_qnn

        self._onnxruntime = onnxruntime
        self._options = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
        self._compiling = options
        onnxruntime.set_default_logger_severity(4)  # failures come back as exceptions
        if not _devices(onnxruntime):
            onnxruntime.register_execution_provider_library(PLUGIN, onnxruntime_qnn.get_library_path())
        devices = _devices(onnxruntime)
        npus = [device for device in devices if device.device.type.name == "NPU"]
        self._device = next(iter(npus or (devices if emulates() else [])), None)
        if self._device is None:
            raise NotSupportedError(
                f"{PACKAGE} {onnxruntime_qnn.__version__} finds no Hexagon NPU here",
                hint=f"`{edgephi_command('doctor')}` says why",
            )

    def open(self, model: Path, *, compiles: bool) -> Any:
        """A session of the graph or wrapper in a file. Raises what onnxruntime raises.

        `compiles`: the file is a graph, not a wrapper around a context binary. A node that the HTP does not
        take is an error, which names it: nothing falls back to the CPU.
        """
        settings = self._onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options = (self._compiling if compiles else {}) | self._options
        settings.add_provider_for_devices([self._device], options)
        with _quiet_output():
            session = self._onnxruntime.InferenceSession(str(model), settings)
        session.disable_fallback()
        if session.get_providers()[0] != PLUGIN:
            raise NotSupportedError(
                f"{model}: expected it on {PLUGIN}, found it on {', '.join(session.get_providers())}",
                hint="please report this",
            )
        return session


@contextlib.contextmanager
def _quiet_output() -> Iterator[None]:
    """Nothing that a library prints reaches standard output: the emulator greets there, amid an answer."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what waits in C's buffer goes the same way
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _devices(onnxruntime: Any) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PLUGIN]


def _build_in(file: Path, most: int | None) -> str:
    """The first version in a file, of which `most` bytes are looked at."""
    with file.open("rb") as data, mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _BUILD.search(content, 0, most or len(content))
        return found[1].decode() if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version; without those that are none."""
    return tuple(int(part) for part in version.removeprefix("v").split(".") if part.isdecimal())
