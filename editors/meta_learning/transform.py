"""The network of MEND: keys and deltas of one layer shape in, better ones out.

Mitchell, Lin, Bosselut, Finn, Manning: "Fast Model Editing at Scale", ICLR 2022,
https://arxiv.org/abs/2110.11309, section 3.1 and the authors' code
(https://github.com/eric-mitchell/mend). Where paper and code differ this follows the code: the
second factor starts from N(0, 1) and both blocks have a bias. MALMEN (Tan et al., ICLR 2024,
https://arxiv.org/abs/2311.04661) takes the same network, with the layers' own scale and shift
behind the nonlinearity (``film="after"``).
"""

# n rows, d_in/d_out widths of the layer, D = d_in + d_out, r rank, L layers of this shape

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from editors.meta_learning.factors import Factors
from editors.meta_learning.normaliser import Normaliser
from editors.settings import one_of

SIDES = ("both", "separate", "keys", "deltas", "smaller")
INITS = ("identity", "xavier")
FILM = ("before", "after")
STD_FLOOR = 1e-6  # of frozen statistics, as a share of the median standard deviation


class Block(nn.Module):
    """``h + max(0, s_l * (A B h + b) + o_l)``; s and o (FiLM) belong to layer l, the rest to all.

    With ``film="after"`` it is ``h + s_l * max(0, A B h + b) + o_l``.

    With ``init="identity"`` A is 0, so that h comes out as it went in; with ``"xavier"`` (an
    ablation of the paper) there is no residual connection.
    """

    def __init__(self, width: int, layers: int, rank: int, init: str, film: str = "before"):
        super().__init__()
        rank = min(rank, width)
        self.film = film
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
        if self.film == "before":
            active = torch.addcmul(self.shift[layer], linear, self.scale[layer]).clamp(min=0)
        else:
            active = torch.addcmul(self.shift[layer], linear.clamp(min=0), self.scale[layer])
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
        film: where a layer's scale and shift are applied, ``"before"`` or ``"after"`` the
            nonlinearity.
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
        film: str = "before",
        normalise: bool = True,
        floor: float = 0.0,
    ):
        super().__init__()
        one_of("sides", sides, SIDES)
        one_of("init", init, INITS)
        one_of("film", film, FILM)
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
                side: Chain(Block(width, layers, rank, init, film) for _ in range(blocks))
                for side, width in widths.items()
            }
        )
        self.key_statistics = Normaliser(d_in, floor) if normalise else None
        self.delta_statistics = Normaliser(d_out, floor) if normalise else None

    def collect(self, keys: Tensor, deltas: Tensor, gather: bool = False) -> None:
        """Take rows ``[n, d_in]``, ``[n, d_out]`` into the statistics; see `Normaliser.update`."""
        if self.key_statistics is not None and self.delta_statistics is not None:
            self.key_statistics.update(keys, gather)
            self.delta_statistics.update(deltas, gather)

    @property
    def observed(self) -> bool:
        """Whether statistics have been collected, or none are needed."""
        return self.key_statistics is None or int(self.key_statistics.count) > 1

    def forward(self, keys: Tensor, deltas: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Pseudo keys ``[n, d_in]`` and deltas ``[n, d_out]`` of the group's ``layer``-th layer."""
        if self.key_statistics is not None and self.delta_statistics is not None:
            keys, deltas = self.key_statistics(keys), self.delta_statistics(deltas)
        if "both" in self.nets:
            both = self.nets["both"](torch.cat([keys, deltas], -1), layer)
            keys, deltas = both.split([keys.shape[-1], deltas.shape[-1]], -1)
            return keys, deltas
        if "key" in self.nets:
            keys = self.nets["key"](keys, layer)
        if "delta" in self.nets:
            deltas = self.nets["delta"](deltas, layer)
        return keys, deltas


class Transforms(nn.ModuleDict):
    """A transform for each shape among some layers, or with ``shared=False`` for each layer.

    Args:
        shapes: ``(d_in, d_out)`` of each layer, by name.
        shared: layers of the same shape share a network and statistics.
        settings: see `Transform`.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], shared: bool = True, **settings: Any):
        super().__init__()
        groups: dict[Hashable, list[str]] = {}
        for layer, shape in shapes.items():
            groups.setdefault(shape if shared else layer, []).append(layer)
        self._place = {}  # layer -> its transform, and its turn in it
        for name, group in zip(map(str, range(len(groups))), groups.values(), strict=True):
            self[name] = Transform(*shapes[group[0]], len(group), **settings)
            self._place |= {layer: (name, turn) for turn, layer in enumerate(group)}

    def of(self, layer: str) -> Transform:
        """The layer's transform."""
        return cast(Transform, self[self._place[layer][0]])

    def forward(self, layer: str, keys: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo keys ``[n, d_in]`` and deltas ``[n, d_out]`` of rows of the layer."""
        name, turn = self._place[layer]
        return self[name](keys, deltas, turn)

    def observe(self, factors: Mapping[str, Factors], gather: bool = False) -> None:
        """Take all layers' rows into the statistics; see `Normaliser.update`."""
        for layer, rows in factors.items():
            self.of(layer).collect(rows.keys, rows.deltas, gather)

    @property
    def observed(self) -> bool:
        """Whether statistics have been collected wherever they are needed."""
        return all(transform.observed for transform in self.values())
