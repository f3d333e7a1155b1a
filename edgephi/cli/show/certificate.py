"""The certificate of a bundle as people read it: every number with its limit and a word."""

import math
import textwrap
from collections.abc import Iterator

from edgephi.bundle.certificate import Certificate, Divergence, ImageProof, PlainRounding, QualityGate
from edgephi.bundle.manifest import Manifest
from edgephi.bundle.quality import Scale, export_bounds, provisional_scale
from edgephi.cli.show.table import table

_WIDTH = 80
_CERTAIN = 2  # standard errors
_EXPORT, _LOSS, _END = "export error", "quantisation loss", "end to end"
_PROVISIONAL = "* provisional, from what others published of other models: said, not refused"


def certificate_table(certificate: Certificate, manifest: Manifest) -> str:
    """What was measured of a manifest's bundle, beside its limits; a line of text when nothing was.

    A limit past which builds are refused is a number, one past which they are only said to be bad has an
    asterisk. No line is longer than 80 columns.
    """
    end_to_end = certificate.end_to_end
    if end_to_end is None:
        return "nothing was measured (built with --verify off)"
    gate = certificate.gate or QualityGate()
    scale = provisional_scale(manifest.model.parameters, manifest.quant.group_size)
    rows = [*_kl_rows(certificate, gate, scale), *_other_rows(end_to_end, gate, scale)]
    lines = [table(rows, ("", "measured", "error", "limit", ""), right=(1, 2, 3))]
    if any(row[3].endswith("*") for row in rows):
        lines.append(_PROVISIONAL)
    if any(row[4] == "bad" for row in rows):
        lines.append(_folded("bad means: better build it with smaller groups, more bits or another method"))
    if certificate.plain_rounding is not None:
        lines.append(_folded(_rounding(certificate.plain_rounding)))
    if certificate.images is not None:
        lines.append(_image_table(certificate.images, gate))
    passages = "one passage" if certificate.passages == 1 else f"{certificate.passages} passages"
    text = f"on {certificate.tokens:,} tokens of {passages}"
    lines.append(f"measured with {certificate.engine} on {certificate.provider or 'its provider'},\n{text}")
    if certificate.note:
        lines.append(_folded(f"note: {certificate.note}"))
    return "\n".join(lines)


def certificate_details(certificate: Certificate) -> str:
    """How the divergences are spread: their quantiles, and what each domain and each language has lost."""
    quantiles = [
        (name, *(f"{each:.2e}" for each in (kl.kl_median, kl.kl_p90, kl.kl_p99, kl.kl_max)))
        for name, kl in _distances(certificate)
    ]
    parts = [
        (f"{kind} {name}", f"{part.kl_mean:.2e}", f"{part.top1:.2%}", f"{part.tokens:,}")
        for kind, named in (("domain", certificate.domains), ("language", certificate.languages))
        for name, part in named.items()
        if len(named) > 1
    ]
    tables = [table(quantiles, ("KL", "median", "90%", "99%", "largest"), right=(1, 2, 3, 4))]
    if parts:
        tables.append(table(parts, (_END, "KL mean", "top-1", "tokens"), right=(1, 2, 3)))
    return "\n\n".join(tables)


def report_line(certificate: Certificate, manifest: Manifest) -> str:
    """One line with all that somebody else needs to compare a measured bundle with theirs; "" of none."""
    end_to_end = certificate.end_to_end
    if end_to_end is None:
        return ""
    error = end_to_end.kl_standard_error
    quant = manifest.quant
    facts = {
        "model": manifest.model.id,
        "revision": manifest.model.revision,
        "method": quant.method,
        "group": quant.group_size,
        "bits": f"{quant.bits_per_weight:.2f}",
        "text": f"{certificate.text.replace(' ', '')}/{certificate.level}",
        "tokens": certificate.tokens,
        "kl": f"{end_to_end.kl_mean:g}" + ("" if error is None else f"±{error:g}"),
        "top1": f"{end_to_end.top1:.2%}",
        "perplexity": f"{end_to_end.perplexity_ratio:.3f}x",
        "engine": f"{certificate.engine.replace(' ', '-')}/{certificate.provider}",
    }
    return "edgephi-quality " + " ".join(f"{key}={value}" for key, value in facts.items())


