"""Kernel scores and sample attention against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from sklearn_samn.modules import SampleAttention, kernel_scores
from sklearn_samn.modules.attention import squared_distances

# Rows of width 4, so that sqrt(h) = 2. Inner products: a.a = 4, a.b = 0, a.c = 2,
# b.c = 2, c.c = 4. Squared distances: |a - b|^2 = 8, |a - c|^2 = |b - c|^2 = 4.
A, B, C = [2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]
QUERIES, KEYS = [A, C], [A, B, C]

# Scores of the queries a, c (rows) at the keys a, b, c (columns).
SCORES = [
    ({"kernel": "linear"}, [[2, 0, 1], [1, 1, 2]]),
    ({"kernel": "rbf"}, [[0, -4, -2], [-2, -2, 0]]),
    # The defaults: (s + 1)^3.
    ({"kernel": "poly"}, [[27, 1, 8], [8, 8, 27]]),
    ({"kernel": "poly", "degree": 2, "coef0": 2}, [[16, 4, 9], [9, 9, 16]]),
    (
        {"kernel": "sigmoid", "coef0": 0.5},
        [
            [math.tanh(2.5), math.tanh(0.5), math.tanh(1.5)],
            [math.tanh(1.5), math.tanh(1.5), math.tanh(2.5)],
        ],
    ),
]


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


def softmax(scores):
    exponentials = np.exp(scores - np.max(scores, axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def attention(query, key, value, **params):
    """A block of given matrices; z W is z @ W, torch keeps the transpose."""
    block = SampleAttention(4, **params).double()
    with torch.no_grad():
        block.query.weight.copy_(double(query).T)
        block.key.weight.copy_(double(key).T)
        block.value.weight.copy_(double(value).T)
    return block


@pytest.mark.parametrize("params, expected", SCORES)
def test_scores_of_three_points(params, expected):
    scores = kernel_scores(double(QUERIES), double(KEYS), **params)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-14, atol=1e-14)


def test_the_default_kernel_is_linear():
    scores = kernel_scores(double(QUERIES), double(KEYS))
    assert scores.tolist() == [[2, 0, 1], [1, 1, 2]]


@pytest.mark.parametrize("params, scores", SCORES)
def test_attention_with_identity_matrices(params, scores):
    identity = np.eye(4).tolist()
    block = attention(identity, identity, identity, **params)
    z, weights = block(double(QUERIES), double(KEYS), torch.ones(3, dtype=torch.bool))
    expected = softmax(np.array(scores, dtype=float))
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-13)
    np.testing.assert_allclose(
        z.detach().numpy(), np.array(QUERIES) + expected @ np.array(KEYS), rtol=1e-13
    )


def test_each_matrix_maps_its_own_side():
    rng = np.random.default_rng(0)
    z, memory = rng.normal(size=(2, 4)), rng.normal(size=(3, 4))
    w_q, w_k, w_v = rng.normal(size=(3, 4, 4))
    block = attention(w_q.tolist(), w_k.tolist(), w_v.tolist())
    out, weights = block(
        torch.from_numpy(z), torch.from_numpy(memory), torch.ones(3, dtype=torch.bool)
    )
    expected = softmax((z @ w_q) @ (memory @ w_k).T / 2)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        out.detach().numpy(), z + expected @ (memory @ w_v), rtol=1e-12
    )


def test_heads_attend_each_with_their_part_of_the_width():
    rng = np.random.default_rng(0)
    z, memory = rng.normal(size=(2, 4)), rng.normal(size=(3, 4))
    w_q, w_k, w_v = rng.normal(size=(3, 4, 4))
    block = attention(w_q.tolist(), w_k.tolist(), w_v.tolist(), n_heads=2, kernel="rbf")
    out, weights = block(
        torch.from_numpy(z), torch.from_numpy(memory), torch.ones(3, dtype=torch.bool)
    )
    queries, keys, values = z @ w_q, memory @ w_k, memory @ w_v
    first, second = (
        softmax(-((q[:, None] - k[None]) ** 2).sum(axis=2) / math.sqrt(2))
        for q, k in ((queries[:, :2], keys[:, :2]), (queries[:, 2:], keys[:, 2:]))
    )
    read = np.hstack([first @ values[:, :2], second @ values[:, 2:]])
    np.testing.assert_allclose(out.detach().numpy(), z + read, rtol=1e-12)
    mean = (first + second) / 2
    np.testing.assert_allclose(weights.detach().numpy(), mean, rtol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"n_features=6 .* of n_heads=4"):
        SampleAttention(6, n_heads=4)


def test_unfilled_entries_get_no_weight_whatever_they_hold():
    identity = np.eye(4).tolist()
    block = attention(identity, identity, identity)
    filled = torch.tensor([True, False, True])
    z, weights = block(double(QUERIES), double([A, [1e3] * 4, C]), filled)
    # Softmax over the scores (2, 1) and (1, 2) of the entries a and c.
    near, far = math.e / (1 + math.e), 1 / (1 + math.e)
    expected = np.array([[near, 0, far], [far, 0, near]])
    assert weights[:, 1].tolist() == [0, 0]
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-13)
    without = block(double(QUERIES), double([A, C]), torch.tensor([True, True]))[0]
    np.testing.assert_allclose(z.detach().numpy(), without.detach().numpy(), rtol=1e-13)


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
def test_a_memory_that_holds_nothing_adds_nothing(kernel):
    block = SampleAttention(4, kernel=kernel)
    rows = torch.tensor(QUERIES)
    z, weights = block(rows, torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool))
    assert torch.equal(z, rows)
    assert weights.isfinite().all()


def test_squared_distances_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    distances = squared_distances(torch.from_numpy(a), torch.from_numpy(b))
    expected = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-12)


def test_squared_distances_are_never_negative():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(100, 1, size=(200, 8)).astype(np.float32))
    # Without the clamp, rounding makes some of these distances of equal rows negative.
    norms = rows.square().sum(1)
    assert (norms + norms - 2 * (rows @ rows.T).diagonal()).min() < 0
    assert squared_distances(rows, rows).min() >= 0
