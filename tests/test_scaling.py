"""Scaling of columns of numbers, there and back."""

import math
import pickle
import tracemalloc
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.base import clone

from sklearn_samn._scaling import (
    CLIP,
    NumericScaler,
    robust_clip,
    robust_statistics,
    undo_robust_clip,
)
from sklearn_samn._training import denormals_flushed

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


def test_tied_column_is_scaled_by_half_the_median_distance():
    X = np.zeros((20, 2))
    X[0, 0], X[1, 0] = -1, 5
    X[:, 1] = np.arange(20)
    center, scale = robust_statistics(X)
    assert center.tolist() == [0, 9.5]
    assert scale.tolist() == [(1 + 5) / 2 / 2, 9.5]


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
    NumericScaler(None, "float64").fit_transform(X)[0] = 9
    assert X.tolist() == [[1], [2], [3]]


@FLOATS
def test_dtype(dtype):
    for X in (column(1, 2, 4), column(1, 2, 4).astype(np.float32)):
        for scaling in ("robust", None):
            scaler = NumericScaler(scaling, np.dtype(dtype).name)
            assert scaler.fit_transform(X).dtype == dtype


@FLOATS
@pytest.mark.parametrize("scaling", ["robust", "mixed", "quantile", None])
def test_rows_lie_one_after_the_other_in_memory(dtype, scaling):
    X = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    scaler = NumericScaler(scaling, np.dtype(dtype).name)
    assert scaler.fit_transform(X).flags.c_contiguous


@FLOATS
def test_without_scaling_the_features_stay(dtype):
    X = column(-1e6, 0.5, 3e6)
    scaler = NumericScaler(None, np.dtype(dtype).name)
    assert scaler.fit_transform(X).tolist() == X.tolist()
    assert scaler.inverse_transform(X.astype(dtype)).tolist() == X.tolist()


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


# --- missing values and quantiles of numbers

SCALINGS = pytest.mark.parametrize("scaling", ["robust", "mixed", "quantile", None])


def test_statistics_leave_missing_values_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    expected = robust_statistics(X[10:, [1]])
    X[:10, 1], X[:, 2] = np.nan, np.nan
    center, scale = robust_statistics(X)
    complete = robust_statistics(X[:, [0]])
    assert [center[0], scale[0]] == [complete[0][0], complete[1][0]]
    assert [center[1], scale[1]] == [expected[0][0], expected[1][0]]
    assert [center[2], scale[2]] == [0, 1]


@SCALINGS
@FLOATS
def test_a_missing_number_is_the_median(scaling, dtype):
    X = np.array([[1.0, 5], [2, np.nan], [4, 5], [7, 9], [9, 11]])
    scaler = NumericScaler(scaling, np.dtype(dtype).name).fit(X)
    seen = scaler.transform([[np.nan, np.nan]])
    median = scaler.transform([[4.0, 7]])
    assert seen.dtype == dtype
    assert_allclose(seen, median, atol=1e-6)
    assert_allclose(seen, [[4, 7]] if scaling is None else [[0, 0]], atol=1e-6)


@SCALINGS
def test_a_column_of_missing_values_only(scaling):
    X = np.array([[np.nan, 1], [np.nan, 2], [np.nan, 4]])
    Z = NumericScaler(scaling).fit_transform(X)
    assert np.isfinite(Z).all()
    assert Z[:, 0].tolist() == [0, 0, 0]


def test_quantiles_make_a_normal_distribution_of_any():
    rng = np.random.default_rng(0)
    X = np.exp(3 * rng.normal(size=(5000, 2)))
    Z = NumericScaler("quantile", random_state=0).fit_transform(X)
    assert Z.dtype == np.float32 and Z.flags.c_contiguous
    grid = np.linspace(0.02, 0.98, 49)
    found = np.quantile(Z, grid, axis=0)
    assert_allclose(found, norm.ppf(grid)[:, None].repeat(2, axis=1), atol=0.05)
    order = X[:, 0].argsort()
    assert (np.diff(Z[order, 0]) >= 0).all()


def normal_scores(shares):
    beyond = norm.cdf(-CLIP)
    return norm.ppf(beyond + (1 - 2 * beyond) * np.asarray(shares))


