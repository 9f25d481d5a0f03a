"""More than one machine: searches on a Dask cluster, rows that lie there, torchrun.

What a test sends to the workers is a function of its own: it goes there by value,
where one of the module would have to be importable there, and the tests are not.
"""

import os
import socket
import subprocess
import sys

import dask.array
import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal
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


WORKER = """
import os, sys
import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier

classifier, folder = sys.argv[1:]
torch.distributed.init_process_group()
model = eval(classifier)
X, y = make_classification(700, random_state=0)
model.fit(X[:300], y[:300])
name = f"{folder}/{os.environ['RANK']}.npz"
losses = model.validation_scores_ or []
np.savez(name, X=model.predict_proba(X), losses=model.loss_curve_ + losses)
"""


# On a busy machine torch may abort a process while it takes the group apart: what
# counts is that each came so far.
END = """
import os, pathlib
pathlib.Path({folder!r}, os.environ["RANK"] + ".done").touch()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def run_in_two_processes(code, folder, *args):
    run_in_processes(2, code, folder, *args)


def run_in_processes(n_processes, code, folder, *args):
    script = folder / "worker.py"
    script.write_text(code + END.format(folder=str(folder)))
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    # Else gloo asks for the address of the machine's name, which may have none.
    interface = {"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", f"--nproc-per-node={n_processes}"),
            *(script, *args),
        ],
        timeout=200,
        env={**os.environ, **interface, "OMP_NUM_THREADS": "1"},
    )
    assert all((folder / f"{rank}.done").exists() for rank in range(n_processes))


def fit_in_two_processes(classifier, folder):
    """Probabilities and losses of each process."""
    run_in_two_processes(WORKER, folder, repr(classifier), folder)
    saved = [np.load(folder / f"{rank}.npz") for rank in range(2)]
    for name in ("X", "losses"):
        assert_array_equal(saved[0][name], saved[1][name])
    return saved[0]["X"], saved[0]["losses"]


@pytest.mark.parametrize(
    "classifier",
    [
        KNNSeq2SeqClassifier(lam=0.0),
        MemNetKNNClassifier(memory_size=300),
        KNNSeq2SeqClassifier(neighbors="subsets", out_of_core=True),
    ],
    ids=["seq2seq", "memnet", "out-of-core"],
)
def test_two_processes_train_what_one_does(classifier, tmp_path):
    """Equal but for the order of sums, where no draw and no batch statistic differ."""
    classifier.set_params(
        batch_size=60,
        max_epochs=4,
        batch_norm=False,
        dropout=0.0,
        dtype="float64",
        random_state=0,
    )
    probabilities, losses = fit_in_two_processes(classifier, tmp_path)
    X, y = make_classification(700, random_state=0)
    classifier.fit(X[:300], y[:300])
    assert_allclose(losses, classifier.loss_curve_)
    assert_allclose(probabilities, classifier.predict_proba(X))


def test_two_processes_stop_early_together(tmp_path):
    classifier = KNNSeq2SeqClassifier(
        early_stopping=True, n_iter_no_change=2, max_epochs=40, random_state=0
    )
    probabilities, losses = fit_in_two_processes(classifier, tmp_path)
    X, y = make_classification(700, random_state=0)
    classifier.fit(X[:300], y[:300])
    assert len(losses) < 2 * classifier.max_epochs
    two, one = probabilities[300:].argmax(1), classifier.predict(X[300:])
    accuracies = [(labels == y[300:]).mean() for labels in (two, one)]
    # Three standard deviations of the difference of two accuracies on 400 rows.
    assert abs(np.subtract(*accuracies)) < 3 * np.sqrt(2 * 0.25 / 400)


def test_processes_agree_whose_gpus_differ():
    one, other, cpu = (
        KNNSeq2SeqClassifier(device=device)._fingerprint([1])
        for device in ("cuda:0", "cuda:1", "cpu")
    )
    assert one == other != cpu


REFUSED = """
import os, sys
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn_samn import KNNSeq2SeqClassifier

torch.distributed.init_process_group()
rank = int(os.environ["RANK"])
X, y = make_classification(300, random_state=0)
model = KNNSeq2SeqClassifier(max_epochs=1, random_state=0)
for params, n_rows in [
    ({"random_state": None}, 300),
    ({"hidden_size": 32 + rank}, 300),
    ({"max_epochs": 2 + rank}, 300),
    ({"checkpoint": None if rank else "fit.checkpoint"}, 300),
    ({}, 300 - rank),
]:
    model.set_params(hidden_size=32, max_epochs=1, random_state=0, checkpoint=None)
    model.set_params(**params)
    with pytest.raises(ValueError, match="called with different rows"):
        model.fit(X[:n_rows], y[:n_rows])
"""


def test_processes_that_do_not_agree_are_refused(tmp_path):
    """Else they would wait for each other, or end with different models."""
    run_in_two_processes(REFUSED, tmp_path)


RESUMED = """
import os, sys
import numpy as np
import torch
from skorch.callbacks import Callback
from sklearn.datasets import make_classification
from sklearn_samn import KNNSeq2SeqClassifier

class Interrupt(Callback):
    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 4:
            raise KeyboardInterrupt

folder = sys.argv[1]
torch.distributed.init_process_group()
rank = os.environ["RANK"]
os.makedirs(f"{folder}/{rank}")
# Of several machines each has a disk of its own.
os.chdir(f"{folder}/{rank}")
X, y = make_classification(301, random_state=0)
model = KNNSeq2SeqClassifier(max_epochs=6, batch_size=51, random_state=0)
expected = model.fit(X, y).predict_proba(X)
model.set_params(checkpoint="fit.checkpoint", skorch_params={"callbacks": [Interrupt]})
try:
    model.fit(X, y)
except KeyboardInterrupt:
    pass
found = os.path.exists("fit.checkpoint")
del Interrupt.on_epoch_begin
went_on = model.fit(X, y).predict_proba(X)
np.savez(f"{folder}/{rank}.npz", X=went_on, expected=expected, found=found)
"""


def test_two_processes_go_on_from_the_file_of_the_first(tmp_path):
    """To the bit, though their streams of dropout have moved apart."""
    run_in_two_processes(RESUMED, tmp_path, tmp_path)
    for rank in range(2):
        saved = np.load(tmp_path / f"{rank}.npz")
        assert saved["found"] == (rank == 0)
        assert_array_equal(saved["X"], saved["expected"])


TINY = """
import os, sys
import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier

torch.distributed.init_process_group()
X, y = make_classification(20, random_state=0)
X, y = X[np.argsort(y)], np.sort(y)
for model in (KNNSeq2SeqClassifier(), MemNetKNNClassifier(memory_size=4)):
    model.set_params(n_neighbors=1, early_stopping=True, validation_fraction=0.01)
    model.set_params(max_epochs=2, random_state=0)
    # One row of the first class, and one of the other, are held out.
    assert np.isfinite(model.fit(X, y).validation_scores_).all()
"""


def test_a_hold_out_of_fewer_rows_than_processes(tmp_path):
    run_in_processes(3, TINY, tmp_path)


FEW = """
import pytest
import torch
from sklearn_samn import KNNSeq2SeqClassifier

torch.distributed.init_process_group()
model = KNNSeq2SeqClassifier(n_neighbors=1, max_epochs=1, random_state=0)
with pytest.raises(ValueError, match="2 training rows, fewer than the 3 processes"):
    model.fit([[0.0], [1.0]], [0, 1])
"""


def test_fewer_rows_than_processes(tmp_path):
    run_in_processes(3, FEW, tmp_path)
