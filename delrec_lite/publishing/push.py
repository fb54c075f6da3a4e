"""`push`: a bundle becomes a repository of the Hugging Face Hub, in one commit."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delrec_lite.console import QUIET, Console
from delrec_lite.errors import UsageError
from delrec_lite.hub.address import HubAddress, check_repository, check_revision
from delrec_lite.hub.upload import Upload
from delrec_lite.publishing.card import CARD, hub_card
from delrec_lite.publishing.sharing import why_private
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import MANIFEST
from delrec_lite.version import __version__


@dataclass(frozen=True)
class Pushed:
    """What was pushed, or would be.

    Attributes:
        address: ``hf://ORG/NAME@COMMIT``; with the branch instead of a commit if nothing was pushed.
        pushed: Whether it was.
        private: Whether the repository is private; None if that was not asked, in a dry run.
        files: Bytes of each file, by name.
        removed: Files of an earlier push that this one has no more.
        card: The model card.
    """

    address: str
    pushed: bool
    private: bool | None
    files: dict[str, int]
    removed: list[str]
    card: str

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def push(
    path: str | os.PathLike[str],
    repository: str,
    revision: str = "",
    private: bool = False,
    with_catalogue: bool = False,
    dry_run: bool = False,
    console: Console = QUIET,
) -> Pushed:
    """Publish a bundle, with a model card whose fields the Hub reads.

    The repository holds the bundle's files and no others. Its manifest does not list the card, so that the card can be
    edited on the Hub. The run's figures are in the card if ``report.json`` of the same recipe is beside the bundle.

    Args:
        path: The bundle.
        repository: ``owner/name``; created if it is missing.
        revision: The branch; created if it is missing. Default: the repository's default branch.
        private: Make the repository private; one that exists must be private.
        with_catalogue: Make titles and stored histories public although their licence or origin does not allow it.
        dry_run: Check everything, and send nothing.
        console: Shows the upload.

    Raises:
        BundleError: The bundle does not verify.
        FetchError: The Hub cannot be reached, or refuses the token.
        MissingPackageError: huggingface_hub is not installed.
        UsageError: A name that cannot be, or a catalogue that would become public by accident.
    """
    address = HubAddress(check_repository(repository), check_revision(revision) if revision else "")
    bundle = Bundle.open(path, verify_all=True)
    reason = "" if with_catalogue else why_private(bundle)
    if reason and not private:
        raise _would_be_public(bundle, f"would make {_holding(bundle)} public", reason)
    card = hub_card(bundle, repository)
    files: dict[str, Path | bytes] = {name: bundle.folder / name for name in bundle.manifest["files"] if name != CARD}
    files |= {MANIFEST: _manifest(bundle), CARD: card.encode()}
    sizes = {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in files.items()}
    if dry_run:
        return Pushed(str(address), False, None, sizes, [], card)
    upload = Upload(address)
    is_private = upload.is_private()
    if is_private is None:
        upload.create(private)
    elif not is_private and (reason or private):
        raise _would_be_public(bundle, f"{repository} exists and is public", reason or "you asked for a private one")
    removed = _no_longer(upload, set(files))
    message = f"{bundle.label}, by delrec-lite {__version__}"
    console.say(f"  {repository}: {sum(sizes.values()) / 1e6:.1f} MB in {len(sizes)} files")
    pushed = upload.commit(files, removed, message, console)
    return Pushed(str(pushed), True, private if is_private is None else is_private, sizes, removed, card)


def _holding(bundle: Bundle) -> str:
    return f"{len(bundle.items.ids)} titles and the stored histories of {bundle.name}"


def _would_be_public(bundle: Bundle, problem: str, reason: str) -> UsageError:
    return UsageError(
        f"{problem}: {reason}",
        f"--private, in a repository that is private; or --with-catalogue if {_holding(bundle)} may be public",
    )


def _manifest(bundle: Bundle) -> bytes:
    """The manifest without the card, which the Hub's users edit."""
    files = {name: facts for name, facts in bundle.manifest["files"].items() if name != CARD}
    return (json.dumps({**bundle.manifest, "files": files}, indent=2, ensure_ascii=False) + "\n").encode()


def _no_longer(upload: Upload, files: set[str]) -> list[str]:
    """Files that the manifest in the repository lists and this bundle has not; files of others stay."""
    there = upload.files()
    if MANIFEST not in there:
        return []
    try:
        listed = json.loads(upload.read(MANIFEST))["files"].keys()
    except (ValueError, KeyError, TypeError, AttributeError):  # of another program
        return []
    return sorted((set(listed) & there) - files)
