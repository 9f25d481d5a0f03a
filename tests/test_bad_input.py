"""What cannot be used is refused with words that help, and nothing is half done."""

import datetime
import importlib.util
import re
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback

from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
)

SAMN = SAMNClassifier(max_epochs=4, random_state=0)
SEQ2SEQ = KNNSeq2SeqClassifier(max_epochs=4, n_neighbors=3, random_state=0)
MEMNET = MemNetKNNClassifier(
    max_epochs=4, n_neighbors=3, memory_size=16, random_state=0
)
SAMPLER = V2VSLS(max_epochs=2, random_state=0)

each_classifier = pytest.mark.parametrize(
    "estimator", [SAMN, SEQ2SEQ, MEMNET], ids=["samn", "seq2seq", "memnet"]
)
neighbor_classifiers = pytest.mark.parametrize(
    "estimator", [SEQ2SEQ, MEMNET], ids=["seq2seq", "memnet"]
)
every_estimator = pytest.mark.parametrize(
    "estimator",
    [SAMN, SEQ2SEQ, MEMNET, SAMPLER],
    ids=["samn", "seq2seq", "memnet", "v2vsls"],
)
needs_no_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="needs a machine without CUDA"
)


def data():
    """Two classes, 60 and 30 rows, that a straight line tells apart."""
    return make_blobs([60, 30], centers=6 * np.eye(4)[:2], random_state=0)


def learn(estimator, X, y, **params):
    """The fit of a classifier or of the sampler."""
    method = getattr(estimator, "fit_resample", None) or estimator.fit
    return method(X, y, **params)


def fitted_attributes(estimator):
    return {name: v for name, v in vars(estimator).items() if name.endswith("_")}


def refused(estimator, X, y, match=None, error=ValueError, **params):
    """A new estimator raises, and is unfitted as before."""
    new = clone(estimator)
    before = dict(vars(new))
    with pytest.raises(error, match=match):
        learn(new, X, y, **params)
    assert vars(new) == before


# --- values of X


@every_estimator
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values(estimator, value):
    """Beside a missing one, which is none."""
    X, y = data()
    X[7, 2], X[3, 1] = value, np.nan
    name = type(estimator).__name__
    match = (
        r"Input X contains infinity in column 2 \(first in row 7\)\. "
        rf"{name} does not accept infinity: replace it, by NaN"
    )
    refused_in_each_container(estimator, X, y, match)
    town = ["Bonn", "Oslo", "Rome"] * 30
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame.insert(1, "town", town)
    refused(estimator, frame, y, r"infinity in column 'c' \(first in row 7\)")
    array = frame.to_numpy(dtype=object)
    model = clone(estimator).set_params(categorical_features=[1])
    refused(model, array, y, r"infinity in column 3 \(first in row 7\)")


@pytest.mark.parametrize("estimator", [SAMN, SEQ2SEQ])
def test_an_integer_beyond_all_floats(estimator):
    beyond = pd.Series([10**400, 1] * 50, dtype=object)
    X = pd.DataFrame({"a": [1, 2] * 50, "b": beyond})
    refused(estimator, X, [0, 1] * 50, r"in column 'b' \(int too large")


def test_chunks_of_one_class_alone():
    X, y = np.eye(4), np.zeros(4)
    with pytest.raises(ValueError, match=r"at least 2 classes, but classes=\[0\]"):
        clone(SAMN).partial_fit(X, y, classes=[0])


def test_rows_none_of_which_has_a_neighbour():
    X, y = np.ones((50, 4)), np.arange(50) % 2
    for classifier in (SEQ2SEQ, MEMNET):
        model = clone(classifier).set_params(warm_start=True).fit(X, y)
        with pytest.raises(ValueError, match="All 50 training rows are equal"):
            model.fit(X, np.zeros(50, int))


def refused_in_each_container(estimator, X, y, match):
    refused(estimator, X, y, match)
    frame = pd.DataFrame(X, columns=["a", "b", "income", "d"])
    refused(estimator, frame, y, match.replace("column 2", "column 'income'"))
    refused(estimator, X.astype(np.float32), y, match)
    refused(estimator, X.tolist(), y, match)


@each_classifier
def test_infinite_values_in_predict(estimator):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    for seen in (frame, frame.assign(town="Bonn")):
        model = clone(estimator).fit(seen, y)
        unseen = seen.copy()
        unseen.loc[3, "b"] = np.inf
        for method in ("predict", "predict_proba"):
            with pytest.raises(ValueError, match="infinity in column 'b'"):
                getattr(model, method)(unseen)


def test_infinite_values_in_a_sparse_matrix():
    X, y = data()
    X[7, 2] = np.inf
    refused(SAMPLER, sparse.csr_array(X), y, r"infinity in column 2 \(first in row 7\)")


@every_estimator
@pytest.mark.parametrize(
    "other",
    [np.arange(90) % 2 == 0, ["1", "2.5", "3"] * 30],
    ids=["flags", "numbers written out"],
)
def test_the_first_column_that_is_no_number_is_named(estimator, other):
    """Flags, and strings that are numbers, are not in the way."""
    _, y = data()
    frame = pd.DataFrame({"other": other, "town": ["Bonn", "Oslo", "Rome"] * 30})
    estimator = clone(estimator).set_params(categorical_features=None)
    refused(estimator, frame, y, r"strings in column 'town'.*categorical_features")
    array = frame.to_numpy(dtype=object)
    refused(estimator, array, y, r"strings in column 1 .*categorical_features")


