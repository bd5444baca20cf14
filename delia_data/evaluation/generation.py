"""Open a system to evaluate, and generate its answers to the rows of probes; a rerun resumes.

    folder/
        asking.json      settings that the answers depend on: engine, model, prompts, max_tokens
        answers.jsonl    one line per answer, appended as soon as it is generated

An answered question is never asked again: not after a kill, not for another probe, not for more
rows. The untrained model's answers are in the same log, under its name. Decoding is greedy
(temperature 0).

A system comes with the untrained model to compare it with:

    adapter     one loaded model: the trained answers with the adapter, the untrained ones without
    any other   the model, and the untrained model or its evaluation if one is given
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from delia_data.engines import Completion, Engine, Request, Sampling, load_engine
from delia_data.engines.base import with_parts
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import EngineError, InputError, TokenError, UnfinishedError
from delia_data.evaluation.probes import Probe
from delia_data.models import load_model, load_tokenizer, widen
from delia_data.outputs import (
    LOCK,
    MANIFEST,
    JsonlLog,
    check_folder_is_ours,
    check_same_settings,
    folder_lock,
    is_finished,
    read_manifest,
    weights_sha256,
    write_json,
)
from delia_data.ranking import row_seed
from delia_data.records import Message, content_id
from delia_data.tokens import render_ids, set_template_options, split_tokens, thinking_note

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


ASKING: Final = "asking.json"
ANSWERS: Final = "answers.jsonl"
_MOST_FAILURES: Final = 16  # failed questions after which the run stops

PromptBuilder: TypeAlias = Callable[[Sequence[Message], str], tuple[Message, ...]]
"""Takes the turns of a probe and the row's query without a wording, and returns the turns to send.
Baselines without training use one."""

MODEL: Final = "model"
UNTRAINED: Final = "untrained"
INSTRUCTED: Final = "instructed"
SYSTEMS: Final = {
    MODEL: "model",
    UNTRAINED: "untrained",
    INSTRUCTED: "untrained, full instruction",
}
"""Titles of the evaluated system and of its two bounds: the untrained model, and the untrained
model that is given the full instruction in place of the token."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of `answers.jsonl`.

    Attributes:
        id: Content id of the turns that were sent.
        text: The answer.
        tokens: Tokens of the answer; 0 if the engine does not count them.
        cut: Whether the answer was cut off at `max_tokens`.
        system: `MODEL` or `UNTRAINED`. Lines of earlier versions have none: they are of `MODEL`.
    """

    id: str
    text: str
    tokens: int
    cut: bool
    system: str = MODEL


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One request of a probe with its answers.

    Attributes:
        probe: Name of the probe.
        id: Content id of the row.
        question: The last user turn.
        source: The row's query without a wording.
        expected: The row's own answer; empty for requests that are not of the task.
        answers: The answers by system, of `SYSTEMS`.
        cut: Systems whose answer was cut off at `max_tokens`.
        constraints: Constraints on the answer, for the probe `general`.
    """

    probe: str
    id: str
    question: str
    source: str
    expected: str
    answers: Mapping[str, str]
    cut: tuple[str, ...] = ()
    constraints: Mapping[str, Any] = field(default_factory=dict)


def answer_log(path: Path) -> JsonlLog[Answer]:
    """Return the log of answers in a file, which need not exist."""
    return JsonlLog(path, Answer, if_damaged="and its question is asked again")


def read_answer_log(path: Path, system: str = MODEL) -> dict[str, Answer]:
    """Read the answers of a system in a file by id.

    Raises:
        OutputError: A line is damaged.
    """
    return {a.id: a for a, *_ in answer_log(path).read() if a.system == system}


