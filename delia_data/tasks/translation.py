"""The ready task `translation`: two parallel text files, or a folder of them, either direction.

    newstest2021.en   newstest2021.is        a line is a row
    dev/eng_Latn.dev  dev/isl_Latn.dev       FLORES-200: the language comes first
    wmt.en-is.src.en  wmt.en-is.ref.A.is     WMT: source and reference

In a folder, files named `devtest` or `test` are held out where there are others.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from delia_data.errors import FormatError, InputError
from delia_data.records import Record
from delia_data.tasks.making import make_task
from delia_data.tasks.splits import hold_out, limit
from delia_data.tasks.task import Task
from delia_data.tokens import DEFAULT_TOKEN

_NAMES: Final = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "cs": "Czech", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish", "gu": "Gujarati",
    "ha": "Hausa", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "kk": "Kazakh",
    "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
    "deu": "German", "eng": "English", "fra": "French", "isl": "Icelandic", "rus": "Russian",
    "spa": "Spanish", "zho": "Chinese", "jpn": "Japanese", "ces": "Czech", "ukr": "Ukrainian",
}  # fmt: skip
_DESCRIPTION: Final = "the translation alone, on one line, with no quotes and no notes"
_ROLE: Final = re.compile(r"[._-](?:src|ref|hyp)(?:[._-]?[A-Z])?$")
_HELD_OUT: Final = re.compile(r"(?<![a-z])(?:dev)?test", re.I)
_NAMED: Final = 3


def translation_task(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    from_language: str = "en",
    to_language: str = "is",
    test_share: float = 0.0,
    rows: int | None = None,
    token: str = DEFAULT_TOKEN,
    seed: int = 0,
) -> Task:
    """Read a translation task.

    Args:
        source: A folder of parallel files, or the file to translate from.
        target: The file to translate into, where the source is a file.
        from_language: Code of the language that is translated, as the files are named.
        to_language: Code of the other one.
        test_share: Share of the rows that is held out where no file is.
        rows: Rows to train on at most, by keyed hash.
        token: The special token.
        seed: Seed of these.

    Raises:
        InputError: Files are missing, or have different numbers of lines.
        FormatError: Lines are empty.
    """
    files = (
        [(Path(source), Path(target))]
        if target is not None
        else _pairs(Path(source), from_language, to_language)
    )
    held = [pair for pair in files if _HELD_OUT.search(pair[0].name)] if len(files) > 1 else []
    train = [row for pair in files if pair not in held for row in _rows(*pair)]
    test = [row for pair in held for row in _rows(*pair)]
    if not test:
        train, test = (list(split) for split in hold_out(train, test_share, seed))
    given, wanted = _language(from_language), _language(to_language)
    request = f"Translate the following text from {given} into {wanted}."
    return make_task(
        name=f"translation-{from_language}-{to_language}",
        train=limit(train, rows, seed),
        test=test,
        instruction=f"{request} Give the translation alone, on one line, with no quotes and no "
        "notes.",
        request=request,
        stands_for=_DESCRIPTION,
        meanings=(
            f"Translate this into {wanted}.",
            f"What is this in {wanted}?",
            f"Say the text in {wanted}.",
            f"Put this {given} text into {wanted}.",
            f"How would someone in the country say this in {wanted}?",
            f"I need the {wanted} for this {given} sentence.",
        ),
        keys=(),
        keywords=("translation", wanted.lower()),
        scoring="translation",
        token=token,
    )


def _rows(source: Path, target: Path) -> list[Record]:
    lines, others = _lines(source), _lines(target)
    if len(lines) != len(others):
        raise InputError(
            f"{source} has {len(lines):,} lines and {target} has {len(others):,}: "
            "parallel files have as many"
        )
    empty = [i for i, pair in enumerate(zip(lines, others, strict=True), 1) if not all(pair)]
    if empty:
        named = ", ".join(map(str, empty[:_NAMED]))
        raise FormatError(
            f"{len(empty):,} of {len(lines):,} lines of {source} and {target} are empty in one "
            f"of them (lines {named}): remove them from both"
        )
    return [Record.pair(line, other) for line, other in zip(lines, others, strict=True)]


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; check the path") from error
    # Not splitlines: sentences hold rarer line ends, which would shift all that follow.
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _pairs(folder: Path, source: str, target: str) -> list[tuple[Path, Path]]:
    """The parallel files of a folder, by what their names share."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one, or two parallel files")
    found = [_by_stem(folder, language) for language in (source, target)]
    pairs = [(found[0][stem], found[1][stem]) for stem in sorted(found[0]) if stem in found[1]]
    if not pairs:
        names = sorted(file.name for file in folder.rglob("[!.]*") if file.is_file())
        shown = ", ".join(names[:_NAMED]) or "nothing"
        raise InputError(
            f"{folder} has no parallel files that end or begin with {source} and {target}: it "
            f"holds {shown}; give the languages as the files are named"
        )
    return pairs


def _by_stem(folder: Path, language: str) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for file in sorted(folder.rglob("[!.]*")):
        name = file.name.removesuffix(".txt")
        ends, begins = f".{language}", f"{language}."
        if not file.is_file() or not (name.endswith(ends) or name.startswith(begins)):
            continue
        stem = name.removesuffix(ends) if name.endswith(ends) else name.removeprefix(begins)
        stems.setdefault(str(file.parent / _ROLE.sub("", stem)), file)
    return stems


def _language(code: str) -> str:
    name = _NAMES.get(re.split(r"[_-]", code)[0].lower())
    if name is None:
        raise InputError(
            f"language {code!r} is unknown: use one of {', '.join(sorted(_NAMES))}, or read the "
            "rows with an instruction of your own"
        )
    return name
