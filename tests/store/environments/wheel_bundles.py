"""Bundles for a device without an engine: what runs them is in their wheels, which a test writes."""

import hashlib
import io
import json
import platform
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.manifest import SIGNATURE_NAME, Requires, Wheelhouse
from edgephi.bundle.probe import Probe
from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.environments.wheels import base_interpreter
from edgephi.store.trust.change import distrust_key, trust_key
from edgephi.store.trust.trusted_keys import read_trusted_keys
from tests.bundle.tiny import write_tiny_bundle
from tests.store.good_bundle import GOOD_FILES

PYTHON = f"3.{sys.version_info.minor}"
HERE = f"linux-{platform.machine()}-cp3{sys.version_info.minor}"
FOLDER = f"wheels/{HERE}"
PACKAGES = f"lib/python{PYTHON}/site-packages"
RUNTIME = "edgephi-9-py3-none-any.whl"
EXPECTED = "turned on"


def runtime_wheel(word: str, *, answer: str = EXPECTED, log: Path | None = None) -> bytes:
    """A wheel of an edgephi that answers at once. It writes `word` and where it is into the file `log`."""
    document = {
        "text": answer,
        "word": word,
        "timings": {"decode_tokens_per_second": 9999.0},
        "tokens": {"generated": 9},
    }
    note = f"import sys\nopen({str(log)!r}, 'a').write({word!r} + ' ' + sys.prefix + '\\n')\n" if log else ""
    return wheel(
        {
            "edgephi/__init__.py": f"WORD = {word!r}\n{note}",
            "edgephi/cli/__init__.py": "",
            "edgephi/cli/__main__.py": f"print({json.dumps(document)!r})\n",
            "edgephi-9.dist-info/METADATA": "Metadata-Version: 2.1\nName: edgephi\nVersion: 9\n",
        }
    )


def wheel(files: Mapping[str, str | bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A wheel of these files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return data.getvalue()


def pins(*wheels: bytes) -> bytes:
    """Requirements that pin all of these."""
    hashes = " ".join(f"--hash=sha256:{hashlib.sha256(each).hexdigest()}" for each in wheels)
    return f"--no-index\n--find-links .\n--require-hashes\nedgephi==9 {hashes}\n".encode()


def wheel_bundle(
    folder: Path,
    wheels: Mapping[str, bytes],
    *,
    requirements: bytes | None = None,
    sequence: int = 1,
    installed_bytes: int = 10_000,
) -> Path:
    """Write a bundle whose engine no machine has, and that carries `wheels` for this one."""
    files = {
        **GOOD_FILES,
        **{f"{FOLDER}/{name}": data for name, data in wheels.items()},
        f"{FOLDER}/requirements.txt": pins(*wheels.values()) if requirements is None else requirements,
    }
    requires = Requires(64_000_000, sum(map(len, files.values())), {"onnxruntime-genai": ">=99,<100"})
    write_tiny_bundle(
        folder,
        files,
        sequence=sequence,
        requires=requires,
        probe=Probe("turn on the light", EXPECTED, 8),
        wheels=(Wheelhouse(HERE, PYTHON, "2.17", ("cpu",), installed_bytes),),
    )
    return folder


def signed(bundle: Path, key: Ed25519PrivateKey) -> Path:
    """The same bundle, with the signature of a secret key and no other."""
    (bundle / SIGNATURE_NAME).unlink(missing_ok=True)
    sign_bundle(bundle, key)
    return bundle


def trust_only(root: Path, name: str, key: Ed25519PrivateKey) -> None:
    """Have a store, which may be new, trust this key and no other."""
    trust_key(root, f"{name}.pub", public_half(key).pem)
    for known in read_trusted_keys(root / "trust"):
        if known.name != name:
            distrust_key(root, known.name, also_the_last=False)


def as_on_a_bare_device(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    """Have this process find no Python with an engine; `empty` is an empty folder."""
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "executable", base_interpreter())
