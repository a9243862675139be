"""Atlas as a datamodule: the embedded world, the default."""

from __future__ import annotations

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
        depth: whether val and test also ask the questions of `datamodules.depth`.
        options: as EditingData takes them.
    """

    name = "atlas"

    def __init__(self, *, variants: int = 4, depth: bool = False, **options):
        super().__init__(**options)
        self.variants = variants
        self.depth = depth

    def load(self) -> dict[str, list[Record]]:
        """Writes the records of all splits; the same ones every time."""
        world = World()
        return {
            split: RecordWriter(world, split, SEED, depth).records(variants)
            for split, variants, depth in (
                ("train", self.variants, False),
                ("val", 1, self.depth),
                ("test", 1, self.depth),
            )
        }
