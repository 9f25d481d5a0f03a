"""The same seed gives the same result to the bit, whatever goes on around it."""

import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, cross_val_predict

from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
    _training,
)
from sklearn_samn.modules import NeighborSequenceLoss
from sklearn_samn.modules.embedding import FEW_CLASSES, class_probabilities

CLASSIFIERS = {
    "samn": SAMNClassifier(max_epochs=3, random_state=0),
    "samn-prototypes": SAMNClassifier(
        max_epochs=3, n_prototypes=2, early_stopping=True, random_state=0
    ),
    "seq2seq": KNNSeq2SeqClassifier(max_epochs=3, random_state=0),
    "seq2seq-subsets": KNNSeq2SeqClassifier(
        max_epochs=3, neighbors="subsets", n_subsets=5, subset_size=20, random_state=0
    ),
    "vectors": KNNSeq2SeqClassifier(max_epochs=3, output="vectors", random_state=0),
    "memnet": MemNetKNNClassifier(max_epochs=3, memory_size=20, random_state=0),
    "memnet-stopping": MemNetKNNClassifier(
        max_epochs=3, memory_size=20, early_stopping=True, random_state=0
    ),
}
SAMPLERS = {
    "v2vsls": V2VSLS(max_epochs=2, random_state=0),
    "v2vsls-all": V2VSLS(
        max_epochs=2, neighbors_of="all", early_stopping=True, random_state=0
    ),
}
ESTIMATORS = {**CLASSIFIERS, **SAMPLERS}
each_classifier = pytest.mark.parametrize("name", list(CLASSIFIERS))
every_estimator = pytest.mark.parametrize("name", list(ESTIMATORS))
main_estimators = pytest.mark.parametrize(
    "name", ["samn", "seq2seq", "memnet", "v2vsls"]
)
three_classifiers = pytest.mark.parametrize("name", ["samn", "seq2seq", "memnet"])
# scikit-learn sets the filters of warnings in each thread, and they are global: its
# search may then miss the ones it looks for, and say so.
ignore_filters_lost_in_threads = pytest.mark.filterwarnings(
    "ignore:`sklearn.utils.parallel.delayed` should be used:UserWarning"
)


def data(n_samples=120):
    """Overlapping classes, so that no probability is near zero or one."""
    return make_classification(
        n_samples=n_samples,
        n_features=6,
        n_informative=4,
        weights=[0.7],
        class_sep=0.5,
        flip_y=0.2,
        random_state=0,
    )


def result(name, **params):
    """What a new estimator of that name makes of the data."""
    X, y = data()
    estimator = clone(ESTIMATORS[name]).set_params(**params)
    if name in SAMPLERS:
        return estimator.fit_resample(X, y)[0][len(X) :]
    return estimator.fit(X, y).predict_proba(X)


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """What a test sets is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_estimator
def test_same_seed_same_bits(name):
    expected = result(name)
    for seed, n_threads in [(1, 1), (2, 2)]:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        torch.set_num_threads(n_threads)
        assert_array_equal(result(name), expected)
        assert torch.get_num_threads() == n_threads


@three_classifiers
def test_number_of_threads_changes_no_bit(name):
    """Batches large enough for torch to share their sums out among threads."""
    X, y = make_classification(n_samples=300, random_state=0)
    model = clone(CLASSIFIERS[name]).set_params(batch_size=256, max_epochs=1)
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        found.append(clone(model).fit(X, y).predict_proba(X))
    assert_array_equal(*found)


@every_estimator
def test_torch_settings_change_no_bit(name):
    expected = result(name)
    with torch.inference_mode():
        assert_array_equal(result(name), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert_array_equal(result(name), expected)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@every_estimator
def test_other_seed_other_bits(name):
    assert not np.array_equal(result(name), result(name, random_state=1))


def streams():
    """State of the global random streams."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return [
        torch.get_rng_state().tolist(),
        numpy_state[1].tolist(),
        numpy_state[2:],
        random.getstate(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
    ]


@every_estimator
def test_global_state_is_left_alone(name):
    before = streams()
    result(name)
    assert streams() == before
    result(name)
    assert streams() == before


