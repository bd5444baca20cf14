"""Writes what another trainer needs: its configuration, and the rows where it cannot read them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from delia_data._optional import require
from delia_data.errors import ForeignFolderError, InputError, TokenError
from delia_data.models import load_tokenizer, quiet
from delia_data.outputs import (
    Manifest,
    atomic_path,
    file_sha256,
    is_finished,
    read_manifest,
    write_text,
)
from delia_data.records import Format, Record, read_record, write_record
from delia_data.tokens import encode
from delia_data.training.data import open_source
from delia_data.training.exchange import axolotl, llama_factory, trl, unsloth
from delia_data.training.exchange.plan import ExchangePlan, Exchanger
from delia_data.training.loading import last_name, linear_names
from delia_data.training.settings import TrainSettings, rows_a_step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainerName = Literal["axolotl", "llama-factory", "trl", "unsloth"]
TRAINERS: Final[tuple[TrainerName, ...]] = get_args(TrainerName)
_MODULES: Final[dict[TrainerName, Exchanger]] = {
    "axolotl": cast(Exchanger, axolotl),
    "llama-factory": cast(Exchanger, llama_factory),
    "trl": cast(Exchanger, trl),
    "unsloth": cast(Exchanger, unsloth),
}
_ROWS: Final = "train.parquet"


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What was written.

    Attributes:
        files: The configuration's files.
        rows: File of the rows: the mixture's own, or one in a format that the trainer reads.
        command: What starts the training.
        notes: What the trainer cannot do of the settings.
    """

    files: tuple[Path, ...]
    rows: Path
    command: str
    notes: tuple[str, ...]


def write_config(
    trainer: TrainerName,
    mixture: str | os.PathLike[str],
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    settings: TrainSettings,
) -> Exchanged:
    """Write the configuration of another trainer for a mixture and a prepared model.

    Args:
        trainer: The trainer.
        mixture: Folder of a finished mixture.
        model: Folder that `prepare` wrote.
        folder: Where the files go; nothing that is there is overwritten with something else.
        settings: Rank, rates, lengths and all else that the trainer can take over; the model and
            the token are those of the folders.

    Raises:
        InputError: The trainer is unknown, or a folder holds something else than it should.
        TokenError: The model lacks a token that the mixture's task rows name.
        UnfinishedError: A folder has no finish marker.
        ForeignFolderError: A file of another content is there.
    """
    if trainer not in TRAINERS:
        raise InputError(f"trainer {trainer!r} is unknown: use one of {', '.join(TRAINERS)}")
    module, out = _MODULES[trainer], Path(folder).resolve()
    prepared = _prepared(Path(model))
    source = open_source(Path(mixture))
    if source.manifest is None:
        raise InputError(f"{mixture} is no mixture's folder: give what delia mix wrote")
    _check_tokens(source.tokens or [], prepared, model)
    rows, format = _rows(Path(mixture).resolve(), source.manifest, out, module.FORMATS)
    plan = _plan(settings, Path(model).resolve(), prepared, source.manifest, rows, format, out)
    texts = module.files(plan)
    for name, text in texts.items():
        _check_free(out / name, text)
    if rows.parent == out:
        _convert(source.rows, rows, format)
    for name, text in texts.items():
        write_text(out / name, text)
    files = tuple(out / name for name in texts)
    return Exchanged(files, rows, module.command(plan), tuple(module.notes(plan)))


def _prepared(model: Path) -> Manifest:
    if not is_finished(model) or "token_ids" not in (found := read_manifest(model)).details:
        raise InputError(
            f"{model} is not a prepared model: run delia prepare {model} my-model, and give that"
        )
    return found


def _check_tokens(tokens: Sequence[str], prepared: Manifest, model: Any) -> None:
    missing = [token for token in tokens if token not in prepared.details["token_ids"]]
    if missing:
        raise TokenError(
            f"{model} was prepared without {', '.join(missing)}, which the mixture's task rows "
            "name: prepare it with --token for each"
        )


def _rows(
    mixture: Path, manifest: Manifest, out: Path, formats: Sequence[Format]
) -> tuple[Path, Format]:
    """The mixture's own file where the trainer reads it, else one beside the configuration."""
    format: Format = manifest.settings["format"]
    if format in formats and (mixture / _ROWS).is_file():
        return mixture / _ROWS, format
    return out / f"train-{formats[0]}.jsonl", formats[0]


def _convert(rows: Iterable[dict[str, Any]], file: Path, format: Format) -> None:
    with atomic_path(file) as part:
        with part.open("w", encoding="utf-8") as lines:
            for row in rows:
                record = write_record(read_record(row), format)
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        if file.exists() and file_sha256(file) != file_sha256(part):
            raise _taken(file)


def _check_free(file: Path, text: str) -> None:
    if file.exists() and (not file.is_file() or file.read_text(encoding="utf-8") != text):
        raise _taken(file)


def _taken(file: Path) -> ForeignFolderError:
    return ForeignFolderError(
        f"{file} is there and holds something else: remove it, or give another folder"
    )


def _plan(
    settings: TrainSettings,
    model: Path,
    prepared: Manifest,
    mixture: Manifest,
    rows: Path,
    format: Format,
    out: Path,
) -> ExchangePlan:
    embedding, linear = _modules(model)
    count = mixture.rows["task"] + mixture.rows["cache"]
    batch = rows_a_step(count, settings)
    targets = linear if settings.targets == ("all-linear",) else settings.targets
    tokenizer = load_tokenizer(model)
    return ExchangePlan(
        settings=replace(settings, batch_size=batch, targets=targets),
        model=model,
        token_ids=prepared.details["token_ids"],
        embedding=embedding,
        end_of_turn=_end_of_turn(tokenizer),
        eos=str(tokenizer.eos_token),
        family=_family(tokenizer),
        system_turns=_takes_system(tokenizer),
        rows=rows,
        format=format,
        out=out,
    )


def _modules(model: Path) -> tuple[str, tuple[str, ...]]:
    """Names of the input embedding and of the linear layers, without the weights themselves."""
    torch = require("torch", extra="local")
    transformers = require("transformers", extra="local")
    with torch.device("meta"), quiet():
        config = transformers.AutoConfig.from_pretrained(model)
        bare = transformers.AutoModelForCausalLM.from_config(config)
    return last_name(bare, bare.get_input_embeddings()), tuple(linear_names(bare))


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token with which the chat template ends an answer."""
    row = encode(tokenizer, Record.pair("Who?", "Nobody."), check_prompt=False)
    answer = [i for i, wanted in zip(row.ids, row.mask, strict=True) if wanted]
    added = tokenizer.added_tokens_decoder
    ends = [str(added[i].content) for i in answer if i in added]
    if not ends:
        raise InputError(
            f"{tokenizer.name_or_path}: the chat template ends an answer with no token of its own, "
            "so that nothing teaches the model to stop: use a model whose template does"
        )
    return ends[0]


def _family(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = str(tokenizer.chat_template)
    if "<start_of_turn>" in template:
        return "gemma"
    return "llama2" if "[INST]" in template and "<<SYS>>" in template else None


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        encode(
            tokenizer,
            Record.pair("Who?", "Nobody.", system="Be brief."),
            check_prompt=False,
        )
    except InputError:
        return False
    return True