def with_town(X):
    return np.column_stack([X.astype(object), ["Bonn", "Oslo", "Rome"] * 30])


@every_estimator
def test_strings_in_an_array_are_no_categories(estimator):
    X, y = data()
    array = with_town(X)
    for rows in (array, array.tolist(), array.astype(str)):
        refused(estimator, rows, y, r"strings in column 4 .*pass their indices to")


@each_classifier
def test_strings_in_an_array_are_categories_when_told(estimator):
    X, y = data()
    array = with_town(X)
    model = clone(estimator).set_params(categorical_features=[4])
    expected = clone(model).fit(array, y).predict_proba(array)
    assert_array_equal(model.fit(array.tolist(), y).predict_proba(array), expected)
    other = clone(estimator).set_params(categorical_features=[0])
    refused(other, array, y, "strings in column 4")


@each_classifier
@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ([4], r"categorical_features .* lie in \[0, 3\], got \[4\]"),
        ([-1], r"categorical_features .* lie in \[0, 3\], got \[-1\]"),
        ([True, False], r"categorical_features .* the shape \(4,\), got \(2,\)"),
        (["a", "e"], r"categorical_features holds \['e'\]"),
        ([0.5], r"categorical_features must be an array-like of bool, int or str"),
        (np.array(["a", 1], dtype=object), "categorical_features must be an array"),
    ],
)
def test_categories_that_are_no_columns(estimator, wanted, match):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = clone(estimator).set_params(categorical_features=wanted)
    refused(model, frame, y, match)
    named = clone(estimator).set_params(categorical_features=["a"])
    refused(named, X, y, r"categorical_features=\['a'\] .* need a DataFrame")


@each_classifier
def test_columns_of_strings_in_predict(estimator):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    for seen in (frame, frame.assign(town="Bonn")):
        model = clone(estimator).fit(seen, y)
        with pytest.raises(ValueError, match=r"strings in column 'b'"):
            model.predict(seen.assign(b="Bonn"))


@each_classifier
def test_sparse_rows(estimator):
    X, y = data()
    match = r"Sparse data was passed.*dense data is required"
    refused(estimator, sparse.csr_array(X), y, match, error=TypeError)
    model = clone(estimator).fit(X, y)
    with pytest.raises(TypeError, match=match):
        model.predict(sparse.csr_array(X))


@every_estimator
def test_shapes_of_X(estimator):
    X, y = data()
    refused(estimator, X[:, :0], y, r"0 feature\(s\) .*minimum of 1 is required")
    refused(estimator, pd.DataFrame(X).iloc[:, :0], y, "0 feature|at least one array")
    refused(estimator, X[:0], y[:0], r"0 sample\(s\) .*minimum of 1 is required")
    refused(estimator, X[:, 0], y, "Expected 2D array, got 1D array")
    refused(estimator, X[:, None], y, "dim 3|3D|3 dim")
    refused(estimator, X + 1j, y, "Complex data not supported")
    refused(estimator, X[:-1], y, "inconsistent numbers of samples")


@each_classifier
def test_another_number_of_columns_in_predict(estimator):
    X, y = data()
    model = clone(estimator).fit(X, y)
    for method in ("predict", "predict_proba", "predict_neighbors", "embed"):
        if hasattr(model, method):
            with pytest.raises(
                ValueError, match=r"X has 3 features, but .* expecting 4"
            ):
                getattr(model, method)(X[:, :3])
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        model.predict(X[:0])
    named = clone(estimator).fit(pd.DataFrame(X, columns=list("abcd")), y)
    with pytest.raises(ValueError, match="must be in the same order"):
        named.predict(pd.DataFrame(X, columns=list("bacd")))
    with pytest.raises(ValueError, match="unseen at fit time"):
        named.predict(pd.DataFrame(X, columns=list("abce")))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        named.predict(X)


@each_classifier
@pytest.mark.parametrize("magnitude", [1e30, 1e300])
def test_no_nan_comes_out_of_predict(estimator, magnitude):
    """Values that a network in float32 cannot hold, and no scaling in front of it."""
    X, y = data()
    model = clone(estimator).set_params(scaling=None).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            probabilities = model.predict_proba(magnitude * np.sign(X))
        except ValueError as error:
            assert "too large" in str(error)  # as scikit-learn says it
        else:
            assert np.isfinite(probabilities).all()


# --- values of y


@each_classifier
def test_labels(estimator):
    X, y = data()
    rng = np.random.default_rng(0)
    refused(estimator, X, rng.normal(size=90), "Unknown label type: .*continuous")
    refused(estimator, X, np.eye(2)[y], r"y should be a 1d array, got .*\(90, 2\)")
    refused(estimator, X, np.where(y == 1, np.nan, 0.0), "y contains NaN")
    refused(estimator, X, None, "requires y to be passed")
    name = type(estimator).__name__
    refused(estimator, X, np.zeros(90), rf"{name} .* only one class: 0\.0")
    refused(estimator, X, np.zeros(90, int), rf"{name} .* only one class: 0\.")
    refused(estimator, X, ["yes"] * 90, rf"{name} .* only one class: 'yes'\.")


def test_labels_of_the_sampler():
    X, y = data()
    rng = np.random.default_rng(0)
    refused(SAMPLER, X, rng.normal(size=90), "Unknown label type")
    refused(SAMPLER, X, np.zeros(90), "needs to have more than 1 class")
    two_labels = rng.integers(0, 2, (90, 3))
    refused(SAMPLER, X, two_labels, "Multilabel and multioutput targets")
    refused(SAMPLER, X, y[:-1], "inconsistent numbers of samples")


