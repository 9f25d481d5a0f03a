"""Tests of the data set that ships with the package."""

import re
import socket
import sys
from importlib.resources import files

import numpy as np
import pytest

from sklearn_samn.datasets import load_credit_default

CHECKSUM = 2_147_147_264_034_972
TARGET_CHECKSUM = 98_038_817
CATEGORICAL = ["SEX", "EDUCATION", "MARRIAGE"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail a test that opens a connection."""

    def refuse(*args, **kwargs):
        raise AssertionError("the loader used the network")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture(scope="module")
def credit():
    return load_credit_default()


def column(dataset, name):
    return dataset.data[:, list(dataset.feature_names).index(name)]


def test_bunch(credit):
    assert credit.data.shape == (30000, 23)
    assert credit.data.dtype == np.float64
    assert credit.target.shape == (30000,)
    assert credit.target.dtype == np.int64
    assert credit.frame is None
    assert credit.feature_names.shape == (23,)
    assert credit.feature_names[0] == "LIMIT_BAL"
    assert credit.feature_names[-1] == "PAY_AMT6"
    assert credit.target_names.tolist() == ["paid", "default"]
    assert credit.categorical_features == CATEGORICAL


def test_class_counts(credit):
    assert np.bincount(credit.target).tolist() == [23364, 6636]


@pytest.mark.parametrize(
    "row, values, label",
    [
        (0, "20000 2 2 1 24 2 2 -1 -1 -2 -2 3913 3102 689 0 0 0 0 689 0 0 0 0", 1),
        (
            6,
            "500000 1 1 2 29 0 0 0 0 0 0 367965 412023 445007 542653 483003 473944 "
            "55000 40000 38000 20239 13750 13770",
            0,
        ),
        (
            29999,
            "50000 1 2 1 46 0 0 0 0 0 0 47929 48905 49764 36535 32428 15313 "
            "2078 1800 1430 1000 1000 1000",
            1,
        ),
    ],
)
def test_rows_of_the_source(credit, row, values, label):
    assert credit.data[row].tolist() == [float(value) for value in values.split()]
    assert credit.target[row] == label


@pytest.mark.parametrize(
    "name, mean",
    [
        ("LIMIT_BAL", 167484.322667),
        ("AGE", 35.4855),
        ("PAY_0", -0.0167),
        ("BILL_AMT1", 51223.3309),
        ("PAY_AMT1", 5663.5805),
    ],
)
def test_published_means(credit, name, mean):
    assert column(credit, name).mean() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    "name, counts",
    [
        ("SEX", {1: 11888, 2: 18112}),
        ("EDUCATION", {0: 14, 1: 10585, 2: 14030, 3: 4917, 4: 123, 5: 280, 6: 51}),
        ("MARRIAGE", {0: 54, 1: 13659, 2: 15964, 3: 323}),
    ],
)
def test_published_counts_of_codes(credit, name, counts):
    codes, found = np.unique(column(credit, name), return_counts=True)
    assert codes.tolist() == list(counts)
    assert found.tolist() == list(counts.values())


def test_every_value_counts(credit):
    # A weighted sum sees a changed value as well as a changed order.
    row_weights = np.arange(1, 30001)
    column_weights = np.arange(1, 24)
    assert row_weights @ credit.data.astype(np.int64) @ column_weights == CHECKSUM
    assert row_weights @ credit.target == TARGET_CHECKSUM


def test_return_X_y(credit):
    X, y = load_credit_default(return_X_y=True)
    np.testing.assert_array_equal(X, credit.data)
    np.testing.assert_array_equal(y, credit.target)


def test_calls_do_not_share_memory(credit):
    other = load_credit_default()
    other.data[0, 0] = -1
    other.categorical_features.append("AGE")
    again = load_credit_default()
    assert again.data[0, 0] == credit.data[0, 0] == 20000
    assert again.categorical_features == CATEGORICAL


def test_as_frame(credit):
    pd = pytest.importorskip("pandas")
    dataset = load_credit_default(as_frame=True)
    assert isinstance(dataset.data, pd.DataFrame)
    assert isinstance(dataset.target, pd.Series)
    assert dataset.frame.shape == (30000, 24)
    assert dataset.frame.columns.tolist() == [*credit.feature_names, "target"]
    for name, dtype in dataset.frame.dtypes.items():
        assert dtype == ("category" if name in CATEGORICAL else np.int64), name
    assert dataset.data["SEX"].cat.categories.tolist() == [1, 2]
    np.testing.assert_array_equal(dataset.data.astype(np.float64), credit.data)
    np.testing.assert_array_equal(dataset.target, credit.target)


def test_as_frame_return_X_y():
    pd = pytest.importorskip("pandas")
    dataset = load_credit_default(as_frame=True)
    X, y = load_credit_default(as_frame=True, return_X_y=True)
    pd.testing.assert_frame_equal(X, dataset.data)
    pd.testing.assert_series_equal(y, dataset.target)


def test_message_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=re.escape("sklearn_samn[pandas]")):
        load_credit_default(as_frame=True)


def test_description_attributes_the_source(credit):
    description = " ".join(credit.DESCR.split())
    for text in [
        "UCI Machine Learning Repository, https://archive.ics.uci.edu/dataset/350",
        "created by I-Cheng Yeh",
        "https://creativecommons.org/licenses/by/4.0/",
        "I-C. Yeh and C.-H. Lien",
        "What was changed: the column ID was dropped",
    ]:
        assert text in description


def test_data_file(credit):
    content = files(credit.data_module).joinpath(credit.filename).read_bytes()
    assert len(content) < 1_300_000
