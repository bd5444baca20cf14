"""Scan texts for secrets and personal data before they are published.

Access keys of services have a known prefix; only these shapes count, never randomness alone. Keys
of other services are found by the rules of gitleaks (`data/secret-rules.toml`).
Addresses in domains that are reserved for examples (`example.com`, `.test`, ...) and placeholders
such as `sk-xxxxxxxxxxxxxxxxxxxxxxxx` are not reported. Other personal data is found by the patterns
of presidio; names of persons and places, for which it needs a language model, are not.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data._optional import require
from delia_data.errors import SecretError
from delia_data.hub.parts import SOURCES, Part
from delia_data.reading import open_source

LOGIN: Final = "login-token"
"""Kind of a finding that is the publisher's own access token; it cannot be allowed."""

# Kind, a text that every match contains, and the pattern.
_PATTERNS: Final[tuple[tuple[str, str, str], ...]] = (
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
_COMPILED: Final = tuple((kind, hint, re.compile(shape)) for kind, hint, shape in _PATTERNS)
_RESERVED: Final = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net|edu)|[\w-]+\.(?:example|test|invalid|localhost))$",
    re.IGNORECASE,
)
_SHOWN: Final = 20
_ROWS: Final = 1_000
_FEWEST_SIGNS: Final = 6
"""Fewer different signs at the end of a value are a placeholder."""

_PERSONAL: Final = (
    *("PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO"),
    *("US_SSN", "US_ITIN", "UK_NHS"),
)
"""Entities of presidio that its patterns find. Dates and URLs are not personal by themselves."""
_LEAST_SCORE: Final = 0.4  # minimum for a phone number without a word such as "call" nearby

KINDS: Final = tuple(dict.fromkeys(kind for kind, _, _ in _PATTERNS))


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret or an address.

    Attributes:
        kind: One of `KINDS`, the id of a rule of gitleaks, an entity of presidio, or `LOGIN`.
        where: The place, such as `cache/pairs-00000.parquet row 12`.
        value: The text itself; never printed.
    """

    kind: str
    where: str
    value: str = field(repr=False)

    @property
    def masked(self) -> str:
        """The first characters and the length: enough to find it, too little to use it."""
        shown = self.value[: min(6, len(self.value) // 4)]
        return f"{shown}… ({len(self.value)} characters)"


def scan(
    texts: Iterable[tuple[str, str]], *, login: str | None = None, personal_data: bool = False
) -> Iterator[Finding]:
    """Find secrets and e-mail addresses.

    Args:
        texts: Pairs of a place and the text there.
        login: Access token of the publisher, which is matched literally.
        personal_data: Also find phone numbers, IP addresses, and numbers of cards, accounts and
            persons.

    Yields:
        The findings, in order.

    Raises:
        MissingExtraError: Personal data is to be found, and presidio is not installed.
    """
    find_personal_data = _analyzer() if personal_data else None
    for where, text in texts:
        if login and login in text:
            yield Finding(LOGIN, where, login)
        covered: list[str] = []  # an address in a URL with a password is part of that secret
        for kind, hint, pattern in _COMPILED:
            if hint not in text:
                continue
            for match in pattern.finditer(text):
                value = match.group()
                if value == login or _is_harmless(kind, value) or any(value in c for c in covered):
                    continue
                covered.append(value)
                yield Finding(kind, where, value)
        lowered = text.lower()
        named = [
            rule for keyword, rules in _rules().items() if keyword in lowered for rule in rules
        ]
        for rule in dict.fromkeys(named):
            for value in rule.find(text):
                if value != login and not any(value in c or c in value for c in covered):
                    covered.append(value)
                    yield Finding(rule.kind, where, value)
        if find_personal_data is not None:
            for kind, value in find_personal_data(text):
                if not any(value in c for c in covered):
                    yield Finding(kind, where, value)


@cache
def _analyzer() -> Callable[[str], list[tuple[str, str]]]:
    """Return a function that gives the kind and the text of all personal data in a text."""
    presidio = require("presidio_analyzer", extra="personal-data")
    engines = require("presidio_analyzer.nlp_engine", extra="personal-data")
    registry = presidio.RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.remove_recognizer("SpacyRecognizer")  # would download a language model
    analyzer = presidio.AnalyzerEngine(
        registry=registry,
        nlp_engine=engines.NoOpNlpEngine([{"lang_code": "en", "model_name": "none"}]),
    )

    def find(text: str) -> list[tuple[str, str]]:
        results = analyzer.analyze(
            text, language="en", entities=list(_PERSONAL), score_threshold=_LEAST_SCORE
        )
        return [
            (one.entity_type.lower().replace("_", "-"), text[one.start : one.end])
            for one in sorted(results, key=lambda one: one.start)
        ]

    return find


@dataclass(frozen=True, eq=False)
class _Rule:
    """A rule of gitleaks.

    Attributes:
        kind: Its id.
        regex: The shape; the first group that matched is the secret.
        entropy: Smallest entropy of the secret, in bits per sign.
        group: Number of the secret's group, if it is not the first one that matched.
        allowed: Shapes of secrets that are harmless.
        allowed_match: Shapes of whole matches that are harmless.
        stopwords: Texts in lower case that make a secret harmless.
    """

    kind: str
    regex: str
    entropy: float
    group: int | None
    allowed: Sequence[str]
    allowed_match: Sequence[str]
    stopwords: Sequence[str]

    def find(self, text: str) -> Iterator[str]:
        """Yield the secrets in a text."""
        for match in _compiled(self.regex).finditer(text):
            groups = [group for group in match.groups() if group]
            secret = match[self.group] if self.group else [*groups, match.group()][0]
            if _entropy(secret) < self.entropy or len(set(secret)) < _FEWEST_SIGNS:
                continue
            if any(word in secret.lower() for word in self.stopwords):
                continue
            if any(_compiled(shape).search(secret) for shape in self.allowed):
                continue
            if not any(_compiled(shape).search(match.group()) for shape in self.allowed_match):
                yield secret


@cache
def _rules() -> dict[str, list[_Rule]]:
    """Return the rules by keyword in lower case; a match contains one of its rule's keywords."""
    source = files("delia_data.hub").joinpath("data", "secret-rules.toml")
    listed = tomllib.loads(source.read_text(encoding="utf-8"))
    by_keyword: dict[str, list[_Rule]] = {}
    for values in listed["rules"]:
        rule = _Rule(
            kind=values["id"],
            regex=values["regex"],
            entropy=values.get("entropy", 0),
            group=values.get("secretGroup"),
            allowed=[*listed["allowed"], *values.get("allowed_secret", ())],
            allowed_match=values.get("allowed_match", ()),
            stopwords=[*listed["stopwords"], *values.get("stopwords", ())],
        )
        for keyword in values["keywords"]:
            by_keyword.setdefault(keyword.lower(), []).append(rule)
    return by_keyword


