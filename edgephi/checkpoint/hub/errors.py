"""What the hub's client raises -> our errors; the one place that knows its exceptions."""

import contextlib
import errno
from collections.abc import Iterator

from edgephi.errors import BadCheckpointError, DoesNotFitError, EdgephiError, TransportError

HINT_AGAIN = "run the same command again: it resumes"


@contextlib.contextmanager
def hub_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Translate everything that the client raises in a block about `repo_id` at `revision`."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        yield
    except EdgephiError:
        raise
    except Exception as error:
        from edgephi.guards.wire_watch import http_library

        # ValueError: an answer that is not JSON (a login page on the way), or a name that the client refuses
        kinds = (HfHubHTTPError, EntryNotFoundError, OSError, ValueError)
        if isinstance(error, (*kinds, http_library(get_session()).HTTPError)):
            raise _translated(error, repo_id, revision) from error
        raise


def _translated(error: Exception, repo_id: str, revision: str | None) -> EdgephiError:  # noqa: PLR0911
    from huggingface_hub import errors

    # The client wraps what went wrong on the network into "not in the cache either".
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        return BadCheckpointError(
            f"{repo_id}: expected access to this gated model, found none",
            hint=f"accept its licence at https://huggingface.co/{repo_id}, then set HF_TOKEN to your token",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return BadCheckpointError(
            f"{repo_id}: expected revision {revision!r}, found no such revision on the hub",
            hint="give a branch, a tag or a full commit hash of that repository",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return BadCheckpointError(
            f"{repo_id}: expected a model on the hub, found none of that name",
            hint="check the spelling; a private model also needs HF_TOKEN",
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return BadCheckpointError(
                f"{repo_id}: expected access, found HTTP status {status} from the hub",
                hint="check that HF_TOKEN holds a valid token with access to this model",
            )
        if status == 404:
            return BadCheckpointError(f"{repo_id}: {reason}", hint="give another revision")
        return TransportError(f"{repo_id}: expected the hub, found HTTP status {status}", hint=HINT_AGAIN)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DoesNotFitError(
            f"{repo_id}: expected room for its download, found the disk full",
            hint="free some space, or set HF_HOME to a bigger disk; the same command then resumes",
        )
    return TransportError(f"{repo_id}: expected the hub, found {reason}", hint=HINT_AGAIN)