def generate_answers(
    engine: Engine,
    probes: Sequence[Probe],
    folder: str | os.PathLike[str],
    *,
    untrained: Engine | Mapping[str, Answer] | None = None,
    max_tokens: int = 96,
    max_thinking_tokens: int | None = None,
    build: PromptBuilder | None = None,
    prompts: str = "",
    locked: bool = False,
    reuse: Sequence[str | os.PathLike[str]] = (),
    on_progress: Callable[[float, float], None] = lambda done, of: None,
) -> list[AnsweredRow]:
    """Answer every request of every probe.

    Args:
        engine: The engine.
        probes: The probes.
        folder: Folder of the answers; a rerun generates only those that are missing.
        untrained: Engine of the untrained model, or its answers by the ids of prompts.
        max_tokens: Greatest number of tokens in an answer.
        max_thinking_tokens: Greatest number of tokens in the thoughts before it (`Sampling`).
        build: Changes the prompts of `engine`.
        prompts: Name of `build`; a folder holds answers to prompts of one name.
        locked: Whether the caller has checked and locked the folder.
        reuse: Folders of the same system's answers; equal requests take theirs.
        on_progress: Called with the number of questions done and in all. Equal questions count
            once.

    Returns:
        The answers, probe by probe, in the order of the rows.

    Raises:
        InputError: The probes have no rows.
        SettingsError: The folder, or one of `reuse`, holds answers of another model, or to other
            prompts.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process works in the folder.
        EngineError: Some questions failed; the other answers are kept.
    """
    root = Path(folder)
    if not locked:
        check_folder_is_ours(root, frozenset({ASKING, ANSWERS}), sign=LOCK)
    reference = None if isinstance(untrained, Mapping) else untrained
    rows = [(probe.name, row) for probe in probes for row in probe.rows]
    if not rows:
        raise InputError("the probes have no rows: give at least one")
    turns_of = {
        MODEL: [build(row.prompt, row.query) if build else row.prompt for _, row in rows],
        UNTRAINED: [row.prompt for _, row in rows],
        INSTRUCTED: [row.full for _, row in rows],
    }
    engines, wanted = {MODEL: engine}, {MODEL: _requests(turns_of[MODEL])}
    if reference is not None:
        engines[UNTRAINED] = reference
        wanted[UNTRAINED] = _requests([*turns_of[UNTRAINED], *turns_of[INSTRUCTED]])
    sampling = Sampling(0.0, 1.0, max_tokens, max_thinking_tokens)
    settings = {"system": engine.describe(), "prompts": prompts, "max_tokens": max_tokens}
    if max_thinking_tokens is not None:
        settings["max_thinking_tokens"] = max_thinking_tokens
    with nullcontext() if locked else folder_lock(root):
        _check_settings(root, settings, reference)
        for other in map(Path, reuse):
            earlier = json.loads((other / ASKING).read_text(encoding="utf-8"))
            check_same_settings(other, earlier, settings)
        files = [Path(other) / ANSWERS for other in reuse]
        answers: dict[str, Mapping[str, Answer]] = {}
        if isinstance(untrained, Mapping):
            answers[UNTRAINED] = untrained
        before, total = 0, sum(map(len, wanted.values()))
        for system, requests in wanted.items():
            answers[system] = _generate(
                engines[system],
                requests,
                system,
                partial(_report, on_progress, before, total),
                file=root / ANSWERS,
                reuse=files,
                sampling=sampling,
            )
            before += len(requests)
    answers[INSTRUCTED] = answers.get(UNTRAINED, {})
    answered = []
    for number, (name, row) in enumerate(rows):
        by_system = {
            system: answer
            for system in SYSTEMS
            if (turns := turns_of[system][number])
            and (answer := answers.get(system, {}).get(content_id(turns)))
        }
        answered.append(
            AnsweredRow(
                probe=name,
                id=row.id,
                question=next(
                    t.content for t in reversed(turns_of[MODEL][number]) if t.role == "user"
                ),
                source=row.query,
                expected=row.expected,
                answers={system: answer.text for system, answer in by_system.items()},
                cut=tuple(system for system, answer in by_system.items() if answer.cut),
                constraints=row.constraints,
            )
        )
    return answered


def _report(
    on_progress: Callable[[float, float], None], before: int, total: int, done: float
) -> None:
    on_progress(before + done, total)


def _check_settings(root: Path, settings: dict[str, Any], reference: Engine | None) -> None:
    """Refuse other settings than those of earlier answers, and write them down.

    A reference may be added to a folder that has none.
    """
    file = root / ASKING
    earlier = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if reference is not None:
        settings[UNTRAINED] = reference.describe()
    elif UNTRAINED in earlier:
        settings[UNTRAINED] = earlier[UNTRAINED]
    if earlier:
        check_same_settings(root, {UNTRAINED: settings.get(UNTRAINED), **earlier}, settings)
    write_json(file, settings)


def _requests(prompts: Sequence[tuple[Message, ...]]) -> list[Request]:
    """Return a request for each prompt, once; a prompt without turns is left out."""
    by_id = {content_id(turns): turns for turns in prompts if turns}
    return [Request(key, turns, row_seed(0, key, "evaluate")) for key, turns in by_id.items()]


