"""What a bad network, a registry that dies and a registry that lies can do to a transfer."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from edgephi.errors import BadBundleError, EdgephiError, TransportError
from edgephi.flash.oci.connection import connect
from edgephi.flash.oci.manifests import MANIFEST_TYPE
from edgephi.flash.oci.pull import pull_bundle
from edgephi.flash.oci.push import push_bundle
from edgephi.flash.oci.reference import read_reference
from edgephi.flash.oci.upload import write_blob
from edgephi.steps import silent
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.flash.oci.conftest import WEIGHTS, MakeBundle, folder_bytes
from tests.flash.oci.cutting_proxy import cutting_proxy
from tests.flash.oci.registry_server import RegistryServer, serve_registry
from tests.flash.oci.resumable_uploads import serve_uploads

MEBIBYTE = 1 << 20


@contextmanager
def counted(told: list[int]) -> Iterator[Callable[[int], None]]:
    """A step that notes what it is told."""
    yield told.append


@contextmanager
def always(answer: bytes) -> Iterator[int]:
    """A server on 127.0.0.1 that gives one answer to everything; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        client.settimeout(5)
                        client.recv(1 << 16)
                        client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_pull_is_cut_ten_times(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(mebibytes=24)
    push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    with cutting_proxy(registry.port) as proxy:
        proxy.cuts_down += [2 * MEBIBYTE] * 10
        pull_bundle(read_reference(f"{proxy.host}/{name}:1"), tmp_path / "out", silent)
        assert proxy.cuts == 10
        # What was in the buffers of the sockets when a cut came is lost, and nothing else.
        assert proxy.down < 24 * MEBIBYTE + 10 * 2 * MEBIBYTE
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_a_push_is_cut(registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(mebibytes=8)
    told: list[int] = []
    with cutting_proxy(registry.port) as proxy:
        proxy.cuts_up += [5 * MEBIBYTE, 5 * MEBIBYTE]
        pushed = push_bundle(
            bundle, read_reference(f"{proxy.host}/{name}:1"), lambda _title, _size: counted(told)
        )
        assert proxy.cuts == 2
    assert sum(told) == pushed.sent_bytes  # what was lost is taken back, so that a bar ends at its end
    pull_bundle(read_reference(f"{registry.host}/{name}:1"), tmp_path / "out", silent)
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_a_registry_that_dies_in_a_pull_and_comes_back(
    tmp_path: Path, edgephi: Edgephi, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(mebibytes=16)
    with serve_registry(tmp_path / "registry") as registry, cutting_proxy(registry.port) as proxy:
        push_bundle(bundle, read_reference(f"{registry.host}/phi:1"), silent)
        proxy.cuts_down.append(9 * MEBIBYTE)
        proxy.on_cut = registry.kill
        done = edgephi("pull", f"oci://{proxy.host}/phi:1", "-o", tmp_path / "out")
        assert is_one_error(done, 6), done.stderr
        assert "run the same command again" in done.stderr
        assert not (tmp_path / "out").exists()
        registry.start()
        done = edgephi("pull", f"oci://{proxy.host}/phi:1", "-o", tmp_path / "out", "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        # What was in the socket's buffers when the connection was reset is lost.
        assert document["kept_bytes"] >= 2 * MEBIBYTE
        assert document["kept_bytes"] + document["received_bytes"] == sum(
            len(data) for data in set(folder_bytes(bundle).values())
        )
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)
    assert not list(tmp_path.glob(".out*"))


def test_ctrl_c_in_a_pull_keeps_what_came(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path, edgephi: Edgephi
) -> None:
    bundle = make_bundle(mebibytes=16)
    push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    with cutting_proxy(registry.port) as proxy:
        proxy.hold_after = 9 * MEBIBYTE
        words = ["pull", f"oci://{proxy.host}/{name}:1", "-o", str(tmp_path / "out")]
        process = subprocess.Popen([sys.executable, "-c", MAIN, *words], stderr=subprocess.PIPE)
        assert proxy.held.wait(60)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""
    assert not (tmp_path / "out").exists()
    done = edgephi("pull", f"oci://{registry.host}/{name}:1", "-o", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["kept_bytes"] >= 2 * MEBIBYTE
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_a_registry_that_is_started_again_in_a_push(tmp_path: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(mebibytes=8)
    with serve_registry(tmp_path / "registry") as registry, cutting_proxy(registry.port) as proxy:

        def restart() -> None:
            registry.kill()
            registry.start()

        proxy.cuts_up.append(5 * MEBIBYTE)
        proxy.on_cut = restart
        push_bundle(bundle, read_reference(f"{proxy.host}/phi:1"), silent)
        assert proxy.cuts == 1
        pull_bundle(read_reference(f"{registry.host}/phi:1"), tmp_path / "out", silent)
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_an_upload_goes_on_where_the_registry_says(tmp_path: Path) -> None:
    """Docker's own registry forgets an upload that was cut; others, as the specification has it, do not."""
    data = os.urandom(8 * MEBIBYTE)
    (tmp_path / "file").write_bytes(data)
    told: list[int] = []
    with serve_uploads() as server, cutting_proxy(server.port) as proxy:
        proxy.cuts_up += [3 * MEBIBYTE, 3 * MEBIBYTE]
        with connect(read_reference(f"{proxy.host}/phi:1")) as connection:
            write_blob(connection, digest_of(data), tmp_path / "file", told.append)
        assert proxy.cuts == 2
        assert server.blobs == {digest_of(data): data}
        assert server.begun == 1
        assert proxy.up < len(data) + 2 * 2 * MEBIBYTE
    assert sum(told) == len(data)


@pytest.mark.parametrize("place", [0, 2 * MEBIBYTE + 5])
def test_a_bit_that_flipped_in_the_registry(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path, edgephi: Edgephi, place: int
) -> None:
    bundle = make_bundle(seed=place + 7)
    push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    stored = registry.blob_file(digest_of((bundle / WEIGHTS).read_bytes()))
    whole = stored.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    stored.write_bytes(damaged)
    done = edgephi("pull", f"oci://{registry.host}/{name}:1", "-o", tmp_path / "out")
    assert is_one_error(done, 6), done.stderr
    assert f"{WEIGHTS}: expected sha256:" in done.stderr
    assert not (tmp_path / "out").exists()
    done = edgephi("flash", f"oci://{registry.host}/{name}:1", tmp_path / "store", "--elsewhere")
    assert is_one_error(done, 4), done.stderr
    assert not (tmp_path / "store" / "current").exists()
    stored.write_bytes(whole)
    done = edgephi("pull", f"oci://{registry.host}/{name}:1", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_a_damaged_piece_from_before_is_not_believed(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    reference = read_reference(f"{registry.host}/{name}:1")
    push_bundle(bundle, reference, silent)
    part = tmp_path / ".out.pull" / digest_of((bundle / WEIGHTS).read_bytes())
    part.parent.mkdir()
    part.write_bytes(b"not the beginning of it")
    (part.parent / "of another bundle").write_bytes(b"")
    with pytest.raises(TransportError, match="expected sha256"):
        pull_bundle(reference, tmp_path / "out", silent)
    pull_bundle(reference, tmp_path / "out", silent)
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


Change = Callable[[dict[str, Any]], object]


def layer(document: dict[str, Any], path: str) -> dict[str, Any]:
    for each in document["layers"]:
        if each["annotations"]["org.cncf.model.filepath"] == path:
            assert isinstance(each, dict)
            return each
    raise AssertionError(path)


def rename(document: dict[str, Any], path: str, to: object) -> None:
    layer(document, path)["annotations"]["org.cncf.model.filepath"] = to


LIES: dict[str, tuple[Change, str]] = {
    "another kind of artifact": (
        lambda document: document.update(artifactType="application/vnd.example"),
        "expected an artifact of type",
    ),
    "no bundle.json": (
        lambda document: document["layers"].remove(layer(document, "bundle.json")),
        "bundle.json",
    ),
    "a file is missing": (lambda document: document["layers"].remove(layer(document, WEIGHTS)), "found none"),
    "one file more": (lambda document: rename(document, WEIGHTS, "model/evil.so"), WEIGHTS),
    "a path that leaves": (
        lambda document: rename(document, "model/empty.txt", "../../evil"),
        "model/empty.txt",
    ),
    "an absolute path": (
        lambda document: rename(document, "model/empty.txt", "/etc/passwd"),
        "model/empty.txt",
    ),
    "the same path twice": (lambda document: rename(document, "model/empty.txt", WEIGHTS), "listed twice"),
    "no path": (lambda document: layer(document, WEIGHTS).pop("annotations"), "the path of its file"),
    "an empty path": (lambda document: rename(document, WEIGHTS, ""), "the path of its file"),
    "a tar layer": (
        lambda document: layer(document, WEIGHTS).update(
            mediaType="application/vnd.cncf.model.weight.v1.tar"
        ),
        "expected a raw layer",
    ),
    "another file's digest": (
        lambda document: layer(document, WEIGHTS).update(
            digest=layer(document, "model/genai_config.json")["digest"], size=2
        ),
        f"{WEIGHTS}: expected sha256:",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_artifact_that_is_not_the_bundle_it_says(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path, lie: str
) -> None:
    """All its blobs are in the registry; only the artifact's own manifest is another one."""
    change, found = LIES[lie]
    reference = read_reference(f"{registry.host}/{name}:1")
    push_bundle(make_bundle(), reference, silent)
    address = f"http://{registry.host}/v2/{name}/manifests/1"
    with httpx2.Client(trust_env=False) as client:
        document = client.get(address, headers={"Accept": MANIFEST_TYPE}).json()
        change(document)
        client.put(address, json=document, headers={"Content-Type": MANIFEST_TYPE}).raise_for_status()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadBundleError) as refused:
        pull_bundle(reference, tmp_path / "out", silent)
    assert found in refused.value.message
    assert sorted(tmp_path.rglob("*")) == before


def answer_of(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def test_garbage_in_place_of_every_answer(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Whatever a server says to whatever request, it ends with one of our errors and leaves nothing."""
    bundle = make_bundle()
    answers = [
        b"",
        b"\x00\xff" * 100,
        answer_of("200 OK", body=b"hello"),
        answer_of("200 OK", f"Content-Type: {MANIFEST_TYPE}", body=b"[]"),
        answer_of("401 Unauthorized"),
        answer_of("401 Unauthorized", 'WWW-Authenticate: Bearer realm="file:///etc/passwd"'),
        answer_of("401 Unauthorized", 'WWW-Authenticate: Bearer realm="http://127.0.0.1:9/"'),
        answer_of("302 Found", "Location: http://127.0.0.1:9/"),
        answer_of("302 Found", "Location: \x7f://"),
        answer_of("418 \x1b[31mTeapot", body=b"\x1b[2J{'a':1}"),
        answer_of("400 Bad Request", body=b'{"errors":[{"message":"\\u001b[31mred\\nerror: none"}]}'),
    ]

    def asked(pushes: bool, answer: bytes) -> None:
        with always(answer) as port, pytest.raises(EdgephiError) as refused:
            reference = read_reference(f"127.0.0.1:{port}/phi:1")
            if pushes:
                push_bundle(bundle, reference, silent)
            else:
                pull_bundle(reference, tmp_path / f"out-{port}", silent)
        assert refused.value.exit_code in (4, 6), answer
        assert refused.value.message.isprintable(), answer

    with ThreadPoolExecutor(2 * len(answers)) as pool:  # most of them is waiting
        for _ in pool.map(asked, [False, True] * len(answers), [each for each in answers for _ in range(2)]):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
