"""Fitted estimators written to disk, read in another process, and copied."""

import copy
import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
import skops.io
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.neighbors import NearestNeighbors
from torch import nn

import sklearn_samn
from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
    _neighbors,
)

FORMATS = ["pickle", "joblib", "cloudpickle", "skops"]
CLASSIFIERS = {
    "samn": SAMNClassifier(max_epochs=3, random_state=0),
    "samn-learned": SAMNClassifier(
        max_epochs=3,
        random_state=0,
        memory_gate="learned",
        n_prototypes=2,
        dtype="float64",
        scaling=None,
        early_stopping=True,
    ),
    "seq2seq": KNNSeq2SeqClassifier(max_epochs=3, random_state=0),
    "vectors": KNNSeq2SeqClassifier(max_epochs=3, output="vectors", random_state=0),
    "memnet": MemNetKNNClassifier(max_epochs=3, memory_size=20, random_state=0),
    "mixed": SAMNClassifier(
        max_epochs=3, random_state=0, categorical_features=[1, 2], scaling="quantile"
    ),
}
SAMPLER = V2VSLS(max_epochs=2, random_state=0)
each_classifier = pytest.mark.parametrize("name", list(CLASSIFIERS))
each_format = pytest.mark.parametrize("form", FORMATS)

# Knows nothing of the package: reads every file, writes what each model predicts.
READER = """
import json, pickle, sys, traceback, warnings
from pathlib import Path
import joblib, numpy as np, skops.io

def read(path):
    form = path.suffix[1:]
    if form == "joblib":
        return joblib.load(path)
    if form == "skops":
        return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    with open(path, "rb") as file:
        return pickle.load(file)

folder = Path(sys.argv[1])
X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
errors = {}
warnings.simplefilter("error")
for path in sorted(folder.glob("*.*")):
    if path.suffix in (".npy", ".npz"):
        continue
    try:
        model = read(path)
        if hasattr(model, "predict_proba"):
            found = {"proba": model.predict_proba(X), "label": model.predict(X)}
        else:
            found = {"parents": model.parent_indices_}
            found["more"] = model.sample(5, random_state=0)[0]
            found["again"] = model.fit_resample(X, y)[0]
        np.savez(folder / f"{path.name}.npz", **found)
    except Exception:
        errors[path.name] = traceback.format_exc()
print(json.dumps(errors))
"""


def data(n_samples=80):
    X, y = make_classification(
        n_samples=n_samples, n_features=20, weights=[0.6], class_sep=3, random_state=0
    )
    # Categories, to those models that take them so: a few, and many.
    X[:, 1], X[:, 2] = np.arange(n_samples) % 3, np.arange(n_samples) % 70
    return X, y


def write(model, path):
    form = path.suffix[1:]
    if form == "joblib":
        joblib.dump(model, path)
    elif form == "skops":
        skops.io.dump(model, path)
    else:
        module = {"pickle": pickle, "cloudpickle": cloudpickle}[form]
        path.write_bytes(module.dumps(model))


@pytest.fixture(scope="module")
def fitted():
    X, y = data()
    y = np.array(["no", "yes"])[y]
    return {name: clone(model).fit(X, y) for name, model in CLASSIFIERS.items()}


@pytest.fixture(scope="module")
def resampled():
    sampler = clone(SAMPLER)
    X_new, _ = sampler.fit_resample(*data())
    return sampler, X_new


@pytest.fixture(scope="module")
def fresh_process(fitted, resampled, tmp_path_factory):
    """Folder in which another process left what it predicts, and its errors."""
    folder = tmp_path_factory.mktemp("models")
    X, y = data()
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y)
    for form in FORMATS:
        for name, model in {**fitted, "sampler": resampled[0]}.items():
            # One that has not predicted yet and one that has: both are kept alike.
            if form == "joblib" and name != "sampler":
                model.predict(X)
            write(model, folder / f"{name}.{form}")
    package = Path(sklearn_samn.__file__).parents[1]
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", READER, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return folder, json.loads(run.stdout)


