"""How vLLM draws a row's tokens with numbers of the row's own.

On a GPU its `seed` does: the noise of a token follows from the seed, the token's place and its id,
whatever the batch. On a CPU it does not: vLLM turns back a generator by its offset where a prompt
was computed in part, and a CPU's generator has none ("CPU Generator does not use offset"); and it
keeps 32 bits of the seed, so that of a million rows a hundred pairs would share one. There vLLM is
asked for the likeliest token, and a logits processor, `PICKER`, makes that the one that is drawn.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from delia_data.engines._draws import draw, pick
from delia_data.engines.base import Sampling

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

PICKER: Final = f"{__name__}:RowPicker"
"""What vLLM's `logits_processors` takes; the class is made when it is asked for."""

_KEY: Final = "delia"


def sampling_arguments(sampling: Sampling, seed: int, end: int, *, picks: bool) -> dict[str, Any]:
    """What vLLM's `SamplingParams` takes for one row.

    Args:
        sampling: How answers are drawn.
        seed: Seed of the row.
        end: Id of the token that ends an answer; those of the model's own settings do as well.
        picks: Whether the engine has our `PICKER`.
    """
    arguments: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": [end],
        "detokenize": False,
    }
    if sampling.temperature == 0:
        return {**arguments, "temperature": 0.0}
    if picks:
        how = {"seed": seed, "temperature": sampling.temperature, "top_p": sampling.top_p}
        return {**arguments, "temperature": 0.0, "extra_args": {_KEY: how}}
    return {
        **arguments,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }


def too_long(prompt: int, most: int) -> str:
    """Why a prompt cannot be answered."""
    return (
        f"the prompt has {prompt} tokens, and prompt and answer may have {most}: raise "
        "max_model_len, or leave the row out"
    )


def __getattr__(name: str) -> Any:
    """Give `RowPicker`, whose base is vLLM's, without importing vLLM before."""
    if name == "RowPicker":
        return _row_picker()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _row_picker() -> type[LogitsProcessor]:
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class RowPicker(LogitsProcessor):  # type: ignore[misc]
        """Makes the token that a row draws the likeliest one.

        A row is known by its place in vLLM's batch, which changes; the tokens it has so far, by
        a list that vLLM extends.
        """

        def __init__(self, config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
            self.rows: dict[int, tuple[int, tuple[float, float], list[int]]] = {}

        @classmethod
        def validate_params(cls, sampling_params: SamplingParams) -> None:
            """Take any; those without our arguments are left alone."""

        def is_argmax_invariant(self) -> bool:
            """It is there to change what is likeliest."""
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            """Follow rows as they come, go and move."""
            process_dict_updates(
                self.rows, batch_update, lambda asked, _, answer: _how_to_draw(asked, answer)
            )

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            """Draw for each row of scores of shape (rows, vocabulary)."""
            alike: dict[tuple[float, float], list[int]] = {}
            for place, (_, how, _) in self.rows.items():
                alike.setdefault(how, []).append(place)
            for (temperature, top_p), places in alike.items():
                known = [self.rows[place] for place in places]
                draws = [draw(seed, len(answer)) for seed, _, answer in known]
                picked = pick(logits[places], draws, temperature, top_p)
                logits[places, picked.squeeze(1)] = float("inf")
            return logits

    return RowPicker


def _how_to_draw(
    parameters: SamplingParams, answer: list[int]
) -> tuple[int, tuple[float, float], list[int]] | None:
    """A row's seed, temperature and top-p, and tokens so far; None where it is not ours."""
    how = (parameters.extra_args or {}).get(_KEY)
    if not how:
        return None
    return int(how["seed"]), (float(how["temperature"]), float(how["top_p"])), answer
