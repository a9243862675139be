"""Atlas as a datamodule: the embedded world, the default."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.atlas.records import RecordWriter
from datamodules.atlas.world import World
from datamodules.editing import EditingData
from datamodules.records import Record

SEED = 2110  # of the records, so that everybody's test split asks the same questions


class AtlasData(EditingData):
    """Records about the embedded world.

    The subjects of the splits are written down in ``world.csv``. Test and val have one record for
    each editable fact.

    Args:
        variants: new objects per editable fact of the train split.
        unseen: relations of which train has no request, to see what an editor that is trained on
            the others does with them in val and test; as they are named in ``relations.yaml``.
        depth: whether val and test also ask the questions of `datamodules.depth`.
        options: as EditingData takes them.
    """

    name = "atlas"
    licence = "Apache-2.0; geography from GeoNames (CC BY 4.0) and CLDR (Unicode licence)"

    def __init__(
        self, *, variants: int = 4, unseen: Sequence[str] = (), depth: bool = False, **options
    ):
        super().__init__(**options)
        self.variants = variants
        self.unseen = tuple(unseen)
        self.depth = depth

    def load(self) -> dict[str, list[Record]]:
        """Writes the records of all splits; the same ones every time."""
        world = World()
        for name in self.unseen:
            if name not in world.relations:
                raise ValueError(f"unseen: no relation {name!r}; {', '.join(world.relations)}")
        return {
            split: RecordWriter(world, split, SEED, depth, unseen).records(variants)
            for split, variants, depth, unseen in (
                ("train", self.variants, False, self.unseen),
                ("val", 1, self.depth, ()),
                ("test", 1, self.depth, ()),
            )
        }
