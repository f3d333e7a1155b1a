"""A bundle's bill of materials beside it in a registry: an artifact that refers to the bundle's.

Its signature, of the same form as the bundle's, is one that refers to the bill's. Each has one layer, because
tools that look for bills open no other ones.
"""

from dataclasses import dataclass

from edgephi.flash.bill_of_materials.written import BILL_TYPE, Bill
from edgephi.flash.oci.connection import RegistryConnection
from edgephi.flash.oci.manifests import MANIFEST_TYPE
from edgephi.flash.oci.modelpack import ARTIFACT_TYPE, Artifact
from edgephi.flash.oci.referrers import Descriptor, attach

ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
BILL_TITLE = "bundle.cdx.json"
SIGNATURE_TITLE = "bundle.cdx.json.dsse.json"


@dataclass(frozen=True)
class Attached:
    """Digests of the artifacts that refer to the bundle's, and to its bill's; None where there is none."""

    bill: str | None = None
    signature: str | None = None


def attach_bill(connection: RegistryConnection, artifact: Artifact, bill: Bill, created: str) -> Attached:
    """Put a bill and its signature beside the bundle; `created` is when that was, and stands for theirs.

    The same bill again changes nothing. Raises as `attach` does.
    """
    of_bundle = Descriptor(MANIFEST_TYPE, artifact.digest, len(artifact.manifest), ARTIFACT_TYPE)
    of_bill = attach(connection, of_bundle, bill.data, kind=BILL_TYPE, title=BILL_TITLE, created=created)
    if bill.envelope is None:
        return Attached(of_bill.digest)
    signature = attach(
        connection, of_bill, bill.envelope, kind=ENVELOPE_TYPE, title=SIGNATURE_TITLE, created=created
    )
    return Attached(of_bill.digest, signature.digest)