@cache
def _compiled(shape: str) -> re.Pattern[str]:
    return re.compile(shape)


def _entropy(text: str) -> float:
    """Return the entropy of a text in bits per sign."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def kinds(text: str) -> Iterator[str]:
    """Return the kinds of the findings in one text."""
    return (finding.kind for finding in scan([("", text)]))


def is_allowed(finding: Finding, allow: Sequence[str]) -> bool:
    """Return whether a finding is allowed."""
    if finding.kind == LOGIN:
        return False
    return any(finding.kind == text or fnmatchcase(finding.value, text) for text in allow)


def report(findings: Sequence[Finding]) -> str:
    """Return counts and the first places of findings, with every value masked."""
    counts = Counter(finding.kind for finding in findings)
    lines = [", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))]
    lines += [f"  {f.where}: {f.kind} {f.masked}" for f in findings[:_SHOWN]]
    if len(findings) > _SHOWN:
        lines.append(f"  and {len(findings) - _SHOWN} more")
    return "\n".join(lines)


def check_secrets(
    parts: Mapping[str, Part],
    allow: Sequence[str],
    login: str | None,
    *,
    personal_data: bool = False,
) -> Counter[str]:
    """Scan every text of the parts to publish.

    Mixtures are scanned only if the task or the cache is not among the parts: their rows come
    from these two.

    Returns:
        Number of allowed findings, by kind.

    Raises:
        SecretError: There are other findings; its note lists them.
    """
    names = SOURCES if set(parts) >= set(SOURCES) else tuple(parts)
    texts = (text for name in names for text in texts_of(parts[name]))
    findings = list(scan(texts, login=login, personal_data=personal_data))
    refused = [finding for finding in findings if not is_allowed(finding, allow)]
    if refused:
        kinds = ", ".join(sorted({finding.kind for finding in refused}))
        error = SecretError(
            f"{len(refused)} places hold secrets or personal data ({kinds}), the first in "
            f"{refused[0].where}: remove them, or allow a kind or a pattern with --allow"
        )
        error.add_note(report(refused))
        raise error
    return Counter(finding.kind for finding in findings)


def texts_of(part: Part) -> Iterator[tuple[str, str]]:
    """Yield every text of a part with its place."""
    settings = part.manifest.model_dump(mode="json", exclude={"files", "inputs"})
    yield from _strings(f"{part.name}/manifest.json", settings)
    for path, file in part.sources().items():
        if file.suffix == ".parquet":
            yield from _parquet_texts(path, file)
        elif file.suffix == ".jsonl":
            for where, row in open_source(file).rows():
                yield from _strings(f"{path} {where.rsplit(': ', 1)[-1]}", row)
        elif file.name not in ("manifest.json", "FINISHED") and not _is_binary(file):
            yield path, file.read_text(encoding="utf-8", errors="replace")


def _is_binary(file: Path) -> bool:
    """Return whether a file holds weights or another binary format, which have zero bytes."""
    with file.open("rb") as opened:
        return b"\0" in opened.read(8192)


def _parquet_texts(path: str, file: Path) -> Iterator[tuple[str, str]]:
    parquet = pq.ParquetFile(file)
    names = [
        field.name
        for field in parquet.schema_arrow
        if not pa.types.is_primitive(field.type)
        and field.name not in ("source_id", "wording_id", "row_id")
    ]
    number = 0
    for batch in parquet.iter_batches(_ROWS, columns=names):
        for row in batch.to_pylist():
            yield from _strings(f"{path} row {number}", row)
            number += 1


def _strings(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every string within a JSON value, keys included."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield where, str(key)
            yield from _strings(where, inside)
    elif isinstance(value, Iterable):
        for inside in value:
            yield from _strings(where, inside)


def _is_harmless(kind: str, value: str) -> bool:
    if kind == "email":
        return _RESERVED.search(value) is not None
    if kind in {"private-key", "url-password"}:
        return False
    return len(set(value.rsplit("_", 1)[-1].rsplit("-", 1)[-1])) < _FEWEST_SIGNS
