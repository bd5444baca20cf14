"""The client of the Hub: translated errors, retries, exact revisions, and verified downloads.

`huggingface_hub` retries uploads, but neither commits nor tags. When the Hub cannot be reached,
both `HfApi` and `datasets` resolve a revision from their cache. Here every revision is resolved by
the Hub itself, so an outdated version is never served.
"""

from __future__ import annotations

import os
import random
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from delia_data._version import __version__
from delia_data.errors import DeliaError, HubError, InputError, OutputError
from delia_data.outputs import file_sha256, known_sha256

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
RepoType = Literal["dataset", "model"]

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_TRANSIENT: Final = frozenset({408, 409, 412, 425, 429})
_DOWNLOADS: Final = 4
_DISABLED: Final = (
    "{repo} is disabled{quoted}: ask its owner or the Hub's support, or use another repository"
)
_MESSAGE_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Retry:
    """How often to retry transient errors, and how long to wait between tries.

    Attributes:
        tries: Number of tries in all.
        base_s: Longest wait before the second try, in seconds; it doubles with every try.
        most_s: Longest wait in seconds, even if the Hub asks for more.
    """

    tries: int = 8
    base_s: float = 0.5
    most_s: float = 60.0

    def wait_s(self, tried: int, error: BaseException) -> float:
        """Return the seconds to wait after `tried` tries, with jitter."""
        requested = _asked_wait_s(error)
        if requested is not None:
            return min(self.most_s, requested + random.uniform(0, self.base_s))
        return float(min(self.most_s, self.base_s * 2 ** (tried - 1)) * random.uniform(0.5, 1))

    def call(self, do: Callable[[], T]) -> T:
        """Call a function, and call it again after a transient error.

        Raises:
            Exception: The error of the last try.
        """
        for tried in range(1, self.tries + 1):
            try:
                return do()
            except Exception as error:
                if tried == self.tries or not is_transient(error):
                    raise
                time.sleep(self.wait_s(tried, error))
        raise AssertionError("a retry has at least one try")


def client() -> HfApi:
    """Return a client that uses the login of `huggingface_hub`."""
    from huggingface_hub import HfApi

    return HfApi(library_name="delia_data", library_version=__version__)


def login_token() -> str | None:
    """Return the access token of `hf auth login` or `HF_TOKEN`; None if there is no login."""
    from huggingface_hub import get_token

    return get_token()


def parse_name(given: str) -> tuple[str, str | None]:
    """Split `org/name@v1.2.0` into repository and revision; the revision is None without `@`.

    Raises:
        InputError: The text has another form.
    """
    name, mark, revision = given.partition("@")
    if not is_name(name) or (mark and not revision):
        raise InputError(f"{given!r} is not a repository: use the form org/name or org/name@v1.0.0")
    return name, revision or None


