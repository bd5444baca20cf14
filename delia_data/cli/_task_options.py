"""The options that say how a task is read, for `delia task inspect` and `delia diversify`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from delia_data.cli._completion import among
from delia_data.errors import InputError
from delia_data.records import FORMATS, check_format
from delia_data.tasks import READY_TASKS, SCORINGS, Task, read_task, ready_task
from delia_data.tokens import DEFAULT_TOKEN

_READING: Final = "How rows are read"
_TELLING: Final = "What the task is"
_READY: Final = "Ready tasks"
_TEST_SHARE: Final = 0.2  # of a ready task whose data has no test rows

Name = Annotated[
    str | None, typer.Option(help="Its name; by default the file's.", rich_help_panel=_TELLING)
]
Query = Annotated[
    str | None,
    typer.Option(help="Template of the query, such as '{question}'.", rich_help_panel=_READING),
]
Answer = Annotated[
    str | None,
    typer.Option(help="Template of the answer, such as '{label}'.", rich_help_panel=_READING),
]
Format = Annotated[
    str | None,
    typer.Option(
        help=f"One of {', '.join(FORMATS)}; told by the columns if not given.",
        rich_help_panel=_READING,
        autocompletion=among(FORMATS),
    ),
]
Instruction = Annotated[
    str | None, typer.Option(help="The instruction, in plain words.", rich_help_panel=_TELLING)
]
InstructionColumn = Annotated[
    str | None, typer.Option(help="Column that holds it.", rich_help_panel=_READING)
]
LastParagraph = Annotated[
    bool,
    typer.Option(
        "--last-paragraph", help="It is the last paragraph of a query.", rich_help_panel=_READING
    ),
]
StandsFor = Annotated[
    str | None,
    typer.Option(
        help="What the token stands for; told by JSON answers and by labels.",
        rich_help_panel=_TELLING,
    ),
]
Request = Annotated[
    str,
    typer.Option(
        help="The instruction without what it says of the format.", rich_help_panel=_TELLING
    ),
]
Meaning = Annotated[
    list[str] | None,
    typer.Option(help="Another plain phrasing of the request.", rich_help_panel=_TELLING),
]
Key = Annotated[
    list[str] | None,
    typer.Option(
        help="A key of the answer's object; told by the answers.", rich_help_panel=_TELLING
    ),
]
Scoring = Annotated[
    str | None,
    typer.Option(
        help=f"One of {', '.join(SCORINGS)}.",
        rich_help_panel=_TELLING,
        autocompletion=among(SCORINGS),
    ),
]
Token = Annotated[
    str, typer.Option(help="The special token, such as <sep:table>.", rich_help_panel=_TELLING)
]
Avoid = Annotated[
    list[str] | None,
    typer.Option(
        help="A word that no wording may use, beside those of the format.",
        rich_help_panel=_TELLING,
    ),
]
Test = Annotated[
    str | None,
    typer.Option(help="Held-out rows: a file, or a Hub id.", rich_help_panel=_READING),
]
TestShare = Annotated[
    float | None,
    typer.Option(
        help=f"Share of the rows that is held out; 0, or {_TEST_SHARE:g} of a ready task.",
        rich_help_panel=_READING,
    ),
]
Rows = Annotated[
    int | None, typer.Option(help="Rows to train on at most.", rich_help_panel=_READING)
]
Seed = Annotated[int, typer.Option(help="Seed of all that is chosen.")]
Data = Annotated[
    Path | None,
    typer.Option(help="File of halueval, folder of translation.", rich_help_panel=_READY),
]
FromLanguage = Annotated[
    str, typer.Option(help="Language that is translated.", rich_help_panel=_READY)
]
ToLanguage = Annotated[str, typer.Option(help="Language of its answers.", rich_help_panel=_READY)]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a task is read, under the names of the options."""

    name: str | None = None
    query: str | None = None
    answer: str | None = None
    format: str | None = None
    instruction: str | None = None
    instruction_column: str | None = None
    last_paragraph: bool = False
    stands_for: str | None = None
    request: str = ""
    meaning: Sequence[str] | None = None
    key: Sequence[str] | None = None
    scoring: str | None = None
    token: str = DEFAULT_TOKEN
    avoid: Sequence[str] | None = None
    test: str | None = None
    test_share: float | None = None
    rows: int | None = None
    seed: int = 0
    data: Path | None = None
    from_language: str = "en"
    to_language: str = "is"

    @classmethod
    def of(cls, given: dict[str, Any]) -> Reading:
        """Take the options among all of a command's."""
        return cls(**{name: given[name] for name in cls.__dataclass_fields__})

    def read(self, source: str) -> Task:
        """Read a task: a ready one by its name, or rows of the user's.

        Raises:
            InputError: The rows cannot be read, or do not make a task.
        """
        if source in READY_TASKS:
            return self._ready(source)
        if re.fullmatch(r"[\w-]+", source) and not Path(source).exists():
            raise InputError(
                f"no task {source!r} is ready, and no file or folder of that name is there: use "
                f"one of {', '.join(READY_TASKS)}, or give rows"
            )
        if self.data is not None:
            raise InputError(
                f"--data is for ready tasks, and {source!r} is none: give the file by itself"
            )
        scoring: Any = self.scoring
        return read_task(
            source,
            name=self.name,
            query=_lines(self.query),
            answer=_lines(self.answer),
            format=None if self.format is None else check_format(self.format),
            instruction=self.instruction,
            instruction_column=self.instruction_column,
            last_paragraph=self.last_paragraph,
            stands_for=self.stands_for,
            request=self.request,
            meanings=self.meaning or (),
            keys=self.key or None,
            scoring=scoring,
            token=self.token,
            forbidden=self.avoid or (),
            test=self.test,
            test_share=self.test_share or 0.0,
            rows=self.rows,
            seed=self.seed,
        )

    def _ready(self, name: str) -> Task:
        own = {
            "--query": self.query,
            "--answer": self.answer,
            "--instruction": self.instruction,
            "--instruction-column": self.instruction_column,
            "--stands-for": self.stands_for,
            "--test": self.test,
        }
        if given := [option for option, value in own.items() if value is not None]:
            raise InputError(
                f"task {name} is ready, and {', '.join(given)} is for rows of yours: leave it out"
            )
        return ready_task(
            name,
            self.data,
            from_language=self.from_language,
            to_language=self.to_language,
            test_share=_TEST_SHARE if self.test_share is None else self.test_share,
            rows=self.rows,
            token=self.token,
            seed=self.seed,
        )


def _lines(template: str | None) -> str | None:
    r"""A template with its line breaks, which a shell hands over as `\n`."""
    return None if template is None else template.replace("\\n", "\n")
