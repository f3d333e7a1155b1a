"""The gate: what a certificate, and the answer to the probe, are held against before a bundle is sealed."""

from collections.abc import Collection, Sequence

from edgephi.bundle.certificate import Certificate, QualityGate
from edgephi.errors import QualityGateError
from edgephi.guards.visible import visible

CERTAIN = 2.0
"""Standard errors that a difference must be away from zero to be more than the text's chance."""

_LEAST_TURNS = 3
_LEAST_TOKENS = 16
_LONGEST_SHOWN = 40
_ASKED = (
    "are chat form and tokenizer those of these weights, and is the question one for the model? "
    "[chat] and [probe] of a recipe change them; gate.answers = false lets it pass"
)

_FINER = (
    "build with --quality best, or keep more matrices at more bits ([quant.keep] in a recipe of your own)"
)
_GATE_HINTS = {
    "export error": "the engine computes something else than the reference: please report this",
    "quantisation loss": _FINER,
    "end to end": _FINER,
}


def check_gate(certificate: Certificate, gate: QualityGate, *, deviates: bool = False) -> None:
    """Raise QualityGateError, naming the number and the limit, when a measured number is past the gate.

    Of an engine that `deviates` from the model, which was accepted, the export error is not held against it.
    """
    if certificate.end_to_end is None:
        return
    limits = {
        "export error": gate.export_error_kl,
        "quantisation loss": gate.quantisation_loss_kl,
        "end to end": gate.end_to_end_kl,
    }
    for context, measured in (("", certificate), (" with images", certificate.images)):
        if measured is None:
            continue
        found = (measured.export_error, measured.quantisation_loss, measured.end_to_end)
        for (name, limit), each in zip(limits.items(), found, strict=True):
            if each is None or each.kl_mean <= limit or (deviates and name == "export error"):
                continue
            raise QualityGateError(
                f"{name}{context}: mean KL {each.kl_mean:.3g} is above the recipe's limit {limit:g}",
                hint=_GATE_HINTS[name],
            )
    if certificate.end_to_end.top1 < gate.end_to_end_top1:
        raise QualityGateError(
            f"end to end: top-1 agreement {certificate.end_to_end.top1:.3f} is below the recipe's limit "
            f"{gate.end_to_end_top1:g}",
            hint=_FINER,
        )
    most = gate.end_to_end_perplexity_ratio
    if most and certificate.end_to_end.perplexity_ratio > most:
        raise QualityGateError(
            f"end to end: {certificate.end_to_end.perplexity_ratio:.3f} times the perplexity is above the "
            f"recipe's limit {most:g}",
            hint=_FINER,
        )
    if gate.beats_rounding:
        _check_against_rounding(certificate)


def check_answer(
    question: str, answer: str, tokens: Sequence[int], *, most: int, control_ids: Collection[int]
) -> None:
    """Raise QualityGateError for an answer, as text and as tokens, that no working model gives.

    That is an empty one, one of control tokens only, and one that would say the same for ever. Of
    one that was cut off after a few tokens, because no more than `most` were asked for, nothing is known.
    """
    is_cut = len(tokens) >= most
    if is_cut and most < _LEAST_TOKENS:
        return
    if not answer.strip() or all(token in control_ids for token in tokens):
        found = "an empty one" if not tokens else "control tokens and white space only"
    elif is_cut and _ends_in_a_cycle(tokens):
        found = f"a repetition: {visible(answer[-_LONGEST_SHOWN:])!r}"
    else:
        return
    raise QualityGateError(f"probe: {question!r}: expected an answer, found {found}", hint=_ASKED)


def _ends_in_a_cycle(tokens: Sequence[int]) -> bool:
    """Whether the last three quarters of these are the same tokens over and over, three times or more.

    No text that people write is like that, however long the turn: of 430,000 windows of prose, code and
    tables, 32 to 512 tokens long, one was.
    """
    end = list(tokens[len(tokens) // 4 :])
    return any(end[period:] == end[:-period] for period in range(1, len(end) // _LEAST_TURNS + 1))


def _check_against_rounding(certificate: Certificate) -> None:
    """Raise QualityGateError when the codes are worse than those of plain rounding, beyond all chance.

    Where the two are alike (with random weights, say) either may come out a little ahead.
    """
    rounding, ours = certificate.plain_rounding, certificate.quantisation_loss
    if rounding is None or rounding.gain_standard_error is None or ours is None:
        return
    if rounding.gain < -CERTAIN * rounding.gain_standard_error:
        raise QualityGateError(
            f"quantisation loss: mean KL {ours.kl_mean:.3g} is above the {rounding.kl_mean:.3g} of plain "
            f"rounding, by {-rounding.gain:.2g} ± {rounding.gain_standard_error:.1g}",
            hint="build with --method rtn, and please report this: a method that does worse is no use",
        )