@each_format
@each_classifier
def test_another_process_predicts_the_same(name, form, fitted, fresh_process):
    folder, errors = fresh_process
    assert f"{name}.{form}" not in errors, errors[f"{name}.{form}"]
    found = np.load(folder / f"{name}.{form}.npz")
    X, _ = data()
    assert_array_equal(found["proba"], fitted[name].predict_proba(X))
    assert_array_equal(found["label"], fitted[name].predict(X))
    assert set(found["label"].tolist()) == {"no", "yes"}


@each_format
def test_another_process_resamples_the_same(form, resampled, fresh_process):
    folder, errors = fresh_process
    assert f"sampler.{form}" not in errors, errors[f"sampler.{form}"]
    found = np.load(folder / f"sampler.{form}.npz")
    sampler, X_new = resampled
    assert_array_equal(found["parents"], sampler.parent_indices_)
    assert_array_equal(found["more"], sampler.sample(5, random_state=0)[0])
    assert_array_equal(found["again"], X_new)


@each_classifier
def test_skops_trusts_all_but_the_package_itself(name, fitted):
    """State is arrays and builtins: nothing else for the reader to trust."""
    kind = type(fitted[name])
    untrusted = skops.io.get_untrusted_types(data=skops.io.dumps(fitted[name]))
    expected = {
        f"{kind.__module__}.{kind.__name__}",
        "sklearn_samn._scaling.NumericScaler",
    }
    if name == "mixed":
        expected.add("sklearn_samn._tables.as_categories")
    # The cross-fitting of TargetEncoder from scikit-learn 1.9 on.
    splitter = "sklearn.model_selection._split.StratifiedKFold"
    assert set(untrusted) - {splitter} == expected
    assert name == "mixed" or splitter not in untrusted


def pickled_modules(model):
    """Top-level modules that a pickle imports from."""
    # Protocol 2 spells each import out in one GLOBAL opcode.
    operations = pickletools.genops(pickle.dumps(model, protocol=2))
    found = [arg for code, arg, _ in operations if code.name == "GLOBAL"]
    return {name.split(" ")[0].split(".")[0] for name in found}


@each_classifier
@pytest.mark.parametrize("predicted", [False, True])
def test_pickle_holds_no_torch_and_no_skorch(name, predicted, fitted):
    model = fitted[name]
    if predicted:
        model = pickle.loads(pickle.dumps(model))
        model.predict(data()[0])
    modules = pickled_modules(model) - {"copyreg", "copy_reg", "_codecs", "__builtin__"}
    encoders = {"sklearn"} if name == "mixed" else set()
    assert modules == {"sklearn_samn", "numpy"} | encoders


def test_pickle_of_the_sampler_holds_no_torch_and_no_skorch(resampled):
    modules = pickled_modules(resampled[0])
    assert not modules & {"torch", "skorch"}


@each_classifier
def test_round_trips_keep_everything(name, fitted):
    """Also that of a model that was read, never used, and written again."""
    model = fitted[name]
    once = pickle.loads(pickle.dumps(model))
    twice = pickle.loads(pickle.dumps(once))
    X, _ = data()
    assert_array_equal(twice.predict_proba(X), model.predict_proba(X))
    assert twice.get_params() == model.get_params()
    public = {key for key in vars(model) if key.endswith("_")}
    assert {key for key in vars(twice) if key.endswith("_")} == public
    for key in public:
        value = getattr(model, key)
        if isinstance(value, np.ndarray):
            assert_array_equal(getattr(twice, key), value)
        elif key == "preprocessor_":
            assert_array_equal(twice.preprocessor_.transform(X), value.transform(X))
        else:
            assert getattr(twice, key) == value
    kept, read = model.net_.module_.state_dict(), twice.net_.module_.state_dict()
    assert list(kept) == list(read)
    assert all(read[key].equal(kept[key]) for key in kept)


@each_classifier
def test_everything_works_after_a_round_trip(name, fitted):
    model, read = fitted[name], pickle.loads(pickle.dumps(fitted[name]))
    X, _ = data()
    for method in ("predict_neighbors", "attention", "embed"):
        if hasattr(model, method):
            # a tuple of arrays and Nones, or one array
            expected, found = getattr(model, method)(X), getattr(read, method)(X)
            if not isinstance(expected, tuple):
                expected, found = [expected], [found]
            for one, other in zip(expected, found, strict=True):
                assert_array_equal(one, other)


