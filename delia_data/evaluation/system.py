"""Open a system to evaluate, and the untrained model to compare it with.

adapter     one loaded model: the trained answers with the adapter, the untrained ones without
any other   the model, and the untrained model or its evaluation if one is given
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.engines import Completion, Engine, Request, Sampling, load_engine
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import InputError, TokenError, UnfinishedError
from delia_data.evaluation.generation import ANSWERS, ASKING
from delia_data.models import load_model, load_tokenizer, widen
from delia_data.outputs import MANIFEST, is_finished, read_manifest, weights_sha256
from delia_data.records import Message
from delia_data.tokens import render_ids, set_template_options, split_tokens, thinking_note

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