def is_name(text: str) -> bool:
    """Return whether a text has the form of a repository's name."""
    return _NAME.fullmatch(text) is not None


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is the full hash of a commit, which needs no request."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub.

    Attributes:
        api: The client.
        name: Its name, such as `org/name`.
        type: Whether it holds datasets or a model.
        retry: Retries of each request.
    """

    api: HfApi
    name: str
    type: RepoType
    retry: Retry

    @property
    def url(self) -> str:
        """Address of its page."""
        kind = "datasets/" if self.type == "dataset" else ""
        return f"{self.api.endpoint}/{kind}{self.name}"

    def resolve(self, revision: str | None) -> Any:
        """Ask the Hub for a revision, never a cache.

        Returns:
            The `DatasetInfo` or `ModelInfo` of the Hub. Its `id` differs from the name if the
            repository was renamed.

        Raises:
            HubError: The repository is disabled, or the answer has no commit or no names of files.
            Exception: Any error of the client; the caller translates it.
        """
        info: Any = self.retry.call(
            lambda: self.api.repo_info(
                self.name, repo_type=self.type, revision=revision, timeout=30
            )
        )
        if not (
            isinstance(info.sha, str) and is_commit(info.sha) and _NAME.fullmatch(str(info.id))
        ):
            raise HubError(
                f"the Hub's answer for {self.name} names no commit: run the same command again"
            )
        _check_texts(self.name, "file", [file.rfilename for file in info.siblings or []])
        if info.disabled is True:
            raise HubError(_DISABLED.format(repo=self.name, quoted=""))
        return info

    def refs(self, *, pull_requests: bool = False) -> Any:
        """List the branches and tags, and the pull requests if asked for, in one request.

        Returns:
            The `GitRefs` of the Hub.

        Raises:
            HubError: The answer has refs without a name or a commit.
            Exception: Any error of the client; the caller translates it.
        """
        refs = self.api.list_repo_refs(
            self.name, repo_type=self.type, include_pull_requests=pull_requests
        )
        for ref in (*refs.tags, *(refs.pull_requests or ())):
            _check_texts(self.name, "ref", [ref.name, ref.ref, ref.target_commit])
        return refs

    def tags(self) -> dict[str, str]:
        """Return the commit of each tag; raise errors as `refs` does."""
        return {tag.name: tag.target_commit for tag in self.refs().tags}

    def download(
        self, commit: str, name: str, *, into: Path | None = None, force: bool = False
    ) -> Path:
        """Download one file of a commit without checking its hash, and return its path.

        Raises:
            Exception: Any error of the client; the caller translates it.
        """
        given: dict[str, Any] = {"force_download": force}
        if into is not None:
            given["local_dir"] = os.fspath(into)
        path = self.retry.call(
            lambda: self.api.hf_hub_download(
                self.name, name, repo_type=self.type, revision=commit, **given
            )
        )
        return Path(path)

    def download_verified(
        self,
        commit: str,
        files: Mapping[str, str],
        *,
        into: Path | None = None,
        on_file: Callable[[int], None] = lambda _: None,
    ) -> Path:
        """Download files of a commit, and compare each with its hash.

        Returns:
            The folder that holds the files under their paths.

        Raises:
            HubError: A file has other bytes than its manifest says.
            Exception: Any error of the client; the caller translates it.
        """

        def one(item: tuple[str, str]) -> Path:
            name, digest = item
            if into is not None and (into / name).is_file() and file_sha256(into / name) == digest:
                return into
            for force in (False, True):
                file = self.download(commit, name, into=into, force=force)
                if (file_sha256 if into else known_sha256)(file) == digest:
                    return file.parents[name.count("/")]
            raise HubError(
                f"{self.name}: {name} at {commit[:8]} has other bytes than its manifest says, in "
                "two downloads: do not use it, and try again later"
            )

        folders = []
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            for folder in pool.map(one, files.items()):
                folders.append(folder)
                on_file(len(folders))
        if not folders:
            raise InputError(f"{self.name} at {commit[:8]} has none of the requested files")
        return folders[0]


def _check_texts(repo: str, what: str, values: Iterable[Any]) -> None:
    """Refuse an answer of the Hub with a value that is not text; its client checks no types."""
    if not all(isinstance(value, str) for value in values):
        raise HubError(
            f"the Hub's answer for {repo} has a {what} without a name: run the same command again"
        )


def is_missing(error: Exception) -> bool:
    """Return whether an error says that there is no such repository, or none to see."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    return (
        isinstance(error, RepositoryNotFoundError)
        and not isinstance(error, GatedRepoError)
        and "Invalid credentials" not in str(error)
    )


def follow_rename(repo: str, info: Any) -> str:
    """Return the current name of a repository, with a warning if it is no longer `repo`."""
    name = str(info.id)
    if name != repo:
        warnings.warn(f"{repo} was renamed to {name} on the Hub: use {name}", stacklevel=3)
    return name


