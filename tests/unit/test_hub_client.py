"""Versions, and retries and messages of Hub errors."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from delia_data.errors import HubError, InputError, OutputError, VersionError
from delia_data.hub import Version
from delia_data.hub.client import Retry, is_transient, parse_name, translated


def failed(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError, **headers: str) -> Exception:
    request = httpx2.Request("POST", "http://localhost/api/datasets/org/name/commit/main")
    response = httpx2.Response(status, headers=headers, request=request)
    return kind(f"{status} for it\nsecond line", response=response)


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


TRANSIENT = [
    *(failed(status) for status in (408, 409, 412, 429, 500, 502, 503, 504)),
    httpx2.RemoteProtocolError("Server disconnected without sending a response."),
    httpx2.ConnectError("refused"),
    httpx2.ReadTimeout("slow"),
    ConnectionResetError("reset"),
    OSError("Consistency check failed: file should be of size 9 but has size 4"),
    caused(RuntimeError("Error while uploading 'x'"), failed(500)),
]
PERMANENT = [
    *(failed(status) for status in (400, 401, 403, 404)),
    OfflineModeIsEnabled("offline"),
    HFValidationError("bad name"),
    caused(RuntimeError("Error while uploading 'x'"), failed(403)),
    PermissionError(errno.EACCES, "Permission denied", "/tmp/x"),
    KeyError("a bug"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_transient_errors_are_retried(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_permanent_errors_are_not_retried(error: Exception) -> None:
    assert not is_transient(error)


class TestRetry:
    @pytest.fixture
    def slept(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        waits: list[float] = []
        monkeypatch.setattr("delia_data.hub.client.time.sleep", waits.append)
        return waits

    def failing(self, *errors: Exception) -> Callable[[], str]:
        left = list(errors)

        def do() -> str:
            if left:
                raise left.pop(0)
            return "done"

        return do

    def test_transient_errors_are_retried_until_success(self, slept: list[float]) -> None:
        retry = Retry(tries=5, base_s=1)
        assert retry.call(self.failing(failed(503), failed(412), failed(500))) == "done"
        assert len(slept) == 3
        assert 0.5 <= slept[0] <= 1 <= slept[1] <= 2 <= slept[2] <= 4

    def test_tries_are_limited(self, slept: list[float]) -> None:
        with pytest.raises(HfHubHTTPError):
            Retry(tries=3).call(self.failing(*[failed(503)] * 3))
        assert len(slept) == 2

    def test_permanent_errors_are_raised_at_once(self, slept: list[float]) -> None:
        with pytest.raises(HfHubHTTPError):
            Retry().call(self.failing(failed(403)))
        assert slept == []

    def test_waits_that_the_hub_requests(self) -> None:
        retry = Retry(base_s=1, most_s=60)
        assert 7 <= retry.wait_s(1, failed(429, **{"Retry-After": "7"})) <= 8
        assert 55 <= retry.wait_s(1, failed(429, ratelimit='"api";r=0;t=55')) <= 56
        assert retry.wait_s(1, failed(429, **{"Retry-After": "3600"})) == 60
        assert retry.wait_s(1, failed(429, **{"Retry-After": "Wed, 21 Oct 2015"})) <= 1
        assert retry.wait_s(1, failed(429, ratelimit='"api";r=12;t=55')) <= 1


class TestTranslated:
    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (failed(503), "request to the Hub for org/name failed"),
            (failed(403), "may not write to org/name"),
            (failed(401), "needs a login"),
            (failed(400), "refused a request for org/name .*400 for it"),
            (failed(404, RevisionNotFoundError), "org/name has no revision 'v9'"),
            (httpx2.ConnectError("refused"), "run the same command again"),
            (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
            (
                HFValidationError("Repo id must be short"),
                "not a valid name of a repository: Repo id",
            ),
        ],
        ids=str,
    )
    def test_one_line(self, error: Exception, line: str) -> None:
        with pytest.raises(HubError, match=line) as found, translated("org/name", "v9"):
            raise error
        assert "\n" not in str(found.value)
        assert found.value.__cause__ is error

    def test_the_token_is_never_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "my-own-token")
        with pytest.raises(HubError) as found, translated("org/name"):
            raise httpx2.ConnectError("cannot send Bearer my-own-token")
        assert "my-own-token" not in str(found.value)

    def test_errors_of_this_machine_name_the_file(self) -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
        with pytest.raises(OutputError, match="/tmp/x: No space left") as found, translated("a/b"):
            raise full
        assert not isinstance(found.value, HubError)

    @pytest.mark.parametrize("error", [VersionError("ours"), KeyError("a bug"), ValueError("bug")])
    def test_other_errors_are_not_translated(self, error: Exception) -> None:
        with pytest.raises(type(error)) as found, translated("org/name"):
            raise error
        assert found.value is error


@pytest.mark.parametrize(
    ("given", "parsed"), [("org/name", ("org/name", None)), ("a/b.c@v1.0.0", ("a/b.c", "v1.0.0"))]
)
def test_names(given: str, parsed: Any) -> None:
    assert parse_name(given) == parsed


@pytest.mark.parametrize("given", ["name", "org/name@", "a/b/c", "./folder", "", "org/na me"])
def test_invalid_version_names(given: str) -> None:
    with pytest.raises(InputError, match="is not a repository"):
        parse_name(given)


def test_versions_are_ordered_by_number() -> None:
    assert Version.parse("v1.10.0") > Version.parse("1.9.7") > Version(1, 9, 0)
    assert Version.parse("1.9.7").next == Version(1, 10, 0)
    assert Version(1, 2, 0).tag == "v1.2.0"


@pytest.mark.parametrize("text", ["1.2", "01.2.3", "1.2.3-rc1", "latest", "", "v"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(VersionError, match="is not a version"):
        Version.parse(text)