@each_classifier
def test_column_of_labels(estimator):
    """As in scikit-learn: taken, with its warning."""
    X, y = data()
    model = clone(estimator)
    with pytest.warns(UserWarning, match="A column-vector y was passed"):
        model.fit(X, y[:, None])
    assert_array_equal(model.predict(X), clone(estimator).fit(X, y).predict(X))


@neighbor_classifiers
def test_too_few_rows_for_the_neighbours(estimator):
    X, y = data()
    rows = [0, 1, 2]
    X, y = X[rows], np.array([0, 1, 0])
    match = "n_neighbors < n_samples_fit, but n_neighbors = 3, n_samples_fit = 3 "
    refused(estimator, X, y, match)
    model = clone(estimator).set_params(n_neighbors=2).fit(X, y)
    assert model.predict_proba(X).shape == (3, 2)


def test_too_few_rows_for_the_neighbours_of_the_sampler():
    X, y = data()
    X, y = X[:5], [0, 0, 0, 1, 1]
    sampler = clone(SAMPLER).set_params(neighbors_of="all")
    match = "k_neighbors < n_samples, but k_neighbors = 5, n_samples = 5; lower"
    refused(sampler, X, y, match)
    _, y_new = sampler.set_params(k_neighbors=4).fit_resample(X, y)
    assert np.bincount(y_new).tolist() == [3, 3]


@neighbor_classifiers
def test_too_few_rows_left_by_the_hold_out(estimator):
    X, _ = data()
    stopping = clone(estimator).set_params(early_stopping=True)
    refused(stopping, X[:4], [0, 1, 0, 1], "n_neighbors = 3, n_samples_fit = 2")


@each_classifier
def test_two_rows_of_two_classes(estimator):
    X, _ = data()
    model = clone(estimator)
    if hasattr(model, "n_neighbors"):
        model.set_params(n_neighbors=1)
    model.fit(X[:2], ["a", "b"])
    assert np.isfinite(model.predict_proba(X)).all()


@each_classifier
def test_class_of_a_single_row(estimator):
    X, y = data()
    y[11] = 7
    X[11] = 20
    model = clone(estimator).set_params(max_epochs=20).fit(X, y)
    assert model.classes_.tolist() == [0, 1, 7]
    assert model.predict_proba(X).shape == (90, 3)
    assert model.score(X, y) > 0.9


@each_classifier
def test_a_class_for_each_row(estimator):
    X, _ = data()
    model = clone(estimator)
    with warnings.catch_warnings():
        # scikit-learn's: more classes than half of the rows
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model.fit(X[:8], [f"row {row}" for row in range(8)])
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (90, 8)
    assert np.isfinite(probabilities).all()


def test_more_classes_than_rows_in_partial_fit():
    X, _ = data()
    model = clone(SAMN).partial_fit(X[:2], [1, 3], classes=range(5))
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (90, 5)
    assert np.isfinite(probabilities).all()


@each_classifier
def test_rows_that_are_all_equal(estimator):
    X, y = data()
    # Batch normalisation of what does not vary is at the mercy of its running mean.
    model = clone(estimator).set_params(max_epochs=20, batch_norm=False)
    model.fit(np.full_like(X, 3.5), y)
    probabilities = model.predict_proba(np.full_like(X, 3.5))
    assert np.isfinite(probabilities).all()
    assert np.ptp(probabilities, axis=0).max() == 0
    assert (model.predict(np.full_like(X, 3.5)) == 0).all()


# --- weights


@each_classifier
def test_sample_weights(estimator):
    X, y = data()
    one = np.ones(90)
    negative = one.copy()
    negative[3] = -1
    refused(estimator, X, y, "Negative values in data passed", sample_weight=negative)
    refused(estimator, X, y, r"(?i)sample.weight.*zero", sample_weight=0 * one)
    refused(estimator, X, y, "NaN", sample_weight=np.nan * one)
    refused(estimator, X, y, "infinity", sample_weight=np.inf * one)
    refused(estimator, X, y, r"\(6,\), expected \(90,\)", sample_weight=one[:6])
    refused(estimator, X, y, "only one class", sample_weight=(y == 1).astype(float))


@every_estimator
def test_class_weights(estimator):
    X, y = data()

    def with_weights(class_weight):
        return clone(estimator).set_params(class_weight=class_weight)

    refused(with_weights({7: 1.0}), X, y, "not in class_weight")
    for weights in ({0: 0.0, 1: 0.0}, {0: -1.0}, {0: np.nan}):
        refused(with_weights(weights), X, y, "class_weight=.* must hold finite weights")


def test_weights_of_partial_fit():
    X, y = data()
    model = clone(SAMN)
    with pytest.raises(ValueError, match=r"(?i)sample.weight.*zero"):
        model.partial_fit(X, y, classes=[0, 1], sample_weight=np.zeros(90))
    assert not fitted_attributes(model)


# --- devices and batches


@every_estimator
@pytest.mark.parametrize("device", ["warp", "gpu", ""])
def test_unknown_device(estimator, device):
    X, y = data()
    model = clone(estimator).set_params(device=device)
    refused(model, X, y, f"device='{device}' is unknown; use 'auto', 'cpu', 'cuda'")


