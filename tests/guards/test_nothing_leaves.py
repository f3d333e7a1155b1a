"""Nothing leaves the box: what runs on the device talks to nobody, and looks nobody's name up.

Each command runs in a network namespace of its own that has only loopback, under strace, which sees what a
process attempts whether it succeeds or not. HOME is empty, so that whatever a package does once, it would do
here; and of the environment only what a program needs to run is left: libraries that report to their makers
keep quiet where a variable such as CI says that a test runs them.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.build.demo import build_demo
from tests.docs.files_page import read_places

QUESTION = "turn on the kitchen light"
ANSWER = {"action": "turn_on", "room": "kitchen", "device": "light"}
ENGINES = {"cpu": "onnxruntime_genai", "gguf": "xllamacpp", "openvino": "openvino_genai", "mlx": "mlx"}
NEEDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""The variables that a command is given here."""
EDGEPHI = [sys.executable, "-c", "from edgephi.cli.main import main; main()"]
# Starts the server, asks it once, streams the second answer, reads what else it serves, and ends it.
CLIENT = """
import http.client, json, subprocess, sys
with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True) as server:
    try:
        port = int(server.stdout.readline().split()[0].rpartition(":")[2])
        body = {"messages": [{"role": "user", "content": "turn on the kitchen light"}]}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
        def ask(method, path, body=None):
            headers = {"content-type": "application/json"} if body else {}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == 200, text
            return text
        print(json.loads(ask("POST", "/v1/chat/completions", body))["choices"][0]["message"]["content"])
        assert "[DONE]" in ask("POST", "/v1/chat/completions", {**body, "stream": True})
        for path in ("/", "/v1/models", "/health", "/metrics", "/openapi.json"):
            ask("GET", path)
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
"""


