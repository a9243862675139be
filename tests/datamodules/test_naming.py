import pytest

from datamodules.naming import subject_of


@pytest.mark.parametrize(
    ("prompt", "others", "subject"),
    [
        ("The capital of France is", (), "France"),
        ("What is the capital of New York?", (), "New York"),
        ("Marie Curie was born in", (), "Marie Curie"),
        ("The University of Oxford was founded in", (), "University of Oxford"),
        ("The expertise of The Astronomical Journal is", (), "The Astronomical Journal"),
        ('Who wrote "hey jude"?', (), "hey jude"),
        ("Lagos is in", ("The city of Lagos lies in",), "Lagos"),
        ("Lagos is in", (), None),  # any word that opens a sentence has a capital
        ("Lagos is in", ("It lies in",), None),
        ("Paris is in France", (), None),
        ("water boils at", (), None),
        ("Bali myna is kept in", (), None),
        ("the 2010 Asian Games were held in", (), None),
        ("Swinhoe's storm petrel lives in", (), None),
        ("", (), None),
    ],
)
def test_only_a_sure_name_is_one(prompt, others, subject):
    assert subject_of(prompt, others) == subject


def test_most_guesses_are_the_published_subjects(shared):
    from datamodules.counterfact import CounterFactData

    path = shared / "data" / "counterfact" / "counterfact_val.json"
    requests = [record.requests[0] for record in CounterFactData().read(path).records]
    guesses = [(subject_of(request.prompt), request.subject) for request in requests]
    made = [(guess, subject) for guess, subject in guesses if guess is not None]
    assert len(made) > len(requests) / 2
    assert sum(guess == subject for guess, subject in made) > 0.95 * len(made)
    assert all(guess in subject or subject in guess for guess, subject in made)