def _generate(
    engine: Engine,
    requests: Sequence[Request],
    system: str,
    on_progress: Callable[[float], None],
    *,
    file: Path,
    reuse: Sequence[Path],
    sampling: Sampling,
) -> dict[str, Answer]:
    failed: list[Completion] = []
    answers = read_answer_log(file, system)
    reusable = {
        key: answer for other in reuse for key, answer in read_answer_log(other, system).items()
    }
    shared = {r.id: reusable[r.id] for r in requests if r.id in reusable and r.id not in answers}
    answers |= shared
    missing = [request for request in requests if request.id not in answers]
    done = len(requests) - len(missing)
    show_done = with_parts(engine, len(requests), on_progress)
    show_done(done)

    def stream() -> Iterator[Request]:
        for request in missing:
            if len(failed) >= _MOST_FAILURES:
                return
            yield request

    with answer_log(file) as log:
        if shared:
            log.append(*shared.values())
        for completion in engine.generate(stream(), sampling) if missing else ():
            if completion.finish == "error":
                failed.append(completion)
                continue
            cut = completion.finish == "length"
            answer = Answer(completion.id, completion.text, completion.tokens, cut, system)
            log.append(answer)
            answers[answer.id] = answer
            done += 1
            show_done(done)
    if failed:
        raise EngineError(
            f"{len(failed)} questions failed, the last one because of {failed[-1].error}: "
            f"fix the cause and rerun; only the {len(requests) - done} missing questions are asked"
        )
    return answers


class SwitchedOffEngine(TransformersEngine):
    """A trained model with the training switched off: it answers with its weights from before.

    The weights that training changed are held twice. An adapter that is not merged would not need
    that, but generates at a third of the speed on CPUs.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
    ) -> None:
        """Wrap a trained model, which a `TransformersEngine` may use as well.

        Args:
            folder: Folder that `delia train` wrote.
            model: Its model, loaded with the adapter merged.
            tokenizer: Its tokenizer.
            batch_size: Number of answers to generate at a time.
        """
        from delia_data.training.adapter import adapter_settings
        from delia_data.training.loading import load_prepared

        super().__init__(model, tokenizer, batch_size=batch_size)
        settings, device = adapter_settings(folder), str(model.device)
        before = widen(load_prepared(settings, tokenizer, device=device, whole=True))
        weights = dict(before.named_parameters())
        self._changed = [
            (weight, weights[name])
            for name, weight in model.named_parameters()
            if not weight.equal(weights[name])
        ]

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Exchange the changed weights of the model for those from before."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for ours, theirs in self._changed:
            ours.data, theirs.data = theirs.data, ours.data

    def describe(self) -> dict[str, Any]:
        """Name the engine and identify the untrained model."""
        with self.switched_off():
            return super().describe()

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, with the training switched off."""
        with self.switched_off():
            yield from super().generate(requests, sampling)


@dataclass(frozen=True, slots=True)
class System:
    """A system to evaluate.

    Attributes:
        engine: Its engine.
        untrained: Engine of the untrained model, or the folder of its evaluation; None leaves the
            numbers unknown that need its answers.
        tokenizer: Tokenizer that counts the tokens of prompts; None leaves them unknown.
        tokens: Special tokens that an adapter was trained for; empty if unknown.
        notes: Notes for the reader.
        weights: Hash of the trained weights (`outputs.weights_sha256`); None if unknown.
    """

    engine: Engine
    untrained: Engine | Path | None = None
    tokenizer: Any = None
    tokens: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    weights: str | None = None

    def close(self) -> None:
        """Close the engines."""
        self.engine.close()
        if self.untrained is not None and not isinstance(self.untrained, Path):
            self.untrained.close()

    @property
    def models(self) -> tuple[TransformersEngine, TransformersEngine] | None:
        """Both engines if they run models here, whose distributions can be compared."""
        pair = (self.engine, self.untrained)
        if all(isinstance(one, TransformersEngine) for one in pair):
            return pair  # type: ignore[return-value]
        return None

    def switched_off(self) -> AbstractContextManager[Any]:
        """Return the context in which the untrained engine's model is untrained."""
        off = getattr(self.untrained, "switched_off", nullcontext)
        context: AbstractContextManager[Any] = off()
        return context

    def prompt_tokens(self, turns: Sequence[Message]) -> int:
        """Return the number of tokens of a prompt; needs a tokenizer."""
        return len(render_ids(self.tokenizer, [turn.as_dict() for turn in turns], generate=True))


_SERVERS: Final = ("openai", "litellm")
_ADAPTER: Final = ("adapter_config.json", "training.json")
_BATCH_SIZE: Final = 32


