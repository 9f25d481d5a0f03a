"""Robust scaling: what it keeps, what it bounds, and back."""

import math
from itertools import product

import numpy as np
import pytest

from sklearn_samn._preprocessing import (
    robust_clip,
    robust_statistics,
    undo_robust_clip,
)

UNIT = np.zeros(1), np.ones(1)
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def column(*values):
    return np.array(values, dtype=float).reshape(-1, 1)


def scaled(X, dtype=np.float64):
    return robust_clip(X, robust_statistics(X), dtype)


def test_centre_is_the_median_and_scale_the_interquartile_range():
    X = np.array([[0.0, 10], [1, 30], [2, 20], [3, 50], [100, 40]])
    center, scale = robust_statistics(X)
    assert center.tolist() == [2, 30]
    assert scale.tolist() == [3 - 1, 40 - 20]


def test_quartiles_are_interpolated():
    center, scale = robust_statistics(column(0, 1, 2, 9))
    # Quartiles at positions 0.75, 1.5 and 2.25.
    assert center.tolist() == [1.5]
    assert scale.tolist() == [2 + 0.25 * 7 - 0.75]


def test_tied_column_is_scaled_by_half_its_range():
    X = np.zeros((20, 2))
    X[0, 0], X[1, 0] = -1, 5
    X[:, 1] = np.arange(20)
    center, scale = robust_statistics(X)
    assert center.tolist() == [0, 9.5]
    assert scale.tolist() == [3, 9.5]


@FLOATS
def test_constant_column_becomes_zero(dtype):
    X = column(7, 7, 7)
    assert [a.tolist() for a in robust_statistics(X)] == [[7], [1]]
    assert scaled(X, dtype).tolist() == [[0], [0], [0]]


def test_formula():
    X, statistics = column(-4, 0.5, 5), (np.array([2.0]), np.array([1.5]))
    expected = []
    for x in (-4, 0.5, 5):
        z = (x - 2) / 1.5
        expected.append([z / math.sqrt(1 + (z / 3) ** 2)])
    np.testing.assert_allclose(
        robust_clip(X, statistics, np.float64), expected, rtol=1e-14
    )


def test_input_is_left_alone():
    X = column(1, 2, 3)
    robust_clip(X, UNIT, np.float64)
    robust_clip(X, None, np.float64)[0] = 9
    assert X.tolist() == [[1], [2], [3]]


@FLOATS
def test_dtype(dtype):
    for X in (column(1, 2, 4), column(1, 2, 4).astype(np.float32)):
        assert scaled(X, dtype).dtype == dtype
        assert robust_clip(X, None, dtype).dtype == dtype


@FLOATS
@pytest.mark.parametrize("statistics", [None, (np.zeros(2), np.ones(2))])
def test_rows_lie_one_after_the_other_in_memory(dtype, statistics):
    X = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    assert robust_clip(X, statistics, dtype).flags.c_contiguous


@FLOATS
def test_without_statistics_the_features_stay(dtype):
    X = column(-1e6, 0.5, 3e6)
    assert robust_clip(X, None, dtype).tolist() == X.tolist()
    assert undo_robust_clip(X.astype(dtype), None).tolist() == X.tolist()


@FLOATS
def test_an_outlier_leaves_the_rest_resolved(dtype):
    rest = np.linspace(-1, 1, 101)
    with_outlier = scaled(np.append(rest, 1e12).reshape(-1, 1), dtype)[:-1, 0]
    without = scaled(rest.reshape(-1, 1), dtype)[:, 0]
    # One more row moves the quartiles by half a percent of the interquartile range.
    np.testing.assert_allclose(with_outlier, without, atol=0.02)
    assert (np.diff(with_outlier) > 0.01).all()
    assert scaled(np.append(rest, 1e12).reshape(-1, 1), dtype)[-1, 0] == 3


def test_timestamps_keep_their_digits_in_float32():
    seconds = np.arange(0.0, 1000, 0.5)
    stamps = scaled((1.6e9 + seconds).reshape(-1, 1), np.float32)
    # In float32, 1.6e9 has a resolution of 128 seconds.
    assert (np.diff(stamps[:, 0]) > 0).all()
    np.testing.assert_allclose(
        stamps, scaled(seconds.reshape(-1, 1)), rtol=1e-6, atol=1e-9
    )


