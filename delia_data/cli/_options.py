"""Options that several commands have: how a task is read, and which engine generates text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.cli._flags import option
from delia_data.cli._output import messages
from delia_data.engines import ENGINES, Engine, load_engine
from delia_data.errors import InputError
from delia_data.models import DEFAULT_MODEL
from delia_data.outputs import setting
from delia_data.records import FORMATS, check_format
from delia_data.tasks import READY_TASKS, SCORINGS, Task, read_task, ready_task
from delia_data.tokens import DEFAULT_TOKEN, parse_assignments, thinking_note

_READING: Final = "Reading the rows"
_TASK: Final = "Describing the task"
_ENGINE: Final = "Engine"
_READY: Final = "Ready tasks"
TEMPLATE_OPTION_HELP: Final = (
    "Option of the model's chat template as NAME=VALUE, such as enable_thinking=false; repeatable."
)
WORKERS_HELP: Final = "Cells to run at once; on a CPU, one core each."
KEEP_ADAPTERS_HELP: Final = "Keep the adapter of every cell."
_OF_READY: Final = ("data", "from_language", "to_language")
_OF_ROWS: Final = ("query", "answer", "instruction", "instruction_column", "stands_for", "test")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The options of a task; each field is a flag."""

    query: str | None = setting(None, "Template of the query, such as '{question}'.", _READING)
    answer: str | None = setting(None, "Template of the answer, such as '{label}'.", _READING)
    format: str | None = setting(
        None,
        f"Row format: one of {', '.join(FORMATS)}. Default: detected from the columns.",
        _READING,
        complete=FORMATS,
    )
    instruction: str | None = setting(None, "The instruction, without the token.", _TASK)
    instruction_column: str | None = setting(None, "Column that holds the instruction.", _READING)
    last_paragraph: bool = setting(
        False,
        "The last paragraph of each query is the instruction.",
        _READING,
        names=["--last-paragraph"],
    )
    stands_for: str | None = setting(
        None,
        "Format that the token stands for. Default: derived from JSON answers or labels.",
        _TASK,
    )
    request: str = setting("", "The instruction without its words on the format.", _TASK)
    meanings: list[str] | None = setting(
        None, "Another plain phrasing of the request; repeatable.", _TASK, names=["--meaning"]
    )
    keys: list[str] | None = setting(
        None,
        "Key of the JSON answers; repeatable. Default: the keys of the answers.",
        _TASK,
        names=["--key"],
    )
    scoring: str | None = setting(None, f"One of {', '.join(SCORINGS)}.", _TASK, complete=SCORINGS)
    token: str = setting(DEFAULT_TOKEN, "The special token, such as <sep:table>.", _TASK)
    forbidden: list[str] | None = setting(
        None,
        "Word that no wording may use, in addition to those of the format.",
        _TASK,
        names=["--avoid"],
    )
    name: str | None = setting(None, "Name of the task. Default: the file's.", _TASK)
    test: str | None = setting(None, "Held-out rows: a file or a Hub id.", _READING)
    test_share: float | None = setting(
        None,
        "Share of the rows to hold out. Default: 0, or 0.2 of a ready task.",
        _READING,
    )
    rows: int | None = setting(None, "Maximum number of training rows.", _READING)
    seed: int = setting(0, "Seed of all choices.")
    data: Path | None = setting(None, "File of halueval, or folder of translation.", _READY)
    from_language: str = setting("en", "Language to translate from.", _READY)
    to_language: str = setting("is", "Language to translate to.", _READY)

    def read(self, source: str) -> Task:
        """Read a task: a ready one by its name, or rows of the user's.

        Raises:
            InputError: The rows cannot be read, or do not make a task.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if source in READY_TASKS:
            if flags := [f"--{name.replace('_', '-')}" for name in _OF_ROWS if name in given]:
                raise InputError(
                    f"{source} is a ready task, and {', '.join(flags)} is for your own rows: "
                    "leave it out"
                )
            names = (*_OF_READY, "test_share", "rows", "token", "seed")
            return ready_task(source, **{name: given[name] for name in names if name in given})
        if re.fullmatch(r"[\w-]+", source) and not Path(source).exists():
            raise InputError(
                f"{source!r} is neither a ready task nor a file or folder: use one of "
                f"{', '.join(READY_TASKS)}, or give rows"
            )
        if self.data is not None:
            raise InputError(
                f"--data is for ready tasks only, and {source!r} is not one: leave --data out"
            )
        for name in {"query", "answer"} & given.keys():
            given[name] = given[name].replace("\\n", "\n")
        if self.format is not None:
            check_format(self.format)
        return read_task(source, **{n: v for n, v in given.items() if n not in _OF_READY})


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The options that select an engine; each field is a flag."""

    engine: str = setting(
        "transformers", f"Engine: one of {', '.join(ENGINES)}.", _ENGINE, complete=ENGINES
    )
    device: str | None = setting(
        None, "Device: cpu, cuda, cuda:1, ... (transformers, ray)", _ENGINE
    )
    batch_size: int | None = setting(
        None, "Number of answers to generate at a time (transformers, ray).", _ENGINE
    )
    api_base: str | None = setting(None, "Address of the server (openai, litellm).", _ENGINE)
    concurrency: int | None = setting(
        None, "Maximum number of requests at a time (openai, litellm).", _ENGINE
    )
    rpm: int | None = setting(
        None, "Maximum number of requests per minute (openai, litellm).", _ENGINE
    )
    tpm: int | None = setting(
        None, "Maximum number of tokens per minute (openai, litellm).", _ENGINE
    )
    template_option: list[str] | None = setting(None, TEMPLATE_OPTION_HELP, _ENGINE)
    engine_option: list[str] | None = setting(
        None,
        "Another option of the engine as NAME=VALUE, with the value in YAML or JSON: "
        """-o send_seed=false, -o extra_body='{"top_k": 20}'.""",
        _ENGINE,
        names=["--engine-option", "-o"],
    )

    def load(self, model: str) -> Engine:
        """Load the engine with a model, and print which template options it uses."""
        loaded = load_engine(self.engine, model=model, **self.values())
        tokenizer = getattr(loaded, "tokenizer", None)
        if tokenizer is not None and (note := thinking_note(tokenizer)):
            messages.print(f"{model}: {note}", markup=False, soft_wrap=True)
        return loaded

    def values(self) -> dict[str, Any]:
        """Return the options of the engine that were given.

        Raises:
            InputError: An option is not of the form `NAME=VALUE`, or its value is not YAML.
        """
        values = {**vars(self)}
        more, template = (values.pop(name) or [] for name in ("engine_option", "template_option"))
        del values["engine"]
        options = {name: value for name, value in values.items() if value is not None}
        if template:
            options["template_options"] = parse_assignments(template, "--template-option")
        return options | parse_assignments(more, "--engine-option")


JUDGE_HELP: Final = (
    "Model that judges each {what} which passes all other checks: another model for the same "
    "engine, ENGINE:MODEL, or URL#MODEL of an OpenAI-compatible server."
)


def load_judge(judge: str, by: EngineOptions) -> Engine:
    """Load the engine of a judge.

    Args:
        judge: `MODEL` for the engine of the command, `ENGINE:MODEL`, or `URL#MODEL`.
        by: Engine of the command.

    Raises:
        InputError: A URL names no model, or the model does not exist.
    """
    if "://" in judge:
        base, _, model = judge.partition("#")
        if not model:
            raise InputError(f"--judge {judge} names no model: give URL#MODEL")
        return load_engine("openai", model=model, api_base=base)
    engine, colon, model = judge.partition(":")
    if colon and engine in ENGINES:
        return load_engine(engine, model=model)
    return by.load(judge)


def model_option() -> Any:
    """Return the declaration of `--model`."""
    help = "Embedded model's name, folder, .gguf file, or Hub id; for APIs the model's name."
    return option(DEFAULT_MODEL, help, _ENGINE, complete=[DEFAULT_MODEL])
