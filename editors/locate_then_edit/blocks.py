"""Which blocks are edited where nobody says: a third up, as in the published settings."""

from __future__ import annotations

import math


def default_blocks(blocks: int, count: int = 1) -> list[int]:
    """Up to ``count`` blocks, from the lowest up; the last one is ``ceil(0.35 * blocks)``.

    Never the last of all, whose words at the subject do not reach the tokens after it.
    """
    last = max(0, min(math.ceil(0.35 * blocks), blocks - 2))
    return list(range(max(0, last + 1 - count), last + 1))
