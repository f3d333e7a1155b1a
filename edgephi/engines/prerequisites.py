"""What has to be installed to build for each engine. Needs the standard library only, to say it anywhere."""

import importlib.util
from collections.abc import Mapping

from edgephi.commands import install_command
from edgephi.errors import NotSupportedError

_EVERY_BUILD: Mapping[str, str] = {
    "httpx": "build",
    "huggingface_hub": "build",
    "numpy": "build",
    "packaging": "build",
    "threadpoolctl": "build",
    "tokenizers": "build",
}
BUILD_MODULES: Mapping[str, Mapping[str, str]] = {
    "llama.cpp": {**_EVERY_BUILD, "gguf": "build"},
    "mlx-lm": _EVERY_BUILD,
    "onnxruntime-genai": {**_EVERY_BUILD, "onnx": "build"},
    "openvino-genai": _EVERY_BUILD,
    # The compiler comes with the runtime.
    "qnn": {**_EVERY_BUILD, "onnx": "build", "onnxruntime": "qnn", "onnxruntime_qnn": "qnn"},
}
"""Engine -> module that a build for it imports -> the extra of edgephi that installs the module."""


def build_problem(engine: str) -> NotSupportedError | None:
    """Why nothing can be built for `engine` here, None when it can. Imports none of the modules."""
    if engine not in BUILD_MODULES:
        return NotSupportedError(
            f"this edgephi does not build for {engine}", hint="use a newer edgephi, or choose another target"
        )
    missing = {module: extra for module, extra in BUILD_MODULES[engine].items() if not _is_installed(module)}
    if not missing:
        return None
    extras = sorted(set(missing.values()))
    return NotSupportedError(f"needs {', '.join(missing)}, not installed", hint=install_command(*extras))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # blocked: `sys.modules` holds None in its place
        return False
