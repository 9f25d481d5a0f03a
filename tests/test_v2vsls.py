"""V2VSLS on tables of any kind: what a synthetic row inherits, and from whom."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError

from sklearn_samn import V2VSLS, _neighbors, _v2vsls
from sklearn_samn._tables import _like

SAMPLER = V2VSLS(max_epochs=2, random_state=0)


def numbers(sizes=(60, 20), seed=0):
    """Classes of normal numbers, in the order of their codes."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=(len(y), 4)) + 2 * y[:, None], y


def table(sizes=(60, 20), seed=0):
    """A column of every kind, most with missing values."""
    X, y = numbers(sizes, seed)
    rng = np.random.default_rng(seed)
    n_samples = len(y)
    town = rng.choice(["Bonn", "Oslo", "Rome"], n_samples).astype(object)
    town[rng.random(n_samples) < 0.2] = None
    code = pd.array(rng.integers(0, 9, n_samples), dtype="Int64")
    code[rng.random(n_samples) < 0.2] = pd.NA
    ratio = X[:, 1].astype(np.float32)
    ratio[rng.random(n_samples) < 0.2] = np.nan
    flag = pd.array(rng.random(n_samples) < 0.5, dtype="boolean")
    flag[rng.random(n_samples) < 0.2] = pd.NA
    frame = {
        "income": X[:, 0],
        "town": pd.Series(town, dtype="string"),
        "code": code,
        "size": pd.Categorical(rng.choice(["S", "M", "L"], n_samples), ["S", "M", "L"]),
        "ratio": ratio,
        "flag": flag,
        "count": rng.integers(0, 5, n_samples),
        "true": rng.random(n_samples) < 0.5,
    }
    return pd.DataFrame(frame), y


def resampled(X, y, **params):
    sampler = clone(SAMPLER).set_params(**params)
    X_new, y_new = sampler.fit_resample(X, y)
    return sampler, X_new, y_new


# --- tables


def test_a_frame_comes_back_with_its_dtypes_and_rows():
    X, y = table()
    sampler, X_new, y_new = resampled(X, y)
    assert_frame_equal(X_new.iloc[:80], X)
    assert X_new.index.tolist() == list(range(120))
    assert (X_new.dtypes == X.dtypes).all()
    assert np.bincount(y_new).tolist() == [60, 60]
    assert sampler.is_categorical_.nonzero()[0].tolist() == [1, 3]


def test_categories_come_from_the_parent_or_its_neighbor():
    X, y = table((150, 60))
    sampler, X_new, _ = resampled(X, y)
    parents = X.iloc[sampler.parent_indices_].reset_index(drop=True)
    partners = X.iloc[sampler.neighbor_indices_].reset_index(drop=True)
    new = X_new.iloc[210:].reset_index(drop=True)
    for name in ("town", "size"):
        values, *others = (f[name].astype(object) for f in (new, parents, partners))
        of_either = [
            (values == other) | (values.isna() & other.isna()) for other in others
        ]
        assert (of_either[0] | of_either[1]).all()
        # Not all from the one or the other.
        assert not of_either[0].all()
        assert not of_either[1].all()


def test_missing_where_the_parent_is():
    X, y = table((60, 30))
    sampler, X_new, _ = resampled(X, y)
    for name in ("code", "ratio", "flag", "town"):
        of_parents = X[name].isna().to_numpy()[sampler.parent_indices_]
        assert_array_equal(X_new[name].iloc[90:].isna(), of_parents)
        assert of_parents.any()


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
def test_missing_numbers_of_a_matrix(make):
    X, y = numbers()
    X[::3, 2] = np.nan
    sampler, X_new, _ = resampled(make(X), y)
    if sparse.issparse(X_new):
        X_new = X_new.toarray()
    assert_array_equal(X_new[:80], X)
    expected = np.isnan(X[sampler.parent_indices_])
    assert_array_equal(np.isnan(X_new[80:]), expected)
    assert expected[:, 2].any()


def test_a_column_without_any_value():
    X, y = numbers()
    X[:, 1] = np.nan
    _, X_new, _ = resampled(X, y)
    assert np.isnan(X_new[:, 1]).all()
    assert np.isfinite(np.delete(X_new, 1, axis=1)).all()


def test_whole_and_bounded_numbers_stay_so():
    X, y = table()
    _, X_new, _ = resampled(X, y, residual_scale=5.0)
    for name in ("income", "code", "ratio", "count"):
        assert X[name].min() <= X_new[name].min()
        assert X_new[name].max() <= X[name].max()
    assert X_new["income"].iloc[80:].isin(X["income"].agg(["min", "max"])).any()


