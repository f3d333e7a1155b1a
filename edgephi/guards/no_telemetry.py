"""What keeps the libraries that edgephi uses from reporting to their makers, here and in child processes.

They look at their switches when they are imported, and `edgephi/__init__.py` calls `switch_off` before that:
every process of ours imports edgephi first, whatever it does. Standard library only.
"""

import os
import sys

VARIABLES = {
    # onnxruntime from 1.29 and onnxruntime-genai from 0.18: they queue events in ~/.cache/Microsoft and send
    # them from the import on, so that their `disable_telemetry_events()` comes too late.
    # https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, transformers and hf_xet: what is installed here goes along with each request, and
    # hf_xet reports each transfer.
    # https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # What several libraries have agreed upon: https://consoledonottrack.com
    "DO_NOT_TRACK": "1",
}
"""Variables of the environment, and what they are set to."""

MODULES = (
    # OpenVINO's converters and NNCF report to Google Analytics through it when they are imported, and know no
    # variable against it. Where it is missing they report nothing.
    "openvino_telemetry",
)
"""Modules that nothing here may import."""


def switch_off() -> None:
    """Switch all of it off, also where the environment says otherwise: that nothing is sent is a promise."""
    os.environ.update(VARIABLES)
    for module in MODULES:
        # To import it is an ImportError then.
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]
