"""What the classifiers make of any table: categories, missing values, numbers."""

import pickle

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import TargetEncoder

from sklearn_samn import (
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
    _preprocessing,
    _scaling,
)
from sklearn_samn._scaling import NumericScaler, robust_clip, robust_statistics
from sklearn_samn._tables import as_categories, categorical_mask


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


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_level_is_the_same_in_any_precision(dtype):
    levels = as_categories(np.array([[0.1], [2.5], [3], [np.nan]], dtype=dtype))
    assert levels[:3, 0].tolist() == ["0.1", "2.5", "3"]
    assert levels[3, 0] != levels[3, 0]
    assert as_categories(np.array([[2040]], dtype=dtype))[0, 0] == "2040"


@pytest.mark.parametrize(("dtype", "level"), [("f2", 10008), ("f4", 123456792)])
def test_a_whole_number_is_the_same_level_in_any_precision(dtype, level):
    assert as_categories(np.array([[level]], dtype=dtype))[0, 0] == str(level)


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
    for n_rows, expected in [(1999, "mixed"), (2000, "quantile")]:
        X, y = rng.normal(size=(n_rows, 2)), np.arange(n_rows) % 2
        assert automatic.fit(X, y).preprocessor_.scaling == expected
    # Rows of weight zero are none.
    automatic.fit(X, y, sample_weight=np.arange(2000) > 0)
    assert automatic.preprocessor_.scaling == "mixed"


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
    assert_array_equal(model._transform_again(rows, y[y > 0], seed=0), expected)
    assert np.isfinite(model.fit(rows, y[y > 0]).predict_proba(frame)).all()


def test_levels_encoded_by_the_classes_of_the_first_chunk():
    """The encoder of two classes has one column; of others it would be reversed."""
    levels = np.random.default_rng(0).integers(300, size=3000)
    frame, y = pd.DataFrame({"c": [f"l{i}" for i in levels]}), levels // 100
    model = SAMNClassifier(max_epochs=4, random_state=0, warm_start=True)
    model.partial_fit(frame[y < 2], y[y < 2], classes=[0, 1, 2])
    expected = model.preprocessor_.transform(frame)
    assert_array_equal(model._transform_again(frame, y, seed=0), expected)
    rows, later = frame[y > 0], y[y > 0]
    assert_array_equal(model._transform_again(rows, later, seed=0), expected[y > 0])


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
def test_frames_of_polars(classifier):
    frame, y = table()
    frame = frame[["income", "town"]]
    expected = clone(classifier).set_params(max_epochs=1).fit(frame, y)
    # Missing as it came: polars tells NaN from null.
    income, town = frame["income"].to_numpy(), frame["town"].tolist()
    rows = polars.DataFrame({"income": income, "town": town})
    model = clone(expected).fit(rows, y)
    assert_array_equal(model.predict_proba(rows), expected.predict_proba(frame))
    strings = rows.with_columns(income=polars.lit("much"))
    with pytest.raises(ValueError, match="strings in column 'income'"):
        model.predict(strings)


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


def test_quantiles_of_a_long_table_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(_scaling, "MAX_QUANTILE_ROWS", 100)
    X, y = np.random.default_rng(0).normal(size=(500, 3)), np.arange(500) % 2
    params = X, y, None, "quantile", "float32"
    one, same, other = (
        _preprocessing.make_preprocessor(*params, seed).fit_transform(X)
        for seed in (3, 3, 4)
    )
    assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "classifier",
    [SAMNClassifier(), KNNSeq2SeqClassifier(), MemNetKNNClassifier()],
    ids=["samn", "seq2seq", "memnet"],
)
def test_lopsided_columns_of_a_small_table(classifier):
    """Robust scaling leaves the short side, on which the classes differ, no room."""
    logs = 6 * np.random.default_rng(0).normal(size=(400, 2))
    X, y = np.exp(logs), (logs < -9).any(axis=1)
    classifier.set_params(random_state=0)
    automatic, robust = (
        clone(classifier).set_params(scaling=scaling).fit(X[:300], y[:300])
        for scaling in ("auto", "robust")
    )
    assert robust.score(X[300:], y[300:]) < 0.9
    assert automatic.score(X[300:], y[300:]) > 0.95


def test_dictionaries_of_pyarrow_are_categories():
    level = pyarrow.array([1, 2, 1]).dictionary_encode()
    level = pd.arrays.ArrowExtensionArray(level)
    X = pd.DataFrame({"a": [1.0, 2.0, 3.0], "level": level})
    assert categorical_mask(X, "from_dtype").tolist() == [False, True]