def test_features_that_are_tied_stay_tied():
    """A column that says the same as another, as long as parent and neighbour agree."""
    X, y = numbers((60, 30))
    parity = np.arange(90) % 2
    X = np.column_stack([X, 0.1 + parity, 0.9 - parity])
    sampler, X_new, _ = resampled(X, y)
    tied = X[sampler.parent_indices_] == X[sampler.neighbor_indices_]
    assert_array_equal(X_new[90:][tied], X[sampler.parent_indices_][tied])
    assert tied[:, 4:].any()
    _, loose, _ = resampled(X, y, keep_ties=False, residual_scale=0.5)
    assert not np.array_equal(loose[90:][tied], X[sampler.parent_indices_][tied])


@pytest.mark.parametrize("wanted", [[0, 2], ["a", "c"], [True, False, True, False]])
def test_categories_by_index_name_and_mask(wanted):
    X, y = numbers()
    frame = pd.DataFrame(np.rint(X), columns=list("abcd"))
    sampler, X_new, _ = resampled(frame, y, categorical_features=wanted)
    assert sampler.is_categorical_.tolist() == [True, False, True, False]
    for name in "ac":
        own = set(frame.loc[y == 1, name])
        assert set(X_new[name]) <= set(frame[name])
        assert set(X_new[name].iloc[80:]) <= own


def test_lists_and_arrays_of_mixed_kinds():
    X, y = numbers()
    rows = [[float(a), "xyz"[i % 3], i % 7] for i, a in enumerate(X[:, 0])]
    _, from_list, _ = resampled(rows, y, categorical_features=[1])
    array = np.array(rows, dtype=object)
    _, from_array, _ = resampled(array, y, categorical_features=[1])
    assert from_list == from_array.tolist()
    assert from_list[:80] == rows
    assert {tuple(map(type, row)) for row in from_list} == {(float, str, int)}


def test_nothing_but_categories():
    X, y = table()
    X = X[["town", "size"]]
    sampler, X_new, _ = resampled(X, y)
    seen = set(map(tuple, X[y == 1].astype(str).to_numpy()))
    towns, sizes = (set(column) for column in zip(*seen, strict=True))
    new = X_new.iloc[80:].astype(str).to_numpy()
    assert set(new[:, 0]) <= towns
    assert set(new[:, 1]) <= sizes
    assert (X_new.dtypes == X.dtypes).all()
    assert sampler.sample(5, random_state=0)[0].shape == (5, 2)


def test_a_thousand_levels():
    X, y = numbers((1500, 500))
    frame = pd.DataFrame(X).add_prefix("x")
    frame["id"] = pd.Categorical(np.arange(2000) % 1000)
    sampler, X_new, _ = resampled(frame, y, max_epochs=1)
    assert sampler.preprocessor_.transform(frame).shape[1] < 10
    assert X_new["id"].dtype == frame["id"].dtype
    assert X_new["id"].notna().all()


def test_dates_are_refused():
    X, y = table()
    X["day"] = pd.Timestamp("2020-01-01")
    with pytest.raises(ValueError, match="dates or durations in column 'day'"):
        resampled(X, y)


def test_frames_that_imbalanced_learn_does_not_take_are_refused():
    pyarrow = pytest.importorskip("pyarrow")
    X, y = numbers()
    with pytest.raises(TypeError, match=r"pyarrow Table.*pass X.to_pandas"):
        V2VSLS().fit_resample(pyarrow.table({"a": X[:, 0], "b": X[:, 1]}), y)


@pytest.mark.parametrize("scaling", ["auto", "quantile"])
def test_scaling_by_ranks(scaling):
    """A skewed column keeps the shape that its class has."""
    apart = []
    for seed in range(4):
        X, y = numbers((400, 100), seed)
        X[:, 0] = np.exp(3 * X[:, 0])
        _, X_new, _ = resampled(X, y, scaling=scaling, max_epochs=10)
        own = np.quantile(X[y == 1, 0], [0.25, 0.5, 0.75])
        made = np.quantile(X_new[500:, 0], [0.25, 0.5, 0.75])
        apart.append(np.log(made) - np.log(own))
    # In logarithms, of which the standard deviation is 3.
    assert_allclose(np.mean(apart, axis=0), 0, atol=1.0)


# --- the account


def test_where_each_row_came_from():
    X, y = numbers((60, 20, 10))
    sampler, X_new, y_new = resampled(X, y)
    assert len(X_new) == 180
    made = y_new[90:]
    for name in ("parent_indices_", "neighbor_indices_", "decoder_steps_"):
        assert getattr(sampler, name).shape == (90,)
    assert_array_equal(y[sampler.parent_indices_], made)
    assert_array_equal(y[sampler.neighbor_indices_], made)
    assert (sampler.parent_indices_ != sampler.neighbor_indices_).all()
    assert sampler.label_probabilities_.shape == (90, 3)
    assert_allclose(sampler.label_probabilities_.sum(axis=1), 1, rtol=1e-5)
    assert sampler.acceptance_scores_.shape == (90,)
    # The neighbour of each step: the nearest first.
    order = sampler.preprocessor_.transform(X)
    for parent, step, neighbor in zip(
        sampler.parent_indices_,
        sampler.decoder_steps_,
        sampler.neighbor_indices_,
        strict=True,
    ):
        distance = np.linalg.norm(order - order[parent], axis=1)
        distance[(y != y[parent]) | (np.arange(90) == parent)] = np.inf
        assert_allclose(distance[neighbor], np.sort(distance)[step], rtol=1e-5)


