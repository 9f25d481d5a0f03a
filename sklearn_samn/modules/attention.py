"""Attention of rows over a memory of samples or class prototypes."""

import math

import torch
from torch import nn

from .embedding import at_once, one_of

KERNELS = "linear", "poly", "rbf", "sigmoid", "exponential"
# Keeps the gradient of a distance of zero finite.
TINY = 1e-12
# Entries of a matrix of queries by keys that the backward pass holds at a time.
PART = 2**17


def kernel_scores(queries, keys, *, kernel="linear", degree=3, coef0=1.0):
    r"""Similarity of each query to each key by a kernel of the SVM family.

    With h the width of a row and <q, k> / sqrt(h) the scaled inner product s:
    "linear" is s, "poly" (s + coef0)^degree, "sigmoid" tanh(s + coef0), and
    "rbf" the exponent -\|q - k\|^2 / sqrt(h) and "exponential" -\|q - k\|: softmax
    over it weights each key by its Gaussian or its exponential kernel.

    Parameters
    ----------
    queries : Tensor of shape (..., n_queries, h)
        Rows that look.
    keys : Tensor of shape (..., n_keys, h)
        Rows that are looked at.
    kernel : {"linear", "poly", "rbf", "sigmoid", "exponential"}, default="linear"
        Kernel, in the spelling of :class:`sklearn.svm.SVC`.
    degree : int, default=3
        Degree of the polynomial.
    coef0 : float, default=1.0
        Constant of "poly" and "sigmoid".

    Returns
    -------
    Tensor of shape (..., n_queries, n_keys)
        The scores, unbounded but for "sigmoid".

    Raises
    ------
    ValueError
        If there is no such kernel.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import kernel_scores
    >>> points = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> kernel_scores(points, points, kernel="rbf").round(decimals=4)
    tensor([[-0.0000, -3.5355],
            [-3.5355, -0.0000]])
    """
    if kernel == "exponential":
        return -(squared_distances(queries, keys) + TINY).sqrt()
    scale = 1 / math.sqrt(queries.shape[-1])
    if kernel == "rbf":
        return -scale * squared_distances(queries, keys)
    one_of("kernel", kernel, KERNELS)
    scores = scale * queries @ keys.mT
    if kernel == "poly":
        return (scores + coef0) ** degree
    if kernel == "sigmoid":
        return torch.tanh(scores + coef0)
    return scores


def read_memory(
    queries, keys, values, bias, scale, own=None, *, kernel="exponential", **params
):
    """Attention over a memory: the mean of the values by the weights of the keys.

    The weights are the softmax of ``scale`` times the kernel scores plus ``bias``. No
    gradient flows into the memory.

    Parameters
    ----------
    queries : Tensor of shape (n_members, n_queries, h)
        Rows that look.
    keys : Tensor of shape (n_members, n_keys, h)
        What they are compared with.
    values : Tensor of shape (n_members, n_keys, v)
        What they read.
    bias : Tensor of shape (n_keys,)
        Added to the scores; an entry of minus infinity is not seen.
    scale : Tensor of shape (n_members, 1, 1)
        Inverse temperature of each member.
    own : Tensor of shape (n_queries,) or None, default=None
        The entry that each query may not see, its own; -1 for none.
    kernel : str, default="exponential"
        Of :func:`kernel_scores`.
    **params
        Of :func:`kernel_scores`.

    Returns
    -------
    Tensor of shape (n_members, n_queries, v)
        The weighted means; zeros where no entry is seen.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import read_memory
    >>> keys, values = torch.tensor([[[0.0], [1.0], [5.0]]]), torch.eye(3).unsqueeze(0)
    >>> bias, scale = torch.tensor([0.0, 0.0, -torch.inf]), torch.ones(1, 1, 1)
    >>> read_memory(torch.zeros(1, 1, 1), keys, values, bias, scale)
    tensor([[[0.7311, 0.2689, 0.0000]]])
    >>> read_memory(torch.zeros(1, 1, 1), keys, values, bias, scale, torch.tensor([0]))
    tensor([[[0., 1., 0.]]])
    """
    if kernel == "exponential":
        return _ExponentialRead.apply(queries, keys, values, bias, scale, own)
    keys, values, bias = keys.detach(), values.detach(), bias.detach()
    weights = memory_weights(queries, keys, bias, scale, own, kernel=kernel, **params)
    return weights @ values


def memory_weights(queries, keys, bias, scale, own=None, **params):
    """The weights of :func:`read_memory`, (n_members, n_queries, n_keys)."""
    scores = scale * kernel_scores(queries, keys, **params) + bias
    scores = nn.functional.pad(scores, (0, 1), value=_nothing(scores.dtype))
    return _softmax(scores, own)


def _nothing(dtype):
    """Score of the last column, which stands for no entry.

    It takes all of the weight where a query sees none, and else nothing of it: a
    softmax over minus infinity alone would be NaN.
    """
    return torch.finfo(dtype).min / 2


def _softmax(scores, own, out=None):
    """Weights of the entries: all columns but the last, and for no query its own."""
    if own is not None:
        rows = torch.arange(len(own), device=own.device)
        # -1 hides the last column, whose score stays finite: it still wins where all
        # others are minus infinity. A tensor: a number would be copied to a GPU, which
        # a recording cannot do.
        hidden = scores.new_full((), torch.finfo(scores.dtype).min)
        scores[:, rows, own] = hidden
    return torch.softmax(scores, 2, out=out)[..., :-1]