@three_classifiers
def test_global_state_is_left_alone_by_a_pickle(name):
    X, y = data()
    saved = pickle.dumps(clone(CLASSIFIERS[name]).fit(X, y))
    before = streams()
    pickle.loads(saved).predict(X)
    assert streams() == before


@main_estimators
def test_global_state_is_left_alone_by_a_failure(name):
    before = streams()
    with pytest.raises(ValueError, match="diverged"):
        result(name, lr=1e30, optimizer="sgd", lr_schedule="constant", batch_norm=False)
    assert streams() == before


@main_estimators
def test_random_state_instance(name):
    """It is drawn from: the same state the same result, the next draw another."""
    expected = result(name, random_state=np.random.RandomState(3))
    state = np.random.RandomState(3)
    assert_array_equal(result(name, random_state=state), expected)
    assert not np.array_equal(result(name, random_state=state), expected)


@three_classifiers
def test_random_state_instance_is_not_copied(name):
    """Two fits of one estimator with one stream differ, as in scikit-learn."""
    X, y = data()
    state = np.random.RandomState(3)
    model = clone(CLASSIFIERS[name]).set_params(random_state=state)
    model.random_state = state
    first = model.fit(X, y).predict_proba(X)
    assert not np.array_equal(model.fit(X, y).predict_proba(X), first)


@three_classifiers
def test_no_seed_draws_from_the_global_stream(name):
    """As in scikit-learn: np.random.seed governs an estimator without a seed."""
    np.random.seed(0)  # noqa: NPY002
    first = result(name, random_state=None)
    second = result(name, random_state=None)
    np.random.seed(0)  # noqa: NPY002
    again = result(name, random_state=None)
    assert_array_equal(again, first)
    assert not np.array_equal(second, first)


@main_estimators
def test_fit_forgets_the_fit_before(name):
    X, y = data()
    estimator = clone(ESTIMATORS[name])
    if name in SAMPLERS:
        estimator.fit_resample(X[:60, :3], 1 - y[:60])
        assert_array_equal(estimator.fit_resample(X, y)[0][len(X) :], result(name))
    else:
        estimator.fit(X[:60, :3], y[:60] + 5)
        assert_array_equal(estimator.fit(X, y).predict_proba(X), result(name))


@three_classifiers
def test_partial_and_warm_fits_repeat(name):
    X, y = data()

    def warm():
        model = clone(CLASSIFIERS[name]).set_params(warm_start=True)
        model.fit(X, y).fit(X, y)
        if hasattr(model, "partial_fit"):
            model.partial_fit(X[:50], y[:50])
        return model.predict_proba(X)

    expected = warm()
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    assert_array_equal(warm(), expected)


@three_classifiers
def test_verbose_and_history_change_nothing(name, capsys):
    expected = result(name)
    for verbose in (1, 2):
        assert_array_equal(result(name, verbose=verbose), expected)
    captured = capsys.readouterr()
    # verbose=1 is a bar on stderr, verbose=2 a table on stdout.
    assert "epoch" in captured.err
    assert "train_loss" in captured.out
    result(name)
    assert capsys.readouterr() == ("", "")


@ignore_filters_lost_in_threads
@three_classifiers
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_processes_and_threads_give_the_same_bits(name, backend):
    X, y = data()
    search = GridSearchCV(CLASSIFIERS[name], {"lr": [1e-5, 1e-2]}, cv=2)
    one = cross_val_predict(search, X, y, cv=2, method="predict_proba")
    with joblib.parallel_config(backend=backend, n_jobs=2):
        two = cross_val_predict(search, X, y, cv=2, method="predict_proba")
    assert_array_equal(two, one)


@ignore_filters_lost_in_threads
@main_estimators
def test_fits_in_threads_do_not_mix(name):
    expected = result(name)
    before = streams()
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(result, [name] * 2):
            assert_array_equal(found, expected)
    assert streams() == before