def _distances(certificate: Certificate) -> Iterator[tuple[str, Divergence]]:
    named = (
        (_EXPORT, certificate.export_error),
        (_LOSS, certificate.quantisation_loss),
        (_END, certificate.end_to_end),
    )
    return ((name, measured) for name, measured in named if measured is not None)


def _kl_rows(certificate: Certificate, gate: QualityGate, scale: Scale) -> Iterator[tuple[str, ...]]:
    """A row for each of the three distances: name, measured, its standard error, limit, word."""
    refused = {_EXPORT: gate.export_error_kl, _LOSS: gate.quantisation_loss_kl, _END: gate.end_to_end_kl}
    for name, measured in _distances(certificate):
        bounds = export_bounds(gate) if name == _EXPORT else scale.kl
        error = measured.kl_standard_error
        yield (
            f"{name}, KL",
            f"{measured.kl_mean:.2e}",
            "" if error is None else f"± {error:.0e}",
            _limit(refused[name], bounds.noticeable),
            bounds.word(measured.kl_mean),
        )


def _other_rows(measured: Divergence, gate: QualityGate, scale: Scale) -> Iterator[tuple[str, ...]]:
    yield (
        f"{_END}, top-1",
        f"{measured.top1:.2%}",
        "",
        _least(gate.end_to_end_top1, scale.top1.noticeable),
        scale.top1.word(measured.top1),
    )
    bounds = scale.perplexity_ratio
    yield (
        "perplexity",
        f"{measured.perplexity_from:.4g} → {measured.perplexity_to:.4g}",
        "",
        _limit(gate.end_to_end_perplexity_ratio or math.inf, bounds.noticeable, "x"),
        bounds.word(measured.perplexity_ratio),
    )


def _image_table(proof: ImageProof, gate: QualityGate) -> str:
    """What was measured with pictures in the context."""
    limits = (gate.export_error_kl, gate.quantisation_loss_kl, gate.end_to_end_kl)
    found = (proof.export_error, proof.quantisation_loss, proof.end_to_end)
    rows = [
        (
            f"{name}, KL",
            f"{measured.kl_mean:.2e}",
            "" if measured.kl_standard_error is None else f"± {measured.kl_standard_error:.0e}",
            f"{limit:g} ",
        )
        for name, measured, limit in zip((_EXPORT, _LOSS, _END), found, limits, strict=True)
    ]
    rows.append((f"{_END}, top-1", f"{proof.end_to_end.top1:.2%}", "", ""))
    rows.append(("image encoder, export error", f"{proof.encoder_error:.2e}", "", ""))
    rows.append(("image encoder, quantisation loss", f"{proof.encoder_loss:.2e}", "", ""))
    text = (
        f"on {proof.tokens:,} tokens behind {proof.pictures} pictures of {proof.image_tokens:,} tokens; "
        "those of the encoder are squared errors, of the whole"
    )
    return f"{table(rows, ('with images', 'measured', 'error', 'limit'), right=(1, 2, 3))}\n{_folded(text)}"


def _limit(refused: float, provisional: float, unit: str = "") -> str:
    """The smaller limit, marked where it is the provisional one."""
    return f"{refused:g}{unit} " if refused <= provisional else f"{provisional:g}{unit}*"


def _least(refused: float, provisional: float) -> str:
    """The same for a share, which must not be too small."""
    return f"{100 * refused:.4g}% " if refused >= provisional else f"{100 * provisional:.4g}%*"


def _rounding(rounding: PlainRounding) -> str:
    """How the codes compare with those of plain rounding."""
    error = rounding.gain_standard_error
    plain = f"plain rounding, whose KL is {rounding.kl_mean:.2e}"
    if error is None:
        return f"{rounding.gain:+.1e} against {plain}; one passage cannot say how certain that is"
    if rounding.gain > _CERTAIN * error:
        return f"better than {plain}, by {rounding.gain:.1e} ± {error:.0e}"
    return f"no better than {plain}: the gain is {rounding.gain:.1e} ± {error:.0e}"


def _folded(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