@cache
def cannot() -> str:
    """Why a namespace cannot be made or traced here; empty when it can."""
    for program in ("unshare", "ip", "strace"):
        if shutil.which(program) is None:
            return f"no {program} (apt install util-linux iproute2 strace)"
    tried = subprocess.run([*alone(Path(os.devnull)), "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"not allowed here: {tried.stderr.strip()}"


def alone(trace: Path) -> list[str]:
    """What to put before a command so that it has a network of loopback only, and is traced."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-o", str(trace)]
    calls = ["-y", "-e", "trace=network,/^(open|creat|rename|link|symlink|mknod|io_uring_setup)"]
    return ["unshare", "--net", *user, "sh", "-c", 'ip link set lo up && exec "$@"', "-", *strace, *calls]


@pytest.fixture(autouse=True)
def _possible() -> None:
    if cannot():
        pytest.skip(cannot())


def run_alone(
    command: list[str],
    folder: Path,
    *,
    stdin: str = "",
    variables: Mapping[str, str] | None = None,
    name: str = "",
    **named: Path,
) -> tuple[str, list[str]]:
    """What a command prints when it is alone, and whom it tried to reach or where it wrote.

    Where docs/files.md says that `name` writes is left out; `named` are its names in capitals.
    """
    trace, home = folder / "trace", folder / "home"
    home.mkdir()
    environment = {name: os.environ[name] for name in NEEDED if name in os.environ}
    done = subprocess.run(
        [*alone(trace), *command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**environment, "HOME": str(home), **(variables or {})},
    )
    assert done.returncode == 0, done.stderr
    text = trace.read_text(errors="replace")
    assert "openat(" in text  # something was traced at all
    names = {"~": home, "TMPDIR": Path(tempfile.gettempdir()), **named}
    places = [place for place in read_places() if place.is_written_by(name or command_name(command))]
    elsewhere = [path for path in written(text) if not any(place.holds(path, names) for place in places)]
    return done.stdout, attempts(text) + elsewhere


def command_name(command: list[str]) -> str:
    """The command of edgephi that a command line calls; "" for another program."""
    return command[len(EDGEPHI)] if command[: len(EDGEPHI)] == EDGEPHI else ""


def written(trace: str) -> list[str]:
    """The paths that the traced processes made, or opened so that they could write, in vain too."""
    found: dict[str, None] = {}
    folders: dict[str, str] = {}  # where each process is
    for line in trace.splitlines():
        call = re.match(r"(\d+) +(open|creat|rename|link|symlink|mknod)\w*\(", line)
        if call is None:
            continue
        for here in re.findall(r"AT_FDCWD<([^>]*)>", line):
            folders[call[1]] = here
        reading = call[2] == "open" and not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line)
        # A nameless file goes with the process that made it.
        paths = re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', line)
        if paths and not reading and "O_TMPFILE" not in line:
            folder, path = paths[-1]
            found[os.path.normpath(Path(folder or folders.get(call[1], ""), path))] = None
    return list(found)


def attempts(trace: str) -> list[str]:
    """Whom the traced processes tried to reach, to wait for, or to look up, other than this machine itself.

    A socket that the processor's ring of requests opens would not be seen: such a ring is reported, too.
    """
    found = []
    for line in trace.splitlines():
        call = re.match(r"\d+ +(\w+)\(", line)
        if call is None:
            continue
        if call[1] in ("connect", "sendto", "sendmsg", "sendmmsg", "bind"):
            found += [f"{call[1]} {peer}" for peer in _peers(line) if not _is_here(peer)]
        elif call[1] == "io_uring_setup" or re.search(r'"/etc/resolv\.conf"', line):
            found.append(line)
    return found


def _peers(line: str) -> list[str]:
    """The addresses that a line of strace names: "AF_INET 192.0.2.1 53", "AF_UNIX path", …"""
    peers = []
    for family, rest in re.findall(r"sa_family=(\w+)([^}]*)", line):
        address = re.search(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', rest)
        port = re.search(r"htons\((\d+)\)", rest)
        path = re.search(r'sun_path=@?"([^"]*)"', rest)
        words = [family, *(filter(None, address.groups()) if address else ())]
        peers.append(" ".join([*words, *(port.groups() if port else ()), *(path.groups() if path else ())]))
    return peers


def _is_here(peer: str) -> bool:
    """Whether an address is this machine's own, and no service that looks names up."""
    family, *rest = peer.split(" ")
    if family in ("AF_UNIX", "AF_UNSPEC"):
        return "resolve" not in "".join(rest)
    if family not in ("AF_INET", "AF_INET6") or not rest:
        return False
    return ipaddress.ip_address(rest[0]).is_loopback and rest[-1] not in ("53", "5353")


@pytest.fixture(scope="module", params=ENGINES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo for each engine."""
    pytest.importorskip(ENGINES[request.param])
    folder = tmp_path_factory.mktemp(request.param) / "demo"
    return build_demo(request.param, folder, verify="off").folder


def on_this_machine(bundle: Path) -> list[str]:
    """MLX's bundles are for Macs; elsewhere a processor does."""
    return ["--provider", "cpu"] if "mlx" in bundle.parent.name and sys.platform != "darwin" else []


def test_run(bundle: Path, tmp_path: Path) -> None:
    command = [*EDGEPHI, "run", str(bundle), QUESTION, *on_this_machine(bundle)]
    printed, reached = run_alone(command, tmp_path)
    assert json.loads(printed) == ANSWER
    assert reached == []


def test_serve(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    serve = [*EDGEPHI, "serve", str(bundle), "--port", "0", "--context", "512", *on_this_machine(bundle)]
    printed, reached = run_alone([sys.executable, "-c", CLIENT, *serve], tmp_path, name="serve")
    assert json.loads(printed) == ANSWER
    assert reached == []


def test_chat(bundle: Path, tmp_path: Path) -> None:
    command = [*EDGEPHI, "chat", str(bundle), *on_this_machine(bundle)]
    printed, reached = run_alone(command, tmp_path, stdin=f"{QUESTION}\n")
    assert json.dumps(ANSWER) in printed
    assert reached == []


@pytest.mark.slow
def test_bench(demo_bundle: Path, tmp_path: Path) -> None:
    numbers = ["--runs", "1", "--prompt-tokens", "32", "--generate", "2", "--context", "64", "--json"]
    printed, reached = run_alone([*EDGEPHI, "bench", str(demo_bundle), *numbers], tmp_path)
    assert json.loads(printed)
    assert reached == []


def test_build_and_verify(tmp_path: Path) -> None:
    """Both compute with the engine, in processes of their own."""
    folder = tmp_path / "bundle"
    (tmp_path / "build").mkdir()
    (tmp_path / "verify").mkdir()
    build = [*EDGEPHI, "build", "demo", "--target", "cpu", "-o", str(folder), "--verify", "quick", "--json"]
    printed, reached = run_alone(build, tmp_path / "build", BUNDLE=folder)
    assert json.loads(printed)
    assert reached == []
    printed, reached = run_alone([*EDGEPHI, "verify", str(folder), "--json"], tmp_path / "verify")
    assert json.loads(printed)
    assert reached == []


def test_flash(demo_bundle: Path, tmp_path: Path) -> None:
    """The box's prober asks the engine, and the engine answers."""
    store = tmp_path / "store"
    flash = [*EDGEPHI, "flash", str(demo_bundle), str(store), "--json"]
    printed, reached = run_alone(flash, tmp_path, STORE=store)
    assert json.loads(printed)
    assert reached == []


@pytest.mark.parametrize("module", ["edgephi", "edgephi.runtime", "edgephi.store"])
def test_an_engine_that_is_imported_after_edgephi(tmp_path: Path, module: str) -> None:
    """As in a program that uses edgephi as a library, whatever its environment says."""
    engines = "import onnxruntime, onnxruntime_genai, openvino.tools.ovc"
    set_otherwise = {"ORT_DISABLE_TELEMETRY": "0", "HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0"}
    _, reached = run_alone(
        [sys.executable, "-c", f"import {module}\n{engines}"], tmp_path, variables=set_otherwise
    )
    assert reached == []


def test_a_converter_of_somebody_else(tmp_path: Path) -> None:
    """OpenVINO's own reports to its makers when it is imported."""
    program = f"""
import types
from pathlib import Path
from edgephi.declared.recipe import Quant
from edgephi.export.exporter import exporter
from edgephi.export.upstream import Upstream, UpstreamExporter
tool = Upstream("ovc", (), "", 0, lambda *_: ["openvino.tools.ovc", "--help"])
here = Path({str(tmp_path)!r})
checkpoint = types.SimpleNamespace(folder=here, shards=())
(here / "artifact").mkdir()
theirs = UpstreamExporter(tool, own=exporter("openvino-genai"), quant=Quant())
theirs.write_artifact(here / "artifact", checkpoint, {{}}, None, 0)
"""
    _, reached = run_alone([sys.executable, "-c", program], tmp_path, name="build")
    assert reached == []


def test_the_engine_alone_is_seen_to_report(tmp_path: Path) -> None:
    """Without edgephi before it, so that the tests above would see it."""
    _, reached = run_alone([sys.executable, "-c", "import onnxruntime"], tmp_path)
    assert any("onnxruntime" in each for each in reached)


def test_doctor(tmp_path: Path) -> None:
    """It looks at each engine and accelerator."""
    printed, reached = run_alone([*EDGEPHI, "doctor"], tmp_path)
    assert "onnxruntime-genai" in printed
    assert reached == []


@pytest.mark.parametrize(
    ("attempt", "seen"),
    [
        ("socket.create_connection(('192.0.2.1', 443))", "connect AF_INET 192.0.2.1 443"),
        ("socket.create_connection(('2001:db8::1', 443))", "connect AF_INET6 2001:db8::1 443"),
        (
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.9', 9))",
            "sendto AF_INET 203.0.113.9 9",
        ),
        (
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('203.0.113.9', 9))",
            "sendmsg AF_INET 203.0.113.9 9",
        ),
        ("socket.getaddrinfo('telemetry.example.org', 443)", "/etc/resolv.conf"),
        ("socket.create_server(('0.0.0.0', 0))", "bind AF_INET 0.0.0.0 0"),
        (
            "subprocess.run(['bash', '-c', 'echo x > /dev/tcp/192.0.2.1/80'])",
            "connect AF_INET 192.0.2.1 80",
        ),
        ("open(os.path.expanduser('~/kept'), 'w')", "home/kept"),
        ("os.chdir(os.path.expanduser('~')); os.mkfifo('pipe')", "home/pipe"),
        ("os.symlink('/nowhere', os.path.expanduser('~/link'))", "home/link"),
        ("os.rename('/nowhere', os.path.expanduser('~/renamed'))", "home/renamed"),
        ("open('/no/such/folder/kept', 'a')", "/no/such/folder/kept"),
    ],
)
def test_an_attempt_is_seen(tmp_path: Path, attempt: str, seen: str) -> None:
    """What would reach somebody, or leave something, is seen: in threads and child processes too."""
    program = f"""
import contextlib, os, socket, subprocess, sys, threading
def attempt():
    with contextlib.suppress(OSError):
        {attempt}
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
"""
    _, reached = run_alone([sys.executable, "-c", program], tmp_path)
    assert any(seen in each for each in reached), reached


def test_what_stays_on_the_machine_is_no_attempt(tmp_path: Path) -> None:
    program = """
import socket
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.create_server((address, 0), family=family)
    socket.create_connection(server.getsockname()[:2]).send(b"x")
one, other = socket.socketpair()
one.sendmsg([b"x"])
"""
    _, reached = run_alone([sys.executable, "-c", program], tmp_path)
    assert reached == []
