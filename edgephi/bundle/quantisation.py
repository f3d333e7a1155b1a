"""`quantisation.json`: what quantising did to each tensor of a bundle, for whoever judges or improves it.

A bundle has it beside its manifest, as one of its files, when edgephi itself chose the codes. People and
tools read it, no engine does. Standard library only.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.document import HINT, decode_document, encode_document
from edgephi.bundle.manifest import Manifest
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, from_os_error

SCHEMA = "edgephi.quantisation/1"
QUANTISATION_NAME = "quantisation.json"

LARGEST_QUANTISATION_BYTES = 4 << 20
"""Enough for 8,000 tensors; a large model has 200."""

_LONGEST_TEXT = 200

_LEAST_ERROR, _LARGEST_ERROR = 1e-200, 1e200
"""Products of the squares of float32 numbers lie within. What shows errors need not go further."""


@dataclass(frozen=True)
class QuantisedTensor:
    """One tensor: what it is, how it is stored, and how far its weights w are from the original ones v.

    `name` is the one by which a recipe keeps it, whatever the artifact calls it; `role` what it does, such as
    "down", in layer `layer`, None where it belongs to none. `bytes` counts its codes and what they are scaled
    by. `bits`, `group_size`, `symmetric` and `scales` are those of its scheme.

    `relative_squared_error` is |w - v|² / |v|². Weighted, each weight counts as much as the mean square of
    its input, x: `weighted_squared_error` is the sum of E[x²] (w - v)², the squared error that one token
    finds in the tensor's output, and `weighted_relative_squared_error` that over the sum of E[x²] v². Both
    are None where inputs were not measured. With outlier channels folded, v and x are what they became.
    """

    name: str
    role: str
    layer: int | None
    weights: int
    bytes: int
    bits: int
    group_size: int
    symmetric: bool
    scales: str
    relative_squared_error: float
    weighted_relative_squared_error: float | None = None
    weighted_squared_error: float | None = None

    @property
    def bits_per_weight(self) -> float:
        """All that is stored of it counted."""
        return 8 * self.bytes / self.weights


@dataclass(frozen=True)
class Quantisation:
    """The whole of `quantisation.json`: every quantised tensor, in the order of the artifact."""

    schema: str
    tensors: tuple[QuantisedTensor, ...]


def encode_quantisation(quantisation: Quantisation) -> bytes:
    """The bytes of `quantisation.json`: two-space indented JSON with a final newline, the same each time."""
    return encode_document(quantisation)


def decode_quantisation(data: bytes, *, where: str = QUANTISATION_NAME) -> Quantisation:
    """Read the bytes of `quantisation.json`. Raises BadBundleError when they are not what we write."""
    quantisation = decode_document(Quantisation, data, SCHEMA, where=where)
    names: set[str] = set()
    for place, tensor in enumerate(quantisation.tensors):
        problem = f"found {tensor.name!a} twice" if tensor.name in names else _problem(tensor)
        if problem:
            raise BadBundleError(f"{where}: tensors[{place}]: {problem}", hint=HINT)
        names.add(tensor.name)
    return quantisation


def read_quantisation(bundle: Path, manifest: Manifest) -> Quantisation | None:
    """Read that file of the bundle in folder `bundle`; None where its manifest lists none.

    Raises BadBundleError when it is not the file that the manifest lists, BadInputError when it may not be
    read.
    """
    import hashlib  # brings in OpenSSL: not for those who look at a manifest only

    entry = next((entry for entry in manifest.files if entry.path == QUANTISATION_NAME), None)
    if entry is None:
        return None
    path = bundle / QUANTISATION_NAME
    if entry.size > LARGEST_QUANTISATION_BYTES:  # as its manifest says, so a copy would be no better
        raise BadBundleError(
            f"{path}: expected at most {LARGEST_QUANTISATION_BYTES} bytes, found {entry.size}",
            hint="build the bundle again with this edgephi",
        )
    hint = (
        "copy the bundle again, or build it again; "
        f"`{edgephi_command('verify', bundle)}` says what else is wrong with this one"
    )
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
            raise BadBundleError(f"{path}: expected a plain file, found something else", hint=hint)
        with path.open("rb") as file:
            data = file.read(entry.size + 1)
    except FileNotFoundError:
        raise BadBundleError(
            f"{path}: expected a file of {entry.size} bytes by the manifest, found none", hint=hint
        ) from None
    except PermissionError as cause:
        raise from_os_error(cause, place=path) from None
    except OSError as cause:
        raise BadBundleError(f"{path}: expected a readable file, found {cause.strerror}", hint=hint) from None
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise BadBundleError(f"{path}: expected sha256 {entry.sha256}, found {found}", hint=hint)
    return decode_quantisation(data, where=str(path))


def _problem(tensor: QuantisedTensor) -> str:
    """What is wrong with numbers and texts of the right types; "" when nothing is."""
    for key, text in (("name", tensor.name), ("role", tensor.role), ("scales", tensor.scales)):
        if not text.strip() or not text.isprintable() or len(text) > _LONGEST_TEXT:
            return f"expected a {key} of one line, found {text[:80]!a}"
    counts = {key: getattr(tensor, key) for key in ("weights", "bytes", "bits", "group_size")}
    for key, count in counts.items():
        if count < 1:
            return f"expected {key} of 1 or more, found {count}"
    for key in ("relative_squared_error", "weighted_relative_squared_error", "weighted_squared_error"):
        error = getattr(tensor, key)
        if error and not _LEAST_ERROR <= error <= _LARGEST_ERROR:
            return f"expected a {key} of 0 or {_LEAST_ERROR:g} to {_LARGEST_ERROR:g}, found {error}"
    return ""