@ignore_filters_lost_in_threads
@each_classifier
def test_predictions_in_threads_do_not_mix(name):
    """Also where a thread ends while another is at work."""
    X, y = data()
    model = clone(CLASSIFIERS[name]).fit(X, y)
    expected = model.predict_proba(X)
    torch.set_num_threads(2)
    start = threading.Barrier(4)

    def predict(n_times):
        start.wait()
        return [model.predict_proba(X) for _ in range(n_times)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(predict, [1, 3, 5, 7]):
            for each in found:
                assert_array_equal(each, expected)
    assert torch.get_num_threads() == 2


def test_number_of_threads_comes_back_from_overlapping_predictions():
    """The first that came in goes out first, while the second is still at work."""
    torch.set_num_threads(2)
    inside, leave = threading.Event(), threading.Event()
    seen = {}

    def slow(x):
        inside.set()
        assert leave.wait(10)
        return x

    def first():
        _training.predict_batches(slow, lambda rows: torch.ones(1), 1)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)

    def fast(x):
        seen["n_threads"] = torch.get_num_threads()
        leave.set()
        thread.join()
        seen["still"] = torch.get_num_threads()
        return x

    _training.predict_batches(fast, lambda rows: torch.ones(1), 1)
    assert seen == {"n_threads": 1, "still": 1}
    assert torch.get_num_threads() == 2


# --- a row's prediction is its own


@each_classifier
def test_a_row_does_not_depend_on_the_others(name, monkeypatch):
    X, y = data()
    model = clone(CLASSIFIERS[name]).fit(X, y)
    expected = model.predict_proba(X)
    assert np.ptp(expected[:, 1]) > 0
    order = np.random.default_rng(0).permutation(len(X))
    assert_allclose(model.predict_proba(X[order]), expected[order], atol=1e-5)
    alone = np.concatenate([model.predict_proba(X[[row]]) for row in range(20)])
    assert_allclose(alone, expected[:20], atol=1e-5)
    among_others = np.concatenate([X[:5], 1e6 * X[::-1]])
    assert_allclose(model.predict_proba(among_others)[:5], expected[:5], atol=1e-5)
    monkeypatch.setattr(_training.predict_batches, "__defaults__", (7, 7))
    assert_allclose(model.predict_proba(X), expected, atol=1e-5)


