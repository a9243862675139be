"""MEMIT and its successors against numbers of the authors' implementations on a tiny GPT-2."""

import pytest
import torch
from reference import CLOSE, Reference, distance
from samples import MOMENTS

from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.emmet import Emmet
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.pmet import Pmet
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.latent import optimise
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.spread import Spread


class SpreadReference(Reference):
    def __init__(self, folder):
        super().__init__(folder)
        self.moments = self.tensors("covariance")

    def editor(
        self, cls: type[Spread], notes: dict, case: dict, kl_stop=None, **settings
    ) -> Spread:
        given = notes["hparams"]
        editor = cls(
            self.language_model,
            layers=case.get("layers", given["layers"]),
            search=Search(
                steps=given["steps"],
                lr=given["lr"],
                clamp=given["clamp"],
                kl_factor=given["kl"],
                weight_decay=given["wd"],
                kl_stop=kl_stop,
            ),
            contexts=Contexts(self.common["contexts"]),
            moments=MOMENTS,
            **settings,
        )
        for block, layer in zip(editor.blocks, editor.layers, strict=True):
            moment = self.moments[f"inputs/C.layer_{block}"].double()
            editor.fitted[layer] = editor.fit(moment, layer)
        return editor

    def some(self, indices):
        return [self.requests[i] for i in indices]

    def check_edit(self, editor, edit, files, case, tolerance=CLOSE, after=None):
        """Updates of the layers and answers of the edited model, which had ``after`` before."""
        for block, layer in zip(editor.blocks, editor.layers, strict=True):
            update = edit.updates[layer].dense()[0]
            update = update if after is None else update - after.updates[layer].dense()[0]
            expected = files[f"expected/{case}/update/layer_{block}"]
            assert distance(update, expected) < tolerance, layer
        expected = files[f"expected/{case}/query_logits"]
        assert distance(self.query_logits(edit), expected) < tolerance

    def check_values(self, editor, requests, files, case, names):
        """Losses and values, initial values and shifts under a pair of ``names`` a site."""
        latent = optimise(
            self.language_model,
            requests,
            self.common["contexts"],
            editor.sites(),
            editor.search,
        )
        site = editor.sites()[0]
        for i in range(len(requests)):
            expected = files[f"expected/{case}/losses/request_{i}"]
            assert latent.losses[i][len(expected) :].isnan().all()  # stopped at the same pass
            assert distance(latent.losses[i][: len(expected)], expected) < CLOSE
            assert distance(latent.value(site)[i], files[f"expected/{case}/z/request_{i}"]) < CLOSE
            for where, (initial, delta) in zip(editor.sites(), names, strict=True):
                for got, name in ((latent.initial, initial), (latent.delta, delta)):
                    expected = files[f"expected/{case}/{name}/request_{i}"]
                    assert torch.allclose(got[where][i], expected, rtol=CLOSE, atol=CLOSE), name

    def check_history(self, edit, files, case, tolerance=CLOSE):
        for layer, keys in edit.past_keys.items():
            block = layer.split(".")[2]
            expected = files[f"expected/{case}/history_after/layer_{block}"]
            assert distance(keys[0].mT @ keys[0], expected) < tolerance


@pytest.fixture(scope="module")
def reference(golden):
    return SpreadReference(golden / "other_editors")


@pytest.mark.parametrize("case", ["batch_all", "single_request_1", "large_lambda"])
def test_memit(reference, case):
    notes, files = reference.json("memit"), reference.tensors("memit")
    given = notes["cases"][case]
    memit = reference.editor(Memit, notes, given, covariance_weight=given["lam"])
    requests = reference.some(given["requests"])
    reference.check_values(memit, requests, files, case, [("init", "delta")])
    reference.check_edit(memit, memit.edit(requests), files, case)
    if len(requests) == 1:
        reference.check_edit(memit, memit.edit_each(requests), files, case)


def test_memit_keys_and_residuals_are_those_of_the_model_as_written_so_far(reference):
    notes, files = reference.json("memit"), reference.tensors("memit")
    memit = reference.editor(Memit, notes, {}, covariance_weight=notes["hparams"]["lam"])
    edit = memit.edit(reference.some(range(4)))
    for block, layer in zip(memit.blocks, memit.layers, strict=True):
        update = edit.updates[layer]
        solved = files[f"expected/batch_all/solved_keys/layer_{block}"]
        residual = files[f"expected/batch_all/residual/layer_{block}"]
        assert distance(update.left[0], solved) < CLOSE
        assert distance(update.right[0], residual) < CLOSE


def test_memit_with_history(reference):
    notes, files = reference.json("memit_history"), reference.tensors("memit_history")
    weight = notes["hparams"]["lam"]
    memit = reference.editor(Memit, notes, {}, covariance_weight=weight, history=True)
    first = memit.edit(reference.some(notes["chunks"][0]))
    reference.check_edit(memit, first, files, "chunk_0")
    reference.check_history(first, files, "chunk_0")
    both = memit.edit(reference.some(notes["chunks"][1]), after=first)
    reference.check_edit(memit, both, files, "chunk_1", after=first)
    reference.check_history(both, files, "chunk_1")


@pytest.mark.parametrize(
    "case",
    [
        "epsilon_0",
        "epsilon_positive",
        "epsilon_positive_weight_lambda",
        "single_request_1_epsilon_positive",
        "single_layer_epsilon_0",
    ],
)
def test_emmet(reference, case):
    notes, files = reference.json("emmet"), reference.tensors("emmet")
    given = notes["cases"][case]
    epsilon = given["epsilon"] * given["covariance_weight"]  # theirs is added beside weight * C
    emmet = reference.editor(Emmet, notes, given, epsilon=epsilon)
    requests = reference.some(given["requests"])
    reference.check_values(emmet, requests, files, case, [("init", "delta")])
    reference.check_edit(emmet, emmet.edit(requests), files, case)


@pytest.mark.parametrize("case", ["batch_all", "single_request_1", "early_stop_rule"])
def test_pmet(reference, case):
    notes, files = reference.json("pmet"), reference.tensors("pmet")
    given = notes["cases"][case]
    pmet = reference.editor(Pmet, notes, given, kl_stop=0.01, covariance_weight=given["lam"])
    requests = reference.some(given["requests"])
    names = [("init_mlp", "delta_mlp"), ("init_attn", "delta_attn")]
    reference.check_values(pmet, requests, files, case, names)
    reference.check_edit(pmet, pmet.edit(requests), files, case)


FLOAT32 = 3e-4  # the authors project and solve in float32


def test_alphaedit_in_chunks(reference):
    notes, files = reference.json("alphaedit"), reference.tensors("alphaedit")
    alphaedit = reference.editor(AlphaEdit, notes, {}, threshold=notes["tau"], ridge=notes["mu"])
    for block, layer in zip(alphaedit.blocks, alphaedit.layers, strict=True):
        basis = alphaedit.fitted[layer].basis
        assert basis.shape[1] == notes["projection_rank"][str(block)]
        expected = files[f"expected/projection/layer_{block}"]
        assert distance(basis @ basis.mT, expected) < FLOAT32
    before = None
    for number, chunk in enumerate(notes["chunks"]):
        edit = alphaedit.edit(reference.some(chunk), after=before)
        reference.check_edit(alphaedit, edit, files, f"chunk_{number}", FLOAT32, after=before)
        reference.check_history(edit, files, f"chunk_{number}", FLOAT32)
        before = edit
