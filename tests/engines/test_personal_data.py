"""Personal data is found with presidio's own patterns, without a language model or a network."""

from __future__ import annotations

import socket
from typing import NoReturn

import pytest

from delia_data.hub.secrets import report, scan

pytest.importorskip("presidio_analyzer")

EXAMPLES = {
    "phone-number": "(212) 555-0187",
    "credit-card": "4111 1111 1111 1111",
    "iban-code": "DE89370400440532013000",
    "ip-address": "203.0.113.54",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the scan opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_personal_data_is_found_and_masked(kind: str) -> None:
    texts = [("row 3", f"Please take {EXAMPLES[kind]}, thank you.")]
    assert list(scan(texts)) == []
    (found,) = scan(texts, personal_data=True)
    assert (found.kind, found.where, found.value) == (kind, "row 3", EXAMPLES[kind])
    assert EXAMPLES[kind] not in report([found])


def test_an_address_counts_once_and_dates_and_links_do_not() -> None:
    text = "Mail someone@somewhere.org by 2026-11-30, see https://docs.python.org/3.11/ and 12345."
    assert [one.kind for one in scan([("row 0", text)], personal_data=True)] == ["email"]