def assert_alone_as_among_others(model, X):
    expected = model.predict_proba(X)
    for size in (1, 2, 3, 5, 17):
        parts = np.array_split(X[:60], 60 // size)
        found = np.concatenate([model.predict_proba(part) for part in parts])
        assert_allclose(found, expected[:60], atol=1e-6)


@each_classifier
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_alone_is_as_among_others(name, dtype):
    """Rounding would say which of many that are equally near have a vote."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 2, (1000, 12)), rng.integers(0, 2, 1000)
    model = clone(CLASSIFIERS[name]).set_params(max_epochs=1, dtype=dtype)
    assert_alone_as_among_others(model.fit(X, y), X)


def test_a_stored_row_alone_is_as_among_others():
    """At no distance from itself rounding is all that there is."""
    X = np.random.default_rng(0).normal(size=(2000, 16))
    y = (4 * (X[:, 0] + X[:, 1]).argsort().argsort() / 1000).astype(int)
    model = clone(CLASSIFIERS["samn"]).set_params(max_epochs=3, n_members=1)
    assert_alone_as_among_others(model.fit(X, y), X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_classes", [2, 7, FEW_CLASSES + 1])
@_training.one_thread()
def test_class_probabilities_to_the_bit_whatever_their_place(n_classes, dtype):
    torch.manual_seed(0)
    scores = 3 * torch.randn(5000, n_classes, dtype=dtype)
    everyone = class_probabilities(scores)
    torch.testing.assert_close(everyone, scores.softmax(1))
    for _ in range(50):
        start, stop = sorted(torch.randperm(5001)[:2].tolist())
        # Somewhere else in memory.
        offset = int(torch.randint(16, ()))
        some = torch.empty(offset + (stop - start) * n_classes, dtype=dtype)
        some = some[offset:].view(1, stop - start, n_classes)
        some[0] = scores[start:stop]
        assert class_probabilities(some)[0].equal(everyone[start:stop])


@each_classifier
def test_predicting_changes_nothing(name):
    X, y = data()
    model = clone(CLASSIFIERS[name]).fit(X, y)
    state = {key: v.clone() for key, v in model.net_.module_.state_dict().items()}
    expected = model.predict_proba(X)
    model.predict_proba(100 * X[::-1])
    assert_array_equal(model.predict_proba(X), expected)
    after = model.net_.module_.state_dict()
    assert all(after[key].equal(value) for key, value in state.items())
    assert not model.net_.module_.training


# --- a training row does not see itself


def random_labels(n_rows, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 5)), rng.integers(0, 2, n_rows)


@pytest.mark.parametrize(
    "classifier",
    [
        SAMNClassifier(random_state=0),
        KNNSeq2SeqClassifier(random_state=0),
        MemNetKNNClassifier(random_state=0),
    ],
    ids=["samn", "seq2seq", "memnet"],
)
def test_random_labels_stay_at_chance(classifier):
    """Each training row comes twice, with one label; the held-out rows are new."""
    X, y = random_labels(100, seed=0)
    X_test, y_test = random_labels(1000, seed=1)
    twice = np.repeat(np.arange(100), 2)
    model = clone(classifier).fit(X[twice], y[twice])
    accuracy = model.score(X_test, y_test)
    # Four standard deviations of a coin thrown 1000 times.
    assert abs(accuracy - 0.5) < 4 * np.sqrt(0.25 / 1000)
    # Nor do the probabilities know more: their correlation is that of noise.
    share = model.predict_proba(X_test)[:, 1]
    assert abs(np.corrcoef(share, y_test)[0, 1]) < 4 / np.sqrt(1000)


@pytest.mark.parametrize(
    "classifier",
    [
        KNNSeq2SeqClassifier(max_epochs=2, random_state=0),
        KNNSeq2SeqClassifier(max_epochs=2, output="vectors", random_state=0),
        KNNSeq2SeqClassifier(
            max_epochs=2, neighbors="subsets", subset_size=60, random_state=0
        ),
        MemNetKNNClassifier(max_epochs=2, memory_size=100, random_state=0),
        MemNetKNNClassifier(max_epochs=2, memory_size=20, random_state=0),
        MemNetKNNClassifier(max_epochs=2, early_stopping=True, random_state=0),
    ],
    ids=["seq2seq", "vectors", "subsets", "memnet-all", "memnet", "memnet-stopping"],
)
def test_a_training_row_sees_neither_itself_nor_a_copy(classifier, monkeypatch):
    """What each batch is shown: memories without the row, others as its targets."""
    X, y = random_labels(50, seed=0)
    model = clone(classifier).set_params(scaling=None, n_neighbors=4, device="cpu")
    inputs, targets = [], []
    infer = _training.Net.infer
    loss = NeighborSequenceLoss.forward

    def spy_on_inputs(net, x, **params):
        inputs.append((x, net.module_.training))
        return infer(net, x, **params)

    def spy_on_targets(self, output, target):
        targets.append(target)
        return loss(self, output, target)

    monkeypatch.setattr(_training.Net, "infer", spy_on_inputs)
    monkeypatch.setattr(NeighborSequenceLoss, "forward", spy_on_targets)
    twice = np.repeat(np.arange(50), 2)
    model.fit(X[twice], y[twice])
    assert len(inputs) == len(targets) > 0
    n_masked = 0
    for (x, training), target in zip(inputs, targets, strict=True):
        if not training:
            continue  # A hold-out row is no training row.
        rows = x["x"]
        own_as_neighbor = (target["vectors"] == rows[:, None]).all(2)
        assert not own_as_neighbor.any()
        # Four neighbours, four rows: a copy does not stand in for another row.
        for neighbors in target["vectors"]:
            assert len(neighbors.unique(dim=0)) == 4
        if "memory" in x:
            own = (x["memory"] == rows[:, None]).all(2)
            assert_array_equal(x["masked"], own)
            n_masked += int(own.sum())
    if isinstance(model, MemNetKNNClassifier):
        assert n_masked > 0
