"""SAMN with class prototypes, as published (arXiv 2309.13930).

The default of SAMNClassifier, with stored samples, is in sample_network.py.
"""

import math
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import SampleAttention, kernel_scores, squared_distances
from .embedding import FeatureExtractor, class_probabilities, one_of, output_width
from .memory import PrototypeMemory


class SAMNOutput(NamedTuple):
    """What :class:`SAMN` returns.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        Class scores.
    embedding : Tensor of shape (n_samples, h)
        Rows after the attention blocks.
    prototypes : Tensor of shape (n_entries, h)
        The memory the rows are compared with.
    prototype_classes : Tensor of shape (n_entries,)
        The class of each entry.
    filled : Tensor of shape (n_entries,) of bool
        Entries written at least once.
    """

    logits: Tensor
    embedding: Tensor
    prototypes: Tensor
    prototype_classes: Tensor
    filled: Tensor


class SAMN(nn.Module):
    """Feature extraction, sample attention, gated class prototypes, distances.

    A batch walks: z = g(x); attention blocks over the memory M_{t-1}; in
    training (labels given), the batch's class means update the memory to M_t;
    the score of a class is a learned scale times minus the squared distance (or
    the kernel) to its nearest entry, plus a bias a class.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of the data.
    hidden_layer_sizes : sequence of int, default=(128,)
        Widths of the layers in front.
    activation : {"relu", "gelu", "silu", "tanh", "mish"}, default="silu"
        Their activation.
    dropout : float in [0, 1), default=0.0
        After each of them.
    batch_norm : bool, default=False
        Whether each of them normalises by the batch.
    n_attention_blocks : int, default=1
        Blocks of :class:`SampleAttention`; 0 switches sample attention off.
    kernel : {"linear", "poly", "rbf", "sigmoid", "exponential"}, default="linear"
        Of the attention scores and of ``head="kernel"``, see :func:`kernel_scores`.
    degree : int, default=3
        Degree of "poly".
    coef0 : float, default=1.0
        Constant of "poly" and "sigmoid".
    n_prototypes : int, default=1
        Prototypes a class.
    memory_gate : "learned" or float in (0, 1], default="learned"
        Of the :class:`PrototypeMemory`.
    head : {"distance", "kernel", "linear", "both"}, default="distance"
        What scores a class: the distance to its prototypes, their kernel, an ordinary
        linear layer that needs no prototypes, or the sum of the latter two.
    feature_extractor : nn.Module or None, default=None
        From (n_samples, n_features) to (n_samples, h), copied, in place of the
        :class:`FeatureExtractor`.

    Notes
    -----
    **Shape**

    - x: (n_samples, n_features); in training also y: (n_samples,) and weight:
      (n_samples,)
    - output: :class:`SAMNOutput`

    References
    ----------
    .. [1] SAMN: A Sample Attention Memory Network Combining SVM and NN in One
       Architecture, arXiv 2309.13930, section 3.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import SAMN
    >>> network = SAMN(4, 3, hidden_layer_sizes=(8,))
    >>> x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> network(x, y, torch.ones(6)).logits.shape
    torch.Size([6, 3])
    """

    def __init__(
        self,
        n_features,
        n_classes,
        *,
        hidden_layer_sizes=(128,),
        activation="silu",
        dropout=0.0,
        batch_norm=False,
        n_attention_blocks=1,
        kernel="linear",
        degree=3,
        coef0=1.0,
        n_prototypes=1,
        memory_gate="learned",
        head="distance",
        feature_extractor=None,
    ):
        super().__init__()
        if feature_extractor is not None:
            self.extract = deepcopy(feature_extractor)
            h = output_width(feature_extractor, n_features)
        else:
            self.extract = FeatureExtractor(
                n_features,
                hidden_layer_sizes,
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            h = self.extract.out_features
        # The memory holds rows that have read the memory: unnormalised, it can grow
        # from batch to batch without bound.
        self.norms = nn.ModuleList(nn.LayerNorm(h) for _ in range(n_attention_blocks))
        self.kernel = {"kernel": kernel, "degree": degree, "coef0": coef0}
        self.attention = nn.ModuleList(
            SampleAttention(h, **self.kernel) for _ in range(n_attention_blocks)
        )
        self.memory = PrototypeMemory(
            n_classes, h, n_prototypes=n_prototypes, gate=memory_gate
        )
        self.head = one_of("head", head, ("distance", "kernel", "linear", "both"))
        self.bias = nn.Parameter(torch.zeros(n_classes))
        if head in ("linear", "both"):
            self.linear = nn.Linear(h, n_classes, bias=False)
        if head != "linear":
            self.log_scale = nn.Parameter(torch.zeros(()))

    def set_prior(self, prior):
        """Start from the class shares (n_classes,), as Bayes' rule has it."""
        with torch.no_grad():
            self.bias.copy_(prior.log())

    def forward(self, x, y=None, weight=None):
        z = self.embed(x)
        learn = y is not None and (self.attention or self.head != "linear")
        memory = self.memory(z, y, weight) if learn else self.memory.entries
        return SAMNOutput(
            self._logits(z, memory), z, memory, self.memory.classes, self.memory.filled
        )

    def probabilities(self, x):
        """Class probabilities, (n_samples, n_classes)."""
        return class_probabilities(self(x).logits)

    def embed(self, x):
        """Rows after the attention blocks, (n_samples, h)."""
        return self._attend(x)[0]

    def attend(self, x):
        """Attention weights of each block, (n_samples, n_blocks, n_entries)."""
        return torch.stack(self._attend(x)[1], dim=1)

    def decide(self, x):
        """How much each entry counts for each row, (n_samples, n_entries).

        The share of a class falls on the entry that speaks for it; with a linear head,
        where none does, it is the attention of the last block. Shares sum to one.
        """
        if self.head == "linear":
            return self.attend(x)[:, -1]
        z, memory = self.embed(x), self.memory.entries
        shares = self._logits(z, memory).softmax(1)
        by_class = self._by_class(self._memory_scores(z, memory))
        speaks = nn.functional.one_hot(by_class.argmax(2), by_class.shape[2])
        return (shares.unsqueeze(2) * speaks).flatten(1)

    def distances(self, x, places):
        """Distance of each row to entries of its own, (n_samples, n_entries)."""
        return (self.embed(x).unsqueeze(1) - self.memory.entries[places]).norm(dim=2)

    def _attend(self, x):
        z, weights = self.extract(x), []
        for block, norm in zip(self.attention, self.norms, strict=True):
            z, block_weights = block(z, self.memory.entries, self.memory.filled)
            z = norm(z)
            weights.append(block_weights)
        return z, weights

    def _logits(self, z, memory):
        logits = self.bias
        if self.head in ("linear", "both"):
            logits = logits + self.linear(z)
        if self.head != "linear":
            # The nearest prototype speaks for its class.
            scores = self._memory_scores(z, memory)
            logits = logits + self._by_class(scores).amax(2)
        return logits

    def _by_class(self, scores):
        """Scores of entries as (n_samples, n_classes, n_prototypes)."""
        return scores.unflatten(1, (-1, self.memory.n_prototypes))

    def _memory_scores(self, z, memory):
        if self.head == "distance":
            scores = -squared_distances(z, memory) / math.sqrt(z.shape[1])
        else:
            scores = kernel_scores(z, memory, **self.kernel)
        scores = self.log_scale.exp() * _centered(scores, self.memory.filled)
        return scores.masked_fill(~self.memory.filled, -1e4)


def _centered(scores, filled):
    """Scores around the mean of their row: no matter to a softmax, but to a hinge."""
    mean = (scores * filled).sum(1, keepdim=True) / filled.sum().clamp_min(1)
    return scores - mean
