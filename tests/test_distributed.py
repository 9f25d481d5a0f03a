"""More than one machine: searches on a Dask cluster, and rows that lie there.

What a test sends to the workers is a function of its own: it goes there by value,
where one of the module would have to be importable there, and the tests are not.
"""

import os

import dask.array
import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV

from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier, SAMNClassifier


@pytest.fixture(scope="module")
def client():
    """Two worker processes of one thread each."""
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "classifier",
    [
        SAMNClassifier(max_epochs=3, random_state=0),
        KNNSeq2SeqClassifier(max_epochs=3, random_state=0),
        MemNetKNNClassifier(max_epochs=3, memory_size=16, random_state=0),
    ],
    ids=["samn", "seq2seq", "memnet"],
)
def test_grid_search_on_a_cluster(classifier, client):
    X, y = make_classification(random_state=0)

    def process(estimator, X, y):
        """The process that scores, as a score."""
        return os.getpid()

    search = GridSearchCV(
        classifier,
        {"lr": [1e-3, 1e-2]},
        cv=2,
        scoring={"accuracy": "accuracy", "process": process},
        refit="accuracy",
        error_score="raise",
    )
    expected = clone(search).fit(X, y)
    with joblib.parallel_config(backend="dask"):
        search.fit(X, y)
    for split in ("split0", "split1"):
        scores, here = (f"{split}_test_{name}" for name in ("accuracy", "process"))
        assert_array_equal(search.cv_results_[scores], expected.cv_results_[scores])
        assert set(expected.cv_results_[here]) == {os.getpid()}
        assert os.getpid() not in search.cv_results_[here]
    assert_array_equal(search.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize(
    "classifier",
    [
        KNNSeq2SeqClassifier(max_epochs=2, random_state=0),
        MemNetKNNClassifier(max_epochs=2, memory_size=16, random_state=0),
    ],
    ids=["seq2seq", "memnet"],
)
def test_rows_on_a_cluster(classifier, client):
    """A dask array of which only workers have the blocks."""
    X, y = make_classification(random_state=0)
    here = os.getpid()

    def elsewhere(block):
        """The block, to any other process."""
        assert os.getpid() != here
        return block

    rows = dask.array.from_array(X, chunks=(40, -1))
    rows = rows.map_blocks(elsewhere, meta=np.empty((0, 0)))
    fitted = clone(classifier).fit(rows, y)
    expected = clone(classifier).set_params(out_of_core=True).fit(X, y)
    assert_array_equal(fitted.predict_proba(rows), expected.predict_proba(X))