@contextmanager
def translated(repo: str, revision: str | None = None) -> Iterator[None]:
    """Translate errors of the Hub's client into a `HubError` of one line.

    Raises:
        HubError: The client raised an error.
        OutputError: A local file cannot be read or written.
    """
    try:
        yield
    except DeliaError:
        raise
    except Exception as error:
        if not _is_foreign(error):
            raise
        if isinstance(error, OSError) and error.filename and not is_transient(error):
            line = f"{error.filename}: {error.strerror}; fix this, and run the command again"
            raise OutputError(line) from error
        line = " ".join(_line(_specific(error), repo, revision).split())
        token = login_token()
        raise HubError(line.replace(token, "<token>") if token else line) from error


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed: after a conflict, a limit, or a broken connection."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    status = _status(error)
    if status is not None:
        return status in _TRANSIENT or status >= 500
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, _http_error()) and not isinstance(error, HfHubHTTPError):
        return True
    if isinstance(error, JSONDecodeError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return True
    return error.__cause__ is not None and is_transient(error.__cause__)


def _is_foreign(error: BaseException) -> bool:
    """Return whether the client, or a library below it, raised an error."""
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, _http_error() | HFValidationError | OSError | JSONDecodeError):
        return True
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__", "").startswith("huggingface_hub"):
            return True  # an answer that the client could not read
        frame = frame.tb_next
    return False


def _http_error() -> type[Exception]:
    """Return the base of all errors of httpx or httpx2, whichever the client uses."""
    from huggingface_hub import errors

    base: type[Exception] = vars(errors)["HTTPError"]
    return base


def _specific(error: BaseException) -> BaseException:
    """Return the Hub's answer or the broken connection that an error was raised from."""
    while (
        _status(error) is None
        and error.__cause__ is not None
        and not isinstance(error, _http_error())
    ):
        error = error.__cause__
    return error


def _line(error: BaseException, repo: str, revision: str | None) -> str:
    """Return the message of a client error: its kind, the Hub's message, and the next step."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    said = _hub_message(error)
    quoted = f" (the Hub says: {said})" if said else ""
    status = _status(error)
    response: Any = getattr(error, "response", None)
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: choose one of its tags, or leave it out"
    if "Invalid credentials" in str(error):
        return f"the Hub rejected the access token for {repo}: hf auth login, or correct HF_TOKEN"
    if isinstance(error, GatedRepoError):
        login = "" if login_token() else "hf auth login, "
        return (
            f"{repo} is gated, and this login has no access{quoted}: {login}request access on the "
            "repository's page, then run the command again"
        )
    if isinstance(error, DisabledRepoError):
        return _DISABLED.format(repo=repo, quoted=quoted)
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo} does not exist, or is private and this login may not see it{quoted}: check "
            "the name, and hf auth login"
        )
    if status == 401:
        return f"{repo} needs a login{quoted}: hf auth login, or set HF_TOKEN"
    if status == 403 and response.request.method in ("GET", "HEAD"):
        return f"this login may not read {repo}{quoted}: use a token that can read it"
    if status == 403:
        return (
            f"this login may not write to {repo}{quoted}: use a token with write access, or "
            "propose the version with --create-pr"
        )
    if status == 404:
        return f"the Hub does not have a part of {repo}{quoted}: check it on the Hub"
    if isinstance(error, OfflineModeIsEnabled):
        return f"cannot ask the Hub for {repo} while HF_HUB_OFFLINE is set: unset it"
    if isinstance(error, HFValidationError):
        return f"{repo} is not a valid name of a repository: {said}"
    if is_transient(error):
        return f"the request to the Hub for {repo} failed{quoted}: run the same command again"
    return f"the Hub refused a request for {repo}{quoted}: fix this, and run the command again"


def _hub_message(error: BaseException) -> str:
    """Return the Hub's own words in one line; the first line of the error if it sent none."""
    text = str(getattr(error, "server_message", None) or error) or type(error).__name__
    line = next((line.strip() for line in text.splitlines() if line.strip()), "").rstrip(".:")
    return line if len(line) <= _MESSAGE_LENGTH else f"{line[:_MESSAGE_LENGTH]}..."


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _asked_wait_s(error: BaseException) -> float | None:
    """Return the wait that the Hub asks for in `Retry-After` or in its `ratelimit` header."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    after = str(headers.get("retry-after") or "").strip()
    if after.isdigit():
        return float(after)
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", str(headers.get("ratelimit") or ""))
    return float(limit.group(1)) if limit else None
