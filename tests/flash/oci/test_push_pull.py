"""A bundle goes into a real registry and comes out of it, and other programs can read it there."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, read_manifest
from edgephi.errors import BadInputError, UsageError
from edgephi.flash.oci.manifests import MANIFEST_TYPE
from edgephi.flash.oci.pull import Pulled, pull_bundle
from edgephi.flash.oci.push import push_bundle
from edgephi.flash.oci.reference import read_reference
from edgephi.flash.signing.sign import sign_bundle
from edgephi.steps import silent
from tests.cli.conftest import Edgephi, is_one_error
from tests.flash.oci.conftest import WEIGHTS, MakeBundle, folder_bytes
from tests.flash.oci.registry_server import RegistryServer, get


def test_what_went_in_comes_out(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    sign_bundle(bundle, Ed25519PrivateKey.generate())
    reference = read_reference(f"{registry.host}/{name}:1")
    pushed = push_bundle(bundle, reference, silent)
    pulled = pull_bundle(reference, tmp_path / "out", silent)
    assert pulled.digest == pushed.digest
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)
    assert SIGNATURE_NAME in folder_bytes(tmp_path / "out")
    check_files(tmp_path / "out", read_manifest(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "out"]


def test_the_second_push_sends_nothing(registry: RegistryServer, name: str, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    first = push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    again = push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    assert (again.digest, again.sent_bytes, again.reused_bytes) == (first.digest, 0, first.sent_bytes)
    moved = push_bundle(bundle, read_reference(f"{registry.host}/{name}:2"), silent)
    assert (moved.digest, moved.sent_bytes) == (first.digest, 0)
    blobs = {path.partition("?")[0] for path in registry.requests("PUT", f"{name}/blobs")}
    assert len(blobs) == 5  # three different files, the manifest and the config, each once
    assert len(registry.requests("PUT", f"{name}/manifests")) == 2


def test_only_the_files_that_changed_are_sent(
    registry: RegistryServer, name: str, make_bundle: MakeBundle
) -> None:
    push_bundle(make_bundle("old"), read_reference(f"{registry.host}/{name}:1"), silent)
    bundle = make_bundle("new", seed=1)
    pushed = push_bundle(bundle, read_reference(f"{registry.host}/{name}:2"), silent)
    weights = (bundle / WEIGHTS).stat().st_size
    assert weights < pushed.sent_bytes < weights + 10_000  # the weights, the manifest and the config
    assert pushed.reused_bytes == 2  # "{}" and the empty file


def test_a_digest_names_it_for_ever(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    tag = read_reference(f"{registry.host}/{name}:stable")
    first = push_bundle(make_bundle("first"), tag, silent)
    push_bundle(make_bundle("second", seed=1), tag, silent)
    pull_bundle(read_reference(f"{registry.host}/{name}@{first.digest}"), tmp_path / "out", silent)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "first")


def test_it_is_a_modelpack_artifact(registry: RegistryServer, name: str, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    pushed = push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    data = get(registry, f"{name}/manifests/1", MANIFEST_TYPE)
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == pushed.digest
    artifact = json.loads(data)
    assert artifact["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert artifact["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert artifact["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    layers = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in artifact["layers"]}
    assert layers.keys() == folder_bytes(bundle).keys()
    assert layers[WEIGHTS]["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert layers[MANIFEST_NAME]["mediaType"] == "application/vnd.cncf.model.weight.config.v1.raw"
    for path, content in folder_bytes(bundle).items():
        # Raw: the registry's own file of a blob is the bundle's file, byte for byte.
        assert registry.blob_file(layers[path]["digest"]).read_bytes() == content
    config = json.loads(get(registry, f"{name}/blobs/{artifact['config']['digest']}"))
    assert config["descriptor"]["name"] == "tiny-cpu"
    assert config["descriptor"]["version"] == "3"
    assert config["config"]["format"] == "onnx"
    assert config["config"]["paramSize"] == "3.8B"
    assert config["modelfs"] == {
        "type": "layers",
        "diffIds": [layer["digest"] for layer in artifact["layers"]],
    }


def test_oras_reads_it_too(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """The client library of the ORAS project, which shares no code with us."""
    oras_client = pytest.importorskip("oras.client")
    bundle = make_bundle()
    push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    client = oras_client.OrasClient(insecure=True)
    client.pull(target=f"{registry.host}/{name}:1", outdir=str(tmp_path / "out"))
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_a_file_that_is_not_what_the_manifest_says_is_refused(
    registry: RegistryServer, name: str, edgephi: Edgephi, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    weights = bundle / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    done = edgephi("push", bundle, f"{registry.host}/{name}:1")
    assert is_one_error(done, 4), done.stderr
    assert WEIGHTS in done.stderr
    with pytest.raises(BadInputError):  # no tag for half a bundle
        pull_bundle(read_reference(f"{registry.host}/{name}:1"), bundle.with_name("out"), silent)


def test_on_the_command_line(
    registry: RegistryServer, name: str, edgephi: Edgephi, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    done = edgephi("push", bundle, f"{registry.host}/{name}:1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{registry.host}/{name}@sha256:")
    by_digest = done.stdout.strip()
    done = edgephi("push", bundle, f"{registry.host}/{name}:1", "--json")
    assert json.loads(done.stdout)["sent_bytes"] == 0
    done = edgephi("pull", f"oci://{by_digest}", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert "3.15 MB" in done.stderr
    done = edgephi("pull", f"oci://{by_digest}", "-o", tmp_path / "more", "--json")
    assert json.loads(done.stdout)["digest"] == by_digest.partition("@")[2]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "found"),
    [
        (("pull", "oci://HOST/NAME:9", "-o", "out"), 4, "HTTP status 404: manifest unknown"),
        (("pull", "oci://HOST/none/such:1", "-o", "out"), 4, "HTTP status 404"),
        (("pull", "oci://127.0.0.1:9/a:1", "-o", "out"), 6, "refused"),
        (("pull", "oci://HOST/NAME:1"), 2, "expected -o"),
        (("pull", "oci://HOST/NAME:1", "-o", "bundle"), 2, "found one that does"),
        (("pull", "oci://HOST/NAME", "-o", "out"), 2, "expected a tag"),
        (("pull", "demo", "-o", "out"), 2, "--output"),
        (("pull", "oci://HOST/NAME:1", "-o", "out", "--revision", "main"), 2, "--revision"),
        (("push", "bundle", "HOST/NAME@sha256:" + "0" * 64), 2, "expected a tag"),
        (("push", "nothing", "HOST/NAME:1"), 4, "no such folder"),
        (("push", "bundle", "127.0.0.1:9/a:1"), 6, "refused"),
        (("flash", "bundle", "store", "--insecure"), 2, "--insecure"),
    ],
)
def test_mistakes_are_one_line(
    registry: RegistryServer,
    edgephi: Edgephi,
    make_bundle: MakeBundle,
    tmp_path: Path,
    arguments: tuple[str, ...],
    exit_code: int,
    found: str,
) -> None:
    make_bundle()
    words = [word.replace("HOST", registry.host).replace("NAME", "mistakes") for word in arguments]
    done = edgephi(*words, cwd=tmp_path)
    assert is_one_error(done, exit_code), done.stderr
    assert found in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_push_to_a_digest_is_refused(registry: RegistryServer, make_bundle: MakeBundle) -> None:
    with pytest.raises(UsageError):
        push_bundle(make_bundle(), read_reference(f"{registry.host}/a@sha256:{'0' * 64}"), silent)


def test_memory_does_not_grow_with_the_bundle(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """150 MB at most on either side, whatever the size: here a file that would not fit into that."""
    bundle = make_bundle(mebibytes=240)
    program = f"""
from pathlib import Path
from edgephi.cli.main import main
try:
    main()
finally:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path({str(tmp_path / "peak")!r}).write_text(status["VmHWM"].split()[0])
"""
    for arguments in (
        ["push", bundle, f"{registry.host}/{name}:1"],
        ["pull", f"oci://{registry.host}/{name}:1", "-o", tmp_path / "out"],
        ["flash", f"oci://{registry.host}/{name}:1", tmp_path / "store", "--elsewhere"],
    ):
        subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True)
        peak = int((tmp_path / "peak").read_text()) << 10
        assert peak < 150e6, (arguments, peak)


def test_equal_files_travel_once(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    reference = read_reference(f"{registry.host}/{name}:1")
    push_bundle(bundle, reference, silent)
    pulled = pull_bundle(reference, tmp_path / "out", silent)
    files = folder_bytes(bundle)
    distinct = {hashlib.sha256(data).digest(): len(data) for data in files.values()}
    assert pulled == Pulled(pulled.digest, sum(distinct.values()), 0)
    assert len(distinct) < len(files)
