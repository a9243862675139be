"""The benchmark asks about records that no editor may look at."""

import pytest
from fake_editors import Nothing

from datamodules.editing import EditingData
from datamodules.pool import Pool
from datamodules.records import Record, Request
from evaluation.tasks.benchmark import Benchmark


class Cities(EditingData):
    def __init__(self, train):
        super().__init__()
        self.train = train

    def load(self):
        return {"train": [record(city) for city in self.train], "test": [record("Rome")]}


def record(city):
    return Record(city, (Request(f"{city} is in", city, "Sweden"),))


class Begun(Exception):
    pass


def begin(*arguments, **options):
    raise Begun


def run(language_model, tmp_path, pool):
    task = Benchmark(data=Cities(["Bern"]), split="test", protocol=begin, trainer=None, pool=pool)
    task.run(language_model, {"nothing": Nothing(language_model)}, tmp_path, None)


def test_a_pool_with_a_tested_subject_is_refused_before_anything_is_edited(
    language_model, tmp_path
):
    pool = Pool(Cities(["Lagos"]))
    pool.records = (record("ROME"),)  # as of another file, which knows nothing of the tested one
    with pytest.raises(ValueError, match="pool: 1 of its subjects are tested, such as 'rome'"):
        run(language_model, tmp_path, pool)
    with pytest.raises(ValueError, match=r"pool\.split is 'test', which is tested"):
        run(language_model, tmp_path, Pool(Cities(["Bern"]), "test"))


@pytest.mark.parametrize("pool", [None, Pool(Cities(["Lagos"]))])
def test_without_one_the_protocol_begins(pool, language_model, tmp_path):
    with pytest.raises(Begun):
        run(language_model, tmp_path, pool)
