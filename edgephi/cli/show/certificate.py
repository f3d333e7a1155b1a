"""The certificate of a bundle as a small table."""

from edgephi.bundle.manifest import Certificate, Divergence
from edgephi.cli.show.table import table


def certificate_table(certificate: Certificate) -> str:
    """A row for each of the three measured distances; a line of text when nothing was measured."""
    measured = {
        "export error": certificate.export_error,
        "quantisation loss": certificate.quantisation_loss,
        "end to end": certificate.end_to_end,
    }
    rows = [_row(name, divergence) for name, divergence in measured.items() if divergence is not None]
    if not rows:
        return "nothing was measured (built with --verify off)"
    measured_on = f"{certificate.engine} on {certificate.provider or 'its provider'}"
    if certificate.note:
        measured_on += f": {certificate.note}"
    numbers = table(rows, ("", "KL mean", "KL max", "top-1", "perplexity"), right=(1, 2, 3, 4))
    return f"{numbers}\nmeasured with {measured_on}"


def _row(name: str, divergence: Divergence) -> tuple[str, ...]:
    return (
        name,
        f"{divergence.kl_mean:.2e}",
        f"{divergence.kl_max:.2e}",
        f"{divergence.top1:.2%}",
        f"{divergence.perplexity_from:.4g} → {divergence.perplexity_to:.4g}",
    )
