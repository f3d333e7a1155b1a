"""The far side of a connection: does on a device what the sender asks for, and needs only Python there.

It travels with each connection as an archive in memory (`edgephi.flash.ssh.agent_archive`), and leaves
nothing behind outside the store. Frames come in on standard input and go out on standard output; see
`edgephi.store.agent.frames` for their order.
"""

import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgephi import __version__
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, EdgephiError, TransportError, UsageError
from edgephi.guards.visible import visible
from edgephi.processes.reported import Reported, report
from edgephi.records import write_record
from edgephi.store.agent.arrivals import receive_chunks
from edgephi.store.agent.frames import MAGIC, Kind, read_value
from edgephi.store.agent.link import Link, LinkLostError
from edgephi.store.check import check_install
from edgephi.store.disk.device_errors import device_errors
from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
from edgephi.store.garbage import collect_garbage
from edgephi.store.install import Install, WantedFile
from edgephi.store.preflight import InstallOptions
from edgephi.store.rollback import roll_back
from edgephi.store.status import status
from edgephi.store.trust.change import distrust_key, require_no_key, trust_key, trusted


def main() -> int:
    """Serve one request. Returns the exit code of the process."""
    outgoing = os.dup(1)
    os.dup2(2, 1)  # whatever some library prints must not get between the frames
    link = Link(0, outgoing)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # a shell may have started us with it ignored
    os.write(outgoing, MAGIC)
    link.send_value(
        Kind.READY,
        {"edgephi": __version__, "python": platform.python_version(), "machine": platform.machine()},
    )
    try:
        with link.alive():
            request = read_value(link.expect(Kind.REQUEST))
            with device_errors(Path(request["root"])):
                result = _OPERATIONS[request["operation"]](link, _root(request["root"]), request)
            link.send_value(Kind.RESULT, result)
    except KeyboardInterrupt:
        return 130
    except LinkLostError:
        return TransportError.exit_code
    except EdgephiError as error:
        return _report(link, error)
    except MemoryError:
        return _report(link, TransportError("not enough memory on the device", hint="stop other programs"))
    except Exception as bug:  # no traceback may reach the user
        what = f"bug in edgephi's agent: {type(bug).__name__}: {bug}"
        return _report(
            link, EdgephiError(what, hint=f"report it, with what `{edgephi_command('--version')}` says")
        )
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _report(link: Link, error: EdgephiError) -> int:
    said = report(error)
    shown = Reported(said.classes, visible(said.message), visible(said.hint))
    link.send_value(Kind.ERROR, write_record(shown))
    return error.exit_code


def _root(text: str) -> Path:
    """The store's folder. Raises UsageError for a home that is not known."""
    try:
        return Path(text).expanduser()
    except RuntimeError as cause:
        raise UsageError(f"{text}: {cause}", hint="give a whole path") from None


def _check(link: Link, root: Path, request: Mapping[str, Any]) -> Any:
    manifest = link.expect(Kind.MANIFEST)
    signature = link.expect(Kind.SIGNATURE) or None
    options = InstallOptions(
        allow_downgrade=request["allow_downgrade"],
        unsigned_wheels=request["unsigned_wheels"],
        beside_base=request["beside_base"],
    )
    with link.watched():
        checked, wanted = check_install(root, manifest, signature, options=options, step=link.step)
    link.send_value(Kind.WANTED, _wanted(wanted, checked.sent_bytes + checked.saved_bytes))
    return write_record(checked)


def _install(link: Link, root: Path, request: Mapping[str, Any]) -> Any:
    manifest = link.expect(Kind.MANIFEST)
    signature = link.expect(Kind.SIGNATURE) or None
    options = InstallOptions(
        allow_downgrade=request["allow_downgrade"],
        lock_wait_seconds=request["lock_wait_seconds"],
        unsigned_wheels=request["unsigned_wheels"],
        beside_base=request["beside_base"],
    )
    with link.watched():
        install = Install.begin(root, manifest, signature, options=options, step=link.step)
    with install:
        link.send_value(Kind.WANTED, _wanted(install.wanted, install.total_bytes))
        try:
            receive_chunks(link, install)
        except (LinkLostError, KeyboardInterrupt, BadBundleError):
            install.acknowledge()  # what has arrived is never sent again
            raise
        with link.watched():
            return write_record(install.finish(link.step))


def _wanted(wanted: Iterable[WantedFile], total_bytes: int) -> dict[str, Any]:
    """The chunks that are missing: for each file their offsets and sizes."""
    wanted = tuple(wanted)
    return {
        "total_bytes": total_bytes,
        "have_bytes": total_bytes - sum(chunk.size for file in wanted for chunk in file.chunks),
        "files": [
            {"sha256": file.sha256, "chunks": [[chunk.offset, chunk.size] for chunk in file.chunks]}
            for file in wanted
        ],
    }


def _status(link: Link, root: Path, request: Mapping[str, Any]) -> Any:
    with link.watched():
        return write_record(
            status(root, scrub_too=request["scrub"], lock_wait_seconds=LOCK_WAIT_SECONDS, step=link.step)
        )


def _roll_back(link: Link, root: Path, _request: Mapping[str, Any]) -> Any:
    with link.watched():
        return write_record(roll_back(root, lock_wait_seconds=LOCK_WAIT_SECONDS, step=link.step))


def _collect(link: Link, root: Path, request: Mapping[str, Any]) -> Any:
    with link.watched():
        return write_record(
            collect_garbage(
                root,
                dry_run=request["dry_run"],
                unfinished=request["unfinished"],
                lock_wait_seconds=LOCK_WAIT_SECONDS,
                step=link.step,
            )
        )


def _trust_key(_link: Link, root: Path, request: Mapping[str, Any]) -> Any:
    return write_record(trust_key(root, request["file_name"], request["key"].encode()))


def _trusted(_link: Link, root: Path, _request: Mapping[str, Any]) -> Any:
    return write_record(trusted(root))


def _distrust_key(_link: Link, root: Path, request: Mapping[str, Any]) -> Any:
    return write_record(distrust_key(root, request["which"], also_the_last=request["also_the_last"]))


def _require_no_key(_link: Link, root: Path, _request: Mapping[str, Any]) -> Any:
    require_no_key(root)
    return write_record(trusted(root))


_OPERATIONS: dict[str, Callable[[Link, Path, Mapping[str, Any]], Any]] = {
    "check": _check,
    "install": _install,
    "status": _status,
    "roll_back": _roll_back,
    "collect_garbage": _collect,
    "trust_key": _trust_key,
    "trusted": _trusted,
    "distrust_key": _distrust_key,
    "require_no_key": _require_no_key,
}
"""What a sender may ask for, by the name in its request."""


if __name__ == "__main__":
    sys.exit(main())