@every_estimator
@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_absent_device(estimator, device):
    X, y = data()
    model = clone(estimator).set_params(device=device)
    refused(model, X, y, f"device='{device}' is not available .*device='auto'")


@needs_no_cuda
@every_estimator
def test_absent_cuda(estimator):
    X, y = data()
    model = clone(estimator).set_params(device="cuda")
    refused(model, X, y, "device='cuda' is not available .*device='auto'")


def test_a_warning_in_a_module_of_the_user_that_is_named_like_a_library(tmp_path):
    code = "def fit(model, X, y):\n    return model.fit(X, y)\n"
    (tmp_path / "sklearn_helpers.py").write_text(code)
    spec = importlib.util.spec_from_file_location(
        "sklearn_helpers", tmp_path / "sklearn_helpers.py"
    )
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    model = SAMNClassifier(batch_size=91, max_epochs=1)
    with pytest.warns(UserWarning, match="batch_size=91 is larger") as seen:
        helpers.fit(model, *data())
    assert seen[0].filename == helpers.__file__


@every_estimator
def test_batch_larger_than_the_data(estimator):
    X, y = data()
    model = clone(estimator).set_params(batch_size=91)
    with pytest.warns(UserWarning, match="batch_size=91 is larger than the 90") as seen:
        found = learn(model, X, y)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert model.batch_size == 91
    fits = clone(model).set_params(batch_size=90)
    expected = learn(fits, X, y)
    if estimator is SAMPLER:
        assert_array_equal(found[0], expected[0])
    else:
        assert_array_equal(model.predict_proba(X), fits.predict_proba(X))


# --- the sampler's counts


@pytest.mark.parametrize(
    ("strategy", "match"),
    [
        ({1: 20}, "should be greater or equal to the original number of samples"),
        ({0: 10, 1: 60}, "should be greater or equal to the original number"),
        ({2: 60}, r"The \{2\} target class is/are not present in the data"),
        (0.1, "The specified ratio required to remove samples from the minority"),
        (1.5, "sampling_strategy"),
        ("most", "sampling_strategy"),
    ],
    ids=str,
)
def test_sampling_strategy(strategy, match):
    X, y = data()
    sampler = clone(SAMPLER).set_params(sampling_strategy=strategy)
    refused(sampler, X, y, match)


def test_ratio_for_several_classes():
    X, y = data()
    y[:5] = 2
    sampler = clone(SAMPLER).set_params(sampling_strategy=0.5)
    refused(sampler, X, y, "can be a float only when the type of target is binary")


def test_more_than_the_majority():
    X, y = data()
    sampler = clone(SAMPLER).set_params(sampling_strategy={1: 80})
    with warnings.catch_warnings():
        # some versions of imbalanced-learn warn of it
        warnings.filterwarnings("ignore", "After over-sampling", UserWarning)
        _, y_new = sampler.fit_resample(X, y)
    assert Counter(y_new.tolist()) == {0: 60, 1: 80}


# --- training that does not come to an end


@each_classifier
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_divergence(estimator, optimizer):
    X, y = data()
    model = clone(estimator).set_params(
        optimizer=optimizer,
        lr=1e30,
        lr_schedule="constant",
        scaling=None,
        batch_norm=False,
        dropout=0.0,
    )
    refused(model, 1e6 * X, y, r"Training diverged: .*\. Lower lr \(now 1e\+30\)")


def test_divergence_of_the_sampler():
    X, y = data()
    sampler = clone(SAMPLER).set_params(
        optimizer="sgd", lr=1e30, lr_schedule="constant", batch_norm=False
    )
    refused(sampler, X, y, r"Training diverged: .*\. Lower lr \(now 1e\+30\)")


def test_divergence_of_partial_fit():
    X, y = data()
    model = clone(SAMN).partial_fit(X, y, classes=[0, 1])
    before = model.predict_proba(X)
    model.set_params(lr=1e30, optimizer="sgd")
    with pytest.raises(ValueError, match="Training diverged"):
        model.partial_fit(1e6 * X, y)
    assert_array_equal(model.predict_proba(X), before)


@each_classifier
@pytest.mark.parametrize("scale", [1e3, 1e6, 1e12])
def test_unscaled_features_never_give_nan(estimator, scale):
    """They are learned from, or the error says what to do."""
    X, y = data()
    model = clone(estimator).set_params(scaling=None, lr=1e8, optimizer="sgd")
    try:
        model.fit(scale * X, y)
    except ValueError as error:
        assert re.search("Training diverged.*Lower lr", str(error))
        assert not fitted_attributes(model)
    else:
        assert np.isfinite(model.predict_proba(scale * X)).all()


class CtrlC(Callback):
    """The user loses patience in the second epoch."""

    def __init__(self, epoch=2):
        self.epoch = epoch

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


def impatient(estimator, **params):
    return clone(estimator).set_params(
        skorch_params={"callbacks": [CtrlC()]}, **{"max_epochs": 4, **params}
    )


