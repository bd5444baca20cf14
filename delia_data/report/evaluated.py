"""Evaluations, whichever command made them: `delia evaluate`, or a quickstart's two probings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delia_data.errors import InputError
from delia_data.evaluation.evaluate import read_evaluation
from delia_data.evaluation.generation import AnsweredRow
from delia_data.evaluation.probe import read_probe
from delia_data.evaluation.probes import EvalTask
from delia_data.evaluation.scores import Evaluation, ScoredRow, grade_answers, score
from delia_data.mixing import read_task_rows
from delia_data.outputs import canonical_json, is_finished
from delia_data.report.runs import Run, Runs

_PROBED = "held-out"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluated system.

    Attributes:
        label: What its run is called.
        scores: Its scores.
        rows: Its answers, row by row.
    """

    label: str
    scores: Evaluation
    rows: Sequence[ScoredRow]

    @property
    def about(self) -> tuple[str, str]:
        """Task and form of the answers: what two must share to be compared."""
        return self.scores.task, canonical_json(self.scores.form).decode()


def read_evaluated(runs: Runs) -> list[Evaluated]:
    """Read all evaluations among some runs.

    Raises:
        InputError: A quickstart's answers stand without its task.
    """
    return [
        Evaluated(run.label, *read_evaluation(run.folder))
        if run.kind == "evaluation"
        else _probed(run)
        for run in runs.of("evaluation", "probe")
    ]


def _probed(run: Run) -> Evaluated:
    """Read a quickstart's answers as an evaluation of its held-out rows."""
    folder = run.folder.parent / "task"
    if not is_finished(folder):
        raise InputError(
            f"{run.folder} holds answers of a quickstart, and its task is not beside it: give the "
            "quickstart's folder"
        )
    task, held_out = EvalTask.read(folder), read_task_rows(folder).test
    # The first row is the one that the quickstart prints, asked once more.
    _, *answers = read_probe(run.folder / "answers.jsonl")
    answered = [
        AnsweredRow(
            probe=_PROBED,
            id=asked.record.id,
            question=answer.question,
            plain=row.plain or "",
            source=asked.record.query,
            expected=answer.expected,
            with_token=answer.with_token,
            without_token=answer.without_token,
        )
        for row, asked, answer in zip(held_out, task.held_out, answers, strict=True)
    ]
    scored = grade_answers(task, answered)
    return Evaluated(run.label, score(scored, task), scored)
