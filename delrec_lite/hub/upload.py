"""Writes a repository of the Hub: its visibility, a branch, and one commit with all changes."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.errors import DelrecError, FetchError, UsageError
from delrec_lite.hub.address import HubAddress
from delrec_lite.hub.fetch import MirrorError, probe
from delrec_lite.hub.huggingface import bars, library
from delrec_lite.hub.problems import explained


class Upload:
    """A repository that is written.

    Args:
        address: Its revision is the branch; empty: the default one.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
    """

    def __init__(self, address: HubAddress) -> None:
        self._hub, self.address = library(), address
        self._api = self._hub.HfApi()

    def is_private(self) -> bool | None:
        """Whether the repository is private; None if there is none.

        Raises:
            FetchError: The Hub cannot be reached, or refuses the token.
        """
        try:
            probe(self._hub.constants.ENDPOINT)
        except MirrorError as error:
            raise FetchError(
                f"cannot write {self.address}: the Hub is {error}", "check network and HF_ENDPOINT"
            ) from error
        with self._explaining():
            try:
                return bool(self._api.repo_info(self.address.repository).private)
            except self._hub.errors.GatedRepoError:
                raise
            except self._hub.errors.RepositoryNotFoundError:
                return None

    def create(self, private: bool) -> None:
        """Create the repository, and make sure that a private one is private before anything is in it.

        Raises:
            FetchError: The token may not.
            UsageError: The Hub made a public one.
        """
        with self._explaining():
            self._api.create_repo(self.address.repository, private=private)
        if private and not self.is_private():
            raise UsageError(
                f"the Hub made {self.address.repository} public, not private; nothing was pushed",
                "make it private on its page, then run it again",
            )

    def files(self) -> set[str]:
        """The files of the branch; none where there is no branch yet.

        Raises:
            FetchError: They cannot be listed.
        """
        with self._explaining():
            try:
                info = self._api.repo_info(self.address.repository, revision=self.address.revision or None)
            except self._hub.errors.RevisionNotFoundError:
                return set()
        return {sibling.rfilename for sibling in info.siblings or ()}

    def read(self, name: str) -> str:
        """A text file of the branch.

        Raises:
            FetchError: It cannot be fetched.
        """
        with self._explaining("read"):
            path = self._hub.hf_hub_download(
                self.address.repository, name, revision=self.address.revision or None, force_download=True
            )
        return Path(path).read_text(encoding="utf-8", errors="replace")

    def commit(
        self, files: Mapping[str, Path | bytes], without: Collection[str], message: str, console: Console
    ) -> HubAddress:
        """Write all files in one commit, or nothing; files that the Hub has already are not sent again.

        Args:
            files: Path or content, by name.
            without: Names of files to remove.
            message: Of the commit.
            console: Shows the upload.

        Returns:
            The address with the commit.

        Raises:
            FetchError: The upload failed, or the token may not write.
        """
        add, remove = self._hub.CommitOperationAdd, self._hub.CommitOperationDelete
        operations: list[Any] = [
            add(path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        operations += [remove(path_in_repo=name) for name in sorted(without)]
        repository, branch = self.address.repository, self.address.revision or None
        with self._explaining(), bars(console):
            if branch is not None:
                self._api.create_branch(repository, branch=branch, exist_ok=True)
            commit = self._api.create_commit(repository, operations, commit_message=message, revision=branch)
        return self.address.at(commit.oid)

    @contextmanager
    def _explaining(self, doing: str = "write") -> Iterator[None]:
        try:
            yield
        except DelrecError:
            raise
        except Exception as error:  # the errors of its HTTP client differ between versions
            raise explained(error, self.address, doing) from error
