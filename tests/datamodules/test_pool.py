"""A pool holds records that are not tested."""

import pytest

from datamodules.editing import EditingData
from datamodules.pool import Pool
from datamodules.records import Record, Request, fingerprint


class Cities(EditingData):
    name = "cities"

    def load(self):
        return {
            "train": [record("Lagos"), record("Kano", "Oslo"), record("Turin")],
            "val": [],
            "test": [record("Rome"), record("Bern")],
        }


def record(*subjects):
    requests = tuple(Request(f"{one} is in", one, "Sweden") for one in subjects)
    return Record("-".join(subjects), requests)


def test_a_pool_is_the_first_records_of_a_split_and_their_fingerprint():
    data = Cities()
    pool = Pool(data, tested="test")
    assert pool.records == tuple(data.records("train"))
    assert pool.fingerprint == fingerprint(data.records("train"))
    first = Pool(data, limit=2)
    assert len(first) == 2
    assert first.records == pool.records[:2]
    assert first.fingerprint != pool.fingerprint


def test_a_pool_that_holds_nothing_of_what_is_tested_is_fine():
    data = Cities()
    Pool(data).disjoint_from(data.records("test"), "test")
    Pool(data, "test").disjoint_from(data.records("train"), "train")


def test_the_split_that_is_tested_is_no_pool():
    message = "pool.split is 'test', which is tested; expected another split"
    with pytest.raises(ValueError, match=message):
        Pool(Cities(), "test", tested="test")
    with pytest.raises(ValueError, match=message):
        Pool(Cities(), "test").disjoint_from([record("Oslo")], "test")


@pytest.mark.parametrize("tested", [record("LAGOS"), record("Rome", "oslo")])
def test_a_pool_that_shares_a_subject_with_what_is_tested_is_refused(tested):
    [shared] = tested.subjects & {"lagos", "oslo"}
    message = f"pool: 1 of its subjects are tested, such as '{shared}'; expected none"
    with pytest.raises(ValueError, match=message):
        Pool(Cities()).disjoint_from([record("Bern"), tested], "test")


def test_an_empty_pool_is_refused():
    with pytest.raises(ValueError, match="cities: split 'val' is empty"):
        Pool(Cities(), "val")
    with pytest.raises(ValueError, match="limit is 0; expected at least 1"):
        Pool(Cities(), limit=0)
    with pytest.raises(ValueError, match="no split 'dev' in cities"):
        Pool(Cities(), "dev")
