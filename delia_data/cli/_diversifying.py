"""What `delia diversify` is asked for, and what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.cli._console import step
from delia_data.cli._engine_options import engine_options
from delia_data.diversify import (
    Anisotropy,
    Author,
    Embed,
    Gatekeeper,
    GateResult,
    WordingRun,
    choose,
    diversify,
    measure,
    read_wordings,
    save_task_rows,
    set_aside,
    write_wordings,
)
from delia_data.diversify.folder import WRITTEN, check_task_folder
from delia_data.diversify.writing import WORDING_SAMPLING
from delia_data.engines import load_engine
from delia_data.errors import InputError
from delia_data.mixing import TaskRows
from delia_data.tasks import Task, Wording, ready_wordings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUNDLED: Final = "bundled"
MODEL: Final = "model"
_WORDINGS: Final = 40
_TRIES: Final = 20  # for each wording
_SPARE: Final = 4  # one more than asked for, for each so many, so that there is a choice


@dataclass(frozen=True)
class Diversified:
    """What came of it."""

    rows: TaskRows
    gates: GateResult
    run: WordingRun | None
    anisotropy: Anisotropy | None


@dataclass(frozen=True, kw_only=True)
class Diversifying:
    """All that is asked for beside the task, under the names of the options."""

    out: Path
    wordings_from: str | None
    wordings: int | None
    tries: int | None
    times: int
    held_out_share: float
    tokenizer: str | None
    embeddings: bool
    any_language: bool
    lenient: bool
    engine: str
    model: str
    device: str | None
    batch_size: int | None
    api_base: str | None
    concurrency: int | None
    rpm: int | None
    tpm: int | None
    engine_option: Sequence[str] | None
    temperature: float
    seed: int

    @classmethod
    def of(cls, given: dict[str, Any]) -> Diversifying:
        """Take the options among all of a command's."""
        return cls(**{name: given[name] for name in cls.__dataclass_fields__})

    def run(self, task: Task) -> Diversified:
        """Find wordings, check them, choose among them, and write the task folder.

        Raises:
            InputError: An option is wrong, or too few wordings pass.
        """
        if self.wordings is not None and self.wordings < 1:
            raise InputError(f"--wordings {self.wordings} is too few: give at least 1")
        bundled = ready_wordings(task.name, task.token)
        source = self.wordings_from or (BUNDLED if bundled else MODEL)
        if self.wordings is not None and source != MODEL and not self.embeddings:
            raise InputError("--wordings chooses by embeddings: leave --no-embeddings out")
        written = None
        embed = self._embed(source)
        if source == MODEL:
            written = self._write(task, embed)
            gates = written.gates
        else:
            if source == BUNDLED and not bundled:
                raise InputError(
                    f"no wordings for task {task.name} are bundled: let a model write them "
                    "(--wordings-from model), or give a file of yours"
                )
            gates = self._keeper(task, embed).judge_all(
                bundled if source == BUNDLED else read_wordings(source)
            )
        return self._finish(task, gates, written, embed)

    def _finish(
        self, task: Task, gates: GateResult, written: WordingRun | None, embed: Embed | None
    ) -> Diversified:
        count = self.wordings if written is None else self._count
        if task.test and all(wording.split == "train" for wording in gates.accepted):
            aside = set_aside(gates.accepted, task.token, share=self.held_out_share, seed=self.seed)
            gates = replace(gates, accepted=aside)
        if not task.test:
            gates = replace(gates, accepted=tuple(_trained(w) for w in gates.accepted))
        if count is not None and embed is not None:
            gates = choose(task, gates, count, embed)
        rows = diversify(task, gates.accepted, seed=self.seed)
        anisotropy = None
        if embed is not None:
            anisotropy = measure(task, gates.accepted, embed, seed=self.seed)
        details: dict[str, Any] = {}
        if anisotropy is not None:
            details["spread"] = anisotropy.as_dict()
        if written is not None:
            details["writing"] = written.as_dict()
        save_task_rows(self.out, rows, task, seed=self.seed, gates=gates, details=details)
        return Diversified(rows, gates, written, anisotropy)

    @property
    def _count(self) -> int:
        return self.wordings or _WORDINGS

    def _write(self, task: Task, embed: Embed | None) -> WordingRun:
        author = Author(task, seed=self.seed, times=self.times)
        check_task_folder(self.out)
        tries = self.tries or _TRIES * self._count
        sampling = replace(WORDING_SAMPLING, temperature=self.temperature)
        named = {
            "device": self.device,
            "batch_size": self.batch_size,
            "api_base": self.api_base,
            "concurrency": self.concurrency,
            "rpm": self.rpm,
            "tpm": self.tpm,
        }
        options = engine_options(named, self.engine_option or ())
        keeper = self._keeper(task, embed, author)
        spare = 0 if embed is None else self._count // _SPARE
        with (
            closing(load_engine(self.engine, model=self.model, **options)) as engine,
            step("writing wordings") as update,
        ):
            return write_wordings(
                engine,
                author,
                keeper,
                self.out / WRITTEN,
                count=self._count,
                tries=tries,
                spare=spare,
                sampling=sampling,
                on_progress=lambda kept, tried: update(
                    kept, self._count + spare, f"{tried} of {tries} tries"
                ),
            )

    def _keeper(self, task: Task, embed: Embed | None, author: Author | None = None) -> Gatekeeper:
        detect = None
        if author is not None and not self.any_language:
            from delia_data.sampling.filters import load_detector

            detect = load_detector()
        return Gatekeeper(
            task,
            embed=embed,
            tokenizer=self._tokenizer(author),
            detect=detect,
            times=self.times,
            examples=() if author is None else author.examples,
            strict=author is not None and not self.lenient,
        )

    def _tokenizer(self, author: Author | None) -> PreTrainedTokenizerBase | None:
        """The tokenizer that was named; else that of a model which writes here."""
        from delia_data.models import load_tokenizer

        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        return load_tokenizer(self.model) if author and self.engine == "transformers" else None

    def _embed(self, source: str) -> Embed | None:
        """The embeddings; bundled wordings are known to pass, and need them to be chosen alone."""
        if not self.embeddings or (source == BUNDLED and self.wordings is None):
            return None
        from delia_data.sampling.embeddings import Embedder

        return Embedder.load()


def _trained(wording: Wording) -> Wording:
    """A task without held-out rows trains on every wording."""
    return replace(wording, split="train")
