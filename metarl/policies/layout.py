"""Parameters as flat vectors: the position of each tensor of a policy in ``[task, parameter]``."""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor


class Layout:
    """Named tensors, concatenated into one vector.

    Args:
        shapes: Name and shape of each tensor, in order.
    """

    def __init__(self, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self.names = [name for name, _ in shapes]
        self.shapes = [shape for _, shape in shapes]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.size = sum(self.sizes)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each tensor of ``flat`` [..., parameter] as a view [..., *shape]."""
        parts = flat.split(self.sizes, dim=-1)
        return [part.view(*part.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def tensor_index(self) -> Tensor:
        """Index of the tensor that each parameter belongs to, [parameter]."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))

    def members(self, names: Collection[str]) -> Tensor:
        """Whether each parameter belongs to one of the tensors called ``names``, [parameter]."""
        return torch.tensor([name in names for name in self.names])[self.tensor_index()]

    def row_index(self) -> Tensor:
        """Index of each parameter's row, counted over all tensors, [parameter]; each entry of a bias is a row.

        A tensor without dimensions is one row.
        """
        widths = torch.cat([torch.full(shape[:1] or (1,), math.prod(shape[1:])) for shape in self.shapes])
        return torch.repeat_interleave(torch.arange(len(widths)), widths)
