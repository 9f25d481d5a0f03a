"""Sequence-to-sequence network that predicts a row's neighbours (arXiv 1804.11214)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .embedding import (
    BatchNorm,
    Dropout,
    FeatureExtractor,
    at_once,
    class_probabilities,
    one_of,
)

# Rows whose gates, of a few hundred numbers each, stay in the cache of a processor.
CACHED_ROWS = 1024
# Of torch's four gates of an LSTM the one that is no sigmoid.
CONTENT = 2


class NeighborSequence(NamedTuple):
    """K predicted neighbours a row; what a network does not predict is None.

    Parameters
    ----------
    log_probs : Tensor of shape (n_samples, K, n_classes) or None
        Log-probabilities of the neighbours' classes.
    vectors : Tensor of shape (n_samples, K, n_features) or None
        Feature vectors of the neighbours.
    """

    log_probs: Tensor | None
    vectors: Tensor | None


class NeighborHeads(nn.Module):
    """What a state of the network says: a label distribution and a feature vector.

    Labels: linear, softmax at a temperature. Vectors: linear, ReLU, linear.

    Parameters
    ----------
    hidden_size : int
        Width of a state.
    n_features, n_classes : int
        Sizes of the data.
    output : {"labels", "vectors", "both"}, default="both"
        Which heads there are.
    temperature : float, default=0.85
        Of the softmax; below 1 it sharpens.

    Notes
    -----
    **Shape**

    - states: (..., hidden_size)
    - output: log-probabilities (..., n_classes) and vectors (..., n_features), or None

    Examples
    --------
    >>> import torch
    >>> heads = NeighborHeads(8, 4, 3, output="labels")
    >>> log_probs, vectors = heads(torch.randn(5, 2, 8))
    >>> log_probs.shape, vectors
    (torch.Size([5, 2, 3]), None)
    """

    def __init__(
        self, hidden_size, n_features, n_classes, *, output="both", temperature=0.85
    ):
        super().__init__()
        self.temperature = temperature
        self.label = self.vector = None
        one_of("output", output, ("labels", "vectors", "both"))
        if output != "vectors":
            self.label = nn.Linear(hidden_size, n_classes)
        if output != "labels":
            self.vector = nn.Sequential(
                nn.Linear(hidden_size, hidden_size),
                nn.ReLU(),
                nn.Linear(hidden_size, n_features),
            )

    def forward(self, states):
        return (
            None if self.label is None else self._scores(states).log_softmax(-1),
            None if self.vector is None else self.vector(states),
        )

    def probs(self, states):
        """Label distributions."""
        return class_probabilities(self._scores(states))

    def _scores(self, states):
        return self.label(states) / self.temperature


class Seq2SeqNetwork(nn.Module):
    """Encoder and decoder cell: one row in, K neighbours out.

    The input sequence has length one, the row itself; the encoder cell turns it
    into the context. The decoder runs K steps, shares one cell over them, and
    is fed its own previous label distribution (its previous vector where no
    labels are predicted) and the context.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of the data.
    n_neighbors : int, default=5
        K, the number of decoder steps.
    output : {"labels", "vectors", "both"}, default="both"
        V2LS, V2VS or V2VSLS.
    hidden_layer_sizes : sequence of int, default=()
        Layers between the row and the encoder; none in the paper.
    activation : str, default="mish"
        Activation of those layers.
    hidden_size : int, default=64
        Width h of the encoder's and the decoder's state.
    cell : {"lstm", "gru"}, default="lstm"
        Recurrent cell.
    temperature : float, default=0.85
        Of the label softmax.
    dropout : float in [0, 1), default=0.2
        On the context and on the decoder's states.
    batch_norm : bool, default=True
        Batch normalisation of the input.
    n_numeric, n_frequencies : int, default=0
        Waves for each of the first columns, which are numbers; see
        :class:`PeriodicEmbedding`.

    Notes
    -----
    **Shape**

    - x: (n_samples, n_features)
    - output: :class:`NeighborSequence`

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to Sequence
       Deep Neural Networks and Memory Networks", arXiv 1804.11214, section 3.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import Seq2SeqNetwork
    >>> log_probs, vectors = Seq2SeqNetwork(4, 3, n_neighbors=2)(torch.randn(6, 4))
    >>> log_probs.shape, vectors.shape
    (torch.Size([6, 2, 3]), torch.Size([6, 2, 4]))
    """

    def __init__(
        self,
        n_features,
        n_classes,
        *,
        n_neighbors=5,
        output="both",
        hidden_layer_sizes=(),
        activation="mish",
        hidden_size=64,
        cell="lstm",
        temperature=0.85,
        dropout=0.2,
        batch_norm=True,
        n_numeric=0,
        n_frequencies=0,
    ):
        super().__init__()
        self.n_neighbors = n_neighbors
        self.normalize = BatchNorm(n_features) if batch_norm else nn.Identity()
        self.extract = FeatureExtractor(
            n_features,
            hidden_layer_sizes,
            activation=activation,
            dropout=dropout / 2,
            n_numeric=n_numeric,
            n_frequencies=n_frequencies,
        )
        cells = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}
        cell_class = cells[one_of("cell", cell, cells)]
        self.encoder = cell_class(self.extract.out_features, hidden_size)
        # The sequence is one row long: the state that these would multiply is zero.
        self.encoder.weight_hh.requires_grad_(False)
        self.feedback_size = n_features if output == "vectors" else n_classes
        self.decoder = cell_class(self.feedback_size + hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.heads = NeighborHeads(
            hidden_size, n_features, n_classes, output=output, temperature=temperature
        )

    def forward(self, x):
        states = self.decode(x)
        return NeighborSequence(*self.heads(states))

    def label_probs(self, x):
        """Mean of the K label distributions alone, (n_samples, n_classes)."""
        parts = x.split(at_once(CACHED_ROWS, x))
        return torch.cat([self._label_probs(part) for part in parts])

    def _label_probs(self, x):
        total = sum(
            self.heads.probs(state) if feedback is None else feedback
            for state, feedback in self._steps(x)
        )
        return total / self.n_neighbors

    def decode(self, x):
        """States of the decoder, (n_samples, K, hidden_size)."""
        return torch.stack([state for state, _ in self._steps(x)], dim=1)

    def _steps(self, x):
        """State of each step of the decoder and what it feeds back, lastly None."""
        state = _first_state(self.encoder, self.extract(self.normalize(x)))
        context = self.dropout(_hidden(state))
        step = _make_step(self.decoder, context)
        feedback = x.new_zeros(len(x), self.feedback_size)
        for number in range(1, self.n_neighbors + 1):
            state = step(feedback, state)
            seen = self.dropout(_hidden(state))
            feedback = self._feedback(seen) if number < self.n_neighbors else None
            yield seen, feedback

    def _feedback(self, state):
        if self.heads.label is None:
            return self.heads.vector(state)
        return self.heads.probs(state)


def _hidden(state):
    """The visible half of an LSTM's (hidden, cell); a GRU has but the one."""
    return state[0] if isinstance(state, tuple) else state


