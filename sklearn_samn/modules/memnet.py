"""Memory network that predicts a row's neighbours hop by hop (arXiv 1804.11214)."""

import math

import torch
from torch import nn

from .embedding import BatchNorm, Dropout, FeatureExtractor
from .seq2seq import NeighborHeads, NeighborSequence


class MemoryNetwork(nn.Module):
    """K hops over a memory of rows; hop t predicts the t-th neighbour.

    With m_i = A x_i, c_i = C x_i and u = B x: p = softmax(u m_i / sqrt(h)),
    o = sum_i p_i c_i, and the next query is H u + o, from which the heads read
    label and vector. A, B, C and H are shared over the hops.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of the data.
    n_neighbors : int, default=5
        K, the number of hops.
    output : {"labels", "both"}, default="both"
        MNkNN or MNkNN_VEC.
    hidden_layer_sizes : sequence of int, default=()
        Layers before the embeddings, applied to query and memory alike; none in
        the paper.
    activation : str, default="mish"
        Activation of those layers.
    hidden_size : int, default=64
        Width h of the embeddings.
    temperature : float, default=0.85
        Of the label softmax.
    dropout : float in [0, 1), default=0.2
        On the state the heads read.
    batch_norm : bool, default=True
        Batch normalisation of the input; the memory uses the query's statistics.
    n_numeric, n_frequencies : int, default=0
        Waves for each of the first columns, which are numbers; see
        :class:`PeriodicEmbedding`.

    Notes
    -----
    **Shape**

    - x: (n_samples, n_features)
    - memory: (n_memory, n_features)
    - masked: (n_samples, n_memory) bool or None, entries a row must not see
    - output: :class:`NeighborSequence`

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to Sequence
       Deep Neural Networks and Memory Networks", arXiv 1804.11214, section 3.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import MemoryNetwork
    >>> network = MemoryNetwork(4, 3, n_neighbors=2)
    >>> log_probs, vectors = network(torch.randn(6, 4), torch.randn(10, 4))
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
        width = self.extract.out_features
        self.embed_key = nn.Linear(width, hidden_size)
        self.embed_query = nn.Linear(width, hidden_size)
        self.embed_value = nn.Linear(width, hidden_size)
        self.hop = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.heads = NeighborHeads(
            hidden_size, n_features, n_classes, output=output, temperature=temperature
        )

    def forward(self, x, memory, masked=None):
        return self.read(self.query(x), memory, masked)

    def query(self, x):
        """First query of each row, (n_samples, hidden_size), for any memory."""
        return self.embed_query(self.extract(self.normalize(x)))

    def read(self, query, memory, masked=None):
        """What the rows of the queries find in the memory."""
        states = [state for state, _ in self._hops(query, memory, masked)]
        return NeighborSequence(*self.heads(self.dropout(torch.stack(states, dim=1))))

    def label_probs(self, query, memory):
        """Mean of the K label distributions alone, (n_samples, n_classes)."""
        hops = self._hops(query, memory)
        total = sum(self.heads.probs(self.dropout(state)) for state, _ in hops)
        return total / self.n_neighbors

    def attend(self, query, memory):
        """Attention of each hop over the memory, (n_samples, K, n_memory)."""
        weights = [weights for _, weights in self._hops(query, memory)]
        return torch.stack(weights, dim=1)

    def _hops(self, query, memory, masked=None):
        """What is known after each hop, and its attention over the memory."""
        memory = self.extract(self._normalize_memory(memory))
        keys = self.embed_key(memory) / math.sqrt(query.shape[1])
        values = self.embed_value(memory)
        for _ in range(self.n_neighbors):
            scores = query @ keys.T
            if masked is not None:
                scores = scores.masked_fill(masked, -torch.inf)
            weights = scores.softmax(1)
            query = torch.addmm(self.hop(query), weights, values)
            yield query, weights

    def _normalize_memory(self, memory):
        if isinstance(self.normalize, BatchNorm):
            # A memory of one batch must not move the statistics of the rows.
            return self.normalize.by_running_statistics(memory)
        return memory
