"""What the networks see: scaling, categories, missing values, and the way back."""

import math
import pickle
import tracemalloc
from itertools import product

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import TargetEncoder

from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier, SAMNClassifier
from sklearn_samn._preprocessing import (
    CLIP,
    NumericScaler,
    as_categories,
    categorical_mask,
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


# --- missing values and quantiles of numbers

SCALINGS = pytest.mark.parametrize("scaling", ["robust", "quantile", None])


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


@pytest.mark.parametrize("scaling", ["robust", "quantile", None])
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
    for scaling in ("robust", "quantile", None):
        before = X.copy()
        NumericScaler(scaling, "float64").fit_transform(X)
        assert_array_equal(X, before)


# --- which columns are categories, and their levels


def table(n_rows=240, seed=0):
    """The label depends on town and income; half of the missing incomes are told."""
    rng = np.random.default_rng(seed)
    town = rng.choice(["Bonn", "Oslo", "Rome"], n_rows)
    income = rng.normal(size=n_rows)
    y = np.where((town == "Bonn") ^ (income > 0.3), "yes", "no")
    frame = pd.DataFrame(
        {
            "income": income,
            "town": pd.Series(town).astype(object),
            "size": pd.Categorical(rng.choice(["S", "M", "L"], n_rows)),
            "flag": rng.random(n_rows) > 0.5,
            "count": pd.array(rng.integers(0, 9, n_rows), dtype="Int64"),
        }
    )
    frame.loc[rng.random(n_rows) < 0.1, "count"] = pd.NA
    frame.loc[rng.random(n_rows) < 0.05, "town"] = None
    frame.loc[rng.random(n_rows) < 0.05, "size"] = np.nan
    frame.loc[rng.random(n_rows) < 0.05, "income"] = np.nan
    return frame, y


def test_which_columns_are_categories():
    frame, _ = table(20)
    frame["string"] = frame["town"].astype("string")
    frame["nullable flag"] = frame["flag"].astype("boolean")
    frame["nothing"] = pd.Series([None] * 20, dtype=object)
    frame["numbers"] = pd.Series([1, None] * 10, dtype=object)
    frame["codes"] = pd.Categorical([1, 2] * 10)

    def names(wanted):
        return list(frame.columns[categorical_mask(frame, wanted)])

    assert names("auto") == ["town", "size", "string", "codes"]
    assert names("from_dtype") == ["size", "codes"]
    assert names(["flag", "income"]) == ["income", "flag"]
    assert names([0, 2]) == ["income", "size"]
    assert names(np.arange(10) == 4) == ["count"]
    for nothing in (None, [], [False] * 10):
        assert categorical_mask(frame, nothing) is None
    for wanted in ("auto", "from_dtype"):
        assert categorical_mask(frame[["income", "flag"]], wanted) is None
        assert categorical_mask(frame.to_numpy(), wanted) is None


def test_levels_of_any_type():
    values = ["a", 1, 1.0, "1", True, 2.5, 2**60 + 1, 10**400, None, np.nan, pd.NA]
    levels = as_categories(pd.DataFrame({"x": pd.Series(values, dtype=object)}))
    expected = ["a", "1", "1", "1", "1", "2.5", str(2**60 + 1), str(10**400)]
    assert levels[:8, 0].tolist() == expected
    assert np.isnan(levels[8:, 0].astype(float)).all()
    codes = pd.DataFrame({"x": [1, 2]})
    for dtype in ("int8", "float32", "Int64", "category", "str", "object"):
        assert as_categories(codes.astype(dtype))[:, 0].tolist() == ["1", "2"]


# --- the classifiers take any table

SAMN = SAMNClassifier(max_epochs=15, random_state=0)
SEQ2SEQ = KNNSeq2SeqClassifier(max_epochs=10, n_neighbors=3, random_state=0)
MEMNET = MemNetKNNClassifier(max_epochs=15, n_neighbors=3, random_state=0)
each_classifier = pytest.mark.parametrize(
    "classifier", [SAMN, SEQ2SEQ, MEMNET], ids=["samn", "seq2seq", "memnet"]
)


@each_classifier
def test_a_mixed_frame_in_a_grid_search(classifier):
    frame, y = table(400)
    grid = {"scaling": ["quantile", "robust"]}
    search = GridSearchCV(clone(classifier), grid, cv=3, error_score="raise")
    search.fit(frame[:300], y[:300])
    # Which of the two levels the label has is told by town and income together.
    assert search.score(frame[300:], y[300:]) > 0.8


@each_classifier
def test_what_the_network_sees_of_a_mixed_frame(classifier):
    frame, y = table()
    model = clone(classifier).set_params(max_epochs=2).fit(frame, y)
    assert isinstance(model.preprocessor_, ColumnTransformer)
    assert model.is_categorical_.tolist() == [False, True, True, False, False]
    names = model.preprocessor_.get_feature_names_out().tolist()
    missing = "missing__missingindicator_"
    assert names == [
        *["numeric__income", "numeric__flag", "numeric__count"],
        *[missing + "income", missing + "count"],
        *[f"one_hot__town_{town}" for town in ("Bonn", "Oslo", "Rome", "nan")],
        *[f"one_hot__size_{size}" for size in ("L", "M", "S", "nan")],
    ]
    Z = model.preprocessor_.transform(frame)
    assert isinstance(Z, np.ndarray) and Z.dtype == np.float32
    assert Z.shape == (len(frame), len(names)) and np.isfinite(Z).all()
    seen = dict(zip(names, Z.T, strict=True))
    assert_array_equal(seen[missing + "count"], frame["count"].isna())
    assert (seen["numeric__income"][frame["income"].isna()] == 0).all()
    assert_array_equal(seen["one_hot__town_Bonn"], frame["town"] == "Bonn")
    assert_array_equal(seen["one_hot__town_nan"], frame["town"].isna())
    wide = clone(classifier).set_params(max_epochs=2, dtype="float64").fit(frame, y)
    assert wide.preprocessor_.transform(frame).dtype == np.float64


@each_classifier
def test_numbers_alone_need_a_scaler_alone(classifier):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 2
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = clone(classifier).set_params(max_epochs=1).fit(frame, y)
    assert isinstance(model.preprocessor_, NumericScaler)
    assert model.is_categorical_ is None
    assert model.preprocessor_.get_feature_names_out().tolist() == ["a", "b", "c"]
    Z = model.preprocessor_.transform(frame)
    assert_array_equal(Z, robust_clip(X, robust_statistics(X), np.float32))
    frame.loc[4, "b"] = np.nan
    model.fit(frame, y)
    names = model.preprocessor_.get_feature_names_out().tolist()
    assert names[-1] == "missing__missingindicator_b" and len(names) == 4


@each_classifier
def test_scaling_by_the_number_of_rows(classifier):
    rng = np.random.default_rng(0)
    automatic = clone(classifier).set_params(max_epochs=1)
    assert automatic.scaling == "auto"
    for n_rows, expected in [(1999, "robust"), (2000, "quantile")]:
        X, y = rng.normal(size=(n_rows, 2)), np.arange(n_rows) % 2
        assert automatic.fit(X, y).preprocessor_.scaling == expected
    # Rows of weight zero are none.
    automatic.fit(X, y, sample_weight=np.arange(2000) > 0)
    assert automatic.preprocessor_.scaling == "robust"


@each_classifier
def test_categories_by_name_index_mask_and_dtype_are_the_same(classifier):
    frame, y = table()
    short = clone(classifier).set_params(max_epochs=2)
    expected = clone(short).fit(frame, y).predict_proba(frame)
    mask = np.array([False, True, True, False, False])
    for wanted in (["town", "size"], [1, 2], mask, mask.tolist()):
        model = clone(short).set_params(categorical_features=wanted).fit(frame, y)
        assert_array_equal(model.predict_proba(frame), expected)
    typed = frame.astype({"town": "category"})
    model = clone(short).set_params(categorical_features="from_dtype").fit(typed, y)
    assert_array_equal(model.predict_proba(typed), expected)
    array = frame.astype(object).where(frame.notna(), None).to_numpy()
    model = clone(short).set_params(categorical_features=[1, 2]).fit(array, y)
    assert_array_equal(model.predict_proba(array), expected)
    assert not hasattr(model, "feature_names_in_")


def test_a_mask_may_change_after_the_fit():
    frame, y = table()
    mask = np.array([False, True, True, False, False])
    model = SAMNClassifier(categorical_features=mask, max_epochs=1, random_state=0)
    expected = model.fit(frame, y).predict_proba(frame)
    mask[:] = False
    assert_array_equal(model.predict_proba(frame), expected)


@each_classifier
def test_codes_given_as_categories_have_no_order(classifier):
    codes = np.arange(300) % 5
    y = np.isin(codes, [1, 3]).astype(int)
    X = np.column_stack([codes, np.random.default_rng(0).normal(size=300)])
    model = clone(classifier).set_params(categorical_features=[0]).fit(X, y)
    assert model.score(X, y) > 0.97
    assert model.preprocessor_.transform(X).shape == (300, 6)
    again = model.predict_proba(X.astype(object))
    assert_array_equal(again, model.predict_proba(X))


@each_classifier
def test_unseen_categories_and_new_missing_values(classifier):
    frame, y = table()
    complete = frame.dropna().reset_index(drop=True)
    y = y[frame.notna().all(axis=1)]
    model = clone(classifier).set_params(max_epochs=3).fit(complete, y)
    new = complete.copy()
    new["town"] = ["Paris", None] * (len(new) // 2) + ["Oslo"] * (len(new) % 2)
    new.loc[0, ["income", "count"]] = [np.nan, pd.NA]
    Z = model.preprocessor_.transform(new)
    names = model.preprocessor_.get_feature_names_out().tolist()
    towns = [names.index(f"one_hot__town_{town}") for town in ("Bonn", "Oslo", "Rome")]
    assert (Z[:2, towns] == 0).all()
    assert Z[0, 0] == 0 and len(names) == 3 + 3 + 3
    assert np.isfinite(model.predict_proba(new)).all()


@each_classifier
def test_that_a_value_is_missing_is_a_signal(classifier):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 2)), np.arange(400) % 2
    X[(y == 1) & (rng.random(400) < 0.95), 0] = np.nan
    model = clone(classifier).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.9


