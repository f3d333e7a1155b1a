"""Exit codes are a contract with every script that calls edgephi."""

import pytest

from edgephi import errors


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.EdgephiError, 1),
        (errors.UsageError, 2),
        (errors.CannotServeError, 3),
        (errors.DoesNotFitError, 3),
        (errors.PastContextError, 3),
        (errors.NotSupportedError, 3),
        (errors.WrongRoutingError, 3),
        (errors.BadInputError, 4),
        (errors.BadCheckpointError, 4),
        (errors.BadBundleError, 4),
        (errors.BadDeclarationError, 4),
        (errors.QualityGateError, 5),
        (errors.ProbeFailedError, 5),
        (errors.TransportError, 6),
        (errors.StoreBusyError, 6),
    ],
)
def test_exit_code_message_and_hint(error: type[errors.EdgephiError], exit_code: int) -> None:
    raised = error("expected a, found b", hint="do c")
    assert (raised.exit_code, raised.message, raised.hint, str(raised)) == (
        exit_code,
        "expected a, found b",
        "do c",
        "expected a, found b",
    )


def test_every_error_is_drawn_in_the_tree() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(value.__name__ in (errors.__doc__ or "") for value in classes if issubclass(value, Exception))
