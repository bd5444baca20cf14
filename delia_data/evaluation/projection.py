"""Random projection of gradients, so that those of many rows fit into memory together.

A count sketch (Charikar, Chen and Farach-Colton 2002; Weinberger et al. 2009, feature hashing):
every coordinate is added to one of `dimensions` places, with a random sign.

    gradient    0.3  -1.2   0.7   0.1   2.0  ...        millions of numbers
    place         5     2     5     0     2             drawn anew from the seed, block by block
    sign          +     -     +     -     +
    sketch      -0.1   0   3.2   0   0   1.0  ...       `dimensions` numbers

It is linear, so that the sketch of a mean is the mean of the sketches, and keeps inner products:
the estimate of <x, y> is unbiased, its variance at most (|x|^2 |y|^2 + <x, y>^2) / dimensions. With
4,096 dimensions a norm is off by 1.1% and a cosine by at most 0.022 (one standard deviation).
Signs and places are never kept: beside the gradient itself, memory holds one block of them, about
40 MB, and the sketch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from delia_data.errors import InputError
from delia_data.ranking import row_seed

if TYPE_CHECKING:
    import torch

_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Projection:
    """A random linear map to a few thousand dimensions.

    Attributes:
        dimensions: Numbers of a sketch.
        seed: Seed of places and signs; equal seeds give equal maps on every device.

    Raises:
        InputError: There are fewer than 2 dimensions.
    """

    dimensions: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimensions < 2:
            raise InputError(f"{self.dimensions} dimensions hold no projection: give thousands")

    def __call__(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Project a vector that comes in parts, such as one gradient a parameter.

        Args:
            parts: The parts, of any shape; the order and the shapes belong to the map.

        Returns:
            float32, of shape (dimensions,), on the device of the first part.
        """
        import torch

        device = parts[0].device
        sketch = torch.zeros(self.dimensions, device=device)
        generator = torch.Generator()
        for number, part in enumerate(parts):
            flat = part.detach().reshape(-1)
            for start in range(0, flat.numel(), _BLOCK):
                block = flat[start : start + _BLOCK].to(device, torch.float32)
                generator.manual_seed(row_seed(self.seed, f"{number}:{start}", "projection"))
                drawn = torch.randint(2 * self.dimensions, (len(block),), generator=generator)
                places, signs = drawn // 2, drawn % 2 * 2 - 1
                sketch.index_add_(0, places.to(device), block * signs.to(device))
        return sketch
