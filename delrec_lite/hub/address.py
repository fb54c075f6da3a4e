"""`hf://ORG/NAME[@REVISION]`: the address of a bundle on the Hugging Face Hub."""

import os
import re
from dataclasses import dataclass, replace

from delrec_lite.errors import UsageError

# A path object has made one slash of two.
_PREFIX = re.compile(r"hf:/*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubAddress:
    """Where a bundle is on the Hub.

    Attributes:
        repository: ``owner/name``.
        revision: A branch, a tag or a commit; empty: the default branch.
    """

    repository: str
    revision: str = ""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return bool(_COMMIT.fullmatch(self.revision))

    def at(self, revision: str) -> "HubAddress":
        """The same repository at another revision."""
        return replace(self, revision=revision)

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


def check_repository(name: str) -> str:
    """The name of a repository, ``owner/name``.

    Raises:
        UsageError: It is none.
    """
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", "-", ".")):
        raise UsageError(f"{name!r} is no repository of the Hub", "give ORG/NAME, such as my-shop/films")
    return name


def check_revision(name: str) -> str:
    """The name of a branch, tag or commit.

    Raises:
        UsageError: It cannot be one.
    """
    if not _REVISION.fullmatch(name) or ".." in name:
        raise UsageError(f"{name!r} is no revision", "give a branch, a tag or a commit, such as main or v1")
    return name


def parse_address(path: str | os.PathLike[str]) -> HubAddress | None:
    """The address that a path stands for; None for a path of this machine.

    Raises:
        UsageError: It begins as an address and is none.
    """
    text = os.fspath(path).replace(os.sep, "/")
    prefix = _PREFIX.match(text)
    if prefix is None or prefix[0] == "hf:":
        return None
    repository, at, revision = text[prefix.end() :].rstrip("/").partition("@")
    return HubAddress(check_repository(repository), check_revision(revision) if at else "")