def test_quantiles_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 4))
    # Ties in the middle and at either end.
    X[:, 1] = X[:, 1].round(1)
    X[:, 2] = X[:, 2].clip(-0.5, 0.5)
    X[:, 3] = rng.integers(3, size=3000)
    X[::100] = np.nan
    scaler = NumericScaler("quantile", "float64").fit(X)
    assert scaler.curved_.all()
    rows = np.vstack([X, X + 0.05 * rng.normal(size=X.shape), X * 2])
    robust = robust_clip(rows, (scaler.center_, scaler.scale_), np.float64)
    uniform = clone(scaler.quantiles_)
    uniform.set_params(output_distribution="uniform", copy=True).fit(robust[: len(X)])
    shares = uniform.transform(robust)
    inside = (shares > 0) & (shares < 1)
    assert inside.mean(axis=0).round(1).tolist() == [1.0, 1.0, 0.4, 0.3]
    Z = scaler.transform(rows)
    assert_allclose(Z[inside], normal_scores(shares)[inside], atol=1e-9)
    beyond = uniform.quantiles_[[0, -1]] * (1 + 1e-6)
    assert_allclose(Z[robust < beyond[0]], -CLIP)
    assert_allclose(Z[robust > beyond[1]], CLIP)


def test_ties_at_the_ends_have_the_mean_of_their_shares():
    X = column(*[0] * 50, *[1] * 30, *[2] * 20)
    scaler = NumericScaler("quantile", "float64").fit(X)
    # Ten quantiles: five are 0, three are 1, two are 2.
    expected = normal_scores([2 / 9, 6 / 9, 8.5 / 9])
    seen = scaler.transform(column(0, 1, 2))[:, 0]
    assert_allclose(seen, expected)
    assert_allclose(scaler.inverse_transform(seen[:, None])[:, 0], [0, 1, 2])
    assert_allclose(scaler.transform(column(-1, 3))[:, 0], [-CLIP, CLIP])


def test_quantiles_in_a_thread_that_has_no_subnormal_numbers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 2))
    # Many zeros, which are the median.
    X[:1500, 0] = 0
    X[:, 1] = rng.integers(-2, 3, size=3000)
    scaler = NumericScaler("quantile").fit(X)
    expected = scaler.transform(X)
    with denormals_flushed():
        assert_array_equal(scaler.transform(X), expected)
        assert_array_equal(pickle.loads(pickle.dumps(scaler)).transform(X), expected)


def test_quantiles_next_to_each_other():
    values = 0.125 + np.spacing(0.125) * np.arange(3)
    rest = np.random.default_rng(0).uniform(size=3000)
    X = np.concatenate([values.repeat(300), rest]).reshape(-1, 1)
    scaler = NumericScaler("quantile", "float64").fit(X)
    rows = values.reshape(-1, 1)
    robust = robust_clip(rows, (scaler.center_, scaler.scale_), np.float64)
    shares = norm.cdf(scaler.quantiles_.transform(robust))
    assert_allclose(scaler.transform(rows), normal_scores(shares))


def test_one_quantile_is_the_first_and_the_last():
    X = np.zeros((2000, 1))
    X[:2, 0] = 1, 2
    scaler = NumericScaler("quantile", "float64").fit(X)
    scaler.quantiles_.quantiles_[:] = 0
    Z = scaler.transform([[-1.0], [0.0], [1.0]]).ravel()
    assert_allclose(Z, [-CLIP, 0, CLIP], atol=1e-9)


def test_number_of_quantiles():
    rng = np.random.default_rng(0)
    expectations = [(5, 5), (40, 10), (900, 30), (40_000, 1000), (100_001, 1000)]
    for n_rows, expected in expectations:
        scaler = NumericScaler("quantile").fit(rng.normal(size=(n_rows, 1)))
        assert scaler.quantiles_.n_quantiles_ == expected


