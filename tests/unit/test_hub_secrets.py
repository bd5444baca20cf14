"""Secrets are reported wherever they occur, and never shown."""

from __future__ import annotations

import random
import string
import sys

import pytest

from delia_data.errors import MissingExtraError
from delia_data.hub.secrets import KINDS, LOGIN, Finding, _rules, is_allowed, report, scan


def letters(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.Random(0).choices(alphabet, k=count))


SECRETS = {
    "huggingface-token": f"hf_{letters(34)}",
    "anthropic-key": f"sk-ant-api03-{letters(40)}",
    "openai-key": f"sk-proj-{letters(40)}",
    "github-token": f"ghp_{letters(36)}",
    "gitlab-token": f"glpat-{letters(20)}",
    "aws-key": f"AKIA{letters(16, string.ascii_uppercase)}",
    "google-key": f"AIza{letters(35)}",
    "slack-token": f"xoxb-{letters(20)}",
    "stripe-key": f"sk_live_{letters(24)}",
    "npm-token": f"npm_{letters(36)}",
    "pypi-token": f"pypi-{letters(60)}",
    "sendgrid-key": f"SG.{letters(22)}.{letters(30)}",
    "jwt": f"eyJ{letters(20)}.eyJ{letters(20)}.{letters(20)}",
    "private-key": "-----BEGIN RSA PRIVATE KEY-----",
    "url-password": "postgres://me:hunter22@db.internal/main",
    "email": "someone@somewhere.org",
}


def test_every_kind_has_its_example() -> None:
    assert set(SECRETS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_secret_within_a_text_is_reported(kind: str) -> None:
    (found,) = scan([("row 3", f"Take ({SECRETS[kind]}), please.")])
    assert (found.kind, found.where) == (kind, "row 3")
    assert found.value in SECRETS[kind] or SECRETS[kind] in found.value


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("digitalocean-pat", f"dop_v1_{letters(64, '0123456789abcdef')}"),
        ("doppler-api-token", f"dp.pt.{letters(43)}"),
        ("linear-api-key", f"lin_api_{letters(40)}"),
        ("shopify-access-token", f"shpat_{letters(32, '0123456789abcdef')}"),
        ("grafana-service-account-token", f"glsa_{letters(32)}_{letters(8, '0123456789abcdef')}"),
    ],
)
@pytest.mark.parametrize("text", ["Take {}, please.", '{{"key": "{}"}}', "It is {}"])
def test_keys_of_other_services_are_found_by_the_rules(kind: str, secret: str, text: str) -> None:
    (found,) = scan([("row 3", text.format(secret))])
    assert (found.kind, found.value) == (kind, secret)
    assert is_allowed(found, [kind])


def test_placeholders_are_harmless_to_the_rules() -> None:
    for value in (f"dop_v1_{'a' * 64}", f"lin_api_{'x' * 40}"):
        assert list(scan([("row 3", f"Take {value}.")])) == []


def test_every_rule_compiles_and_its_keyword_alone_is_no_secret() -> None:
    rules = {rule.kind: (word, rule) for word, each in _rules().items() for rule in each}
    assert len(rules) > 200
    for word, rule in rules.values():
        assert list(rule.find(f"Which {word} do you mean?")) == []
    line = " ".join(word for word, _ in rules.values())
    assert list(scan([("row 3", line * (50_000 // len(line)))])) == []


@pytest.mark.parametrize(
    "text",
    [
        "Mail me@example.com or root@host.test.",
        "export OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "hf_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "The task-ant-hill and the disk-based half_life of a ghost_story.",
        "See https://example.org/a:b@c and 5 @ 3.",
        "AKIA is a prefix; so is eyJ.",
        "",
    ],
)
def test_harmless_texts_are_not_reported(text: str) -> None:
    assert list(scan([("here", text)])) == []


def test_login_token_of_any_form_is_reported() -> None:
    (found,) = scan([("manifest", "key=plain-word")], login="plain-word")
    assert found.kind == LOGIN
    assert not is_allowed(found, [LOGIN, "*", "plain-word"])


def test_allow_takes_kinds_and_patterns() -> None:
    mail = Finding("email", "row 1", "team@my-lab.org")
    assert is_allowed(mail, ["email"])
    assert is_allowed(mail, ["*@my-lab.org"])
    assert not is_allowed(mail, ["*@other.org", "jwt"])
    assert not is_allowed(mail, [])


def test_a_report_counts_and_shows_no_secret() -> None:
    found = [Finding("email", f"row {i}", f"person{i:02}@somewhere.org") for i in range(30)]
    text = report([*found, Finding("jwt", "row 99", SECRETS["jwt"])])
    assert text.startswith("30 email, 1 jwt\n")
    assert "row 0:" in text
    assert "and 11 more" in text
    assert all(finding.value not in text for finding in found)
    assert found[0].value not in repr(found[0])


def test_personal_data_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingExtraError, match=r"delia_data\[personal-data\]"):
        list(scan([("row 0", "nothing")], personal_data=True))