@every_estimator
@pytest.mark.parametrize(("early_stopping", "verbose"), [(False, 0), (True, 1)])
def test_ctrl_c_leaves_a_new_estimator_unfitted(
    estimator, early_stopping, verbose, capsys
):
    X, y = data()
    model = impatient(estimator, early_stopping=early_stopping, verbose=verbose)
    refused(model, X, y, error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        learn(model, X, y)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    assert not fitted_attributes(model)
    assert not hasattr(model, "net_")
    # The next fit is none the wiser.
    model.set_params(skorch_params=None, verbose=0)
    learn(model, X, y)
    check_is_fitted(model)


@each_classifier
@pytest.mark.parametrize("warm_start", [False, True])
def test_ctrl_c_leaves_a_fitted_estimator_as_it_was(estimator, warm_start):
    X, y = data()
    model = clone(estimator).set_params(warm_start=warm_start).fit(X, y)
    before, state = model.predict_proba(X), dict(vars(model))
    params = {"skorch_params": {"callbacks": [CtrlC()]}}
    model.set_params(**params)
    with pytest.raises(KeyboardInterrupt):
        model.fit(-X, y)
    assert_array_equal(model.predict_proba(X), before)
    assert vars(model) == {**state, **params}


def test_ctrl_c_in_partial_fit():
    X, y = data()
    model = clone(SAMN).set_params(skorch_params={"callbacks": [CtrlC(epoch=1)]})
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, y, classes=[0, 1])
    assert not fitted_attributes(model)
    model.set_params(skorch_params=None).partial_fit(X, y, classes=[0, 1])
    before, state = model.predict_proba(X), dict(vars(model))
    model.set_params(skorch_params={"callbacks": [CtrlC(epoch=1)]})
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(-X, y)
    assert_array_equal(model.predict_proba(X), before)
    assert vars(model) == {**state, "skorch_params": model.skorch_params}


def test_a_failed_partial_fit_leaves_no_trace():
    """The next one gives what it would have given: its optimizer is as before."""
    X, y = data()
    model, other = (
        clone(SAMN).partial_fit(X, y, classes=[0, 1]).partial_fit(X, y)
        for _ in range(2)
    )
    other.set_params(lr=1e30, optimizer="sgd", batch_norm=True)
    with pytest.raises(ValueError, match="diverged"):
        other.partial_fit(1e6 * X, y)
    other.set_params(skorch_params={"callbacks": [CtrlC(epoch=1)]}, **{"lr": 1e-2})
    other.set_params(optimizer="adamw")
    with pytest.raises(KeyboardInterrupt):
        other.partial_fit(-X, y)
    other.set_params(**model.get_params())
    assert_array_equal(
        other.partial_fit(X, y).predict_proba(X),
        model.partial_fit(X, y).predict_proba(X),
    )


def test_ctrl_c_leaves_the_sampler_as_it_was():
    X, y = data()
    sampler = clone(SAMPLER)
    sampler.fit_resample(X, y)
    state = dict(vars(sampler))
    callbacks = {"callbacks": [CtrlC()]}
    sampler.set_params(skorch_params=callbacks, max_epochs=4)
    with pytest.raises(KeyboardInterrupt):
        sampler.fit_resample(X[5:, :3], y[5:])
    assert vars(sampler) == {**state, "skorch_params": callbacks, "max_epochs": 4}


@each_classifier
def test_a_failed_fit_leaves_a_fitted_estimator_as_it_was(estimator):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = clone(estimator).fit(frame, y)
    before, state = model.predict_proba(frame), dict(vars(model))
    bad = X[:, :3].copy()
    bad[5, 1] = np.inf
    attempts = [
        ({}, bad, y, "infinity in column 1"),
        ({}, X[:, :3], np.zeros(90), "only one class"),
        ({}, X[:, :3], np.linspace(0, 1, 90), "Unknown label type"),
        ({"device": "warp"}, X[:, :3], y, "is unknown"),
        ({"max_epochs": 0}, X[:, :3], y, "'max_epochs' parameter"),
        ({"lr": 1e30, "optimizer": "sgd"}, 1e6 * X[:, :3], y, "diverged"),
        ({"skorch_params": {"typo": 1}}, X[:, :3], y, "typo"),
    ]
    defaults = model.get_params()
    for params, X_bad, y_bad, match in attempts:
        model.set_params(**params)
        with pytest.raises(ValueError, match=match):
            model.fit(X_bad, y_bad)
        model.set_params(**defaults)
        assert vars(model) == state
        assert model.feature_names_in_.tolist() == list("abcd")
        assert_array_equal(model.predict_proba(frame), before)


@each_classifier
def test_unfitted_estimators_say_so(estimator):
    X, _ = data()
    model = clone(estimator)
    for method in ("predict", "predict_proba", "predict_neighbors", "attention"):
        if hasattr(model, method):
            with pytest.raises(NotFittedError, match=type(model).__name__):
                getattr(model, method)(X)
    with pytest.raises(AttributeError, match="not fitted"):
        _ = model.net_


# --- raw features


def raw_features(sizes=(80, 80)):
    """A problem that is separable, but for its units."""
    X, y = make_blobs(sizes, centers=6 * np.eye(4)[:2], random_state=0)
    X = X * [1e-9, 1.0, 1e6, 1.0] + [0, 1.7e9, -1e8, 3]
    X = np.column_stack([X, np.full(len(y), 42.0), np.zeros(len(y))])
    return X, y


@each_classifier
def test_constant_columns_and_other_units(estimator):
    X, y = raw_features()
    model = clone(estimator).set_params(max_epochs=10).fit(X[:100], y[:100])
    assert model.score(X[100:], y[100:]) > 0.9
    # A constant column that is constant no more does not turn predictions to NaN.
    X[100:, 4:] += 1e9
    assert np.isfinite(model.predict_proba(X[100:])).all()


