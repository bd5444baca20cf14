"""The Hub's client: one boundary for its errors, tries again where that helps, exact revisions.

`huggingface_hub` tries uploads again by itself, and neither a commit nor a tag. `HfApi` resolves
a revision from its cache where the Hub cannot be asked, and so does `datasets`, so that a version
is asked for here, and there is no answer but the Hub's own.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Final, TypeVar

from delia_data._version import __version__
from delia_data.errors import DeliaError, HubError, InputError, OutputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PASSING: Final = frozenset({408, 409, 412, 425, 429})


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how long apart, what failed in passing is tried again.

    Attributes:
        tries: Tries in all.
        base_s: Seconds to wait before the second try at most; twice that before the third.
        most_s: Seconds to wait at most, whatever the Hub asks for.
    """

    tries: int = 8
    base_s: float = 0.5
    most_s: float = 60.0

    def wait_s(self, tried: int, error: BaseException) -> float:
        """Seconds to wait after so many tries: drawn, so that many clients do not meet again."""
        asked = _asked_wait_s(error)
        if asked is not None:
            return min(self.most_s, asked + random.uniform(0, self.base_s))
        return float(min(self.most_s, self.base_s * 2 ** (tried - 1)) * random.uniform(0.5, 1))

    def call(self, do: Callable[[], T]) -> T:
        """Do something, and do it again where it failed in passing.

        Raises:
            Exception: Whatever the last try raised.
        """
        for tried in range(1, self.tries + 1):
            try:
                return do()
            except Exception as error:
                if tried == self.tries or not is_passing(error):
                    raise
                time.sleep(self.wait_s(tried, error))
        raise AssertionError("a retry has at least one try")


def client() -> HfApi:
    """A client with the user's own login."""
    from huggingface_hub import HfApi

    return HfApi(library_name="delia_data", library_version=__version__)


def login_token() -> str | None:
    """The login of `huggingface_hub` (`hf auth login`, or `HF_TOKEN`); None where there is none."""
    from huggingface_hub import get_token

    return get_token()


def parse_name(given: str) -> tuple[str, str | None]:
    """Cut `org/name@v1.2.0` into repository and revision; None where there is none.

    Raises:
        InputError: It is not of that form.
    """
    name, mark, revision = given.partition("@")
    if not _NAME.fullmatch(name) or (mark and not revision):
        raise InputError(
            f"{given!r} is no repository: give one such as org/name or org/name@v1.0.0"
        )
    return name, revision or None


def resolve(api: HfApi, repo: str, revision: str | None, retry: Retry) -> Any:
    """Ask the Hub what a revision is: its commit as `.sha`, and whether the repository is private.

    Nothing is answered from a cache.

    Args:
        api: The client.
        repo: The repository.
        revision: A tag, a branch or a commit; None for the newest.
        retry: How often to ask.

    Raises:
        Exception: Whatever the client raises; the caller translates it.
    """
    return retry.call(lambda: api.dataset_info(repo, revision=revision, timeout=30))


@contextmanager
def translated(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn errors of the Hub's client into one of ours, with a single line.

    Raises:
        HubError: Whatever the client raised.
        OutputError: A file here cannot be read or written.
    """
    try:
        yield
    except DeliaError:
        raise
    except Exception as error:
        if not _is_foreign(error):
            raise
        if isinstance(error, OSError) and error.filename and not is_passing(error):
            line = f"{error.filename}: {error.strerror}; mend that, and try again"
            raise OutputError(line) from error
        line = _line(error, repo, revision)
        token = login_token()
        raise HubError(line.replace(token, "<token>") if token else line) from error


def is_passing(error: BaseException) -> bool:
    """Tell whether an error may be gone the next time: a conflict, a limit, a broken connection."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    status = _status(error)
    if status is not None:
        return status in _PASSING or status >= 500
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, _http_error()) and not isinstance(error, HfHubHTTPError):
        return True
    if isinstance(error, JSONDecodeError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return True
    return error.__cause__ is not None and is_passing(error.__cause__)


def _is_foreign(error: BaseException) -> bool:
    """Whether the client raised it, or something below the client."""
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, _http_error() | HFValidationError | OSError | JSONDecodeError):
        return True
    inside = error.__traceback__
    while inside is not None and inside.tb_next is not None:
        inside = inside.tb_next
    module = inside.tb_frame.f_globals.get("__name__", "") if inside else ""
    return isinstance(error, ValueError | RuntimeError) and module.startswith("huggingface_hub")


def _http_error() -> type[Exception]:
    """The base of all errors of httpx or httpx2, whichever the client is built on."""
    from huggingface_hub import errors

    found: type[Exception] = vars(errors)["HTTPError"]
    return found


def _line(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    first = next((part for part in str(error).splitlines() if part.strip()), type(error).__name__)
    status = _status(error)
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: see its tags on the Hub, or leave it out"
    if "Invalid credentials" in str(error):
        return f"the Hub does not know the token: hf auth login again, or mend HF_TOKEN ({repo})"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo} is not there, or is private and this login may not see it: "
            "check the name, and hf auth login"
        )
    if status == 401:
        return f"{repo} needs a login: hf auth login, or set HF_TOKEN"
    if status == 403:
        return (
            f"the login may not write to {repo}: give a token with the role 'write' for that name, "
            "or propose it with --create-pr"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo} cannot be asked for while HF_HUB_OFFLINE is set: unset it, and try again"
    if isinstance(error, HFValidationError):
        return f"{repo} is no name for a repository: {first}"
    if is_passing(error):
        return (
            f"the Hub did not do its part for {repo} ({first.rstrip('.')}); what is there is "
            "as it was: run the same command again"
        )
    return f"the Hub refused something for {repo}: {first.rstrip('.')}; mend that, and try again"


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _asked_wait_s(error: BaseException) -> float | None:
    """Seconds that the Hub asks to wait, in `Retry-After` or its `ratelimit` header."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    after = str(headers.get("retry-after") or "").strip()
    if after.isdigit():
        return float(after)
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", str(headers.get("ratelimit") or ""))
    return float(limit.group(1)) if limit else None


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a commit's full hash, which needs no asking."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None
