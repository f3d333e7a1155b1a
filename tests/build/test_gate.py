"""What a build's certificate is held against, and what fails it."""

import dataclasses
from typing import Any

import pytest

from edgephi.build.gate import check_answer, check_gate
from edgephi.bundle.certificate import Certificate, Divergence, PlainRounding, QualityGate
from edgephi.errors import QualityGateError

GATE = QualityGate(
    export_error_kl=1.0,
    quantisation_loss_kl=2.0,
    end_to_end_kl=3.0,
    end_to_end_top1=0.5,
    end_to_end_perplexity_ratio=1.5,
)


def certificate(kl: float = 1.0, top1: float = 1.0, ratio: float = 1.0, **more: Any) -> Certificate:
    """KL divergences of once, twice and three times `kl`."""
    export, loss, end = (
        Divergence(kl * factor, None, 0, 0, 0, 0, top1, 10, 10 * ratio) for factor in (1, 2, 3)
    )
    return Certificate("full", export_error=export, quantisation_loss=loss, end_to_end=end, **more)


def test_what_is_at_its_limit_passes() -> None:
    check_gate(certificate(1.0, top1=0.5, ratio=1.5), GATE)
    check_gate(Certificate("off"), GATE)


@pytest.mark.parametrize(
    ("gate", "measured", "said"),
    [
        (GATE, certificate(1.1), r"export error: mean KL 1\.1 is above the recipe's limit 1"),
        (dataclasses.replace(GATE, export_error_kl=9), certificate(1.1), "quantisation loss: mean KL"),
        (
            dataclasses.replace(GATE, export_error_kl=9, quantisation_loss_kl=9),
            certificate(1.1),
            r"end to end: mean KL 3\.3 is above the recipe's limit 3",
        ),
        (GATE, certificate(top1=0.49), r"top-1 agreement 0\.490 is below the recipe's limit 0\.5"),
        (GATE, certificate(ratio=1.51), r"1\.510 times the perplexity is above the recipe's limit 1\.5"),
    ],
)
def test_what_is_past_a_limit_is_named_with_it(gate: QualityGate, measured: Certificate, said: str) -> None:
    with pytest.raises(QualityGateError, match=said):
        check_gate(measured, gate)


def test_no_perplexity_is_too_large_where_none_is_asked() -> None:
    check_gate(certificate(ratio=100), dataclasses.replace(GATE, end_to_end_perplexity_ratio=0))


class TestPlainRounding:
    """The gate that needs no scale: codes that were looked for must not be worse than the obvious ones."""

    def test_what_is_surely_worse_fails(self) -> None:
        worse = certificate(plain_rounding=PlainRounding(1.9, gain=-0.1, gain_standard_error=0.04))
        with pytest.raises(
            QualityGateError, match=r"mean KL 2 is above the 1\.9 of plain rounding, by 0\.1 ± 0\.04"
        ):
            check_gate(worse, GATE)
        check_gate(worse, dataclasses.replace(GATE, beats_rounding=False))

    @pytest.mark.parametrize(("gain", "error"), [(-0.1, 0.05), (-0.1, None), (0.0, 0.0), (0.1, 0.01)])
    def test_what_chance_explains_passes(self, gain: float, error: float | None) -> None:
        check_gate(certificate(plain_rounding=PlainRounding(2.0, gain, error)), GATE)


class TestAnswers:
    @pytest.mark.parametrize(
        ("whole", "tokens"),
        [
            ("Hello there.", (5, 6, 7)),
            ("--------", (5,) * 8),  # ended by itself
            ("OPEN_VALVE", (9,)),  # a token of the vocabulary's own that is no control token
            ("la la and now to something else", (5, 6) * 8 + tuple(range(20, 36))),
            ("1. a 2. b", tuple(range(32))),
        ],
    )
    def test_an_answer_passes(self, whole: str, tokens: tuple[int, ...]) -> None:
        check_answer("hi", whole, tokens, most=32, control_ids={1})

    @pytest.mark.parametrize(
        ("whole", "tokens", "found"),
        [
            ("", (), "an empty one"),
            ("  ", (8, 8), "control tokens and white space only"),
            ("", (1, 1), "control tokens and white space only"),
            ("<|user|>system", (1, 2), "control tokens and white space only"),
            ("no" * 32, (5,) * 32, "a repetition: 'nonono"),
            ("ab" * 16, (5, 6) * 16, "a repetition"),
            ("abcdefgh" * 4, tuple(range(8)) * 4, "a repetition"),
            ("Paris" + " la" * 31, (9, *(5,) * 31), "a repetition"),
        ],
    )
    def test_what_no_working_model_answers(self, whole: str, tokens: tuple[int, ...], found: str) -> None:
        with pytest.raises(QualityGateError) as caught:
            check_answer("hi", whole, tokens, most=32, control_ids={1, 2})
        assert caught.value.message.startswith(f"probe: 'hi': expected an answer, found {found}")
        assert caught.value.exit_code == 5
        assert "gate.answers = false" in (caught.value.hint or "")

    @pytest.mark.parametrize("turn", [9, 12, 16, 31])
    def test_a_long_sentence_may_be_a_repetition_too(self, turn: int) -> None:
        said, before = tuple(range(10, 10 + turn)), tuple(range(100, 100 + turn))
        tokens = (*before, *said * 3, *said[: turn // 3])
        with pytest.raises(QualityGateError, match="found a repetition"):
            check_answer("hi", "again and", tokens, most=len(tokens), control_ids={1})
        check_answer("hi", "that is all", tokens, most=len(tokens) + 1, control_ids={1})  # ended by itself

    @pytest.mark.parametrize("turn", [9, 12, 16, 31])
    def test_a_refrain_and_a_list_are_none(self, turn: int) -> None:
        said = tuple(range(10, 10 + turn))
        items = [token for number in range(4) for token in (1000 + number, *said)]
        twice = (*range(100, 100 + turn), *said * 2, *range(200, 200 + turn))
        for tokens in (tuple(items), twice, (*range(100, 100 + turn), *said * 2, *said[: turn // 3])):
            check_answer("hi", "1. a 2. a", tokens, most=len(tokens), control_ids={1})

    @pytest.mark.parametrize("tokens", [(8,), (5,) * 8, (1,) * 15])
    def test_of_a_few_tokens_that_were_cut_off_nothing_is_known(self, tokens: tuple[int, ...]) -> None:
        check_answer("hi", "\n", tokens, most=len(tokens), control_ids={1})
