"""How a value is searched for."""

from __future__ import annotations

from dataclasses import dataclass

from editors.settings import at_least, positive


@dataclass(frozen=True)
class Search:
    """The settings of `latent.optimise`; the defaults are ROME's for GPT-2 XL.

    Attributes:
        steps: forward passes at most; the last one is followed by no update.
        lr: of Adam.
        clamp: longest shift, in lengths of the value it is added to.
        kl_factor: weight of the divergence from the unedited model in what is said about the
            subject.
        weight_decay: weight of ``|shift| / |value|^2``.
        stop_loss: the search for an edit ends when its loss (nats per token) falls below this.
        kl_stop: the rule of PMET's code (Li et al., AAAI 2024, https://arxiv.org/abs/2308.08742):
            where all target tokens are the likeliest in all contexts, the likelihood counts a tenth
            from the next pass on, and the search ends if the divergence, with its factor, is at
            most this. None: no such rule.

    Raises:
        ValueError: an attribute is out of range.
    """

    steps: int = 20
    lr: float = 0.5
    clamp: float = 4.0
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    stop_loss: float = 0.05
    kl_stop: float | None = None

    def __post_init__(self):
        at_least(1, steps=self.steps)
        positive(lr=self.lr, clamp=self.clamp)
        at_least(0, kl_factor=self.kl_factor, weight_decay=self.weight_decay)
        at_least(0, stop_loss=self.stop_loss, kl_stop=self.kl_stop)
