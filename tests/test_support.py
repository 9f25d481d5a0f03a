"""Sampling by importance."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_samn._support import raise_rare_classes, sample_by_importance, sample_size


@pytest.mark.parametrize("n_samples", [1, 7, 99])
def test_as_many_rows_as_asked(n_samples):
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, weights = sample_by_importance(rng.exponential(size=100), n_samples, rng)
        assert len(rows) == len(weights) == n_samples
        assert (np.diff(rows) > 0).all()


def test_probability_is_in_proportion_to_importance():
    rng = np.random.default_rng(0)
    # 3 of (4 + 1 + 1 + 2 + 2): the first is certain, the others share two.
    importance = np.array([4.0, 1.0, 1.0, 2.0, 2.0])
    drawn = np.zeros(5)
    for _ in range(4000):
        rows, weights = sample_by_importance(importance, 3, rng)
        drawn[rows] += 1
        assert_allclose(
            weights, (3 / 5 / np.array([1, 1 / 3, 1 / 3, 2 / 3, 2 / 3]))[rows]
        )
    # Four standard deviations.
    assert_allclose(drawn / 4000, [1, 1 / 3, 1 / 3, 2 / 3, 2 / 3], atol=0.03)


def test_weighted_sums_are_those_of_all_rows():
    rng = np.random.default_rng(0)
    importance, values = rng.exponential(size=(2, 50)) + 0.1
    sums = []
    for _ in range(4000):
        rows, weights = sample_by_importance(importance, 10, rng)
        sums.append(weights @ values[rows])
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - values.sum() * 10 / 50) < 4 * error


def test_equal_importance_is_even_steps():
    rows, weights = sample_by_importance(np.ones(100), 10, np.random.default_rng(0))
    assert_array_equal(np.diff(rows), 10)
    assert_allclose(weights, 1)


def test_each_class_is_due_two_rows():
    importance, classes = np.ones(100), np.repeat([0, 2, 3], [90, 9, 1])
    raised = raise_rare_classes(importance, classes, 10)
    # Two of ten are due to a class; the first has more.
    assert_allclose(np.bincount(classes, raised), [90, 0, 20, 20])
    assert_array_equal(importance, 1)


@pytest.mark.parametrize("error", [0.3, 0.1, 0.03])
def test_as_many_rows_as_the_error_allows(error):
    rng = np.random.default_rng(0)
    # Answers that are sums of what each row says, over their number.
    effects = rng.exponential(size=400) * rng.choice([-1, 1], size=(50, 400)) / 50
    moves = np.sqrt((effects**2).mean(axis=0))
    importance = moves + moves.mean()
    n_samples = sample_size(moves, importance, error)
    assert 1 < n_samples < 400
    squares = []
    for _ in range(300):
        order = rng.permutation(400)
        rows, weights = sample_by_importance(importance[order], n_samples, rng)
        kept = effects[:, order[rows]] @ weights * 400 / n_samples
        squares.append(((kept - effects.sum(axis=1)) ** 2).mean())
    assert np.sqrt(np.mean(squares)) == pytest.approx(error, rel=0.1)


def test_no_error_takes_all_rows():
    moves = np.linspace(0.1, 1, 20)
    assert sample_size(moves, moves, 0.0) == 20
    assert sample_size(moves, moves, 100.0) == 1


@pytest.mark.parametrize("n_samples", range(1, 10))
def test_as_many_rows_as_asked_from_the_very_first_step(n_samples):
    """Ten tenths are less than one, to the last bit."""
    first = SimpleNamespace(uniform=lambda: 0.0)
    assert len(sample_by_importance(np.full(10, 0.1), n_samples, first)[0]) == n_samples