def test_acceptance_scores_are_what_the_network_says_of_the_rows():
    X, y = numbers()
    sampler, X_new, _ = resampled(X, y)
    Z = sampler.preprocessor_.transform(X_new[80:])
    log_probs, _ = sampler._predict(Z)
    expected = np.exp(log_probs[:, :, 1]).mean(axis=1)
    assert_allclose(sampler.acceptance_scores_, expected, rtol=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_rejection_by_the_scores_of_real_rows(share):
    """Rows below the quantile go, the lowest first; others stay as they were drawn."""
    X, y = numbers((200, 40))
    sampler, rows, y_new = resampled(
        X, y, max_epochs=10, rejection=share, sampling_strategy={1: 120}
    )
    assert np.bincount(y_new).tolist() == [200, 120]
    # The 120 candidates for these 80.
    loose, candidates, _ = resampled(
        X, y, max_epochs=10, rejection=0.0, sampling_strategy={1: 160}
    )
    log_probs, _ = sampler._predict(sampler.preprocessor_.transform(X[y == 1]))
    real = np.exp(log_probs[:, :, 1]).mean(axis=1)
    scores = loose.acceptance_scores_
    good = np.flatnonzero(scores >= np.quantile(real, share))
    poor = sorted(set(range(120)) - set(good), key=lambda row: -scores[row])
    kept = np.sort([*good, *poor][:80])
    assert_array_equal(rows[240:], candidates[240:][kept])
    assert_allclose(sampler.acceptance_scores_, scores[kept], rtol=1e-5)
    assert (len(good) > 80) == (share == 0.1)


# --- more of them


def test_sample_goes_on_without_training():
    X, y = table((60, 30, 20))
    labels = np.array(["no", "maybe", "yes"])[y]
    sampler, X_new, _ = resampled(X, labels)
    weights = sampler.net_
    new, y_new = sampler.sample(7, y="maybe", random_state=1)
    assert sampler.net_ is weights
    assert y_new.tolist() == ["maybe"] * 7
    assert (new.dtypes == X.dtypes).all()
    again, _ = sampler.sample(7, y="maybe", random_state=1)
    assert_frame_equal(new, again)
    other, _ = sampler.sample(7, y="maybe", random_state=2)
    assert not new.equals(other)
    assert sampler.sample(2)[1].tolist() == ["yes"] * 2
    assert new["income"].between(X["income"].min(), X["income"].max()).all()
    # The account of fit_resample stays.
    assert len(sampler.parent_indices_) == len(X_new) - len(X)


def test_sample_of_what_was_not_made():
    X, y = numbers()
    sampler, *_ = resampled(X, y)
    with pytest.raises(ValueError, match=r"y=0 is no class .* these are \[1\]"):
        sampler.sample(3, y=0)
    with pytest.raises(ValueError, match="n_samples == 0, must be >= 1"):
        sampler.sample(0)
    with pytest.raises(TypeError, match="n_samples must be an instance of"):
        sampler.sample(2.5)


def test_sample_before_and_after_nothing_to_make():
    X, y = numbers((30, 30))
    for sampler in (clone(SAMPLER), clone(SAMPLER).fit(X, y), resampled(X, y)[0]):
        with pytest.raises(NotFittedError, match=r"no rows yet.*call fit_resample"):
            sampler.sample(3)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_tiny_classes_of_a_table(size):
    X, y = table((60, size))
    with pytest.warns(UserWarning, match=f"Class 1 has {size} row") as seen:
        _, X_new, y_new = resampled(X, y)
    assert len(seen) == 1
    assert np.bincount(y_new).tolist() == [60, 60]
    assert (X_new.dtypes == X.dtypes).all()
    if size == 1:
        copies = X_new.iloc[61:].astype(object).where(X_new.iloc[61:].notna(), None)
        assert len(copies.drop_duplicates()) == 1


def test_one_warning_for_many_tiny_classes():
    X, y = numbers((30, *[2] * 8))
    message = r"Class 1 has 2 rows, class 2 .* class 5 has 2 rows and 3 more, fewer"
    with pytest.warns(UserWarning, match=message) as seen:
        resampled(X, y)
    assert len(seen) == 1


# --- values that floats do not hold


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64"])
def test_whole_numbers_beyond_the_precision_of_floats(dtype):
    X, y = numbers()
    largest = np.iinfo(dtype.lower()).max
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": X[:, 0], "y": X[:, 1]})
    values = np.array([7, largest], dtype=dtype.lower())
    frame["sentinel"] = pd.array(rng.choice(values, 80), dtype=dtype)
    frame["constant"] = pd.array([1_700_000_000_000_000_001] * 80, dtype=dtype)
    sampler, X_new, _ = resampled(frame, y)
    new = X_new.iloc[80:]
    assert (new["constant"] == 1_700_000_000_000_000_001).all()
    assert new["sentinel"].between(7, largest).all()
    parents = frame["sentinel"].iloc[sampler.parent_indices_].to_numpy()
    neighbors = frame["sentinel"].iloc[sampler.neighbor_indices_].to_numpy()
    tied = parents == neighbors
    assert (new["sentinel"].to_numpy()[tied] == parents[tied]).all()


def test_objects_of_whole_and_other_numbers_are_not_cut_off():
    X, y = numbers()
    frame = pd.DataFrame({"x": X[:, 0]})
    # The rare rows, which are the parents, hold whole numbers, some others do not.
    values = [0.25 + i if i < 30 else i for i in range(80)]
    frame["mixed"] = pd.Series(values, dtype=object)
    _, X_new, _ = resampled(frame, y, categorical_features=None)
    new = X_new["mixed"].iloc[80:].astype(float)
    assert (new != new.round()).any()


def test_objects_keep_their_type_beside_missing_values():
    X, y = numbers()
    frame = pd.DataFrame({"x": X[:, 0], "y": X[:, 1]})
    values = np.array([True, None, False, True] * 20, dtype=object)
    frame["flag"] = pd.Series(values, dtype=object)
    sampler, X_new, _ = resampled(frame, y, categorical_features=None)
    new = X_new["flag"].iloc[80:]
    assert set(map(type, new)) == {bool, type(None)}
    parents = frame["flag"].iloc[sampler.parent_indices_]
    assert_array_equal(new.isna(), parents.isna())


def test_a_sparse_matrix_with_categories():
    X, y = numbers()
    X[:, 3] = np.arange(80) % 3
    _, dense, _ = resampled(X, y, categorical_features=[3])
    _, new, _ = resampled(sparse.csr_matrix(X), y, categorical_features=[3])
    assert sparse.issparse(new)
    assert_array_equal(new.toarray(), dense)
    assert set(dense[:, 3]) == {0, 1, 2}


# --- the edges of parameters


def test_any_certainty():
    X, y = numbers()
    sampler, X_new, _ = resampled(X, y, certainty=1e5, rejection=0.0)
    # Only the surest candidate is ever drawn.
    assert len(np.unique(sampler.parent_indices_)) == 1
    assert len(np.unique(sampler.decoder_steps_)) == 1
    assert np.isfinite(X_new).all()


def test_sample_where_no_candidate_is_left():
    X, y = numbers((198, 2))
    with pytest.warns(UserWarning):
        sampler, X_new, _ = resampled(
            X, y, max_epochs=1, class_weight=None, stop_when_exhausted=True
        )
    assert len(X_new) == len(X)
    with pytest.warns(UserWarning, match="gets 0 of the 5 rows"):
        rows, labels = sampler.sample(5)
    assert rows.shape == (0, 4)
    assert labels.shape == (0,)


def test_sample_of_a_label_that_is_none():
    X, y = numbers()
    sampler, *_ = resampled(X, y)
    with pytest.raises(ValueError, match=r"y=\[1\] is no class"):
        sampler.sample(2, y=[1])


def test_sample_searches_no_neighbours(monkeypatch):
    X, y = numbers()
    sampler, *_ = resampled(X, y)
    monkeypatch.setattr(_neighbors, "make_search", None)
    assert len(sampler.sample(3)[0]) == 3


def test_nothing_is_left_of_a_call_before():
    X, y = numbers()
    sampler, *_ = resampled(X, y, early_stopping=True)
    assert sampler.validation_scores_
    sampler.fit_resample(X[:40], np.repeat([0, 1], 20))
    assert not hasattr(sampler, "validation_scores_")


def test_a_bar_for_the_rows_that_are_made(capsys):
    X, y = numbers()
    _, expected, _ = resampled(X, y)
    sampler, X_new, _ = resampled(X, y, verbose=1)
    assert_array_equal(X_new, expected)
    shown = capsys.readouterr().err
    assert "epoch" in shown
    assert "resample:" in shown
    assert "0/40" in shown
    sampler.set_params(verbose=0).sample(5)
    assert capsys.readouterr() == ("", "")


# --- columns that cannot hold any number, and calls after one another


def test_a_category_column_that_is_to_be_a_number():
    X, y = table()
    frame = pd.DataFrame({"grade": pd.Categorical(np.arange(80) % 3), "x": X["income"]})
    with pytest.raises(ValueError, match="Column 'grade' is of dtype category"):
        resampled(frame, y, categorical_features=None)


@pytest.mark.parametrize("dtype", ["uint8", "UInt8", "Int8", "int16", "uint8[pyarrow]"])
def test_the_largest_integer_of_a_dtype(dtype):
    high = np.iinfo(dtype.removesuffix("[pyarrow]").lower()).max
    rng, y = np.random.default_rng(0), np.repeat([0, 1], [60, 20])
    values = rng.choice([high, high - 100], 80)
    X = pd.DataFrame({"a": pd.Series(values, dtype=dtype), "b": rng.normal(size=80)})
    _, X_new, _ = resampled(X, y, residual_scale=3.0)
    assert X_new["a"].dtype == X["a"].dtype
    assert X_new["a"][80:].max() == high
    assert (X_new["a"][80:] == high - 1).sum() <= 2


def test_a_sparse_column_of_integers():
    X, y = table()
    flags = pd.arrays.SparseArray((X["income"] > 0).astype(int))
    X = pd.DataFrame({"flag": flags, "x": X["income"]})
    _, X_new, _ = resampled(X, y)
    assert X_new["flag"].dtype == X["flag"].dtype
    assert set(X_new["flag"][80:]) <= {0, 1}


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_a_frame_of_sparse_columns_alone(fill):
    X, y = numbers()
    X = pd.DataFrame(np.where(X > 2, X, fill), columns=list("abcd"))
    X = X.astype(pd.SparseDtype(float, fill))
    sampler, X_new, _ = resampled(X, y)
    assert_frame_equal(X_new[:80], X)
    assert_frame_equal(sampler.sample(3)[0][:0], X[:0])


def test_an_array_of_strings_too_narrow_for_numbers():
    _, y = table()
    X = np.column_stack([np.resize(["a", "b"], 80), np.resize(["1", "5"], 80)])
    with pytest.raises(ValueError, match=r"dtype <U1, too narrow .* columns \[1\]"):
        resampled(X, y, categorical_features=[0])
    _, X_new, _ = resampled(X.astype(object), y, categorical_features=[0])
    assert set(X_new[80:, 0]) == {"a", "b"}


def test_warm_start_by_block():
    X, y = table()
    X = X[["income", "count"]].to_numpy()
    sampler = clone(SAMPLER).set_params(warm_start=True, max_epochs=1)
    for n_iter in (1, 2):
        sampler.fit_resample(X, y, out=np.empty((120, 2)))
        assert sampler.n_iter_ == n_iter


def test_an_array_that_cannot_hold_a_row():
    X, y = table()
    X = X[["income", "count"]].to_numpy()
    sampler = clone(SAMPLER)
    sampler.fit_resample(X, y)
    before = dict(vars(sampler))
    X[5, 0] = 1e6
    with pytest.raises(ValueError, match=r"Row 5 holds 1000000\.0, too large"):
        sampler.fit_resample(X, y, out=np.empty((120, 2), np.float16))
    assert vars(sampler) == before


def test_fit_learns_nothing_and_forgets():
    X, y = table()
    sampler, _, _ = resampled(X, y)
    assert sampler.fit(X[["income", "count"]], y) is sampler
    assert not hasattr(sampler, "parent_indices_")
    with pytest.raises(NotFittedError, match="no rows yet"):
        sampler.sample(2)


def test_new_rows_are_new():
    """However few there are to make them from; none is its parent's neighbour again."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(410, 5)), np.repeat([0, 1], [400, 10])
    sampler, made, _ = resampled(X, y)
    assert len(np.unique(made[410:], axis=0)) == 390
    distance = np.abs(made[410:] - X[sampler.neighbor_indices_]).max(axis=1)
    assert np.mean(distance < 1e-3) < 0.02
    more, _ = sampler.sample(2000, random_state=0)
    assert len(np.unique(more, axis=0)) == 2000


def test_nothing_to_make_gives_a_copy():
    X, y = numbers((30, 30))
    before = X.copy()
    _, made, _ = resampled(X, y)
    assert_array_equal(made, before)
    made[0, 0] = -99
    assert_array_equal(X, before)
    frame = pd.DataFrame(X, index=range(100, 160))
    _, made, _ = resampled(frame, y)
    # As where rows are made.
    assert made.index.equals(pd.RangeIndex(60))
    assert_array_equal(made, before)


def test_more_rows_of_a_class_that_is_a_date():
    X, y = table()
    days = np.array(["2000-01-01", "2001-01-01"], "M8[D]")
    sampler, _, _ = resampled(X, days[y])
    assert (sampler.sample(2, y=days[1])[1] == days[1]).all()


@pytest.mark.parametrize(
    "labels",
    [
        pd.Series([False, True], dtype="category"),
        pd.Series([False, True], dtype="boolean"),
        # Floats are no more than each second of these.
        pd.Series([2**53, 2**53 + 1], dtype="Int64"),
        pd.Series(["a", "b"], dtype="string"),
    ],
    ids=["category", "boolean", "Int64", "string"],
)
def test_labels_of_any_dtype_stay_what_they_are(labels):
    X, y = table()
    sampler, _, y_new = resampled(X, labels.take(y).reset_index(drop=True))
    assert y_new.dtype == labels.dtype
    assert y_new.value_counts().to_dict() == dict.fromkeys(labels, 60)
    assert set(y_new[80:]) == set(sampler.sample(2)[1]) == {labels[1]}
    for others in (labels.take(y).array, labels.take(y).to_frame()):
        assert resampled(X, others)[0].classes_.tolist() == labels.tolist()


def test_a_misspelt_parameter_beside_out():
    X, y = numbers()
    with pytest.raises(TypeError, match="unexpected keyword argument 'verbos'"):
        SAMPLER.fit_resample(X, y, out=np.empty((120, 4)), verbos=1)


@pytest.mark.parametrize(
    ("count", "new"), [(40.5, 20.5), (np.nan, "nan"), (np.inf, "inf")]
)
def test_counts_that_are_not_whole(count, new):
    X, y = numbers()
    match = rf"sampling_strategy={{1: {count}}} asks for {new} new rows of class 1"
    with pytest.raises(ValueError, match=match):
        resampled(X, y, sampling_strategy={1: count})
    _, _, labels = resampled(X, y, sampling_strategy={1: 41.0})
    assert np.bincount(labels).tolist() == [60, 41]


def test_sample_by_a_parameter_that_cannot_be():
    sampler, _, _ = resampled(*numbers())
    sampler.set_params(certainty=-5)
    with pytest.raises(ValueError, match=r"'certainty' parameter .* Got -5"):
        sampler.sample(3)


def test_fit_forgets_the_classes():
    X, y = numbers()
    sampler, _, _ = resampled(X, y)
    sampler.fit(X, np.array(["a", "b"])[y])
    assert not hasattr(sampler, "classes_")


def test_a_class_of_one_row_has_its_own_cure():
    X, y = numbers((60, 1))
    with pytest.warns(UserWarning, match="1 row, fewer .* out of sampling_strategy"):
        resampled(X, y, k_neighbors=1)


@pytest.mark.parametrize("scaling", ["auto", "robust", "quantile"])
def test_numbers_at_the_limits_of_their_dtype(scaling):
    X, y = numbers((3000, 300))
    X = np.where(X > 1, 1.7e308, np.where(X > 0, 0, -1.7e308))
    for seed in range(3):
        _, new, _ = resampled(X, y, scaling=scaling, random_state=seed)
        assert np.isfinite(new).all()


def test_no_categories_by_block():
    X, y = numbers()
    sampler = clone(SAMPLER).set_params(categorical_features=[])
    rows = np.concatenate([rows for rows, _ in sampler.resample_blocks(X, y)])
    assert rows.shape == (120, 4)


def test_another_default_dtype_of_torch():
    X, y = make_classification(200, weights=[0.8], random_state=0)
    sampler = V2VSLS(max_epochs=2, random_state=0)
    torch.set_default_dtype(torch.float64)
    try:
        found, labels = sampler.fit_resample(X, y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.isfinite(found).all()
    assert len(set(np.unique(labels, return_counts=True)[1])) == 1
    assert {p.dtype for p in sampler.net_.module_.parameters()} == {torch.float32}


@pytest.mark.parametrize("scaling", ["auto", "robust", "quantile", None])
@pytest.mark.parametrize("far_out", ["shifted", "long-tailed", "mostly zero"])
def test_a_class_far_out_in_a_column_gets_rows_out_there(far_out, scaling):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [2000, 100])
    common, rare = {
        "shifted": (rng.normal(size=2000), rng.normal(1000, 100, 100)),
        "long-tailed": (rng.lognormal(3, 1, 2000), rng.lognormal(9, 0.5, 100)),
        "mostly zero": (
            rng.lognormal(size=2000) * (rng.random(2000) < 0.1),
            rng.normal(10_000, 1000, 100),
        ),
    }[far_out]
    # Without scaling the steps have to be small.
    common, rare = (a / (rare.max() if scaling is None else 1) for a in (common, rare))
    X = np.column_stack([np.r_[common, rare], rng.normal(size=2100) + y])
    new = V2VSLS(scaling=scaling, random_state=0).fit_resample(X, y)[0][2100:, 0]
    low, middle, high = np.quantile(rare, [0.25, 0.5, 0.75])
    assert low < np.median(new) < high
    assert abs(np.median(new) - middle) < high - low
    assert 0.2 * (high - low) < np.subtract(*np.quantile(new, [0.75, 0.25]))


def test_a_rare_class_that_the_sample_by_block_misses_is_scaled_by(monkeypatch):
    monkeypatch.setattr("sklearn_samn._blocks.MAX_SAMPLE_ROWS", 100)
    rng = np.random.default_rng(0)
    X, y = np.zeros((20_000, 2)), np.zeros(20_000, dtype=int)
    X[:, 0] = rng.normal(size=len(X))
    X[[5, 9000, 12_000, 18_000], 1] = [900, 1000, 1100, 1200]
    y[[5, 9000, 12_000, 18_000]] = 1
    sampler = V2VSLS(
        sampling_strategy={1: 104}, k_neighbors=3, random_state=0, max_epochs=2
    )
    blocks = [rows for rows, _ in sampler.resample_blocks(X, y)]
    new = np.concatenate(blocks)[len(X) :, 1]
    # Scaled by what the others have there, they would be within 70.
    assert new.min() > 500


def test_the_blocks_of_labels_are_copies():
    X, y = numbers()
    before = y.copy()
    for _, labels in clone(SAMPLER).resample_blocks(X, y):
        labels[:] = 7
    assert_array_equal(y, before)


def test_levels_that_name_a_row_do_not_tell_its_class():
    X, y = numbers((900, 100))
    names = np.random.default_rng(0).permutation(len(y)).astype(str)
    numeric = pd.DataFrame(X, columns=list("abcd"))
    named = numeric.assign(name=names)
    sampler, X_new, _ = resampled(named, y, max_epochs=10)
    without, X_without, _ = resampled(numeric, y, max_epochs=10)
    # What is the same for all in training must be the same for the rows that are made.
    scores = sampler.acceptance_scores_.mean()
    assert scores > without.acceptance_scores_.mean() - 0.05
    spread, wanted = (new.iloc[len(y) :, 0].std() for new in (X_new, X_without))
    assert abs(spread - wanted) < 0.2 * wanted


def test_copies_of_a_row_are_no_neighbours_of_it():
    X, y = numbers((200, 10))
    X, y = np.r_[X, np.repeat(X[200:], 6, axis=0)], np.r_[y, np.ones(60, dtype=int)]
    sampler, X_new, _ = resampled(X, y)
    parents, neighbors = sampler.parent_indices_, sampler.neighbor_indices_
    assert (X[parents] != X[neighbors]).any(axis=1).all()
    assert (X_new[len(X) :] != X[parents]).any(axis=1).all()


def test_copies_are_known_by_their_level_not_by_its_encoding():
    """Which cross-fitting gives several of a level."""
    X, y = numbers((200, 10))
    X, y = np.r_[X, np.repeat(X[200:], 7, axis=0)], np.r_[y, np.ones(70, dtype=int)]
    levels = np.r_[np.arange(200) % 90, np.arange(10), np.arange(10).repeat(7)]
    levels = levels.astype(str)
    sampler, _, _ = resampled(pd.DataFrame(X, columns=list("abcd")).assign(e=levels), y)
    parents, neighbors = sampler.parent_indices_, sampler.neighbor_indices_
    assert (X[parents] != X[neighbors]).any(axis=1).all()


def test_a_class_of_copies_of_one_row():
    X, y = numbers((60, 1))
    X, y = np.r_[X, X[60:].repeat(7, axis=0)], np.r_[y, np.ones(7, dtype=int)]
    _, X_new, y_new = resampled(X, y)
    assert (y_new == 1).sum() == 60
    assert_array_equal(X_new[y_new == 1], X[60:61].repeat(60, axis=0))


@pytest.mark.parametrize("dtype", [object, "str", "string"])
def test_numbers_in_strings_keep_their_spelling(dtype):
    X, y = numbers()
    codes = np.random.default_rng(0).choice(["10", "11", "12"], len(y))
    table = pd.DataFrame({"a": X[:, 0], "code": pd.Series(codes, dtype=dtype)})
    _, X_new, _ = resampled(table, y, categorical_features=None)
    assert set(X_new["code"]) == {"10", "11", "12"}
    assert X_new["code"].dtype == table["code"].dtype


def test_no_negative_zero():
    X, y = numbers()
    X[:, 0] = np.random.default_rng(0).choice([-1.0, 0, 1], len(y))
    _, X_new, _ = resampled(X, y)
    made = X_new[len(y) :, 0]
    assert (made == 0).any() and not np.signbit(made[made == 0]).any()


@pytest.mark.parametrize(
    "labels",
    [
        pd.array([False, True], dtype="boolean"),
        pd.array([2**60, 2**60 + 1], dtype="Int64"),
    ],
    ids=["boolean", "Int64"],
)
def test_nullable_labels_by_block(labels):
    X, codes = numbers()
    y = pd.Series(labels[codes])
    out = np.empty((120, 4))
    sampler = clone(SAMPLER)
    y_new = sampler.fit_resample(X, y, out=out)[1]
    assert sampler.classes_.tolist() == labels.tolist()
    assert y_new[:80].tolist() == y.tolist()
    assert y_new[80:].tolist() == [labels[1]] * 40


def test_neighbours_of_all_classes():
    X, y = numbers()
    sampler, _, _ = resampled(X, y, neighbors_of="all", scaling=None)
    parents, steps = sampler.parent_indices_, sampler.decoder_steps_
    nearest = np.linalg.norm(X[parents, None] - X, axis=2).argsort(axis=1)
    # Behind the row itself.
    expected = nearest[np.arange(len(parents)), steps + 1]
    assert_array_equal(sampler.neighbor_indices_, expected)
    assert set(y[sampler.neighbor_indices_]) == {0, 1}


def test_missing_values_in_a_list():
    X, y = numbers()
    rows = X.tolist()
    for row in rows[::3]:
        row[1] = None
    sampler, X_new, _ = resampled(rows, y)
    made = np.asarray(X_new[len(y) :], dtype=float)
    assert_array_equal(np.isnan(made[:, 1]), sampler.parent_indices_ % 3 == 0)
    rows[5][2] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        resampled(rows, y)


def test_jobs_of_the_neighbour_search(monkeypatch):
    X, y = numbers()
    jobs, make_search = set(), _neighbors.make_search

    def spy(neighbors, rows, n_jobs):
        jobs.add(n_jobs)
        return make_search(neighbors, rows, n_jobs)

    monkeypatch.setattr(_neighbors, "make_search", spy)
    resampled(X, y, n_jobs=2)
    assert jobs == {2}


def overlapping():
    return make_classification(
        300,
        4,
        n_informative=3,
        n_redundant=0,
        weights=[0.8],
        class_sep=0.3,
        random_state=0,
    )


class Middle:
    """A generator whose numbers are all in the middle."""

    def uniform(self, low, high, size):
        return np.full(size, (low + high) / 2)


def test_a_new_row_is_a_prediction_and_the_error_of_that_of_its_donor():
    sampler, _, _ = resampled(*overlapping(), scaling=None, keep_ties=False)
    ((code, (members, sequences, _)),) = sampler._links.items()
    _, vectors = sampler._predict(sampler._Z[members])
    sampler._limits = np.full(4, -np.inf), np.full(4, np.inf), np.zeros(4, dtype=bool)
    drawn, donors, steps = np.array([0, 1, 2]), np.array([3, 4, 2]), np.array([0, 1, 4])
    numbers = sampler._numbers(sampler._rows)
    rows = sampler._make_rows(numbers, vectors, code, drawn, steps, donors, Middle())
    error = sampler._Z[sequences[donors, steps]] - vectors[donors, steps]
    assert_allclose(rows, vectors[drawn, steps] + error, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("neighbors_of", ["class", "all"])
def test_donors_are_the_row_and_the_nearest_of_its_class(neighbors_of):
    sampler, _, _ = resampled(*overlapping(), neighbors_of=neighbors_of)
    ((members, _, donors),) = sampler._links.values()
    Z = sampler._Z[members]
    distances = np.linalg.norm(Z[:, None] - Z, axis=2)
    assert_array_equal(donors, distances.argsort(axis=1)[:, :6])


def test_candidates_are_taken_in_random_order_until_they_are_exhausted():
    sampler, _, _ = resampled(*overlapping())
    (code,) = sampler._links
    log_probs = np.full((10, 5, 2), -np.inf)
    log_probs[:, :, code] = 0
    sampler.stop_when_exhausted = True
    parents = [
        sampler._draw(log_probs, code, 20, np.random.default_rng(seed))[0]
        for seed in (0, 1)
    ]
    assert parents[0].max() > 3
    assert not np.array_equal(*parents)


def in_order():
    """A rare class behind all rows of the other, far from them."""
    X, y = numbers((840, 60))
    return X + 100 * y[:, None], y


def test_the_context_is_drawn_from_all_rows(monkeypatch):
    monkeypatch.setattr(_v2vsls, "MIN_CONTEXT", 50)
    fit, context = V2VSLS._fit_network, []

    def spy(self, Z, codes, rows, *args):
        context.append(rows[codes[rows] == 0])
        return fit(self, Z, codes, rows, *args)

    monkeypatch.setattr(V2VSLS, "_fit_network", spy)
    resampled(*in_order())
    assert len(context[0]) == 60
    assert context[0].max() > 600


def test_by_block_the_context_is_bounded_and_scaling_is_that_of_all_rows(monkeypatch):
    monkeypatch.setattr(_v2vsls, "MAX_CONTEXT", 100)
    learn, counts = V2VSLS._learn, []

    def spy(self, table, codes, *args, **params):
        counts.append(np.bincount(codes).tolist())
        return learn(self, table, codes, *args, **params)

    monkeypatch.setattr(V2VSLS, "_learn", spy)
    X, y = in_order()
    sampler = clone(SAMPLER)
    sampler.resample_blocks(X, y)
    assert counts == [[100, 60]]
    scaler = sampler.preprocessor_.named_transformers_["numeric"]
    assert_allclose(scaler.center_, np.median(X, axis=0))


def test_objects_beside_numbers_that_are_replaced():
    rows = np.array([[1, 1], [2.5, "2"]], dtype=object)
    new = _like(rows[:, 0], np.array([3.0, 9.0]), np.array([False, True]))
    assert new.tolist() == [3, 2.5] and type(new[0]) is int
    # Of two types none is that of the column.
    new = _like(rows[:, 1], np.array([3.0, 4.0]), np.array([False, False]))
    assert [type(value) for value in new] == [float, float]