# On a CPU the step of an LSTM, the default, is written out: torch's cell would multiply
# the zeros before the first step and, in every step, the same context, a third of the
# time. On a GPU the cell is one kernel.


def _first_state(cell, x):
    """What the cell makes of x after a state of zeros."""
    if isinstance(cell, nn.GRUCell) or not x.is_cpu:
        return cell(x)
    from_input, _, bias = _content_doubled(cell)
    return _lstm_state(linear(x, from_input, bias), None)


def _make_step(cell, context):
    """A step of the cell, of (feedback, state), its input being [feedback, context]."""
    if isinstance(cell, nn.GRUCell) or not context.is_cpu:
        return lambda feedback, state: cell(torch.cat([feedback, context], 1), state)
    from_input, from_hidden, bias = _content_doubled(cell)
    n_context = context.shape[1]
    from_feedback, from_context = from_input.split(
        [cell.input_size - n_context, n_context], dim=1
    )
    always = linear(context, from_context, bias)
    weight = torch.cat([from_feedback, from_hidden], dim=1).T

    def step(feedback, state):
        hidden, memory = state
        inputs = torch.cat([feedback, hidden], dim=1)
        return _lstm_state(torch.addmm(always, inputs, weight), memory)

    return step


def _content_doubled(cell):
    """Weights and bias for :func:`_lstm_state`, of the input, the state and none.

    tanh(x) is a sigmoid of 2 x, so that one call does all gates.
    """
    factor = cell.bias_ih.new_ones(4, cell.hidden_size)
    factor[CONTENT] = 2
    factor = factor.flatten()
    bias = (cell.bias_ih + cell.bias_hh) * factor
    factor = factor.unsqueeze(1)
    return cell.weight_ih * factor, cell.weight_hh * factor, bias


def _lstm_state(gates, memory):
    """Hidden state and memory of an LSTM from its gates and its memory before.

    The gate of the content is twice what torch's cell takes.
    """
    write, keep, content, show = gates.sigmoid_().chunk(4, dim=1)
    new = write * _tanh_of_double(content)
    if memory is not None:
        new = torch.addcmul(new, keep, memory)
    return show * _tanh_of_double((2 * new).sigmoid()), new


def _tanh_of_double(share):
    """tanh(x) from the sigmoid of 2 x; torch's own takes ten times a sigmoid."""
    return torch.rsub(share, -1, alpha=-2)
