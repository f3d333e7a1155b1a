"""The gate: what a certificate, and the answer to the probe, are held against before a bundle is sealed."""

from collections.abc import Collection, Sequence

from edgephi.bundle.certificate import Certificate, QualityGate
from edgephi.errors import QualityGateError
from edgephi.guards.visible import visible
from edgephi.runtime.proof.clear_answer import ClearAnswer

CERTAIN = 2.0
"""Standard errors that a difference must be away from zero to be more than the text's chance."""

_LONGEST_CYCLE = 4
_LEAST_TURNS = 3
_LONGEST_SHOWN = 40
_LEAST_REPEATED = 8  # tokens: a short answer may well be "no no no"
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


def check_gate(certificate: Certificate, gate: QualityGate) -> None:
    """Raise QualityGateError, naming the number and the limit, when a measured number is past the gate."""
    if certificate.end_to_end is None:
        return
    largest = {
        "export error": (certificate.export_error, gate.export_error_kl),
        "quantisation loss": (certificate.quantisation_loss, gate.quantisation_loss_kl),
        "end to end": (certificate.end_to_end, gate.end_to_end_kl),
    }
    for name, (measured, limit) in largest.items():
        if measured is not None and measured.kl_mean > limit:
            raise QualityGateError(
                f"{name}: mean KL {measured.kl_mean:.3g} is above the recipe's limit {limit:g}",
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


def check_answer(question: str, answer: ClearAnswer, special_ids: Collection[int]) -> None:
    """Raise QualityGateError for an answer that no working model gives.

    That is an empty one, one of special tokens only, and the same few tokens over and over.
    """
    if not answer.whole.strip() or all(token in special_ids for token in answer.token_ids):
        found = "an empty one" if not answer.token_ids else "special tokens and white space only"
    elif _is_cycle(answer.token_ids):
        found = f"a repetition: {visible(answer.whole[:_LONGEST_SHOWN])!r}"
    else:
        return
    raise QualityGateError(f"probe: {question!r}: expected an answer, found {found}", hint=_ASKED)


def _is_cycle(tokens: Sequence[int]) -> bool:
    """Whether these are the same one to four tokens from their first to their last."""
    return len(tokens) >= _LEAST_REPEATED and any(
        len(tokens) >= _LEAST_TURNS * period and list(tokens[period:]) == list(tokens[:-period])
        for period in range(1, _LONGEST_CYCLE + 1)
    )


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
