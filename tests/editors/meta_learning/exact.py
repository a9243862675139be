"""A language model that computes in float64 throughout."""

from models import LanguageModel


class Exact(LanguageModel):
    """Does not round its logits to float32."""

    def head(self, hidden):
        return self.model.get_output_embeddings()(hidden)
