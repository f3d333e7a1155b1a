"""What `edgephi build` says of a bundle that is done, and `edgephi adapter build` of adapters."""

import textwrap
from typing import TYPE_CHECKING

from edgephi.cli.show.certificate import certificate_table
from edgephi.cli.show.model.chat_form import chat_form_line
from edgephi.cli.show.sizes import human_bytes
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.build.build import Built
    from edgephi.build.plan import Plan
    from edgephi.build.switched_adapters.build_adapters import BuiltAdapters

_WIDTH = 80


def built_summary(built: "Built") -> str:
    """What was built, how exact the codes are, whose chat template it has, and the certificate."""
    manifest = built.manifest
    lines = [
        f"{manifest.name}: {human_bytes(manifest.requires.disk_bytes)}, "
        f"{manifest.quant.bits_per_weight:.2f} bits per weight, context {manifest.limits.context}",
    ]
    if manifest.deviation:
        lines += textwrap.wrap(f"warning: {manifest.deviation}", _WIDTH, subsequent_indent="  ")
    for remark in built.remarks:
        lines += textwrap.wrap(f"checkpoint: {remark}", _WIDTH, subsequent_indent="  ")
    lines += [f"merged: {adapter.described}" for adapter in manifest.model.adapters]
    for remark in built.tokenizer_remarks:
        tokens = f"tokenizer: {visible(remark)}"
        lines += textwrap.wrap(tokens, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if built.plan.in_smaller_groups:
        lines.append(smaller_groups_line(built.plan))
    if built.quantisation is not None:
        tensors = built.quantisation.tensors
        worst = max(tensors, key=lambda tensor: tensor.relative_squared_error)
        mean = sum(tensor.relative_squared_error for tensor in tensors) / len(tensors)
        lines += [
            f"quantisation error of {len(tensors)} matrices: mean {mean:.2%}, "
            f"worst {worst.relative_squared_error:.2%}",
            f"({worst.name})",
        ]
    else:
        lines.append(f"exported by {manifest.provenance.exporter}")
    chat = f"chat: {chat_form_line(manifest.chat.source, built.chat_remarks)}"
    lines += textwrap.wrap(chat, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if manifest.chat.system:
        system = f"system: {visible(manifest.chat.system)}"
        lines += textwrap.wrap(system, _WIDTH, subsequent_indent="  ", max_lines=2)
    if manifest.probe is not None:
        asked = f"probe: {manifest.probe.prompt!r}: {visible(built.answer)!r}"
        lines += textwrap.wrap(asked, _WIDTH, subsequent_indent="  ", max_lines=3)
    return "\n".join([*lines, "", certificate_table(manifest.certificate, manifest)])


def smaller_groups_line(plan: "Plan") -> str:
    """How many matrices the recipe's groups do not divide."""
    count, size = plan.in_smaller_groups, plan.recipe.quant.group_size
    matrices = "matrix" if count == 1 else "matrices"
    return f"{count} {matrices} in smaller groups: those of {size} do not divide the columns"


def built_adapters_summary(built: "BuiltAdapters") -> str:
    """What was built for which bundle, and of each adapter its answer and its certificate."""
    manifest, base = built.manifest, built.manifest.base
    assert base is not None  # noqa: S101 - for the type checker
    count = len(manifest.adapters)
    lines = [
        f"{count} {'adapter' if count == 1 else 'adapters'} for {base.name} {base.sequence} "
        f"({base.sha256[:12]}): {human_bytes(built.own_bytes)}",
    ]
    for adapter in manifest.adapters:
        lines += ["", *textwrap.wrap(adapter.described, _WIDTH, subsequent_indent="  ")]
        if adapter.probe is not None:
            asked = f"probe: {adapter.probe.prompt!r}: {visible(built.answers[adapter.name])!r}"
            lines += textwrap.wrap(asked, _WIDTH, subsequent_indent="  ", max_lines=3)
        loss, own = adapter.certificate.quantisation_loss, manifest.certificate.quantisation_loss
        if loss is not None and own is not None and own.kl_mean > 0:
            lines.append(f"quantisation loss: {loss.kl_mean / own.kl_mean:.2f} times that of the base")
        lines.append(certificate_table(adapter.certificate, manifest))
    return "\n".join(lines)