def open_system(
    model: str,
    engine: str,
    options: Mapping[str, Any],
    *,
    token: str,
    untrained: str | None = None,
    tokenizer: str | None = None,
) -> System:
    """Open a system to evaluate.

    Args:
        model: Folder of an adapter, or the engine's model.
        engine: Name of the engine.
        options: Options of the engine.
        token: The task's token.
        untrained: The untrained model as the engine takes it, or the folder of its finished
            evaluation. An adapter needs none: its model is untrained with the adapter off.
        tokenizer: Model whose tokenizer counts the tokens of prompts, for engines that load no
            model here.

    Raises:
        InputError: The model, the engine or an option cannot be used.
        TokenError: The adapter was trained for another token.
        UnfinishedError: The adapter's training, or the evaluation of the untrained model, is not
            finished.
    """
    is_adapter = _is_adapter(Path(model))
    reference: Engine | Path | None = None
    if untrained is not None and (Path(untrained) / ASKING).is_file():
        reference = Path(untrained)
        if not is_finished(reference) or not (reference / ANSWERS).is_file():
            raise UnfinishedError(
                f"{reference} is not a finished evaluation: run delia evaluate there again"
            )
    if engine != "transformers":
        if is_adapter:
            raise InputError(
                f"{model} is an adapter, and engine {engine} does not take one: merge it with "
                "delia export and give the result, or use --engine transformers"
            )
        counter = None
        if tokenizer is not None or engine not in (*_SERVERS, "mock"):
            counter = load_tokenizer(tokenizer or model, options.get("template_options"))
        loaded = load_engine(engine, model=model, **options)
        if untrained is not None and reference is None:
            reference = load_engine(engine, model=untrained, **options)
        notes = [] if engine == "mock" else _notes_on(counter, token)
        if engine in _SERVERS:
            notes = [f"unknown whether {token} is a single token of the served model"]
        return System(loaded, reference, counter, notes=notes, weights=_weights(model))
    given = dict(options)
    device, batch_size = given.pop("device", "cpu"), given.pop("batch_size", _BATCH_SIZE)
    template = given.pop("template_options", None)
    if given:
        raise InputError(f"engine 'transformers' has no option {', '.join(sorted(given))}")
    if is_adapter:
        if untrained is not None:
            raise InputError(
                f"{model} is an adapter, and its model with the adapter off is the untrained one: "
                "omit --untrained"
            )
        return open_adapter_system(
            model, token=token, device=device, batch_size=batch_size, template_options=template
        )

    def load(name: str) -> TransformersEngine:
        own = load_tokenizer(name, template)
        return TransformersEngine(load_model(name, device=device), own, batch_size=batch_size)

    mine = load(model)
    if untrained is not None and reference is None:
        if _is_adapter(Path(untrained)):
            raise InputError(f"{untrained} is an adapter: give its model as --untrained")
        reference = load(untrained)
    notes = _notes_on(mine.tokenizer, token)
    return System(mine, reference, mine.tokenizer, notes=notes, weights=_weights(model))


def open_adapter_system(
    folder: str | os.PathLike[str],
    *,
    token: str,
    device: str = "cpu",
    batch_size: int = _BATCH_SIZE,
    template_options: Mapping[str, Any] | None = None,
) -> System:
    """Open a trained adapter, and its model with the training switched off as the untrained one.

    Args:
        folder: Folder that `delia train` wrote.
        token: The task's token.
        device: Device of the model.
        batch_size: Number of answers to generate at a time.
        template_options: Options for the chat template besides those of the training.

    Raises:
        TokenError: The adapter was trained for another token.
        UnfinishedError: The training is not finished.
    """
    from delia_data.training.adapter import adapter_settings, load_adapter

    tokens = adapter_settings(folder).tokens
    if token not in tokens:
        raise TokenError(
            f"{folder} was trained for {', '.join(tokens)}, and the task's token is {token}: "
            "give the task that it was trained on"
        )
    model, tokenizer = load_adapter(folder, device=device)
    set_template_options(tokenizer, template_options)
    off = SwitchedOffEngine(folder, model, tokenizer, batch_size=batch_size)
    engine = TransformersEngine(model, tokenizer, batch_size=batch_size)
    notes = _notes_on(tokenizer, token)
    return System(engine, off, tokenizer, tokens, notes, _weights(folder))


def _weights(folder: str | os.PathLike[str]) -> str | None:
    return weights_sha256(read_manifest(folder)) if is_finished(folder) else None


def _is_adapter(folder: Path) -> bool:
    if (folder / MANIFEST).is_file():
        return read_manifest(folder).kind == "adapter"
    return any((folder / name).is_file() for name in _ADAPTER)


def _notes_on(tokenizer: Any, token: str) -> list[str]:
    """Return notes on a token in a model that is loaded with a tokenizer."""
    pieces = len(tokenizer.encode(token, add_special_tokens=False))
    thinking = thinking_note(tokenizer)
    unknown = f"{token} is not a token of this model, which reads it as {pieces} tokens"
    return [
        *([unknown] if pieces != len(split_tokens(token)) else []),
        *([thinking] if thinking else []),
    ]