@each_classifier
def test_pickle_does_not_grow_with_the_rows(name):
    """Neither a history of batches nor a copy of the data is in it.

    But for the neighbour networks, of which rows vote: these in float32, and the votes
    of each, or its class and its weight.
    """
    small, large = 100, 500
    sizes = []
    for n_samples in (small, large):
        model = clone(CLASSIFIERS[name]).set_params(batch_size=16)
        if hasattr(model, "support_size"):
            # What is stored of rows are arrays of their own, by n_support and n_pooled.
            model.set_params(support_size=50, pool_size=50)
        X, y = data(n_samples)
        model.fit(X, y).predict(X)
        sizes.append(len(pickle.dumps(model)))
    growth = sizes[1] - sizes[0]
    if name in ("seq2seq", "vectors", "memnet"):
        rows = 4 * 20 * (large - small)
        votes = 8 * 2 * (large - small)
        assert rows <= growth <= rows + votes + 500
    else:
        # Loss values and indices of other lengths; a copy would add 32,000 bytes.
        # More rows have more quantiles, a thirtieth of the rows.
        assert abs(growth) < (2000 if name == "mixed" else 500)


def test_pickle_of_the_sampler_holds_rows_of_the_small_class_only():
    """Those that sample() makes more of, beside an account of what was made."""
    sizes = []
    for n_majority in (100, 500):
        X, y = imbalanced_rows(n_majority)
        sampler = clone(SAMPLER).set_params(batch_size=16, sampling_strategy={1: 60})
        sampler.fit_resample(X, y)
        assert sampler._rows.shape == (40, 20)
        sizes.append(len(pickle.dumps(sampler)))
    assert abs(sizes[1] - sizes[0]) < 500


def imbalanced_rows(n_majority):
    X, _ = data(n_majority + 40)
    return X, (np.arange(len(X)) < 40).astype(int)


def test_pickle_does_not_grow_with_predicting(fitted):
    for model in fitted.values():
        before = len(pickle.dumps(model))
        model.predict_proba(data(500)[0])
        assert len(pickle.dumps(model)) == before


@each_classifier
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies(name, copied, fitted):
    X, y = data()
    model = fitted[name]
    before = model.predict_proba(X)
    twin = copied(model)
    assert_array_equal(twin.predict_proba(X), before)
    # The copy goes its own way.
    twin.fit(X[:, :5], 1 - y)
    assert not np.array_equal(twin.predict_proba(X[:, :5]), before)
    assert_array_equal(model.predict_proba(X), before)


def test_a_copy_learns_on_alone(fitted):
    X, y = data()
    model = clone(CLASSIFIERS["samn"]).fit(X, y)
    before = model.predict_proba(X)
    twin = copy.deepcopy(model)
    twin.partial_fit(X, y)
    twin.set_params(warm_start=True).fit(X, y)
    assert not np.array_equal(twin.predict_proba(X), before)
    assert_array_equal(model.predict_proba(X), before)
    assert (model.n_iter_, twin.n_iter_) == (3, 7)


@each_classifier
def test_warm_start_after_a_round_trip(name):
    """Weights, scaling and classes come along: training continues as it would have."""
    X, y = data()
    model = clone(CLASSIFIERS[name]).set_params(warm_start=True).fit(X, y)
    read = pickle.loads(pickle.dumps(model))
    model.fit(X, y)
    read.fit(X, y)
    assert read.n_iter_ == model.n_iter_ == 6
    assert_array_equal(read.predict_proba(X), model.predict_proba(X))