@each_classifier
@pytest.mark.parametrize("outlier", [1e12, -1e12, 1e300])
def test_a_huge_outlier_in_training(estimator, outlier):
    X, y = raw_features()
    X[[3, 50], [0, 1]] = outlier
    X[17, 3] = outlier
    model = clone(estimator).set_params(max_epochs=10).fit(X[:100], y[:100])
    assert model.score(X[100:], y[100:]) > 0.9


@each_classifier
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_huge_outlier_in_predict(estimator, dtype):
    """However far it is, it counts as far: no overflow on the way, no NaN."""
    X, y = raw_features()
    model = clone(estimator).fit(X[:100].astype(dtype), y[:100])
    far = X[100:].astype(dtype)
    far[:, [0, 3]] = 1e12
    expected = model.predict_proba(far)
    assert np.isfinite(expected).all()
    far[:, [0, 3]] = np.finfo(dtype).max
    assert_allclose(model.predict_proba(far), expected, atol=1e-5)
    far[:, [0, 3]] = np.finfo(dtype).min
    assert np.isfinite(model.predict_proba(far)).all()


@each_classifier
@pytest.mark.parametrize("scaling", ["robust", "quantile", None])
def test_scaled_features_need_no_more(estimator, scaling):
    X, y = raw_features()
    Z = StandardScaler().fit_transform(X)
    model = clone(estimator).set_params(max_epochs=10, scaling=scaling)
    assert model.fit(Z[:100], y[:100]).score(Z[100:], y[100:]) > 0.9


def test_raw_features_of_the_sampler():
    X, y = raw_features((90, 30))
    minority = np.flatnonzero(y == 1)
    X[minority[2], 0] = 1e12
    sampler = clone(SAMPLER).set_params(max_epochs=20)
    X_new, y_new = sampler.fit_resample(X, y)
    synthetic = X_new[len(X) :]
    assert (y_new[len(X) :] == 1).all()
    assert len(synthetic) == 60
    assert np.isfinite(synthetic).all()
    assert (synthetic[:, 4] == 42).all() and (synthetic[:, 5] == 0).all()
    # Nearly all lie where their class lies, in each column.
    low, high = np.quantile(X[minority], [0, 1], axis=0)
    spread = high - low
    spread[0] = np.ptp(np.delete(X[minority, 0], 2))
    low[0] = X[minority, 0].min()
    high[0] = np.sort(X[minority, 0])[-2]
    inside = (synthetic >= low - spread) & (synthetic <= high + spread)
    assert inside.mean(axis=0).min() > 0.8


# --- parameters

INVALID = {
    "activation": "sine",
    "alpha": -1.0,
    "batch_norm": "yes",
    "batch_size": 0,
    "categorical_features": "by_name",
    "cell": "rnn",
    "certainty": -1.0,
    "checkpoint": 0,
    "class_weight": "heavy",
    "coef0": np.nan,
    "degree": 0,
    "device": 0,
    "dropout": 1.0,
    "dtype": "float16",
    "early_stopping": "yes",
    "embedding_size": 0,
    "feature_extractor": "cnn",
    "head": "tail",
    "hidden_layer_sizes": 5,
    "hidden_size": 0,
    "inner_weight": -1.0,
    "inter_weight": -1.0,
    "k_neighbors": 0,
    "keep_ties": "yes",
    "kernel": "cosine",
    "label_smoothing": 1.0,
    "lam": -1.0,
    "loss": "hinge",
    "lr": 0.0,
    "lr_schedule": "cosine",
    "margin": -1.0,
    "max_epochs": 0,
    "max_grad_norm": 0.0,
    "memory_gate": 0.0,
    "memory_size": 0,
    "n_attention_blocks": -1,
    "n_frequencies": -1,
    "n_iter_no_change": 0,
    "n_jobs": 1.5,
    "n_members": 0,
    "n_memories": 0,
    "n_neighbors": 0,
    "n_prototypes": 0,
    "n_subsets": 0,
    "neighbor_weight": 1.0,
    "neighbors": "nearest",
    "neighbors_of": "none",
    "optimizer": "lbfgs",
    "out_of_core": "never",
    "output": "everything",
    "pool_size": 0,
    "predict_vectors": "yes",
    "random_state": "seed",
    "rejection": 1.5,
    "residual_scale": -1.0,
    "sampling_strategy": "most",
    "scaling": "minmax",
    "skorch_params": [1],
    "stop_when_exhausted": "yes",
    "subset_size": 0,
    "support_size": 0,
    "temperature": 0.0,
    "validation_fraction": 1.0,
    "vector_reduction": "max",
    "verbose": "loudly",
    "warm_start": "yes",
    "weight_decay": -1.0,
}


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        pytest.param(estimator, name, id=f"{type(estimator).__name__}-{name}")
        for estimator in (SAMN, SEQ2SEQ, MEMNET, SAMPLER)
        for name in estimator.get_params()
    ],
)
def test_invalid_parameter(estimator, name):
    X, y = data()
    model = clone(estimator).set_params(**{name: INVALID[name]})
    kind = type(estimator).__name__
    match = f"The '{name}' parameter of {kind} must be"
    refused(model, X, y, match, error=InvalidParameterError)