class _ExponentialRead(torch.autograd.Function):
    """:func:`read_memory` for the exponential kernel.

    Written out because that halves the time of a training step: autograd would keep
    and walk twice as many matrices of n_queries by n_keys.
    """

    @staticmethod
    def forward(ctx, queries, keys, values, bias, scale, own):
        norms = keys.square().sum(2).unsqueeze(1)
        n_members, n_queries, n_keys = *queries.shape[:2], keys.shape[1]
        scores = queries.new_empty(n_members, n_queries, n_keys + 1)
        scores[..., -1] = _nothing(scores.dtype)
        of_entries = distances = scores[..., :-1]
        if any(ctx.needs_input_grad):
            # The backward pass needs them, too.
            distances = torch.empty_like(of_entries)
        torch.baddbmm(norms, queries, keys.mT, alpha=-2, out=distances)
        distances.add_(queries.square().sum(2, True)).clamp_min_(TINY).sqrt_()
        torch.addcmul(bias, distances, -scale, out=of_entries)
        weights = _softmax(scores, own, out=scores)
        found = weights @ values
        ctx.save_for_backward(queries, keys, values, scale, distances, weights, found)
        return found

    @staticmethod
    def backward(ctx, grad_found):
        queries, keys, values, scale, distances, weights, found = ctx.saved_tensors
        # Of the scores: w_j (g_j - sum_i w_i g_i), with g the gradient of the weights.
        mean = (grad_found * found).sum(2, True)
        grad_queries, grad_scale = [], 0
        # In parts: a third matrix as large as the two would be the peak of a fit.
        size = max(at_once(PART, keys) // keys.shape[1], 1)
        rows = queries, distances, weights, grad_found, mean
        parts = zip(*(a.split(size, dim=1) for a in rows), strict=True)
        for query, distance, weight, grad, middle in parts:
            grad = torch.baddbmm(-middle, grad, values.mT).mul_(weight)
            # Not torch.linalg.vecdot, which makes a matrix of the products first.
            members = zip(grad, distance, strict=True)
            dots = [torch.dot(a.flatten(), b.flatten()) for a, b in members]
            grad_scale = grad_scale - torch.stack(dots).view(-1, 1, 1)
            grad.div_(distance)
            toward = grad.sum(2, True) * query
            grad_queries.append(torch.baddbmm(toward, grad, keys, alpha=-1))
        grad_queries = torch.cat(grad_queries, dim=1)
        return grad_queries.mul_(-scale), None, None, None, grad_scale, None


def squared_distances(a, b):
    """Squared Euclidean distances between the rows of a and those of b.

    Examples
    --------
    >>> import torch
    >>> squared_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    norms = a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(-2)
    # Rounding can push the distance of two equal rows a hair below zero.
    return (norms - 2 * a @ b.mT).clamp_min(0)


class SampleAttention(nn.Module):
    """One block of sample attention: what a memory says is added to each row.

    Queries are z W_q, keys M W_k, values M W_v, each cut into ``n_heads`` parts; the
    weights of a head are the softmax of the kernel scores of its part over the memory,
    and the result is z plus what the heads read, side by side.

    Parameters
    ----------
    n_features : int
        Width h of the rows and of the memory.
    n_heads : int, default=1
        Heads, which attend each with its part of the width; a divisor of n_features.
    kernel : {"linear", "poly", "rbf", "sigmoid", "exponential"}, default="linear"
        Kernel of the scores, see :func:`kernel_scores`.
    degree : int, default=3
        Degree of the polynomial kernel.
    coef0 : float, default=1.0
        Constant of the polynomial and the sigmoid kernel.

    Raises
    ------
    ValueError
        If n_features is not a multiple of n_heads.

    Notes
    -----
    **Shape**

    - z: (n_samples, n_features)
    - memory: (n_entries, n_features)
    - filled: (n_entries,) bool, entries that hold something
    - output: (n_samples, n_features) and the weights (n_samples, n_entries), means over
      the heads

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import SampleAttention
    >>> block = SampleAttention(8, n_heads=2, kernel="rbf")
    >>> filled = torch.tensor([True, True, False])
    >>> z, weights = block(torch.randn(5, 8), torch.randn(3, 8), filled)
    >>> z.shape, weights[:, 2].max().item()
    (torch.Size([5, 8]), 0.0)
    """

    def __init__(self, n_features, *, n_heads=1, kernel="linear", degree=3, coef0=1.0):
        super().__init__()
        if n_features % n_heads:
            raise ValueError(
                f"n_features={n_features} is not a multiple of n_heads={n_heads}: each "
                "head takes an equal part of the width"
            )
        self.n_heads = n_heads
        self.kernel = kernel
        self.degree = degree
        self.coef0 = coef0
        # Without biases, a memory that holds nothing yet (zeros) adds nothing.
        self.query = nn.Linear(n_features, n_features, bias=False)
        self.key = nn.Linear(n_features, n_features, bias=False)
        self.value = nn.Linear(n_features, n_features, bias=False)

    def forward(self, z, memory, filled):
        scores = kernel_scores(
            self._heads(self.query(z)),
            self._heads(self.key(memory)),
            kernel=self.kernel,
            degree=self.degree,
            coef0=self.coef0,
        )
        # A finite lowest score: a softmax over -inf alone would be NaN.
        scores = scores.masked_fill(~filled, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=2)
        read = weights @ self._heads(self.value(memory))
        return z + read.transpose(0, 1).flatten(1), weights.mean(0)

    def _heads(self, rows):
        """Rows cut into (n_heads, n_rows, width of a head)."""
        return rows.unflatten(1, (self.n_heads, -1)).transpose(0, 1)