def test_partial_fit_after_a_round_trip():
    X, y = data()
    model = SAMNClassifier(random_state=0).partial_fit(X, y, classes=[0, 1])
    read = pickle.loads(pickle.dumps(model))
    assert read.partial_fit(X, y).n_iter_ == 2
    with pytest.raises(ValueError, match="not among the classes"):
        read.partial_fit(X, y + 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@each_format
@each_classifier
def test_a_model_of_a_gpu_predicts_without_one(name, form, fitted, tmp_path):
    X, _ = data()
    model = copy.deepcopy(fitted[name]).set_params(device="cuda")
    path = tmp_path / f"model.{form}"
    write(model, path)
    if form == "skops":
        trusted = skops.io.get_untrusted_types(file=path)
        read = skops.io.load(path, trusted=trusted)
    elif form == "joblib":
        read = joblib.load(path)
    else:
        read = pickle.loads(path.read_bytes())
    assert read.device == "cuda"
    with pytest.warns(RuntimeWarning, match="'cuda' is not available.* on the CPU"):
        found = read.predict_proba(X)
    assert_array_equal(found, fitted[name].predict_proba(X))
    # Said once; and the device stays what it was for the next fit.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read.predict_proba(X)
    assert read.device == "cuda"
    with pytest.raises(ValueError, match="device='cuda' is not available"):
        read.fit(*data())


def test_unfitted_estimators_pickle():
    for model in [*CLASSIFIERS.values(), SAMPLER]:
        read = pickle.loads(pickle.dumps(model))
        assert read.get_params() == model.get_params()
        assert not hasattr(read, "classes_")


def test_joblib_maps_the_rows_from_disk(fitted, tmp_path):
    """Read-only arrays, as joblib gives to its workers, are no obstacle."""
    X, _ = data()
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for name, model in fitted.items():
        joblib.dump(model, tmp_path / f"{name}.joblib")
        read = joblib.load(tmp_path / f"{name}.joblib", mmap_mode="r")
        assert_array_equal(read.predict_proba(mapped), model.predict_proba(X))


def test_the_users_search_is_kept():
    """An object of the user's for ``neighbors`` comes along, for the votes."""
    X, y = data()
    model = KNNSeq2SeqClassifier(
        max_epochs=2,
        output="vectors",
        neighbors=NearestNeighbors(metric="manhattan"),
        random_state=0,
    ).fit(X, y)
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    read = joblib.load(buffer)
    expected = model.predict_proba(X)
    assert_array_equal(read.predict_proba(X), expected)
    # Whatever the next fit is to search by.
    model.set_params(neighbors="exact")
    assert_array_equal(copy.deepcopy(model).predict_proba(X), expected)


@pytest.mark.parametrize(
    ("output", "name"), [("labels", "_make_pool"), ("vectors", "make_search")]
)
def test_threads_share_what_is_made_anew_after_loading(output, name, monkeypatch):
    X, y = data()
    model = KNNSeq2SeqClassifier(output=output, max_epochs=1, random_state=0).fit(X, y)
    loaded = pickle.loads(pickle.dumps(model))
    place = KNNSeq2SeqClassifier if name == "_make_pool" else _neighbors
    make, made = getattr(place, name), []

    def count(*args):
        made.append(threading.current_thread())
        return make(*args)

    monkeypatch.setattr(place, name, count)
    loaded.predict_proba(np.tile(X, (50, 1)))
    assert made == [threading.main_thread()]


def test_a_network_of_the_users_may_change_after_the_fit():
    X, y = make_classification(100, n_features=4, random_state=0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    model = SAMNClassifier(feature_extractor=network, max_epochs=2).fit(X, y)
    expected = model.predict_proba(X)
    network[1] = nn.Tanh()
    network.append(nn.Linear(8, 8))
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)


# Those of torch itself when it compiles.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [SAMNClassifier, KNNSeq2SeqClassifier, V2VSLS])
def test_a_compiled_network(kind):
    X, y = make_classification(100, weights=[0.8], random_state=0)
    compiled = {"compile": True, "compile__backend": "eager"}
    model = kind(max_epochs=1, random_state=0, skorch_params=compiled)
    model.fit_resample(X, y) if kind is V2VSLS else model.fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    if kind is V2VSLS:
        assert_array_equal(*(m.sample(5, random_state=0)[0] for m in (model, twin)))
    else:
        assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
