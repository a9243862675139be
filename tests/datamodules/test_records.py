import pytest

from datamodules.records import RecordError, Request


@pytest.mark.parametrize(
    ("prompt", "subject", "found"),
    [
        ("Lagos is not Lagos, but Lagos", "Lagos", (24, 29)),  # the last
        ("Iranian people of Iran speak Iranian", "Iran", (18, 22)),  # a word of its own
        ("The Iranian people", "Iran", (4, 8)),  # or else a part of one
        ("In LAGOS, says lagos", "Lagos", (15, 20)),  # or else in another case
        ("Lagos, in LAGOS", "Lagos", (0, 5)),
        ("C++ and C", "C++", (0, 3)),
    ],
)
def test_a_request_finds_its_subject(prompt, subject, found):
    assert Request(prompt, subject, "x").span == found


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (("", "Lagos", "x"), "field 'prompt': expected text"),
        (("Lagos is in", " ", "x"), "field 'subject': expected text"),
        (("Lagos is in", "Lagos", 7), "field 'target': expected text, got 7"),
        (("Lagos is in ", "Lagos", "x"), "field 'prompt': has blanks at an end"),
        (("Lagos is in", "Kano", "x"), "field 'subject': 'Kano' is not in the prompt"),
    ],
)
def test_a_request_that_cannot_be_is_refused(fields, error):
    with pytest.raises(RecordError, match=error):
        Request(*fields)
