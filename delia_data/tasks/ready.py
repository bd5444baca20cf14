"""Ready tasks: `hallucination-check` (bundled), `halueval` and `translation`.

A row of `hallucination-check` shows a question and a candidate answer, right or wrong. Its answer
names the fact and the verdict: `{'thought': 'The capital of France is Paris.', 'hallucination':
'no'}`. It has the form of the paper's formatted-text task, with rows short enough for a model of
135M parameters.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from delia_data.errors import FormatError, InputError
from delia_data.outputs import read_text_file
from delia_data.reading import open_source
from delia_data.records import Record
from delia_data.tasks.reading import hold_out, limit, make_task
from delia_data.tasks.task import Task, Wording
from delia_data.tokens import DEFAULT_TOKEN

BUNDLED_TASKS: Final = ("hallucination-check",)


def bundled_task(
    name: str = "hallucination-check",
    *,
    rows: int | None = None,
    token: str = DEFAULT_TOKEN,
    seed: int = 0,
) -> Task:
    """Load a bundled task: 100 training rows and 100 held-out ones.

    Args:
        name: Name of the task.
        rows: Maximum number of training rows, selected by keyed hash.
        token: The special token.
        seed: Seed of the selection.

    Raises:
        InputError: The task does not exist.
    """
    definition = json.loads(_bundled_text(name, "task.json"))
    facts = _bundled_lines(name, "facts.jsonl")
    return Task(
        name=definition["name"],
        instruction=definition["instruction"],
        description=definition["description"],
        common_wording=Wording(definition["common_wording"].replace(DEFAULT_TOKEN, token)),
        keys=tuple(definition["keys"]),
        keywords=tuple(definition["keywords"]),
        train=limit([_fact_row(fact) for fact in facts if fact["split"] == "train"], rows, seed),
        test=tuple(_fact_row(fact) for fact in facts if fact["split"] == "test"),
        token=token,
        request=definition["request"],
        meanings=tuple(definition["meanings"]),
    )


def bundled_wordings(
    name: str = "hallucination-check", *, token: str = DEFAULT_TOKEN
) -> list[Wording]:
    """Load the wordings of a bundled task, including the held-out ones.

    Args:
        name: Name of the task.
        token: The special token that they name.

    Raises:
        InputError: The task does not exist.
    """
    lines = _bundled_lines(name, "wordings.jsonl")
    return [
        Wording(**{**line, "text": line["text"].replace(DEFAULT_TOKEN, token)}) for line in lines
    ]


def _fact_row(fact: dict[str, Any]) -> Record:
    """Return the row of a fact."""
    wrong = fact["hallucination"] == "yes"
    shown = fact["wrong"] if wrong else fact["answer"]
    thought = f"{fact['statement']}, not {fact['wrong']}." if wrong else f"{fact['statement']}."
    return Record.pair(
        f"Question: {fact['question']}\nAnswer: {shown}",
        f"{{'thought': '{thought}', 'hallucination': '{fact['hallucination']}'}}",
    )


def _bundled_lines(task: str, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _bundled_text(task, file).splitlines()]


def _bundled_text(task: str, file: str) -> str:
    if task not in BUNDLED_TASKS:
        raise InputError(f"no task {task!r} is bundled: use one of {', '.join(BUNDLED_TASKS)}")
    folder = files("delia_data") / "tasks" / "data" / task.replace("-", "_")
    return (folder / file).read_text(encoding="utf-8")


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
        source: A folder of parallel files, or the file in the source language.
        target: The file in the target language, if `source` is a file.
        from_language: Code of the source language, as in the names of the files.
        to_language: Code of the target language.
        test_share: Share of the rows to hold out if no file is held out.
        rows: Maximum number of training rows, selected by keyed hash.
        token: The special token.
        seed: Seed of the selections.

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
    text = read_text_file(file)
    # Not splitlines: sentences hold rarer line ends, which would shift all that follow.
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _pairs(folder: Path, source: str, target: str) -> list[tuple[Path, Path]]:
    """Return the parallel files of a folder, which differ in the language of their names."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one, or two parallel files")
    sources, targets = (_by_stem(folder, language) for language in (source, target))
    pairs = [(sources[stem], targets[stem]) for stem in sorted(sources) if stem in targets]
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


