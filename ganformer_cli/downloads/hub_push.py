"""Pushes files to the Hugging Face Hub, with the library ``huggingface_hub`` (extra ``hub``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ganformer_cli.downloads.hub import hub_endpoint, hub_token
from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.text import printable


class HubRepository(NamedTuple):
    """What is known of a repository before a push."""

    exists: bool
    private: bool
    files: frozenset[str]


class HubRepositoryClient:
    """A repository of models that the user may write to.

    Args:
        repo: ``USER/REPO``.

    Raises:
        ConfigError: the library is missing, or there is no token.
    """

    def __init__(self, repo: str) -> None:
        try:
            from huggingface_hub import CommitOperationAdd, HfApi
            from huggingface_hub.utils import RepositoryNotFoundError, disable_progress_bars, logging
        except ImportError as error:
            raise ConfigError(
                "push needs the package huggingface_hub; install it with: pip install huggingface_hub"
            ) from error
        token = hub_token()
        if token is None:
            raise ConfigError("push needs a token of the Hugging Face Hub that may write: hf auth login, or HF_TOKEN")
        disable_progress_bars()
        logging.set_verbosity_error()
        self.repo, self._token = repo, token
        self._add, self._not_found = CommitOperationAdd, RepositoryNotFoundError
        self._api = HfApi(endpoint=hub_endpoint(), token=token, library_name="ganformer")

    def look(self) -> HubRepository:
        """Whether the repository exists, who may see it, and its files.

        Raises:
            OutputError: the Hub does not say.
        """
        try:
            info = self._api.model_info(self.repo)
        except self._not_found:
            return HubRepository(False, False, frozenset())
        except Exception as error:
            raise self._failure(error) from None
        return HubRepository(True, bool(info.private), frozenset(each.rfilename for each in info.siblings or ()))

    def push(self, files: Mapping[str, Path | bytes], *, private: bool, create: bool, message: str) -> str:
        """Commit files to the repository; the address of the commit.

        Args:
            files: paths or contents by their names in the repository.
            private: of a new repository: only its owner sees it.

        Raises:
            OutputError: it failed; nothing of the commit is in the repository then.
        """
        operations = [
            self._add(path_in_repo=name, path_or_fileobj=str(file) if isinstance(file, Path) else file)
            for name, file in files.items()
        ]
        try:
            if create:
                self._api.create_repo(self.repo, private=private, exist_ok=True)
            commit: Any = self._api.create_commit(self.repo, operations, commit_message=message)
        except Exception as error:
            raise self._failure(error) from None  # what it was raised from may hold the token in its request
        return str(commit.commit_url)

    def _failure(self, error: Exception) -> OutputError:
        """What went wrong in one line, without the token."""
        reasons = [str(error)]
        while (cause := error.__cause__) is not None and isinstance(cause, Exception) and len(reasons) < 4:
            error = cause
            reasons.append(str(error))
        text = " ".join(": ".join(reasons).replace(self._token, "(token)").split())
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = {
            401: "the token is invalid or expired: hf auth login",
            403: "the token may not write there: make one that may write, or choose your own name",
        }.get(status or 0, "run the same again later")
        return OutputError(f"cannot push to {self.repo}: {printable(text, limit=400)}; {remedy}")
