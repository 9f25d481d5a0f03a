"""Attention of rows over a memory of samples or class prototypes."""

import math

import torch
from torch import nn


def kernel_scores(queries, keys, *, kernel="linear", degree=3, coef0=1.0):
    r"""Similarity of each query to each key by a kernel of the SVM family.

    With h the width of a row and <q, k> / sqrt(h) the scaled inner product s:
    "linear" is s, "poly" (s + coef0)^degree, "sigmoid" tanh(s + coef0), and
    "rbf" the exponent -\|q - k\|^2 / sqrt(h): softmax over it weights each key by
    its Gaussian kernel.

    Parameters
    ----------
    queries : Tensor of shape (n_queries, h)
        Rows that look.
    keys : Tensor of shape (n_keys, h)
        Rows that are looked at.
    kernel : {"linear", "poly", "rbf", "sigmoid"}, default="linear"
        Kernel, in the spelling of :class:`sklearn.svm.SVC`.
    degree : int, default=3
        Degree of the polynomial.
    coef0 : float, default=1.0
        Constant of "poly" and "sigmoid".

    Returns
    -------
    Tensor of shape (n_queries, n_keys)
        The scores, unbounded but for "sigmoid".

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import kernel_scores
    >>> points = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> kernel_scores(points, points, kernel="rbf").round(decimals=4)
    tensor([[-0.0000, -3.5355],
            [-3.5355, -0.0000]])
    """
    scale = 1 / math.sqrt(queries.shape[1])
    if kernel == "rbf":
        return -scale * squared_distances(queries, keys)
    scores = scale * queries @ keys.T
    if kernel == "poly":
        return (scores + coef0) ** degree
    if kernel == "sigmoid":
        return torch.tanh(scores + coef0)
    return scores


def squared_distances(a, b):
    """Squared Euclidean distances between the rows of a and those of b.

    Examples
    --------
    >>> import torch
    >>> squared_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    norms = a.square().sum(1, keepdim=True) + b.square().sum(1)
    # Rounding can push the distance of two equal rows a hair below zero.
    return (norms - 2 * a @ b.T).clamp_min(0)


class SampleAttention(nn.Module):
    """One block of sample attention: what a memory says is added to each row.

    Queries are z W_q, keys M W_k, values M W_v; the weights are the softmax of
    the kernel scores over the memory, and the row-wise result is
    z + weights M W_v.

    Parameters
    ----------
    n_features : int
        Width h of the rows and of the memory.
    kernel : {"linear", "poly", "rbf", "sigmoid"}, default="linear"
        Kernel of the scores, see :func:`kernel_scores`.
    degree : int, default=3
        Degree of the polynomial kernel.
    coef0 : float, default=1.0
        Constant of the polynomial and the sigmoid kernel.

    Notes
    -----
    **Shape**

    - z: (n_samples, n_features)
    - memory: (n_entries, n_features)
    - filled: (n_entries,) bool, entries that hold something
    - output: (n_samples, n_features) and the weights (n_samples, n_entries)

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import SampleAttention
    >>> block = SampleAttention(8, kernel="rbf")
    >>> filled = torch.tensor([True, True, False])
    >>> z, weights = block(torch.randn(5, 8), torch.randn(3, 8), filled)
    >>> z.shape, weights[:, 2].max().item()
    (torch.Size([5, 8]), 0.0)
    """

    def __init__(self, n_features, *, kernel="linear", degree=3, coef0=1.0):
        super().__init__()
        self.kernel = kernel
        self.degree = degree
        self.coef0 = coef0
        # Without biases, a memory that holds nothing yet (zeros) adds nothing.
        self.query = nn.Linear(n_features, n_features, bias=False)
        self.key = nn.Linear(n_features, n_features, bias=False)
        self.value = nn.Linear(n_features, n_features, bias=False)

    def forward(self, z, memory, filled):
        scores = kernel_scores(
            self.query(z),
            self.key(memory),
            kernel=self.kernel,
            degree=self.degree,
            coef0=self.coef0,
        )
        # A finite lowest score: a softmax over -inf alone would be NaN.
        scores = scores.masked_fill(~filled, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=1)
        return z + weights @ self.value(memory), weights
