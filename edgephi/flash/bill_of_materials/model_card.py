"""The `modelCard` of CycloneDX 1.6: what a model takes and gives, how it was quantised, and how good it is.

cyclonedx-python-lib, at 11.12, has no class for a model card (its issue 912 is open), so this part is written
as the specification has it: https://cyclonedx.org/docs/1.6/json/#components_items_modelCard. The tests hold
the whole document against the library's own copy of the schema.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgephi.bundle.certificate import Certificate, Divergence
from edgephi.bundle.manifest import Manifest
from edgephi.bundle.switched_adapter import SwitchedAdapter

Card = dict[str, Any]

_DIVERGENCES = ("export_error", "quantisation_loss", "end_to_end")


def model_card(manifest: Manifest) -> Card:
    """The card of a bundle's model."""
    model, certificate = manifest.model, manifest.certificate
    inputs = ["text", *(["image"] if model.images is not None else [])]
    datasets = []
    calibration = manifest.quant.calibration
    if calibration is not None:
        measured = {"sha256": calibration.text_sha256, "tokens": calibration.tokens}
        dataset = _dataset(calibration.text, "calibration")
        datasets.append({**dataset, "contents": {"properties": properties("text", measured)}})
    if certificate.text:
        datasets.append(_dataset(certificate.text, "evaluation"))
    card: Card = {
        "modelParameters": {
            "task": "text-generation",
            "architectureFamily": "transformer",
            "modelArchitecture": model.variant,
            **({"datasets": datasets} if datasets else {}),
            "inputs": [{"format": each} for each in inputs],
            "outputs": [{"format": "text"}],
        },
        "properties": properties("quantisation", _quantisation(manifest)),
    }
    return {**card, **_quality(certificate, manifest.deviation)}


def adapter_card(adapter: SwitchedAdapter) -> Card:
    """The card of an adapter that is switched on: what was measured of the model with it."""
    return {"modelParameters": {"task": "text-generation"}, **_quality(adapter.certificate)}


def properties(topic: str, facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Facts for which CycloneDX has no field of its own, as properties `edgephi:TOPIC:NAME`.

    Of a list, each entry is one; what is None is left out. NAME is that of `bundle.json`.
    """
    return [
        {"name": f"edgephi:{topic}:{name}", "value": _in_words(value)}
        for name, values in facts.items()
        for value in (values if isinstance(values, tuple) else (values,))
        if value is not None
    ]


def _quantisation(manifest: Manifest) -> dict[str, Any]:
    quant = manifest.quant
    return {
        "bits": quant.bits,
        "group_size": quant.group_size,
        "symmetric": quant.symmetric,
        "method": quant.method,
        "formats": quant.formats,
        "embedding_bits": quant.embedding_bits,
        "head_bits": quant.head_bits,
        "bits_per_weight": quant.bits_per_weight,
        "kept": quant.kept,
    }


def _quality(certificate: Certificate, deviation: str = "") -> Card:
    """The certificate as measured quality, and what it warns of."""
    metrics = list(_metrics(certificate))
    limitations = [each for each in (deviation, certificate.note) if each]
    if not metrics:
        limitations.append("its quality was not measured when it was built")
    return {
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
        **({"considerations": {"technicalLimitations": limitations}} if limitations else {}),
    }


def _metrics(certificate: Certificate) -> Iterator[dict[str, str]]:
    """Every number of a certificate under its name in `bundle.json`, and the part of the text it is about."""
    whole = f"{certificate.text}: {certificate.tokens} tokens of {certificate.passages} passages"
    for name in _DIVERGENCES:
        divergence: Divergence | None = getattr(certificate, name)
        if divergence is not None:
            yield from _numbers(name, vars(divergence), whole)
    for kind, parts in (("domain", certificate.domains), ("language", certificate.languages)):
        for name, part in parts.items():
            numbers = {"kl_mean": part.kl_mean, "top1": part.top1}
            yield from _numbers(f"{kind}s", numbers, f"{kind} {name}: {part.tokens} tokens")
    rounding = certificate.plain_rounding
    if rounding is not None:
        yield from _numbers("plain_rounding", vars(rounding), whole)
    images = certificate.images
    if images is not None:
        pictures = f"{images.pictures} drawn pictures of {images.image_tokens} tokens"
        errors = {"encoder_error": images.encoder_error, "encoder_loss": images.encoder_loss}
        yield from _numbers("images", errors, pictures)
        for name in _DIVERGENCES:
            behind = f"{images.tokens} tokens behind {pictures}"
            yield from _numbers(f"images.{name}", vars(getattr(images, name)), behind)


def _numbers(name: str, numbers: Mapping[str, float | None], text: str) -> Iterator[dict[str, str]]:
    for key, number in numbers.items():
        if number is not None:
            yield {"type": f"{name}.{key}", "value": _in_words(number), "slice": text}


def _dataset(name: str, what_for: str) -> dict[str, Any]:
    return {"type": "dataset", "name": name, "classification": what_for}


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
