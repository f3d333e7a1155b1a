"""QDQ graphs -> a context binary for a Hexagon HTP, in a process of its own.

The compiler is a vendor's library: it takes gigabytes for a large part and gives them back only when its
process ends.

Source: onnxruntime's docs on the QNN execution provider and on EPContext models.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.artifact.qnn_artifact import GraphFiles
from edgephi.commands import edgephi_command, install_command
from edgephi.engines.qnn import PLUGIN
from edgephi.errors import EdgephiError, NotSupportedError
from edgephi.processes.ask import Asked, Done, NoAnswerError, answer

_UNSUPPORTED = re.compile(r"Unsupported nodes in QNN EP: (.*?)(?:\x1b|$)", re.MULTILINE)
_LONGEST_SHOWN = 300
_NODE = re.compile(r"name: (\S+?), type: (\w+)")


@dataclass(frozen=True)
class CompilerQuestion:
    """Compile `graphs` into `binary`, in the working folder; see `compile_graphs`."""

    graphs: tuple[GraphFiles, ...]
    binary: str
    options: Mapping[str, str]
    where: str


@dataclass(frozen=True)
class Compiled:
    """Versions of what compiled: `qairt` is Qualcomm's libraries', which a device must not be behind."""

    qairt: str
    onnxruntime_qnn: str


def check_compiler() -> None:
    """Raise NotSupportedError when the compiler is not installed."""
    from importlib.util import find_spec

    if find_spec("onnxruntime_qnn") is None:
        raise NotSupportedError(
            "expected onnxruntime-qnn to compile with, found none", hint=install_command("qnn")
        )


def compile_graphs(
    folder: Path, graphs: Sequence[GraphFiles], binary: str, options: Mapping[str, str], *, where: str
) -> Compiled:
    """Compile graphs that share their weights into one context binary of the artifact in `folder`.

    `graphs` are QDQ graphs with the EPContext wrappers to write for them; `options` are the provider's;
    `where` names the processor in messages. Every node is on the HTP: raises
    NotSupportedError with the operator's name when it does not take one, or when the compiler is missing, and
    DoesNotFitError when it was killed.
    """
    # Relative paths: the name of a graph in a binary is made of the path that it was read from.
    question = CompilerQuestion(tuple(graphs), binary, dict(options), where)
    names = " and ".join(each.graph for each in graphs)
    with Asked(question, cwd=folder) as asked:
        try:
            return asked.answer(Compiled)
        except NotSupportedError as error:
            refused = _rejected(asked.said, where, names) or error
        except NoAnswerError as cause:
            refused = _rejected(asked.said, where, names) or cause.told(
                f"{where}: the compiler of {names}",
                hint="most likely memory ran out: stop other programs, then build again",
            )
        raise refused


def _rejected(printed: str, where: str, graphs: str) -> EdgephiError | None:
    """What the compiler has printed about operators that it does not take; None where it has not."""
    rejected = [node for found in _UNSUPPORTED.findall(printed) for node in _NODE.findall(found)]
    if not rejected:
        return None
    name, operator = rejected[0]
    more = len({node for node, _ in rejected}) - 1
    others = f" and {more} more" if more else ""
    return NotSupportedError(
        f"{where}: expected the HTP to take every operator of {graphs}, found that it rejects "
        f"{operator} ({name}){others}",
        hint="use another processor or number of bits, or build for another target",
    )


def _compile(asked: CompilerQuestion, _done: Done) -> Compiled:
    """Do what `compile_graphs` asked for, in the folder that we are in."""
    try:
        return _compiled(asked)
    except Exception as cause:  # whatever a vendor's library raises
        names = " and ".join(each.graph for each in asked.graphs)
        found = " ".join(str(cause).split())[-_LONGEST_SHOWN:] or type(cause).__name__
        raise NotSupportedError(
            f"{asked.where}: expected the HTP's compiler to take {names}, found: {found}",
            hint=f"check that it can be loaded here: `{install_command('qnn')}`, "
            f"then `{edgephi_command('doctor')}`",
        ) from None


def _compiled(asked: CompilerQuestion) -> Compiled:
    import onnx
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(PLUGIN, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PLUGIN]
    shared = len(asked.graphs) > 1
    options = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **asked.options}
    if shared:
        options["enable_htp_weight_sharing"] = "1"
    for number, each in enumerate(asked.graphs, 1):
        settings = {
            "session.disable_cpu_ep_fallback": "1",
            "ep.context_enable": "1",
            "ep.context_embed_mode": "0",
            "ep.context_file_path": each.wrapper,
        }
        if shared:
            settings["ep.share_ep_contexts"] = "1"
            if number == len(asked.graphs):
                settings["ep.stop_share_ep_contexts"] = "1"
        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 3
        for key, value in settings.items():
            session_options.add_session_config_entry(key, value)
        session_options.add_provider_for_devices(devices[:1], options)
        onnxruntime.InferenceSession(each.graph, session_options)
    qairt = ""
    for each in asked.graphs:
        model = onnx.load(each.wrapper)
        (node,) = model.graph.node  # one context and nothing beside it: the HTP has the whole graph
        attributes = {attribute.name: attribute for attribute in node.attribute}
        written = Path(attributes["ep_cache_context"].s.decode())
        if written.exists():
            written.rename(asked.binary)
        attributes["ep_cache_context"].s = asked.binary.encode()
        qairt = attributes["ep_sdk_version"].s.decode().removeprefix("v")
        Path(each.wrapper).write_bytes(model.SerializeToString(deterministic=True))
    return Compiled(qairt, onnxruntime_qnn.__version__)


if __name__ == "__main__":
    answer(CompilerQuestion, _compile)
