"""What huggingface_hub raises, as one clear error of this program."""

from delrec_lite.errors import DelrecError, FetchError
from delrec_lite.hub.address import HubAddress
from delrec_lite.hub.huggingface import library, raise_storage_error, reason_of

_TOKEN = "`hf auth login`, or set HF_TOKEN to a token that may"


def explained(error: Exception, address: HubAddress, doing: str) -> DelrecError:
    """The error to raise where a call of the library failed.

    Args:
        error: Of the library; its classes differ between versions.
        address: What was asked for.
        doing: Such as ``read``, for what a token may not do.

    Raises:
        StorageError: The disk is the cause.
    """
    raise_storage_error(error)
    errors = library().errors
    repository = address.repository
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return FetchError(f"{repository} asks to accept terms", f"accept them on its page, then {_TOKEN} read")
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchError(f"{repository} has no revision {address.revision!r}", "name a branch, a tag or a commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FetchError(
            f"the Hub has no repository {repository}, or none that your token may {doing}",
            f"check the name; if it is private, {_TOKEN} {doing} it",
        )
    if status in (401, 403):
        return FetchError(f"the Hub refuses your token for {repository} (status {status})", f"{_TOKEN} {doing} it")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FetchError(f"{address} lacks {_file_of(error)}, which a bundle needs", "is it a bundle? push it again")
    if status is not None:
        return FetchError(f"the Hub answers with status {status} for {address}", "try again later")
    return FetchError(
        f"cannot {doing} {address}: {reason_of(error)}",
        "check the network; then run it again, what was transferred is not transferred twice",
    )


def _file_of(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response.url).rpartition("/")[2] if response is not None else "its name is unknown"
