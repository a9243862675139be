"""The network of MEND: keys and deltas of one layer shape in, better ones out.

Mitchell, Lin, Bosselut, Finn, Manning: "Fast Model Editing at Scale", ICLR 2022,
https://arxiv.org/abs/2110.11309, section 3.1 and the authors' code
(https://github.com/eric-mitchell/mend). Where paper and code differ this follows the code: the
second factor starts from N(0, 1) and both blocks have a bias.
"""

# n rows, d_in/d_out widths of the layer, D = d_in + d_out, r rank, L layers of this shape

from __future__ import annotations

import torch
from torch import Tensor, nn

from editors.editor import one_of
from editors.meta_learning.normaliser import Normaliser

SIDES = ("both", "separate", "keys", "deltas", "smaller")
INITS = ("identity", "xavier")


class Block(nn.Module):
    """``h + max(0, s_l * (A B h + b) + o_l)``; s and o (FiLM) belong to layer l, the rest to all.

    With ``init="identity"`` A is 0, so that h comes out as it went in; with ``"xavier"`` (an
    ablation of the paper) there is no residual connection.
    """

    def __init__(self, width: int, layers: int, rank: int, init: str):
        super().__init__()
        rank = min(rank, width)
        self.residual = init == "identity"
        self.a = nn.Parameter(torch.zeros(width, rank))
        self.b = nn.Parameter(torch.randn(rank, width))
        if init == "xavier":
            nn.init.xavier_uniform_(self.a, gain=nn.init.calculate_gain("relu"))
            nn.init.xavier_uniform_(self.b)
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(layers, width))
        self.shift = nn.Parameter(torch.zeros(layers, width))

    def forward(self, h: Tensor, layer: int) -> Tensor:
        """``[n, width] -> [n, width]``."""
        linear = torch.addmm(self.bias, h @ self.b.T, self.a.T)
        # clamp, not relu: its slope at exactly 0 is 1, and everything starts at 0
        active = torch.addcmul(self.shift[layer], linear, self.scale[layer]).clamp(min=0)
        return h + active if self.residual else active


class Chain(nn.ModuleList):
    """Blocks one after another."""

    def forward(self, h: Tensor, layer: int) -> Tensor:
        """``[n, width] -> [n, width]``."""
        for block in self:
            h = block(h, layer)
        return h


class Transform(nn.Module):
    """The map from keys and deltas to pseudo keys and deltas, for the layers of one shape.

    Args:
        d_in: width of the keys.
        d_out: width of the deltas.
        layers: number of layers that share the network, each with its own FiLM row.
        rank: of the blocks' linear maps, at most their width.
        blocks: number of blocks.
        init: ``"identity"`` or ``"xavier"``.
        sides: ``"both"`` concatenated through one network (the paper's choice), ``"separate"``
            networks, or only ``"keys"``, only ``"deltas"``, or only the ``"smaller"`` of them.
        normalise: standardise keys and deltas before.
        floor: see `Normaliser`.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        layers: int,
        *,
        rank: int = 1920,
        blocks: int = 2,
        init: str = "identity",
        sides: str = "both",
        normalise: bool = True,
        floor: float = 0.0,
    ):
        super().__init__()
        one_of("sides", sides, SIDES)
        one_of("init", init, INITS)
        if sides == "smaller":
            sides = "keys" if d_in <= d_out else "deltas"
        widths = {
            "both": {"both": d_in + d_out},
            "separate": {"key": d_in, "delta": d_out},
            "keys": {"key": d_in},
            "deltas": {"delta": d_out},
        }[sides]
        self.nets = nn.ModuleDict(
            {
                side: Chain(Block(width, layers, rank, init) for _ in range(blocks))
                for side, width in widths.items()
            }
        )
        self.key_statistics = Normaliser(d_in, floor) if normalise else None
        self.delta_statistics = Normaliser(d_out, floor) if normalise else None

    def collect(self, keys: Tensor, deltas: Tensor, gather: bool = False) -> None:
        """Take rows ``[n, d_in]``, ``[n, d_out]`` into the statistics; see `Normaliser.update`."""
        if self.key_statistics is not None:
            self.key_statistics.update(keys, gather)
            self.delta_statistics.update(deltas, gather)

    @property
    def observed(self) -> bool:
        """Whether there are statistics, or none are needed."""
        return self.key_statistics is None or int(self.key_statistics.count) > 1

    def forward(self, keys: Tensor, deltas: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Pseudo keys ``[n, d_in]`` and deltas ``[n, d_out]`` of the group's ``layer``-th layer."""
        if self.key_statistics is not None:
            keys, deltas = self.key_statistics(keys), self.delta_statistics(deltas)
        if "both" in self.nets:
            together = self.nets["both"](torch.cat([keys, deltas], -1), layer)
            return tuple(together.split([keys.shape[-1], deltas.shape[-1]], -1))
        if "key" in self.nets:
            keys = self.nets["key"](keys, layer)
        if "delta" in self.nets:
            deltas = self.nets["delta"](deltas, layer)
        return keys, deltas