@pytest.mark.parametrize("scaling", ["robust", "mixed", "quantile", None])
def test_scaling_needs_no_more_than_two_copies(scaling):
    X = np.random.default_rng(0).normal(size=(100_000, 20))
    scaler = NumericScaler(scaling).fit(X[:1000])
    tracemalloc.start()
    try:
        scaler.transform(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A fifth of them for the arrays of a column, here one of twenty.
    assert peak < 2.5 * X.nbytes


def test_quantiles_of_a_long_table_are_drawn():
    X = np.random.default_rng(0).normal(size=(100_500, 1))
    one, again, other = (NumericScaler("quantile", random_state=r) for r in (0, 0, 1))
    expected = one.fit_transform(X)
    assert_array_equal(again.fit_transform(X), expected)
    assert not np.array_equal(other.fit_transform(X), expected)
    assert_allclose(other.transform(X), expected, atol=0.3)


def test_columns_of_two_values_are_scaled_robustly():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 2, 300), rng.normal(size=300), np.ones(300)])
    X[5, 0] = np.nan
    scaler = NumericScaler("quantile").fit(X)
    assert scaler.curved_.tolist() == [False, True, False]
    robust = NumericScaler("robust").fit_transform(X)
    assert_allclose(scaler.transform(X)[:, ::2], robust[:, ::2], rtol=1e-6)


def test_lopsided_columns_go_by_quantiles_where_scaling_is_mixed():
    rng = np.random.default_rng(0)
    normal, flags = rng.normal(size=(300, 2)), rng.random(300) < 0.05
    # More than four times as far, and less.
    sides = [
        np.where(normal[:, 0] > 0, ratio * normal[:, 0], normal[:, 0])
        for ratio in (8, 3)
    ]
    tied = np.maximum(np.exp(3 * normal[:, 1]), 1)
    X = np.column_stack([*sides, -np.exp(3 * normal[:, 1]), normal[:, 0], flags, tied])
    X[::7] = np.nan
    X = np.column_stack([X, np.full(300, np.nan)])
    mixed, robust, quantile = (
        NumericScaler(s, "float64").fit(X) for s in ("mixed", "robust", "quantile")
    )
    assert mixed.curved_.tolist() == [True, False, True, False, False, False, False]
    Z = mixed.transform(X)
    curved = mixed.curved_
    assert_array_equal(Z[:, curved], quantile.transform(X)[:, curved])
    assert_array_equal(Z[:, ~curved], robust.transform(X)[:, ~curved])
    assert_allclose(mixed.inverse_transform(Z)[1:7, :6], X[1:7, :6], rtol=1e-6)


@FLOATS
@pytest.mark.parametrize("outlier", [1e12, *OUTLIERS])
def test_any_outlier_under_quantiles(outlier, dtype):
    rest = np.linspace(-1, 1, 301)
    X = np.append(rest, outlier).reshape(-1, 1)
    scaler = NumericScaler("quantile", np.dtype(dtype).name).fit(X)
    Z = scaler.transform(X)[:, 0]
    assert Z[-1] == pytest.approx(math.copysign(np.abs(Z).max(), outlier))
    assert np.abs(Z).max() < 6
    # One row of 302 moves the others by as little, save in its quantile, a ninth.
    without = NumericScaler("quantile").fit_transform(rest.reshape(-1, 1))[:, 0]
    assert_allclose(Z[40:-41], without[40:-40], atol=0.05)
    assert (np.diff(Z[:-1]) > 0.001).all()
    assert np.isfinite(scaler.transform(column(*OUTLIERS))).all()
    assert np.isfinite(scaler.inverse_transform(column(-9, 0, 9))).all()


def test_timestamps_keep_their_digits_under_quantiles():
    seconds = np.arange(0.0, 1000, 0.5)
    stamps = NumericScaler("quantile").fit_transform((1.6e9 + seconds).reshape(-1, 1))
    assert (np.diff(stamps[1:-1, 0]) > 0).all()


