"""Engines that die or hang, servers that are killed, signals, and everything that keeps one from starting."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from edgephi.server.engine.process import EngineProcess
from tests.cli.conftest import Edgephi, is_one_error
from tests.installs import installs
from tests.server.serving import PATIENCE, Server, command_line, serving, slowly, starting, until

PROMPT = "turn on the kitchen light"
RESTARTS = "edgephi_engine_restarts_total"
# In seconds, so that others come to wait.
FAILS_LATE = (
    "{% if messages[-1].content == 'fail' %}"
    "{% for a in range(800) %}{% for b in range(20000) %}{% endfor %}{% endfor %}{{ a.b.c }}"
    "{% endif %}"
)


def gone(pid: int) -> bool:
    """Whether a process has ended, or is only waiting to be buried."""
    return command_line(pid) == b""


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; before, the signal is its death."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def _is_restarting(health: httpx2.Response) -> bool:
    return health.status_code == 503 and health.json()["status"] == "restarting"


def answers(server: Server) -> bool:
    return server.chat(max_tokens=2).status_code == 200


class TestEngine:
    def test_killed_between_requests(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path) as server:
            expected = server.chat().json()["choices"]
            os.kill(server.worker(), signal.SIGKILL)
            # What is sent before the end is noticed is sent to the dead.
            until(lambda: server.metric(RESTARTS) == 1, "the notice")
            assert server.chat().json()["choices"] == expected  # it waits until the engine is there again
            until(lambda: server.get("/health").status_code == 200, "readiness")
            assert server.get("/health").json() == {
                "status": "ready",
                "waiting": 0,
                "compiling": 0,
                "restarts": 1,
            }
            assert "the engine's process was killed by signal 9 (SIGKILL)" in server.log

    def test_killed_while_it_answers(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, **slowly(0.1)) as server, ThreadPoolExecutor(3) as pool:
            victim = pool.submit(server.chat)
            until(lambda: server.metric("edgephi_engine_busy") == 1, "the start")
            waiting = pool.submit(server.chat)
            until(lambda: server.metric("edgephi_queue_length") == 1, "the queue")
            os.kill(server.worker(), signal.SIGKILL)
            assert victim.result().status_code == 503
            assert victim.result().json()["error"]["code"] == "engine_restarted"
            assert "retry-after" in victim.result().headers
            until(lambda: _is_restarting(server.get("/health")), "the restart")
            assert waiting.result().status_code == 200

    def test_one_that_gives_up_is_given_nobody_elses_request(self, demo_bundle: Path, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        shutil.copytree(demo_bundle, bundle)
        manifest = json.loads((bundle / "bundle.json").read_text())
        manifest["chat"]["template"] = FAILS_LATE + manifest["chat"]["template"]
        (bundle / "bundle.json").write_text(json.dumps(manifest))
        with serving(bundle, tmp_path) as server, ThreadPoolExecutor(2) as pool:
            victim = pool.submit(server.chat, "fail")
            until(lambda: server.metric("edgephi_engine_busy") == 1, "the start")
            waiting = pool.submit(server.chat)
            assert victim.result().status_code == 500
            assert waiting.result().status_code == 200
            assert server.metric(RESTARTS) == 1
            assert "is started again: bundle.json: chat:" in server.log

    def test_killed_in_the_middle_of_a_stream(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, **slowly(0.1)) as server:
            body = {"messages": [{"role": "user", "content": PROMPT}], "stream": True}
            url = server.url + "/v1/chat/completions"
            with httpx2.stream("POST", url, json=body, timeout=PATIENCE) as response:
                data = (line for line in response.iter_lines() if line.startswith("data: "))
                for _ in range(3):
                    next(data)
                os.kill(server.worker(), signal.SIGKILL)
                *_, last = data
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_restarted"
            assert answers(server)

    def test_stopped_and_restarted_by_the_watchdog(self, demo_bundle: Path, tmp_path: Path) -> None:
        options = ("--watchdog", 1)
        with serving(demo_bundle, tmp_path, *options, **slowly(0.1)) as server, ThreadPoolExecutor(3) as pool:
            worker = server.worker()
            victim = pool.submit(server.chat)
            until(lambda: server.metric("edgephi_engine_busy") == 1, "the start")
            waiting = pool.submit(server.chat)
            until(lambda: server.metric("edgephi_queue_length") == 1, "the queue")
            os.kill(worker, signal.SIGSTOP)
            start = time.monotonic()
            assert victim.result().status_code == 503
            assert 0.5 < time.monotonic() - start < 3
            assert waiting.result().status_code == 200
            assert gone(worker)
            assert server.metric(RESTARTS) == 1
            assert "it gave no sign for" in server.log

    def test_a_slow_engine_is_left_alone(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, "--watchdog", 1, **slowly(0.6)) as server:
            assert server.chat(max_tokens=4).status_code == 200
            assert server.metric(RESTARTS) == 0

    @pytest.mark.slow
    def test_that_cannot_be_started_any_more(self, demo_bundle: Path, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        subprocess.run(["cp", "-r", demo_bundle, bundle], check=True)
        with serving(bundle, tmp_path) as server:
            (bundle / "model" / "tokenizer.json").unlink()
            os.kill(server.worker(), signal.SIGKILL)
            assert server.process.wait(timeout=PATIENCE) == 4
        *_, error, hint = server.log.splitlines()
        assert error.startswith("error: ") and "model/tokenizer.json: expected a file of" in error
        assert hint.startswith("hint: ")
        assert "Traceback" not in server.log


def test_a_start_that_is_given_up_is_no_error_of_asyncios(tmp_path: Path) -> None:
    """Whenever it is given up: a server that ends while its engine starts has nothing to report."""

    async def give_up_after(turns: int) -> list[str]:
        reported: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
        start = asyncio.ensure_future(EngineProcess.start(tmp_path / "no-bundle", lambda _: None))
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await asyncio.sleep(0.02)
        gc.collect()  # what nobody has retrieved is reported when it goes
        return reported

    assert [asyncio.run(give_up_after(turns)) for turns in range(10)] == [[]] * 10


class TestEnd:
    def test_killed_and_started_again(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, **slowly(0.05)) as server:
            port, worker = server.port, server.worker()
            asking = threading.Thread(target=_ignoring_errors, args=(server,))
            asking.start()
            until(lambda: server.metric("edgephi_engine_busy") == 1, "the start")
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
            until(lambda: gone(worker), "the end of the engine")
            asking.join()
        with serving(demo_bundle, tmp_path, "--port", port) as server:
            assert server.port == port
            assert answers(server)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_what_is_begun_is_answered(
        self, demo_bundle: Path, tmp_path: Path, number: signal.Signals
    ) -> None:
        with serving(demo_bundle, tmp_path, **slowly(0.05)) as server, ThreadPoolExecutor(2) as pool:
            worker = server.worker()
            answering, waiting = pool.submit(server.chat), pool.submit(server.chat)
            until(lambda: server.metric("edgephi_queue_length") == 1, "the queue")
            server.process.send_signal(number)
            os.kill(worker, number)  # as a terminal and a service manager do
            until(lambda: refuses(server), "the closed port")
            assert answering.result().status_code == 200
            assert waiting.result().status_code == 200
            assert server.process.wait(timeout=PATIENCE) == 0
            assert gone(worker)
        assert "Traceback" not in server.log

    def test_not_longer_than_the_grace_time(self, demo_bundle: Path, tmp_path: Path) -> None:
        options = ("--grace", 0.5)
        with serving(demo_bundle, tmp_path, *options, **slowly(0.2)) as server, ThreadPoolExecutor(2) as pool:
            answering = pool.submit(server.chat)
            until(lambda: server.metric("edgephi_engine_busy") == 1, "the start")
            start = time.monotonic()
            assert server.end() == 0
            assert time.monotonic() - start < 2
            assert answering.result().status_code == 503
            assert answering.result().json()["error"]["code"] == "stopping"

    def test_a_second_signal_ends_it_at_once(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, **slowly(0.5)) as server:
            worker = server.worker()
            asking = threading.Thread(target=_ignoring_errors, args=(server,))
            asking.start()
            until(lambda: server.metric("edgephi_engine_busy") == 1, "the start")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: refuses(server), "the closed port")
            assert server.end(signal.SIGINT) == 128 + signal.SIGINT
            until(lambda: gone(worker), "the end of the engine")
            asking.join()

    @pytest.mark.parametrize("seconds", [0.1, 0.4, 0.6, 0.8, 1.0])
    def test_while_the_model_is_loaded(self, demo_bundle: Path, tmp_path: Path, seconds: float) -> None:
        """The engine may have become ready just when nobody is listened to any more."""
        with starting(demo_bundle, tmp_path) as server:
            until(lambda: catches(server.process.pid, signal.SIGTERM), "the first line of the program")
            time.sleep(seconds)
            assert server.end() in (0, 128 + signal.SIGTERM), server.log
        assert "Traceback" not in server.log


class TestStart:
    def test_not_ready_before_a_token(self, demo_bundle: Path, tmp_path: Path) -> None:
        port = free_port()
        with starting(demo_bundle, tmp_path, "--port", port, **slowly(1)) as loading:
            server = dataclasses.replace(loading, url=f"http://127.0.0.1:{port}")
            until(lambda: not refuses(server), "the port")
            health = server.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "starting")
            refused = server.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
            assert "retry-after" in refused.headers
            assert server.get("/v1/models").status_code == 200
            until(lambda: server.get("/health").status_code == 200, "readiness")
            assert answers(server)

    def test_one_line_when_it_is_ready(self, demo_bundle: Path, tmp_path: Path) -> None:
        with starting(demo_bundle, tmp_path) as server:
            assert server.process.stdout is not None
            line = server.process.stdout.readline()
            assert server.end() == 0
            assert server.process.stdout.read() == ""
        assert line.startswith("http://127.0.0.1:")
        assert "demo-cpu, context 4096, onnxruntime-genai 0.18" in line and line.endswith(" on cpu\n")
        assert server.log == ""

    def test_the_service_manager_is_told(self, demo_bundle: Path, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(PATIENCE)
            variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
            with serving(demo_bundle, tmp_path, **variables) as server:
                heard = [manager.recv(100)]
                while b"READY=1" not in heard:
                    heard.append(manager.recv(100))
                heard += [manager.recv(100) for _ in range(3)]
                assert set(heard) == {b"READY=1", b"WATCHDOG=1"}
                assert server.end() == 0
                until(lambda: manager.recv(100) == b"STOPPING=1", "the farewell")

    def test_a_system_message_of_its_own(self, demo_bundle: Path, tmp_path: Path) -> None:
        text = "You are the voice of a house with a kitchen, a bath, a hall and a garden. " * 3
        (tmp_path / "system").write_text(text + "\n")
        with serving(demo_bundle, tmp_path, "--system", f"@{tmp_path / 'system'}") as server:
            first = server.chat().json()["usage"]
            assert first["prompt_tokens_details"]["cached_tokens"] > 40
            messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": PROMPT}]
            assert server.chat(messages=messages).json()["usage"]["prompt_tokens"] < first["prompt_tokens"]
            assert text.encode() not in command_line(server.worker())

    def test_a_port_in_use(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            done = edgephi("serve", demo_bundle, "--port", taken.getsockname()[1])
        assert is_one_error(done, 3)
        assert "Address already in use" in done.stderr

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
    def test_no_public_address_without_a_key(self, edgephi: Edgephi, demo_bundle: Path, host: str) -> None:
        done = edgephi("serve", demo_bundle, "--host", host, "--port", 0)
        assert is_one_error(done, 2)
        assert "expected an API key with the address" in done.stderr

    @pytest.mark.parametrize("key", ["", "\n", "two words", "schl\u00fcssel"])
    def test_a_key_that_is_none(self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path, key: str) -> None:
        (tmp_path / "key").write_text(key)
        (tmp_path / "key").chmod(0o600)
        assert is_one_error(edgephi("serve", demo_bundle, "--api-key-file", tmp_path / "key"), 2)
        assert is_one_error(edgephi("serve", demo_bundle, env={**os.environ, "EDGEPHI_API_KEY": key}), 2)

    def test_no_such_key_file(self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
        assert is_one_error(edgephi("serve", demo_bundle, "--api-key-file", tmp_path / "none"), 4)

    @pytest.mark.parametrize(
        "options", [["--max-body", "lots"], ["--cache-memory", "-5"], ["--queue", "-1"], ["--port", "99999"]]
    )
    def test_options_that_make_no_sense(
        self, edgephi: Edgephi, demo_bundle: Path, options: list[str]
    ) -> None:
        assert is_one_error(edgephi("serve", demo_bundle, *options), 2)

    def test_no_such_bundle(self, edgephi: Edgephi, tmp_path: Path) -> None:
        assert is_one_error(edgephi("serve", tmp_path / "none"), 4)

    def test_a_context_past_the_bundles(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        done = edgephi("serve", demo_bundle, "--port", 0, "--context", 99999)
        assert is_one_error(done, 3)
        assert "expected a context of at most 4096 tokens, found 99999" in done.stderr

    def test_a_model_that_the_engine_cannot_read(
        self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path
    ) -> None:
        bundle = tmp_path / "bundle"
        subprocess.run(["cp", "-r", demo_bundle, bundle], check=True)
        graph = bundle / "model" / "model.onnx"
        graph.write_bytes(b"\xff" * graph.stat().st_size)
        done = edgephi("serve", bundle, "--port", 0)
        assert is_one_error(done, 4)
        assert "model.onnx: expected an ONNX graph" in done.stderr

    def test_without_its_packages(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        hide = (
            "import importlib.util as u; find = u.find_spec; "
            "u.find_spec = lambda name, *a: None if name in ('starlette', 'msgspec') else find(name, *a)"
        )
        done = edgephi("serve", demo_bundle, before=hide)
        assert is_one_error(done, 3)
        assert "this command needs starlette and msgspec" in done.stderr
        assert installs(done.stderr, "cpu", "serve")

    def test_without_what_reads_images(self, edgephi: Edgephi, vision_bundle: Path) -> None:
        hide = (
            "import importlib.util as u; find = u.find_spec; "
            "u.find_spec = lambda name, *a: None if name == 'PIL' else find(name, *a)"
        )
        done = edgephi("serve", vision_bundle, before=hide)
        assert is_one_error(done, 3)
        assert "this command needs Pillow" in done.stderr
        assert installs(done.stderr, "cpu", "serve", "vision")

    def test_a_model_that_reads_text_only_has_no_images_to_fetch(
        self, edgephi: Edgephi, demo_bundle: Path
    ) -> None:
        done = edgephi("serve", demo_bundle, "--image-urls", "public")
        assert is_one_error(done, 2)
        assert "expected a model that sees" in done.stderr

    def test_a_module_of_the_working_folder_is_not_taken_for_ours(
        self, demo_bundle: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "msgspec.py").write_text("raise SystemExit('not this one')")
        command = [sys.executable, "-P", "-c", "from edgephi.cli.main import main; main()"]
        with subprocess.Popen(
            [*command, "serve", str(demo_bundle), "--port", "0"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.terminate()


def _ignoring_errors(server: Server) -> None:
    with contextlib.suppress(httpx2.TransportError):
        server.chat()


def refuses(server: Server) -> bool:
    """Whether nobody listens on the server's port."""
    try:
        socket.create_connection(("127.0.0.1", server.port)).close()
    except ConnectionRefusedError:
        return True
    return False


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
