"""Losses; each takes the output of a network and a dict of targets.

Every target dict holds ``y`` (n_samples,) and ``weight`` (n_samples,), the weights
having mean one over the training set.
"""

import math

import torch
from torch import nn

from .attention import squared_distances
from .embedding import one_of


class SAMNLoss(nn.Module):
    """Classification, plus prototypes apart, plus rows near their own class.

    Parameters
    ----------
    loss : {"softmax", "squared_hinge"}, default="softmax"
        Cross-entropy, or the one-against-rest squared hinge of an SVM head.
    inter_weight : float, default=0.1
        Weight of the inter-class term: the mean of max(0, margin - D)^2 over pairs of
        prototypes of different classes, D their distance over sqrt(h).
    inner_weight : float, default=0.1
        Weight of the inner-class term: the mean squared difference of a row and the
        nearest prototype of its class.
    margin : float, default=1.0
        Distance beyond which two prototypes are far enough apart.
    label_smoothing : float in [0, 1), default=0.0
        Of the cross-entropy.

    Notes
    -----
    **Shape**

    - output: :class:`SAMNOutput`
    - target: dict with y (n_samples,) and, unless all rows count alike, weight
      (n_samples,)
    - result: scalar

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import SAMN, SAMNLoss
    >>> x, y, weight = torch.randn(6, 4), torch.tensor([0, 1] * 3), torch.ones(6)
    >>> output = SAMN(4, 2)(x, y, weight)
    >>> SAMNLoss()(output, {"y": y, "weight": weight}).shape
    torch.Size([])
    """

    def __init__(
        self,
        *,
        loss="softmax",
        inter_weight=0.1,
        inner_weight=0.1,
        margin=1.0,
        label_smoothing=0.0,
    ):
        super().__init__()
        self.loss = one_of("loss", loss, ("softmax", "squared_hinge"))
        self.inter_weight = inter_weight
        self.inner_weight = inner_weight
        self.margin = margin
        self.label_smoothing = label_smoothing

    def forward(self, output, target):
        y, weight = target["y"], target.get("weight")
        loss = self._mean_classification(output.logits, y, weight)
        if self.inner_weight:
            loss = loss + self.inner_weight * _mean(self._inner(output, y), weight)
        if self.inter_weight:
            loss = loss + self.inter_weight * self._inter(output)
        return loss

    def _mean_classification(self, logits, y, weight):
        if logits.ndim == 3 and len(logits) > 1:
            # Several members: each is right or wrong by itself.
            members = len(logits)
            losses = self._classification(logits.flatten(0, 1), y.repeat(members))
            return _mean(losses.view(members, -1).mean(0), weight)
        logits = logits.view(-1, logits.shape[-1])
        if self.loss == "softmax" and not self.label_smoothing and weight is None:
            # Half of the time of a loss a row.
            return nn.functional.cross_entropy(logits, y)
        return _mean(self._classification(logits, y), weight)

    def _classification(self, logits, y):
        if self.loss == "softmax":
            return nn.functional.cross_entropy(
                logits, y, reduction="none", label_smoothing=self.label_smoothing
            )
        sign = 2 * nn.functional.one_hot(y, logits.shape[1]) - 1
        return (1 - sign * logits).clamp_min(0).square().sum(1)

    def _inner(self, output, y):
        distances = squared_distances(output.embedding, output.prototypes)
        other = (output.prototype_classes != y.unsqueeze(1)) | ~output.filled
        distances = distances.masked_fill(other, torch.inf).amin(1)
        # A class that was never written (its rows only in a hold-out) has no pull.
        distances = torch.where(distances.isinf(), 0, distances)
        return distances / output.embedding.shape[1]

    def _inter(self, output):
        classes, filled = output.prototype_classes, output.filled
        pairs = (classes != classes.unsqueeze(1)) & filled & filled.unsqueeze(1)
        # By differences, not by products, which lose small distances to rounding.
        distances = torch.cdist(
            output.prototypes,
            output.prototypes,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        distances = distances / math.sqrt(output.prototypes.shape[1])
        pairs = pairs.triu(1).to(distances.dtype)
        missing = (self.margin - distances).clamp_min(0).square() * pairs
        return missing.sum() / pairs.sum().clamp_min(1)


def _mean(values, weight):
    """Mean of a value a row, by a product, whose gradient takes less than a mean's."""
    if weight is None:
        return values.dot(torch.full_like(values, 1 / len(values)))
    return values.dot(weight / len(values))


class NeighborSequenceLoss(nn.Module):
    r"""L1 + lambda L2 of the neighbour networks.

    L1 is (1/K) sum_t KL(Y_t^T \|\| Y_t^P) + alpha KL(Y^GT \|\| Y^P), Y^P the mean of
    the K predicted distributions; L2 is sum_t \|\|X_t^P - X_t^T\|\|^2. With one-hot
    targets the divergences are cross-entropies. Whichever the network does not predict
    is left out; vectors alone have weight one.

    Parameters
    ----------
    alpha : float, default=9.5
        Weight of the row's own label.
    lam : float, default=0.12
        The paper's lambda, weight of the vectors.
    vector_reduction : {"mean", "sum"}, default="mean"
        Over the features of a vector: "sum" is the paper's squared norm, "mean"
        divides it by their number.

    Notes
    -----
    **Shape**

    - output: :class:`NeighborSequence`, log_probs (n_samples, K, n_classes) and vectors
      (n_samples, K, n_features), either may be None
    - target: dict with y (n_samples,), weight (n_samples,), labels (n_samples, K) and
      vectors (n_samples, K, n_features)
    - result: scalar

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to Sequence
       Deep Neural Networks and Memory Networks", arXiv 1804.11214, section 3.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import NeighborSequenceLoss, Seq2SeqNetwork
    >>> output = Seq2SeqNetwork(4, 3, n_neighbors=2)(torch.randn(6, 4))
    >>> target = {"y": torch.zeros(6, dtype=torch.long), "weight": torch.ones(6)}
    >>> target["labels"] = torch.zeros(6, 2, dtype=torch.long)
    >>> target["vectors"] = torch.zeros(6, 2, 4)
    >>> NeighborSequenceLoss()(output, target).shape
    torch.Size([])
    """

    def __init__(self, *, alpha=9.5, lam=0.12, vector_reduction="mean"):
        super().__init__()
        self.alpha = alpha
        self.lam = lam
        self.vector_reduction = one_of(
            "vector_reduction", vector_reduction, ("mean", "sum")
        )

    def forward(self, output, target):
        if output.vectors is None:
            loss = self._labels(output.log_probs, target)
        elif output.log_probs is None:
            loss = self._vectors(output.vectors, target)
        else:
            loss = self._labels(output.log_probs, target)
            loss = loss + self.lam * self._vectors(output.vectors, target)
        return (target["weight"] * loss).mean()

    def _labels(self, log_probs, target):
        neighbors = log_probs.gather(2, target["labels"].unsqueeze(2)).mean((1, 2))
        mean = log_probs.logsumexp(1) - math.log(log_probs.shape[1])
        own = mean.gather(1, target["y"].unsqueeze(1)).squeeze(1)
        return -neighbors - self.alpha * own

    def _vectors(self, vectors, target):
        squares = (vectors - target["vectors"]).square()
        if self.vector_reduction == "sum":
            return squares.sum((1, 2))
        return squares.mean(2).sum(1)