@SCALINGS
def test_scaler_there_and_back(scaling):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)) * [1, 1e6, 1e-6] + [0, 1e7, 0]
    X[:, 2] = X[:, 2] > 0
    scaler = NumericScaler(scaling, "float64", random_state=0).fit(X)
    back = scaler.inverse_transform(scaler.transform(X))
    assert_allclose(back / scaler.scale_, X / scaler.scale_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_samples", [12, 3000])
def test_the_way_back_from_normal_scores(n_samples):
    """That of QuantileTransformer from the same shares, beyond all of them, too."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.exponential(size=n_samples), np.arange(n_samples) // 3])
    X[0] = 100
    scaler = NumericScaler(scaling="quantile").fit(X)
    assert scaler.curved_.all()
    shares = np.r_[rng.uniform(size=(500, 2)), [[0, 1], [1, 0], [0.5, 0.5]]]
    expected = scaler.quantiles_.inverse_transform(norm.ppf(shares).clip(-9, 9))
    seen = scaler._from_normal_scores(normal_scores(shares))
    assert_allclose(seen, expected, rtol=1e-9, atol=1e-12)
    ends = scaler._from_normal_scores(np.array([[-5.0, 9], [3.5, -9], [np.nan, 0]]))
    first, last = scaler.quantiles_.quantiles_[[0, -1]]
    assert ends[:2].tolist() == [[first[0], last[1]], [last[0], first[1]]]
    assert np.isnan(ends[2]).tolist() == [True, False]


def test_the_scaler_leaves_its_input_alone():
    X = np.array([[1.0, 2], [np.nan, 5], [3, 7], [4, 9]])
    for scaling in ("robust", "mixed", "quantile", None):
        before = X.copy()
        NumericScaler(scaling, "float64").fit_transform(X)
        assert_array_equal(X, before)


def test_a_scale_reaches_the_classes_within_reach():
    X = np.append(np.linspace(-1, 1, 101), np.full(9, 60.0)).reshape(-1, 1)
    y = np.append(np.zeros(101), np.ones(9))
    center = NumericScaler().fit(X).center_[0]
    scaler = NumericScaler(within_reach=[1]).fit(X, y)
    assert scaler.scale_[0] == pytest.approx((60 - center) / CLIP)


def test_another_fit_forgets_the_quantiles_before():
    rng = np.random.default_rng(0)
    before, X = rng.normal(size=(200, 1)), rng.exponential(size=(200, 1))
    scaler = NumericScaler("quantile").fit(before)
    scaler.transform(before)
    expected = NumericScaler("quantile").fit_transform(X)
    assert_array_equal(scaler.fit(X).transform(X), expected)


@SCALINGS
def test_the_scaler_leaves_scaled_rows_alone_on_the_way_back(scaling):
    X = np.random.default_rng(0).normal(size=(200, 2))
    scaler = NumericScaler(scaling, "float64").fit(X)
    Z = scaler.transform(X)
    before = Z.copy()
    scaler.inverse_transform(Z)
    assert_array_equal(Z, before)


def test_quantiles_of_far_values_are_told_apart_in_float32():
    near = np.random.default_rng(0).normal(size=1000)
    X = np.append(near, 1e5 + np.arange(1000.0)).reshape(-1, 1)
    single, exact = (
        NumericScaler("quantile", dtype).fit_transform(X)
        for dtype in ("float32", "float64")
    )
    assert_allclose(single, exact, atol=1e-5)


@pytest.mark.parametrize("reached", [(), (1,)])
def test_the_largest_numbers_there_and_back(reached):
    largest, y = np.finfo(float).max, np.array([0, 0, 0, 1, 1])
    X = column(-largest, -largest, 0, largest, largest)
    scaler = NumericScaler("robust", "float64", within_reach=reached)
    Z = scaler.fit(X, y).transform(X)
    assert np.isfinite(scaler.inverse_transform(Z)).all()
    # As far apart as can be.
    X[2] = -largest
    assert np.isfinite(scaler.fit(X, y).scale_).all()


def test_lopsided_columns_of_the_largest_numbers():
    largest = np.finfo(float).max
    X = np.linspace(0, 1, 11)[:, None] ** [[1, 9]]
    X = np.column_stack([largest * (2 * X[:, 0] - 1), largest * X[:, 1]])
    # Nearly even sides, one of which is no double.
    even = largest * np.repeat([-1.0, -0.02, 1.0], [4, 3, 4])
    X = np.column_stack([X, even])
    scaler = NumericScaler("mixed").fit(X)
    assert scaler.curved_.tolist() == [False, True, False]
    assert np.isfinite(scaler.transform(X)).all()


def test_ranges_below_the_smallest_normal_number_count_as_none():
    assert robust_statistics(column(0, 1e-310, 2e-310, 3e-310))[1].tolist() == [1.0]
    X = column(*[-5] * 2, *[0] * 6, *[1e-310] * 2, *[5] * 2)
    assert robust_statistics(X)[1].tolist() == [2.5]
