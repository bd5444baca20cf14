"""Secrets and e-mail addresses in texts, found by their shape before the texts leave.

A key that a service hands out has a prefix of its own; that is what is looked for, and nothing
is guessed from randomness alone. Addresses below the names that are reserved for examples
(`example.com`, `.test`, ...) are nobody's, and placeholders such as `sk-xxxxxxxxxxxxxxxxxxxxxxxx`
are no keys: neither is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

LOGIN: Final = "login-token"
"""The kind of a finding that is the login itself; it cannot be allowed."""

# Kind, a text without which the pattern cannot match, and the pattern.
_SHAPES: Final[tuple[tuple[str, str, str], ...]] = (
    ("huggingface-token", "hf_", r"\bhf_[A-Za-z0-9]{30,}"),
    ("huggingface-token", "api_org_", r"\bapi_org_[A-Za-z0-9]{30,}"),
    ("anthropic-key", "sk-ant-", r"\bsk-ant-[\w-]{20,}"),
    ("openai-key", "sk-", r"\bsk-(?!ant-)[\w-]{20,}"),
    ("github-token", "gh", r"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    ("github-token", "github_pat_", r"\bgithub_pat_\w{50,}"),
    ("gitlab-token", "glpat-", r"\bglpat-[\w-]{20,}"),
    ("aws-key", "AKIA", r"\bAKIA[A-Z0-9]{16}\b"),
    ("aws-key", "ASIA", r"\bASIA[A-Z0-9]{16}\b"),
    ("google-key", "AIza", r"\bAIza[\w-]{35}"),
    ("slack-token", "xox", r"\bxox[abprs]-[\w-]{10,}"),
    ("stripe-key", "k_live_", r"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    ("npm-token", "npm_", r"\bnpm_[A-Za-z0-9]{36}"),
    ("pypi-token", "pypi-", r"\bpypi-[\w-]{50,}"),
    ("sendgrid-key", "SG.", r"\bSG\.[\w-]{16,}\.[\w-]{16,}"),
    ("jwt", "eyJ", r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    ("private-key", "PRIVATE KEY", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    ("url-password", "://", r"(?<![\w+.-])[A-Za-z][\w+.-]*+://[^/\s:@]+:[^/\s:@]{3,}@[\w.-]+"),
    ("email", "@", r"(?<![\w.%+-])[\w.%+-]++@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
)
_COMPILED: Final = tuple((kind, hint, re.compile(shape)) for kind, hint, shape in _SHAPES)
_NOBODYS: Final = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net|edu)|[\w-]+\.(?:example|test|invalid|localhost))$",
    re.IGNORECASE,
)
_SHOWN: Final = 20

KINDS: Final = tuple(dict.fromkeys(kind for kind, _, _ in _SHAPES))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should perhaps not leave.

    Attributes:
        kind: One of `KINDS`, or `LOGIN`.
        where: The place, such as `cache/pairs-00000.parquet row 12`.
        value: The text itself; it is left out where a finding is printed.
    """

    kind: str
    where: str
    value: str = field(repr=False)

    @property
    def masked(self) -> str:
        """The first letters, and how many there are: enough to find it, too little to use it."""
        shown = self.value[: min(6, len(self.value) // 4)]
        return f"{shown}… ({len(self.value)} characters)"


def scan(texts: Iterable[tuple[str, str]], *, login: str | None = None) -> Iterator[Finding]:
    """Find secrets and e-mail addresses.

    Args:
        texts: Places and the texts there.
        login: The token of the one who publishes, which is looked for as it is.

    Yields:
        What is found, in order.
    """
    for where, text in texts:
        if login and login in text:
            yield Finding(LOGIN, where, login)
        covered: list[str] = []  # the address within a URL with a password is not one more
        for kind, hint, shape in _COMPILED:
            if hint not in text:
                continue
            for found in shape.finditer(text):
                value = found.group()
                if value == login or _is_harmless(kind, value) or any(value in c for c in covered):
                    continue
                covered.append(value)
                yield Finding(kind, where, value)


def kinds(text: str) -> Iterator[str]:
    """Give the kinds of what is found in one text."""
    return (finding.kind for finding in scan([("", text)]))


def is_allowed(finding: Finding, allow: Sequence[str]) -> bool:
    """Tell whether a finding is let through.

    Args:
        finding: What was found.
        allow: Kinds, or patterns of values with `*` and `?`, such as `*@my-lab.org`.
    """
    if finding.kind == LOGIN:
        return False
    return any(finding.kind == text or fnmatchcase(finding.value, text) for text in allow)


def report(findings: Sequence[Finding]) -> str:
    """Word findings for a person: counts, then the first places, no secret in full."""
    counts = Counter(finding.kind for finding in findings)
    lines = [", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))]
    lines += [f"  {f.where}: {f.kind} {f.masked}" for f in findings[:_SHOWN]]
    if len(findings) > _SHOWN:
        lines.append(f"  and {len(findings) - _SHOWN} more")
    return "\n".join(lines)


def _is_harmless(kind: str, value: str) -> bool:
    if kind == "email":
        return _NOBODYS.search(value) is not None
    if kind in {"private-key", "url-password"}:
        return False
    return len(set(value.rsplit("_", 1)[-1].rsplit("-", 1)[-1])) < 6  # a placeholder