@pytest.mark.parametrize("value", [0, -3, 2.5, "wide"])
@each_classifier
def test_invalid_hidden_layer_sizes(estimator, value):
    X, y = data()
    model = clone(estimator).set_params(hidden_layer_sizes=(8, value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, before an error
        refused(model, X, y, "hidden_layer_sizes")


def test_invalid_parameter_of_partial_fit():
    X, y = data()
    model = clone(SAMN).set_params(dropout=2.0)
    with pytest.raises(InvalidParameterError, match="The 'dropout' parameter of SAMN"):
        model.partial_fit(X, y, classes=[0, 1])


@every_estimator
def test_unknown_parameter(estimator):
    with pytest.raises(TypeError, match="n_neighbours"):
        type(estimator)(n_neighbours=3)
    with pytest.raises(ValueError, match="Invalid parameter 'n_neighbours'"):
        clone(estimator).set_params(n_neighbours=3)


@every_estimator
def test_unknown_skorch_parameter(estimator):
    X, y = data()
    model = clone(estimator).set_params(skorch_params={"call_backs": []})
    refused(model, X, y, "call_backs", error=(TypeError, ValueError))


@every_estimator
@pytest.mark.parametrize(
    ("skorch_params", "match"),
    [
        ({"module": torch.nn.Identity}, r"holds \['module'\]"),
        ({"criterion": torch.nn.NLLLoss, "lr": 1}, r"holds \['criterion'\]"),
        ({"criterion__reduction": "sum"}, r"holds \['criterion'\]"),
        ({"callbacks": "disable"}, "callbacks must be a list"),
    ],
)
def test_skorch_parameters_that_the_estimator_sets(estimator, skorch_params, match):
    X, y = data()
    refused(clone(estimator).set_params(skorch_params=skorch_params), X, y, match)


@every_estimator
def test_dates_are_refused(estimator):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    days = pd.date_range("2024-01-01", periods=len(y))
    match = r"dates or durations in column 'c' \(dtype {}.*days since a date"
    refused(estimator, frame.assign(c=days), y, match.format("datetime64"))
    zoned = frame.assign(c=days.tz_localize("UTC"))
    refused(estimator, zoned, y, match.format("datetime64"))
    refused(estimator, frame.assign(c=days - days[0]), y, match.format("timedelta64"))
    array = np.repeat(days.to_numpy()[:, None], 2, axis=1)
    refused(estimator, array, y, r"dates or durations \(dtype datetime64")


@each_classifier
def test_dates_are_refused_in_predict(estimator):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = clone(estimator).fit(frame, y)
    frame["b"] = pd.Timestamp("2024-01-01")
    with pytest.raises(ValueError, match="dates or durations in column 'b'"):
        model.predict(frame)


@every_estimator
@pytest.mark.parametrize("missing", [None, pd.NA])
def test_labels_that_are_missing(estimator, missing):
    X, _ = data()
    y = np.array(["a", "b", missing] * 30, dtype=object)
    refused(estimator, X, y, "y holds labels that are missing")


def test_weights_whose_product_is_infinite():
    X, y = data()
    model = SAMNClassifier(max_epochs=1, class_weight={0: 1e300, 1: 1})
    match = "sample_weight times class_weight is infinite"
    with pytest.raises(ValueError, match=match):
        model.fit(X, y, sample_weight=np.full(len(y), 1e300))


@every_estimator
def test_lists_in_a_column_of_numbers(estimator):
    X, y = data()
    frame = pd.DataFrame({"a": X[:, 0], "b": [[1]] * len(y)})
    refused(estimator, frame, y, "values that are no numbers in column 'b' .*sequence")


@every_estimator
def test_labels_of_several_types(estimator):
    X, _ = data()
    mixed = ["a", 1] * 45
    for y in (np.array(mixed, dtype=object), pd.Series(mixed), mixed):
        refused(estimator, X, y, r"y mixes labels of the types \['int', 'str'\]")


def test_searches_that_hold_too_few_rows():
    X, y = data()
    model = clone(SEQ2SEQ).set_params(
        neighbors="subsets", n_subsets=1, subset_size=3, n_neighbors=3
    )
    refused(model, X, y, "n_subsets=1 subsets of subset_size=3 hold 3 different rows")


@every_estimator
def test_strings_that_are_no_table(estimator):
    _, y = data()
    words = pd.Series(["word"] * len(y))
    refused(estimator, words, y, "Expected 2D array, got 1D")


@neighbor_classifiers
def test_a_path_is_no_list_of_paths(estimator):
    _, y = data()
    refused(estimator, "a.npy", y, "X is a str; for rows in files pass a list of their")


@every_estimator
def test_dates_as_objects(estimator):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd")).astype({"b": object})
    match = r"dates or durations in column 'b' \(dtype {}"
    for value in (datetime.date(2024, 1, 1), np.datetime64("2024-01-01")):
        frame["b"] = pd.Series([value] * len(y), dtype=object)
        refused(estimator, frame, y, match.format("object"))
    refused(estimator, frame[["b"]].to_numpy(), y, r"dates or durations \(dtype object")
    frame["b"] = pd.period_range("2024-01", periods=len(y), freq="M")
    refused(estimator, frame, y, match.format("period"))


@every_estimator
@pytest.mark.parametrize("level", [["u"], {"u": 1}, np.arange(2), (["u"],)])
def test_categories_that_are_lists(estimator, level):
    X, y = data()
    X = X.astype(object)
    X[:, 1] = "v"
    X[7, 1] = level
    name = type(level).__name__
    for table, column in (X, "1"), (pd.DataFrame(X, columns=list("abcd")), "'b'"):
        model = clone(estimator).set_params(categorical_features=[1])
        match = rf"a {name} in column {column} of categories: .*Give each a string"
        refused(model, table, y, match)


@each_classifier
@pytest.mark.parametrize("columns", [["b"], ["b", "c"]])
def test_strings_in_predict_where_fit_had_numbers(estimator, columns):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["c"] = ["u", "v", "w"] * 30 if "c" in columns else 1.0
    model = clone(estimator).fit(frame, y)
    frame["b"] = "x"
    with pytest.raises(ValueError, match=r"strings in column 'b'.*In fit it held num"):
        model.predict(frame)


@every_estimator
def test_a_column_of_string_categories_that_are_not_to_be_categories(estimator):
    _, y = data()
    frame = pd.DataFrame({"n": pd.array([1, 2, 3] * 30, dtype="Int64")})
    frame["city"] = pd.Categorical(["Bonn", "Rome", "Oslo"] * 30)
    model = clone(estimator).set_params(categorical_features=None)
    refused(model, frame, y, "strings in column 'city'")


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@each_classifier
def test_many_levels_and_no_class_twice(estimator):
    words = pd.DataFrame({"word": [f"word {i}" for i in range(70)]})
    refused(estimator, words, np.arange(70), "more than 64 levels .* no class twice")


@each_classifier
def test_missing_values_where_no_class_is_there_twice(estimator):
    X = [[np.nan], [1.0], [2.0], [4.0]]
    model = clone(estimator)
    if "n_neighbors" in model.get_params():
        model.set_params(n_neighbors=2)
    model.fit(X, range(4))
    assert len(model.predict(X)) == 4


@each_classifier
def test_balanced_weights_do_not_count_rows_of_weight_zero(estimator):
    X, y = data()
    model = clone(estimator).set_params(class_weight="balanced")
    half = np.arange(len(y)) < len(y) - 25
    weighted = clone(model).fit(X, y, sample_weight=half.astype(float))
    alone = model.fit(X[half], y[half])
    assert_array_equal(weighted.predict_proba(X), alone.predict_proba(X))


@each_classifier
def test_many_levels_where_metadata_is_routed(estimator):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["city"] = [f"city {i % 70}" for i in range(len(y))]
    expected = clone(estimator).fit(frame, y).predict_proba(frame)
    with config_context(enable_metadata_routing=True):
        model = clone(estimator).fit(frame, y)
    assert_array_equal(model.predict_proba(frame), expected)


# Odd labels, weights, columns and parameters -----------------------------------------


@every_estimator
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_labels_that_are_missing_among_strings(estimator, missing):
    X, y = data()
    labels = np.where(y == 1, "yes", "no").astype(object)
    labels[3] = missing
    for form in (labels, pd.Series(labels), pd.Series(labels, dtype="category")):
        refused(estimator, X, form, "y holds labels that are missing")


@each_classifier
def test_weights_whose_sum_is_infinite(estimator):
    X, y = data()
    model = clone(estimator).fit(X, y, sample_weight=np.full(len(y), 1e308))
    plain = clone(estimator).fit(X, y)
    assert_array_equal(model.predict_proba(X), plain.predict_proba(X))


@each_classifier
def test_a_column_of_subnormal_numbers_is_constant(estimator):
    X, y = data()
    small = np.column_stack([X, X[:, 0] * 1e-310])
    model = clone(estimator).fit(small, y)
    zero = small.copy()
    zero[:, -1] = 0
    assert_allclose(model.predict_proba(small), model.predict_proba(zero), atol=1e-6)


@every_estimator
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_a_sparse_column_beside_categories(estimator, fill):
    X, y = data()
    values = np.where(X[:, 0] > 0, X[:, 0], fill)
    kind = pd.Categorical(np.where(np.arange(len(y)) % 2, "a", "b"))
    dense = pd.DataFrame({"number": values, "kind": kind})
    sparse_column = pd.arrays.SparseArray(values, fill_value=fill)
    as_sparse = dense.assign(number=sparse_column)
    dense, as_sparse = (learn(clone(estimator), X, y) for X in (dense, as_sparse))
    if isinstance(dense, tuple):
        assert_allclose(dense[0]["number"], as_sparse[0]["number"])
        assert as_sparse[0]["number"].dtype == sparse_column.dtype
    else:
        frame = pd.DataFrame({"number": values, "kind": kind})
        probabilities = dense.predict_proba(frame)
        frame["number"] = sparse_column
        assert_array_equal(as_sparse.predict_proba(frame), probabilities)


@each_classifier
def test_batches_are_made_by_the_estimator(estimator):
    X, y = data()
    own = clone(estimator).set_params(skorch_params={"train_split": None})
    refused(own, X, y, r"holds \['train_split'\], which the estimator itself makes")


def test_an_unknown_label_beside_class_weights():
    X, y = data()
    model = clone(SAMN).set_params(class_weight={0: 1.0, 1: 2.0})
    model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y holds the labels \[2\]"):
        model.partial_fit(X, np.where(y == 1, 2, 0))


@neighbor_classifiers
def test_a_checkpoint_needs_the_same_stream_again(estimator, tmp_path):
    X, y = data()
    model = clone(estimator).set_params(
        checkpoint=tmp_path / "file", random_state=np.random.RandomState(0)
    )
    refused(model, X, y, "needs an int as random_state")


class Interrupt(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


@every_estimator
def test_an_interrupted_fit_leaves_the_fit_before(estimator):
    X, y = data()
    model = clone(estimator)
    learn(model, X, y)
    model.set_params(skorch_params={"callbacks": [Interrupt()]})
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        learn(model, X[::2], y[::2])
    assert vars(model) == before