READY_TASKS: Final = (*BUNDLED_TASKS, "halueval", "translation")
_COLUMNS: Final = ("user_query", "chatgpt_response", "hallucination")


def ready_task(
    name: str,
    data: str | os.PathLike[str] | None = None,
    *,
    from_language: str = "en",
    to_language: str = "is",
    test_share: float = 0.2,
    rows: int | None = None,
    token: str = DEFAULT_TOKEN,
    seed: int = 0,
) -> Task:
    """Make a ready task.

    Args:
        name: One of `READY_TASKS`.
        data: File of `halueval`, or folder of `translation`.
        from_language: Source language of `translation`.
        to_language: Target language of `translation`.
        test_share: Share of the rows to hold out if the data has no held-out rows.
        rows: Maximum number of training rows, selected by keyed hash.
        token: The special token.
        seed: Seed of the selections.

    Raises:
        InputError: The task does not exist, or its data is missing or malformed.
    """
    if name in BUNDLED_TASKS:
        if data is not None:
            raise InputError(f"task {name} comes with its rows: leave the data out")
        return bundled_task(name, rows=rows, token=token, seed=seed)
    if name not in READY_TASKS:
        raise InputError(f"no task {name!r} is ready: use one of {', '.join(READY_TASKS)}")
    if data is None:
        raise InputError(f"task {name} needs its data: give the file or folder (--data)")
    if name == "halueval":
        return halueval_task(data, test_share=test_share, rows=rows, token=token, seed=seed)
    return translation_task(
        data,
        from_language=from_language,
        to_language=to_language,
        test_share=test_share,
        rows=rows,
        token=token,
        seed=seed,
    )


def ready_wordings(name: str, token: str = DEFAULT_TOKEN) -> list[Wording]:
    """Return the bundled wordings of a ready task; an empty list if it has none.

    `halueval` has those of `hallucination-check`, whose request is the same.
    """
    return bundled_wordings(token=token) if name in (*BUNDLED_TASKS, "halueval") else []


def halueval_task(
    data: str | os.PathLike[str],
    *,
    test_share: float = 0.2,
    rows: int | None = None,
    token: str = DEFAULT_TOKEN,
    seed: int = 0,
) -> Task:
    """Read HaluEval's general part (arXiv 2305.11747): queries, ChatGPT's answers, yes or no.

    Args:
        data: The JSON Lines file.
        test_share: Share of the rows to hold out, selected by keyed hash.
        rows: Maximum number of training rows, selected by keyed hash.
        token: The special token.
        seed: Seed of the selections.

    Raises:
        InputError: The file does not exist.
        FormatError: A row is not in HaluEval's format.
    """
    like = bundled_task()
    source = open_source(data, purpose="task")
    train, test = hold_out([row for _, row in source.map(_halueval_row)], test_share, seed)
    return make_task(
        name="halueval",
        train=limit(train, rows, seed),
        test=test,
        instruction=f"{like.request} Reply with a JSON object whose one key is hallucination and "
        "whose value is yes or no.",
        request=like.request,
        meanings=like.meanings,
        stands_for="a JSON object whose one key is hallucination and whose value is yes or no",
        keywords=("json", "hallucination"),
        token=token,
    )


def _halueval_row(row: Mapping[str, Any]) -> Record:
    query, response, label = (str(row.get(column) or "").strip() for column in _COLUMNS)
    if not query or not response or label not in ("yes", "no"):
        raise FormatError(
            "the row is not one of HaluEval's general part: it needs "
            f"{', '.join(_COLUMNS)}, the last of them yes or no"
        )
    answer = json.dumps({"hallucination": label})
    return Record.pair(f"Question: {query}\nAnswer: {response}", answer)
