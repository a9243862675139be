"""The networks of KE: a text's condition, and the gates of one weight matrix under it.

De Cao, Aziz, Titov: "Editing Factual Knowledge in Language Models", EMNLP 2021,
https://arxiv.org/abs/2104.08164, section 3.3 and the authors' code
(https://github.com/nicola-decao/KnowledgeEditor). Theirs never trains the embedding of token 0,
which it takes for padding; here padding never enters a state, and all embeddings are trained.
"""

# B texts, T tokens, V vocabulary, d embedding width, h width of an LSTM state, c of a condition

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from models.encoding import Batch


class Conditioner(nn.Module):
    """``tanh(W [last state forward; last state backward] + b)`` of an LSTM over a text.

    Args:
        embeddings: ``[V, d]``, what the text's embeddings start from; copied.
        lstm_width: h, in each direction.
        condition_width: c.
    """

    def __init__(self, embeddings: Tensor, lstm_width: int, condition_width: int):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(embeddings.clone(), freeze=False)
        self.lstm = nn.LSTM(embeddings.shape[1], lstm_width, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * lstm_width, condition_width)

    def forward(self, texts: Batch) -> Tensor:
        """Conditions ``[B, c]`` of texts padded on the right."""
        packed = pack_padded_sequence(
            self.embedding(texts.input_ids),
            texts.attention_mask.sum(1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        forward, backward = self.lstm(packed)[1][0]  # [B, h] each
        return torch.tanh(self.linear(torch.cat([forward, backward], 1)))


class Gates(nn.Module):
    """The gates of one matrix with ``rows`` and ``columns``, given a condition.

    The matrix is to change by ``sigmoid(e) * (softmax(a_row) a_col^T * G + softmax(b_row)
    b_col^T)``, with its gradient G and an elementwise product.
    """

    def __init__(self, rows: int, columns: int, condition_width: int, width: int):
        super().__init__()
        self.sizes = (columns, rows, columns, rows, 1)
        self.layer1 = weight_norm(nn.Linear(condition_width, width))
        self.layer2 = weight_norm(nn.Linear(width, sum(self.sizes)))

    def forward(self, conditions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``softmax(a_row)``, ``a_col``, ``softmax(b_row)``, ``b_col``, ``sigmoid(e)`` [B, 1]."""
        vector = self.layer2(torch.tanh(self.layer1(conditions)))
        a_col, a_row, b_col, b_row, e = vector.split(self.sizes, 1)
        return a_row.softmax(1), a_col, b_row.softmax(1), b_col, e.sigmoid()