@each_classifier
def test_missing_of_any_kind_is_one_category(classifier):
    short = clone(classifier).set_params(max_epochs=2)
    y, found = np.arange(90) % 2, []
    for missing in (None, np.nan, pd.NA):
        values = pd.Series(["a", missing, "b"] * 30, dtype=object)
        model = clone(short).fit(pd.DataFrame({"x": values}), y)
        kinds = [values, values.astype("category"), values.astype("string")]
        found += [model.predict_proba(pd.DataFrame({"x": kind})) for kind in kinds]
    assert found[0].shape == (90, 2)
    for other in found[1:]:
        assert_array_equal(other, found[0])


# --- many levels


def many_levels(n_rows, n_levels, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.integers(0, n_levels, n_rows)
    noise = rng.normal(size=n_rows)
    frame = pd.DataFrame({"id": [f"id{code}" for code in level], "noise": noise})
    return frame, level


@each_classifier
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_thousand_levels_stay_narrow_and_are_learned(classifier, n_classes):
    frame, level = many_levels(8000, 1000)
    y = level % n_classes
    model = clone(classifier).set_params(max_epochs=4).fit(frame[:6000], y[:6000])
    n_columns = 1 + (1 if n_classes == 2 else n_classes)
    assert model.preprocessor_.transform(frame).shape == (8000, n_columns)
    # About six rows a level tell its class.
    assert model.score(frame[6000:], y[6000:]) > 0.9
    assert np.isfinite(model.predict_proba(frame[:1].assign(id="new"))).all()


@each_classifier
def test_a_thousand_levels_do_not_leak_random_labels(classifier):
    frame, _ = many_levels(4000, 1000)
    y = np.random.default_rng(1).integers(0, 2, 4000)
    model = clone(classifier).set_params(max_epochs=4).fit(frame[:3000], y[:3000])
    assert abs(model.score(frame[3000:], y[3000:]) - 0.5) < 0.06
    # A network that had seen each row's own label in its level would be sure of it.
    assert model.loss_curve_[-1] > 0.95 * unlearned_loss(classifier, frame, y)


@each_classifier
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_later_fit_does_not_leak_labels_into_levels(classifier, n_classes):
    frame, _ = many_levels(1000, 300)
    y = np.random.default_rng(1).integers(0, n_classes, 1000)
    model = clone(classifier).set_params(max_epochs=4, warm_start=True).fit(frame, y)
    first = model.loss_curve_[0]
    model.fit(frame, y)
    # The fitted encoder tells the labels; a network that saw it would soon be sure.
    assert model.loss_curve_[-1] > 0.9 * first
    # Where a class is not there, the encoding is that of the first fit.
    rows, expected = frame[y > 0], model.preprocessor_.transform(frame[y > 0])
    assert_array_equal(model._look_again(rows, y[y > 0], seed=0), expected)
    assert np.isfinite(model.fit(rows, y[y > 0]).predict_proba(frame)).all()


def unlearned_loss(classifier, frame, y):
    """The last loss on a table that holds nothing but noise."""
    model = clone(classifier).set_params(max_epochs=4)
    return model.fit(frame[["noise"]][:3000], y[:3000]).loss_curve_[-1]


def test_levels_up_to_64_have_a_column_each():
    y = np.arange(650) % 2
    for n_levels, kind in [(64, "one_hot"), (65, "target")]:
        frame = pd.DataFrame({"x": [f"v{i % n_levels}" for i in range(650)]})
        model = clone(SAMN).set_params(max_epochs=1).fit(frame, y)
        assert list(model.preprocessor_.named_transformers_) == [kind]
    encoder = model.preprocessor_.named_transformers_["target"][1]
    assert isinstance(encoder, TargetEncoder)


def test_a_class_of_one_row_with_many_levels():
    frame, level = many_levels(300, 100)
    y = np.where(np.arange(300) == 7, 2, level % 2)
    model = clone(SAMN).set_params(max_epochs=1).fit(frame, y)
    assert model.predict_proba(frame).shape == (300, 3)


# --- fit by fit


@each_classifier
def test_the_same_bits_with_categories(classifier):
    frame, level = many_levels(600, 100)
    y = level % 2
    model = clone(classifier).set_params(max_epochs=2, scaling="quantile")
    expected = clone(model).fit(frame, y).predict_proba(frame)
    assert_array_equal(clone(model).fit(frame, y).predict_proba(frame), expected)
    other = clone(model).set_params(random_state=1).fit(frame, y)
    assert not np.array_equal(other.predict_proba(frame), expected)


@each_classifier
def test_rows_of_weight_zero_do_not_reach_the_preprocessor(classifier):
    frame, level = many_levels(600, 100)
    y = level % 2
    model = clone(classifier).set_params(max_epochs=2)
    expected = clone(model).fit(frame[:500], y[:500])
    other = frame.copy()
    other.loc[500:, "id"], other.loc[500:, "noise"] = "elsewhere", 1e6
    other.loc[550:, "noise"] = np.nan
    found = clone(model).fit(other, 1 - y, sample_weight=np.arange(600) < 500)
    names = expected.preprocessor_.get_feature_names_out().tolist()
    assert found.preprocessor_.get_feature_names_out().tolist() == names
    assert not np.array_equal(found.predict_proba(frame), expected.predict_proba(frame))
    found = clone(model).fit(other, np.r_[y[:500], 1 - y[500:]], np.arange(600) < 500)
    assert_array_equal(found.predict_proba(frame), expected.predict_proba(frame))


def test_partial_fit_keeps_the_preprocessor_of_the_first_chunk():
    frame, level = many_levels(3000, 200)
    y = level % 2
    model = clone(SAMN).partial_fit(frame[:2000], y[:2000], classes=[0, 1])
    preprocessor = model.preprocessor_
    before = preprocessor.transform(frame)
    for _ in range(5):
        model.partial_fit(frame[2000:], y[2000:])
    assert model.preprocessor_ is preprocessor
    assert_array_equal(preprocessor.transform(frame), before)
    assert model.score(frame, y) > 0.9


@each_classifier
def test_warm_start_keeps_the_preprocessor(classifier):
    frame, y = table()
    model = clone(classifier).set_params(max_epochs=1, warm_start=True).fit(frame, y)
    preprocessor = model.preprocessor_
    half = frame[frame["town"] != "Bonn"].assign(count=1)
    model.fit(half, y[half.index])
    assert model.preprocessor_ is preprocessor


@each_classifier
def test_tables_of_pyarrow(classifier):
    pyarrow = pytest.importorskip("pyarrow")
    frame, y = table()
    frame = frame[["income", "town"]]
    expected = clone(classifier).set_params(max_epochs=1).fit(frame, y)
    rows = pyarrow.Table.from_pandas(frame)
    model = clone(expected).fit(rows, y)
    assert_array_equal(model.predict_proba(rows), expected.predict_proba(frame))
    assert model.is_categorical_.tolist() == [False, True]
    dates = rows.append_column("day", pyarrow.array([pd.Timestamp(0)] * len(frame)))
    with pytest.raises(ValueError, match="dates or durations in column 'day'"):
        clone(model).fit(dates, y)


@each_classifier
def test_output_in_frames_is_for_others(classifier):
    frame, y = table()
    model = clone(classifier).set_params(max_epochs=1)
    with config_context(transform_output="pandas"):
        for seen in (frame, frame[["flag"]], frame[["income"]]):
            model.fit(seen, y).predict(seen)
            assert isinstance(model.preprocessor_.transform(seen), np.ndarray)


@each_classifier
def test_another_precision_with_warm_start(classifier):
    frame, y = table()
    model = clone(classifier).set_params(max_epochs=1, warm_start=True).fit(frame, y)
    model.set_params(dtype="float64").fit(frame, y)
    assert np.isfinite(model.predict_proba(frame)).all()


@each_classifier
def test_frames_that_changed(classifier):
    frame, y = table()
    model = clone(classifier).set_params(max_epochs=1).fit(frame, y)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    assert model.n_features_in_ == 5
    with pytest.raises(ValueError, match="must be in the same order"):
        model.predict(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="yet now missing"):
        model.predict(frame[["income", "town"]])
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        model.predict(frame[:0])
    with pytest.raises(ValueError, match="requires y to be passed"):
        clone(model).fit(frame, None)
    with pytest.raises(ValueError, match="y contains NaN"):
        clone(model).fit(frame, np.where(y == "yes", 1.0, np.nan))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(model).fit(frame, y[:-1])
    with pytest.warns(UserWarning, match="does not have valid feature names") as seen:
        array = model.predict_proba(frame.to_numpy(dtype=object, na_value=np.nan))
    assert len(seen) == 1
    assert_array_equal(array, model.predict_proba(frame))


@pytest.mark.parametrize("classifier", [SEQ2SEQ, MEMNET], ids=["seq2seq", "memnet"])
@pytest.mark.parametrize("scaling", ["robust", "quantile"])
def test_neighbours_in_the_units_of_a_mixed_frame(classifier, scaling):
    rng = np.random.default_rng(0)
    y = np.arange(300) % 2
    frame = pd.DataFrame(
        {
            "town": np.where(y == 1, "Rome", "Bonn"),
            "income": 1e5 + 1e4 * y + 1e3 * rng.normal(size=300),
            "id": [f"id{i % 150}" for i in range(300)],
        }
    )
    frame.loc[7, "income"] = np.nan
    model = clone(classifier).set_params(scaling=scaling, max_epochs=30)
    vectors = model.fit(frame, y).predict_neighbors(frame)[1]
    assert vectors.shape == (300, 3, 3)
    town, income, code = np.moveaxis(vectors, 2, 0)
    encoder = model.preprocessor_.named_transformers_["one_hot"][1]
    assert encoder.categories_[0].tolist() == ["Bonn", "Rome"]
    assert (town == y[:, None]).mean() > 0.95
    assert (abs(income - 1e5 - 1e4 * y[:, None]) < 4e3).mean() > 0.9
    assert np.isnan(code).all()
    # One row needs no others.
    assert model.predict_neighbors(frame[:1])[1].shape == (1, 3, 3)


def test_fitting_keeps_no_copy_of_the_rows():
    frame, level = many_levels(20_000, 100)
    model = clone(SAMN).set_params(max_epochs=1, batch_size=2000)
    model.fit(frame, level % 2)
    assert len(pickle.dumps(model.preprocessor_)) < 40_000
