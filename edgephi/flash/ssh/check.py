"""What a flash would do to the store of a box, asked of the agent there: nothing is sent but the manifest."""

import hashlib

from edgephi.bundle.manifest import decode_manifest
from edgephi.errors import TransportError
from edgephi.flash.destination import Box
from edgephi.flash.source import BundleSource, check_has
from edgephi.flash.ssh.agent import agent_on
from edgephi.flash.ssh.rate_limit import RateLimit
from edgephi.flash.ssh.result import DIGEST
from edgephi.flash.ssh.transfer import TransferSettings, Watcher, show_step, wanted_files
from edgephi.store.agent.frames import Kind, read_message
from edgephi.store.check import Checked


async def check_box(source: BundleSource, box: Box, settings: TransferSettings, watcher: Watcher) -> Checked:
    """What `BoxFlash` would come to; the box writes nothing. Raises what it reports, or TransportError."""
    manifest = decode_manifest(source.manifest, where=source.name)
    total = sum(entry.size for entry in manifest.files)
    lacking = None
    async with agent_on(box, RateLimit(None)) as agent:
        await agent.send_value(
            Kind.REQUEST,
            {
                "operation": "check",
                "root": box.root,
                "allow_downgrade": settings.allow_downgrade,
                "unsigned_wheels": settings.unsigned_wheels,
                "beside_base": source.base is not None,
            },
        )
        await agent.send(Kind.MANIFEST, source.manifest)
        await agent.send(Kind.SIGNATURE, source.signature or b"")
        agent.awaits("to hear what it lacks of the bundle")
        while True:
            kind, value = await agent.receive()
            if kind in (Kind.STEP, Kind.DONE):
                show_step(watcher, kind, value, where=str(box))
            elif kind == Kind.WANTED and lacking is None:
                files = tuple(wanted_files(box, manifest, total, value))
                check_has(source, files, where=box.url)
                lacking = sum(chunk.size for file in files for chunk in file.chunks)
            elif kind == Kind.RESULT and lacking is not None:
                break
            else:
                raise TransportError(
                    f"{box}: expected its agent to say what it lacks, found {kind.name}",
                    hint="use the same edgephi on both sides",
                )
    checked = read_message(Checked, value, where=f"{box}: RESULT")
    expected = (hashlib.sha256(source.manifest).hexdigest(), manifest.name, manifest.sequence)
    found = (checked.digest, checked.name, checked.sequence)
    sizes = (checked.sent_bytes, checked.saved_bytes)
    can_be = (
        (checked.active is None or DIGEST.fullmatch(checked.active))
        and (checked.signer is None or source.signature is not None)
        and (checked.changed or (checked.active == checked.digest and not lacking))
    )
    if expected != found or sizes != (lacking, total - lacking) or not can_be:
        raise TransportError(
            f"{box}: its result: expected one about this bundle, of which it lacks {lacking} bytes, found "
            "another",
            hint="use the same edgephi on both sides",
        )
    return checked