POSITIVE = np.logspace(-6, 30, 2001)
WIDE = np.concatenate([-POSITIVE[::-1], [0], POSITIVE])


@FLOATS
def test_bounds(dtype):
    Z = robust_clip(WIDE.reshape(-1, 1), UNIT, dtype)
    assert Z.min() == -3
    assert Z.max() == 3
    within = robust_clip(column(-100, 100), UNIT, dtype)
    assert within.min() > -3 and within.max() < 3


@FLOATS
def test_monotone(dtype):
    Z = robust_clip(WIDE.reshape(-1, 1), UNIT, dtype)[:, 0]
    # Where it is flat, two values may round apart by the last bit of a number near 3.
    assert (np.diff(Z) >= -np.spacing(dtype(3))).all()
    steep = np.abs(WIDE) < 30
    assert (np.diff(Z[steep]) > 0).all()


def test_odd():
    Z = robust_clip(WIDE.reshape(-1, 1), UNIT, np.float64)[:, 0]
    assert (Z == -Z[::-1]).all()


@FLOATS
def test_round_trip_within_the_clip(dtype):
    rng = np.random.default_rng(0)
    statistics = np.array([0.5, -1e7]), np.array([2.0, 1e6])
    X = rng.uniform(-50, 50, size=(200, 2)) * statistics[1] + statistics[0]
    back = undo_robust_clip(robust_clip(X, statistics, dtype), statistics)
    assert back.dtype == np.float64
    # Up to 50 interquartile ranges out, the slope of the way back is
    # (1 + (50 / 3)^2)^1.5; it stretches the few roundings of a number up to 3.
    slope = (1 + (50 / 3) ** 2) ** 1.5
    error = np.abs(back - X) / statistics[1]
    assert error.max() < slope * 4 * np.spacing(dtype(3))


@FLOATS
def test_the_way_back_from_the_bounds_is_finite(dtype):
    statistics = np.array([10.0]), np.array([2.0])
    back = undo_robust_clip(np.array([[-3.0], [3.0], [7.5]], dtype), statistics)
    # 0.999 of the bound: z = 3 * 0.999 / sqrt(1 - 0.999^2).
    far = 3 * 0.999 / math.sqrt(1 - 0.999**2)
    np.testing.assert_allclose(
        back, [[10 - 2 * far], [10 + 2 * far], [10 + 2 * far]], rtol=1e-12
    )


def test_the_way_back_leaves_its_input_alone():
    Z = column(0.5, 1)
    undo_robust_clip(Z, UNIT)
    assert Z.tolist() == [[0.5], [1]]


LARGEST = np.finfo(np.float64).max

OUTLIERS = [1e30, 1e300, LARGEST, -LARGEST]


@pytest.mark.parametrize(
    "outlier, dtype", list(product(OUTLIERS, [np.float32, np.float64]))
)
def test_any_outlier_ends_at_the_bound(outlier, dtype):
    # The interquartile range is 0.25: the quotient leaves the finite numbers.
    Z = scaled(column(-0.2, -0.1, 0, 0.1, 0.2, outlier), dtype)
    assert Z[-1, 0] == math.copysign(3, outlier)
    assert (np.diff(Z[:-1, 0]) > 0.1).all()


@FLOATS
def test_a_constant_column_of_the_largest_number(dtype):
    assert scaled(column(LARGEST, LARGEST), dtype).tolist() == [[0], [0]]


@FLOATS
@pytest.mark.parametrize(
    "values",
    [
        (-LARGEST, -LARGEST, 0, LARGEST, LARGEST),
        (-LARGEST, 0, 0, 0, 0, 0, LARGEST),
        (-LARGEST, LARGEST, LARGEST, LARGEST, LARGEST),
    ],
)
def test_the_largest_numbers_give_no_nan(values, dtype):
    Z = scaled(column(*values), dtype)
    assert np.isfinite(Z).all()
    assert np.abs(Z).max() <= 3
    assert (np.diff(Z[:, 0]) >= 0).all()
    assert Z[0, 0] < Z[-1, 0]
