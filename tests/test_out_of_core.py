"""Classifiers that read their rows by block, and fits that go on after a kill."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from itertools import chain

import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import NearestNeighbors

from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    _base,
    _base_neighbors,
    _blocks,
    _v2vsls,
)
from sklearn_samn._training import BatchDataset, BufferDataset, checkpoint
from sklearn_samn._training.batches import BufferedBatches

PARAMS = {
    "max_epochs": 3,
    "n_neighbors": 3,
    "n_subsets": 4,
    "hidden_layer_sizes": (16,),
    "hidden_size": 16,
    "device": "cpu",
    "random_state": 0,
}
SEQ2SEQ = KNNSeq2SeqClassifier(**PARAMS)
VECTORS = KNNSeq2SeqClassifier(output="vectors", **PARAMS)
MEMNET = MemNetKNNClassifier(memory_size=16, **PARAMS)
each_model = pytest.mark.parametrize(
    "model", [SEQ2SEQ, VECTORS, MEMNET], ids=["seq2seq", "vectors", "memnet"]
)


def data(n_samples=400):
    X, y = make_classification(
        n_samples, 6, n_informative=4, n_classes=3, class_sep=2, random_state=0
    )
    return X.astype(np.float32), y


def by_block(model, **params):
    return clone(model).set_params(out_of_core=True, **params)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 20 rows, buffers of 5 blocks."""
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 20 * 6 * 4)
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 100 * 6 * 4)


@pytest.fixture
def large_sample(monkeypatch):
    """All rows fit into the sample, which is as large as a buffer in these tests."""
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 400 * 6 * 4)


def sources(folder, X):
    """The rows in every container that is no array in memory."""
    half = len(X) // 2
    for name, part in (("a", X[:half]), ("b", X[half:])):
        np.save(folder / f"{name}.npy", part)
        frame = pd.DataFrame(part, columns=[f"x{i}" for i in range(X.shape[1])])
        frame.to_parquet(folder / f"{name}.parquet", row_group_size=20)
    array = zarr.open(
        folder / "x.zarr", mode="w", shape=X.shape, chunks=(20, 6), dtype=X.dtype
    )
    array[:] = X
    file = h5py.File(folder / "x.h5", "w")
    return {
        "h5py": file.create_dataset("x", data=X, chunks=(10, 6)),
        "zarr": array,
        "dask": da.from_array(X, chunks=(20, 6)),
        "npy": [folder / "a.npy", folder / "b.npy"],
        "parquet": [folder / "a.parquet", folder / "b.parquet"],
    }


# ----------------------------------------------------------------- fit and prediction


@each_model
def test_every_container_gives_the_same_predictions(tmp_path, model):
    X, y = data()
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = by_block(model).fit(mapped, y).predict_proba(mapped)
    for name, source in sources(tmp_path, X).items():
        fitted = clone(model).fit(source, y)
        found = fitted.predict_proba(source)
        assert_array_equal(found, expected, err_msg=name)
        labels = fitted.classes_[expected.argmax(axis=1)]
        assert_array_equal(fitted.predict(source), labels, err_msg=name)


@each_model
def test_it_is_an_ordinary_fit_in_the_end(tmp_path, model):
    X, y = data()
    y = np.array(["a", "b", "c"])[y]
    h5 = sources(tmp_path, X)["h5py"]
    fitted = clone(model).fit(h5, y)
    expected = fitted.predict_proba(X)
    in_memory = clone(model).fit(X, y)
    assert vars(fitted).keys() == vars(in_memory).keys()
    assert_array_equal(fitted.classes_, in_memory.classes_)
    assert fitted.n_features_in_ == 6
    assert type(fitted.preprocessor_) is type(in_memory.preprocessor_)
    assert_allclose(fitted.predict_proba(h5), expected, rtol=1e-5)
    copy = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copy.predict_proba(X), expected)
    assert_allclose(copy.predict_proba(h5), expected, rtol=1e-5)


@each_model
def test_it_learns_about_as_well_as_in_memory(model):
    X, y = data(3000)
    model = clone(model).set_params(max_epochs=20, n_subsets=20)
    in_memory = clone(model).fit(X[:2000], y[:2000]).score(X[2000:], y[2000:])
    score = by_block(model).fit(X[:2000], y[:2000]).score(X[2000:], y[2000:])
    assert in_memory > 0.8
    assert score > in_memory - 0.04


def test_a_fit_by_block_can_be_repeated():
    X, y = data()
    first = by_block(SEQ2SEQ).fit(X, y).predict_proba(X)
    state = torch.get_rng_state()
    assert_array_equal(by_block(SEQ2SEQ).fit(X, y).predict_proba(X), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = by_block(SEQ2SEQ, random_state=1).fit(X, y).predict_proba(X)
    assert (other != first).any()


def test_a_memmap_is_read_by_block_only_when_told(tmp_path, monkeypatch):
    X, y = data()
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = clone(SEQ2SEQ).fit(X, y).predict_proba(X)
    for out_of_core in ("auto", False):
        model = clone(SEQ2SEQ).set_params(out_of_core=out_of_core)
        assert_array_equal(model.fit(mapped, y).predict_proba(mapped), expected)
    assert (by_block(SEQ2SEQ).fit(mapped, y).predict_proba(X) != expected).any()


def test_ordinary_rows_after_a_fit_by_block():
    X, y = data()
    model = by_block(SEQ2SEQ).fit(X, y)
    expected = model.predict(X)
    for rows in (X.tolist(), pd.DataFrame(X), X.astype(float)):
        assert_array_equal(model.predict(rows), expected)


def test_the_statistics_are_those_of_the_sample(large_sample):
    X, y = data()
    X[:, 0] *= 1000
    model = by_block(SEQ2SEQ).fit(X, y)
    assert_allclose(model.preprocessor_.center_, np.median(X, axis=0), rtol=1e-6)
    quantile = by_block(SEQ2SEQ, scaling="quantile").fit(X, y)
    assert quantile.preprocessor_.curved_.all()


def test_the_memories_are_training_rows_by_their_index():
    X, y = data()
    X[:40] = X[40:80]  # some come twice
    model = by_block(MEMNET).fit(X, y)
    Z = model.preprocessor_.transform(X)
    assert_array_equal(model._memories, Z[model.memory_indices_])
    assert model.attention(X[:5])[0].shape == (5, 4, 3, 16)


class Spy:
    """Collects what a function is given and what it returns."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, *args, **kwargs):
        result = self.function(*args, **kwargs)
        self.calls.append((args, kwargs, result))
        return result


@each_model
def test_no_row_is_its_own_neighbour(model, monkeypatch, large_sample):
    """Nor is a copy of it; the neighbours are the nearest of those drawn."""
    X, y = data()
    X[100:150], y[100:150] = X[:50], y[:50]
    spy = Spy(_base_neighbors._neighbors.nearest_in_subsets)
    monkeypatch.setattr(_base_neighbors._neighbors, "nearest_in_subsets", spy)
    # One subset of all rows: the search is exact.
    by_block(model, n_subsets=1, subset_size=1000, max_epochs=1).fit(X, y)
    seen = 0
    for (reference, rows, own, _), _, found in spy.calls:
        assert len(reference) == 350
        assert (own >= 0).all()
        assert_array_equal(reference[own], rows)
        distances = NearestNeighbors(n_neighbors=4).fit(reference).kneighbors(rows)[0]
        gaps = np.linalg.norm(reference[found] - rows[:, None], axis=2)
        assert_allclose(gaps, distances[:, 1:], rtol=1e-4, atol=1e-5)
        seen += len(rows)
    assert seen == 400


@each_model
def test_labels_without_sense_are_not_learned(model):
    """A label that leaked through a row's neighbours would lift the loss."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 6)), rng.integers(2, size=600)
    model = by_block(model, max_epochs=10).fit(X[:400], y[:400])
    assert abs(model.score(X[400:], y[400:]) - 0.5) < 0.1


# ------------------------------------------------------------------ weights, hold-out


@each_model
def test_rows_of_weight_zero_are_left_out(model, monkeypatch):
    X, y = data()
    weight = np.ones(400)
    weight[::3] = 0
    y[::3] = 7  # nobody looks at them
    spy = Spy(_base_neighbors._neighbors.nearest_in_subsets)
    monkeypatch.setattr(_base_neighbors._neighbors, "nearest_in_subsets", spy)
    model = by_block(model, max_epochs=1).fit(X, y, weight)
    assert model.classes_.tolist() == [0, 1, 2]
    Z = model.preprocessor_.transform(X[weight > 0])
    seen = np.concatenate([rows for (_, rows, _, _), _, _ in spy.calls])
    assert_array_equal(np.unique(seen, axis=0), np.unique(Z, axis=0))
    assert len(seen) == len(Z)


@pytest.mark.parametrize("weight", [1e308, 1e-308])
def test_only_the_ratios_of_weights_matter(weight):
    X, y = data()
    expected = by_block(SEQ2SEQ).fit(X, y, np.ones(400))
    model = by_block(SEQ2SEQ).fit(X, y, np.full(400, weight))
    assert model.loss_curve_ == expected.loss_curve_


@each_model
def test_the_sample_has_a_row_of_each_class(model):
    """Of 20,000 rows, all alike but two, the sample of a hundred would miss these."""
    X, y = np.zeros((20_000, 6), np.float32), np.zeros(20_000, int)
    X[[77, 9000]], y[[77, 9000]] = 1, 1
    fitted = by_block(model, max_epochs=1).fit(X, y)
    assert fitted.predict_proba(X[75:80]).shape == (5, 2)


def test_weights_reach_the_loss():
    X, y = data()
    plain = by_block(SEQ2SEQ).fit(X, y)
    even = by_block(SEQ2SEQ).fit(X, y, np.full(400, 3.0))
    assert_allclose(even.predict_proba(X), plain.predict_proba(X), rtol=1e-4, atol=1e-5)
    heavy = by_block(SEQ2SEQ, class_weight={0: 100, 1: 1, 2: 1}).fit(X, y)
    assert heavy.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean()


@each_model
def test_the_hold_out_is_apart_and_bounded(model, monkeypatch):
    X, y = data()
    monkeypatch.setattr(_base_neighbors, "MAX_HOLDOUT_ROWS", 30)
    spy = Spy(_base._training.train)
    monkeypatch.setattr(_base._training, "train", spy)
    stopping = {"early_stopping": True, "n_iter_no_change": 1, "max_epochs": 40}
    model = by_block(model, device="cpu", **stopping).fit(X, y)
    ((_, _, dataset), kwargs, _) = spy.calls[0]
    valid = kwargs["valid"]
    assert (len(dataset), len(valid)) == (370, 30)
    assert len(model.validation_scores_) == model.n_iter_ < 40
    held_out = valid[torch.arange(30)][0]["x"].numpy()
    trained = np.concatenate([dataset.read(i)[0].numpy() for i in range(20)])
    both = np.concatenate([trained, held_out])
    assert len(trained) == 370
    Z = model.preprocessor_.transform(X)
    assert_array_equal(np.unique(both, axis=0), np.unique(Z, axis=0))


def test_the_hold_out_is_bounded_by_its_bytes(monkeypatch):
    X, y = data()
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 25 * 6 * 4)
    spy = Spy(_base._training.train)
    monkeypatch.setattr(_base._training, "train", spy)
    by_block(SEQ2SEQ, early_stopping=True, validation_fraction=0.5).fit(X, y)
    assert 20 < len(spy.calls[0][1]["valid"]) <= 25


def test_no_index_of_all_rows_is_kept():
    """A view of one would keep 8 bytes a row through the whole training."""
    _, y = data()
    rng = np.random.default_rng(0)
    used, sample, valid = SEQ2SEQ._split_blocks(y, np.ones(400), 50, rng)
    assert used.all() and len(sample) == 50 and len(valid) == 0
    assert sample.base is None and valid.base is None


def test_warm_start_goes_on(tmp_path):
    X, y = data()
    h5 = sources(tmp_path, X)["h5py"]
    model = clone(SEQ2SEQ).set_params(warm_start=True).fit(X, y)
    before, loss = model.preprocessor_, model.loss_curve_[-1]
    model.fit(h5, y)
    assert model.preprocessor_ is before
    assert [record["epoch"] for record in model.history_] == [1, 2, 3, 4, 5, 6]
    assert model.loss_curve_[-1] < loss


# ----------------------------------------------------------------------------- batches


def buffered(sizes, blocks_per_buffer, batch_size):
    starts = np.cumsum([0, *sizes])

    def read(number):
        return (torch.arange(starts[number], starts[number + 1]),)

    def make_dataset(rows):
        return BatchDataset(len(rows), lambda index: rows[index].tolist())

    dataset = BufferDataset(
        sum(sizes), len(sizes), blocks_per_buffer, read, make_dataset
    )
    return BufferedBatches(dataset, batch_size, shuffle=True)


@pytest.mark.parametrize("blocks_per_buffer", [1, 3, 10, 50])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_batches_hold_every_row_once(blocks_per_buffer, batch_size):
    sizes = [20, 20, 3, 0, 20, 1, 20, 20, 20, 20]
    batches = buffered(sizes, blocks_per_buffer, batch_size)
    epochs = [list(batches), list(batches)]
    for epoch in epochs:
        assert len(epoch) == len(batches)
        assert sorted(chain(*epoch)) == list(range(144))
        lengths = {len(batch) for batch in epoch}
        assert max(lengths) - min(lengths) <= 1
    assert epochs[0] != epochs[1]


def test_rows_are_shuffled_within_buffers_and_blocks_over_all():
    order = list(chain(*buffered([10] * 12, 3, 15)))
    buffers = [order[i : i + 30] for i in range(0, 120, 30)]
    for buffer in buffers:
        assert len({row // 10 for row in buffer}) == 3
        assert buffer != sorted(buffer)
    assert [sorted(b) for b in buffers] != [
        list(range(i, i + 30)) for i in range(0, 120, 30)
    ]


def test_at_most_one_buffer_of_rows_is_in_memory(monkeypatch):
    X, y = data()
    alive = []

    def dataset(self, *args):
        alive.append(len(args[0]))
        return make(self, *args)

    make = KNNSeq2SeqClassifier._dataset
    monkeypatch.setattr(KNNSeq2SeqClassifier, "_dataset", dataset)
    # Numbers and weight, label, own number and neighbours.
    row = 7 * 4 + (2 + SEQ2SEQ.n_neighbors) * 8
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 100 * row)
    by_block(SEQ2SEQ, max_epochs=1).fit(X, y)
    # Five blocks of 20 rows, and what the buffer before left.
    assert len(alive) == 4
    assert 100 <= max(alive) <= 100 + 32


# ------------------------------------------------------------------------------ errors


def refused(model, X, y, match, error=ValueError, **params):
    before = dict(vars(model))
    with pytest.raises(error, match=match):
        model.fit(X, y, **params)
    assert vars(model) == before


def test_a_bad_number_is_named(tmp_path):
    X, y = data()
    fitted = clone(SEQ2SEQ).fit(X, y)
    X[350, 4] = np.nan
    npy = sources(tmp_path, X)["npy"]
    match = r"Row 150 of part '.*b\.npy' contains NaN in column 4"
    refused(clone(SEQ2SEQ), npy, y, match)
    for method in ("predict", "predict_proba"):
        with pytest.raises(ValueError, match=match):
            getattr(fitted, method)(npy)


def test_parameters_that_do_not_go_by_block():
    X, y = data()
    match = r"categorical_features=\[1\]: rows that are read by block are numbers"
    refused(by_block(SEQ2SEQ, categorical_features=[1]), X, y, match)
    by_block(SEQ2SEQ, categorical_features=None, max_epochs=1).fit(X, y)
    match = r"neighbors=NearestNeighbors\(\): .* set neighbors='subsets'"
    refused(by_block(SEQ2SEQ, neighbors=NearestNeighbors()), X, y, match)


@pytest.mark.parametrize(
    "make",
    [pd.DataFrame, np.ndarray.tolist, sparse.csr_array],
    ids=lambda f: f.__name__,
)
def test_what_cannot_be_sliced(make):
    X, y = data()
    match = r"out_of_core=True needs rows that are sliced .* not (DataFrame|list|csr_)"
    refused(by_block(SEQ2SEQ), make(X), y, match)


def test_no_array_is_refused_when_told(tmp_path):
    X, y = data()
    fitted = clone(SEQ2SEQ).set_params(out_of_core=False).fit(X, y)
    for source in sources(tmp_path, X).values():
        match = (
            rf"out_of_core=False takes arrays in memory, not {type(source).__name__}"
        )
        refused(clone(SEQ2SEQ).set_params(out_of_core=False), source, y, match)
        with pytest.raises(ValueError, match=match):
            fitted.predict(source)


def test_labels_are_checked(tmp_path):
    X, y = data()
    h5 = sources(tmp_path, X)["h5py"]
    model = clone(SEQ2SEQ)
    refused(model, h5, None, "requires y to be passed")
    refused(model, h5, y[:-1], r"inconsistent numbers of samples: \[400, 399\]")
    refused(model, h5, np.where(y == 0, np.nan, y), "Input y contains NaN")
    refused(model, h5, y + 0.5, "Unknown label type: continuous")
    refused(model, h5, np.zeros(400), "needs at least 2 classes")
    refused(model, h5, np.array([1, "a"] * 200, dtype=object), "y mixes labels")
    refused(model, h5, y, "[Nn]egative", sample_weight=np.full(400, -1.0))
    refused(model, h5, y, "non-zero|of zero", sample_weight=np.zeros(400))
    refused(model, h5[:3], y[:3], "Expected n_neighbors < n_samples_fit")
    refused(by_block(model), X[:3], [0, 1, 1], "Expected n_neighbors < n_samples_fit")


def test_another_number_of_columns_in_predict(tmp_path):
    X, y = data()
    fitted = clone(SEQ2SEQ).fit(X[:, :5], y)
    for name, source in sources(tmp_path, X).items():
        with pytest.raises(ValueError, match=r"X has 6 features, but .* expecting 5"):
            if name == "parquet":
                with pytest.warns(UserWarning, match="X has feature names"):
                    fitted.predict(source)
            fitted.predict(source)
    with pytest.raises(NotFittedError):
        clone(SEQ2SEQ).predict(source)


# --------------------------------------------------------------------------------- out


@each_model
def test_predictions_written_into_arrays(tmp_path, model):
    X, y = data()
    y = np.array(["no", "maybe", "yes"])[y]
    model = clone(model).fit(X, y)
    probabilities, labels = model.predict_proba(X), model.predict(X)
    file = h5py.File(tmp_path / "out.h5", "w")
    for rows in (X, X.tolist(), sources(tmp_path, X)["npy"]):
        for out in (
            np.zeros((400, 3), probabilities.dtype),
            np.memmap(tmp_path / "out", "f8", "w+", shape=(400, 3)),
            file.create_dataset(str(len(file)), (400, 3), dtype="f8"),
        ):
            assert model.predict_proba(rows, out=out) is out
            assert_allclose(out[:], probabilities, rtol=1e-5)
        out = np.empty(400, dtype="U5")
        assert model.predict(rows, out=out) is out
        assert_array_equal(out, labels)


def test_an_array_that_does_not_fit_is_refused_before_any_work(monkeypatch):
    X, y = data()
    model = clone(SEQ2SEQ).fit(X, y)
    monkeypatch.setattr(SEQ2SEQ.__class__, "_run", None)
    for rows in (X, da.from_array(X)):
        with pytest.raises(ValueError, match=r"shape \(400, 2\), but needs \(400, 3\)"):
            model.predict_proba(rows, out=np.empty((400, 2)))
        with pytest.raises(ValueError, match="dtype int64, which cannot hold"):
            model.predict_proba(rows, out=np.empty((400, 3), dtype=int))
        with pytest.raises(ValueError, match=r"shape \(399,\), but needs \(400,\)"):
            model.predict(rows, out=np.empty(399))


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_the_probabilities_count_among_the_bytes_of_a_block(method, monkeypatch):
    X, y = data()
    model = clone(SEQ2SEQ).fit(X, y)
    sizes = []

    def run(self, function, rows, **params):
        sizes.append(len(rows))
        return make(self, function, rows, **params)

    make = SEQ2SEQ.__class__._run
    monkeypatch.setattr(SEQ2SEQ.__class__, "_run", run)
    # Six numbers, and three probabilities twice.
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 40 * (6 + 2 * 3) * 4)
    getattr(model.set_params(out_of_core=True), method)(X)
    assert sizes == [40] * 10


def test_the_row_of_a_prediction_that_is_not_finite(tmp_path):
    X, y = data()
    model = clone(SEQ2SEQ).set_params(scaling=None).fit(X, y)
    X[350] = 3e38
    for rows in (X, sources(tmp_path, X)["npy"]):
        with pytest.raises(ValueError, match="prediction for row 350 is not finite"):
            model.predict_proba(rows)
        with pytest.raises(ValueError, match="prediction for row 350 is not finite"):
            model.predict(rows)


def test_relative_paths_outlive_another_working_directory(tmp_path, monkeypatch):
    X, y = imbalanced()
    sources(tmp_path, X)
    (tmp_path / "elsewhere").mkdir()
    for suffix in ("npy", "parquet"):
        monkeypatch.chdir(tmp_path)
        blocks = clone(SAMPLER).resample_blocks([f"a.{suffix}", f"b.{suffix}"], y)
        monkeypatch.chdir(tmp_path / "elsewhere")
        rows = np.concatenate([rows for rows, _ in blocks])
        assert_array_equal(rows[: len(X)], X)


def test_a_full_disk_is_found_before_any_work(tmp_path, monkeypatch):
    """Else the process dies when it writes to a mapped page that has no place."""
    X, y = data()
    model = clone(SEQ2SEQ).fit(X, y)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", "f4", (400, 3))
    monkeypatch.setattr(SEQ2SEQ.__class__, "_run", None)
    asked = []

    def full(file, offset, size):
        asked.append((offset, size))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    match = (
        r"no room for the 4800 bytes of out in .*out\.npy: .*28.* Nothing is written"
    )
    with pytest.raises(OSError, match=match):
        model.predict_proba(da.from_array(X), out=out)
    assert asked == [(out.offset, out.nbytes)]


def test_an_array_of_small_numbers_holds_labels():
    X, y = data()
    model = clone(SEQ2SEQ).fit(X, y)
    out = model.predict(X, out=np.empty(400, dtype=np.uint8))
    assert_array_equal(out, model.predict(X))


# -------------------------------------------------------------------------- checkpoint

KILLED = """
import os, sys, time
import numpy as np
from sklearn_samn import {name}
from sklearn_samn import _blocks, _training

def stop(*args, **kwargs):
    print("here", flush=True)
    time.sleep(600)

def after(n_calls, function):
    calls = []
    def count(*args, **kwargs):
        calls.append(1)
        return (stop if len(calls) > n_calls else function)(*args, **kwargs)
    return count

_blocks.BLOCK_BYTES, _blocks.BUFFER_BYTES = {sizes}
{patch}
X, y = np.load("X.npy"), np.load("y.npy")
{name}(**{params}).fit(X, y)
"""
PATCHES = {
    "in the middle of an epoch": (
        "_training.Net.train_step = after(60, _training.Net.train_step)"
    ),
    "while a checkpoint is written": "os.fsync = after(2, os.fsync)",
    "before a checkpoint gets its name": "os.replace = after(2, os.replace)",
}


def kill_in(folder, model, patch):
    """Fit in another process, which is killed once it stops at the patch."""
    X, y = data()
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y)
    code = KILLED.format(
        name=type(model).__name__,
        params=model.get_params(),
        patch=patch,
        sizes=(_blocks.BLOCK_BYTES, _blocks.BUFFER_BYTES),
    )
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"here\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


# Each process imports the package, which takes most of the time: not every pair.
@pytest.mark.parametrize(
    ("model", "out_of_core", "moment"),
    [
        *((SEQ2SEQ, True, moment) for moment in PATCHES),
        (MEMNET, True, "while a checkpoint is written"),
        (MEMNET, "auto", "in the middle of an epoch"),
    ],
)
def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path, model, out_of_core, moment):
    X, y = data()
    model = clone(model).set_params(
        max_epochs=4, out_of_core=out_of_core, early_stopping=True
    )
    expected = clone(model).fit(X, y)
    path = str(tmp_path / "fit.checkpoint")
    model.set_params(checkpoint=path)
    kill_in(tmp_path, model, PATCHES[moment])
    temporary = tmp_path / "fit.checkpoint.tmp"
    assert temporary.exists() == ("checkpoint" in moment)
    state = torch.load(path, weights_only=False)
    assert len(state["history"]) == 2
    spy = Spy(_base._training.Net.run_single_epoch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _base._training.Net, "run_single_epoch", lambda *a, **k: spy(*a, **k)
        )
        model.fit(X, y)
    # Two epochs, and the hold-out after each: the first two were not trained again.
    assert len(spy.calls) == 4
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    assert model.loss_curve_ == expected.loss_curve_
    assert model.validation_scores_ == expected.validation_scores_
    assert sorted(os.listdir(tmp_path)) == ["X.npy", "y.npy"]


def interrupted(model, X, y, n_epochs=1):
    """A fit that is stopped after so many checkpoints."""
    written = []

    def stop(path, content):
        replace(path, content)
        written.append(path)
        if len(written) == n_epochs:
            raise KeyboardInterrupt

    replace = checkpoint.replace_file
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "replace_file", stop)
        model.fit(X, y)


def test_the_best_weights_outlive_an_interruption(tmp_path):
    X, _ = data()
    y = np.random.default_rng(0).integers(2, size=400)
    model = by_block(
        SEQ2SEQ, early_stopping=True, n_iter_no_change=3, max_epochs=60, dropout=0.0
    )
    expected = clone(model).fit(X, y)
    assert 4 < expected.n_iter_ < 60
    model.set_params(checkpoint=tmp_path / "fit.checkpoint")
    interrupted(model, X, y, n_epochs=expected.n_iter_ - 1)
    model.fit(X, y)
    assert model.n_iter_ == expected.n_iter_
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


def test_the_checkpoint_of_another_fit_is_refused(tmp_path):
    X, y = data()
    path = tmp_path / "fit.checkpoint"
    for out_of_core in (True, "auto"):
        model = clone(SEQ2SEQ).set_params(checkpoint=path, out_of_core=out_of_core)
        interrupted(model, X, y)
        match = "was written by a fit with other parameters or other data; delete"
        for change in ({"lr": 0.1}, {"random_state": 1}, {"alpha": 1.0}):
            refused(clone(model).set_params(**change), X, y, match)
        other = X.copy()
        other[:, 0] += 1
        refused(model, other, y, match)
        if out_of_core is True:
            # The same rows, but in other blocks, which come in another order.
            refused(model, da.from_array(X, chunks=(90, 6)), y, match)
        refused(model, X, np.roll(y, 1), match)
        refused(model, X[:-1], y[:-1], match)
        for row in (0, 399):
            weight = np.ones(400)
            weight[row] = 2
            refused(model, X, y, match, sample_weight=weight)
        assert path.exists()
        clone(model).set_params(verbose=0, n_jobs=1).fit(X, y)
        assert not path.exists()


def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path):
    X, y = data()
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    match = "is no checkpoint that can be read"
    refused(clone(SEQ2SEQ).set_params(checkpoint=path), X, y, match)
    assert path.read_text() == "mine"


def test_checkpoints_need_a_seed_and_a_folder(tmp_path):
    X, y = data()
    model = clone(SEQ2SEQ).set_params(checkpoint=tmp_path / "a")
    match = r"checkpoint=.* needs an int as random_state, .* and warm_start=False"
    refused(clone(model).set_params(random_state=None), X, y, match)
    refused(clone(model).set_params(warm_start=True), X, y, match)
    refused(clone(model).set_params(checkpoint=""), X, y, "The folder of checkpoint=''")
    model.set_params(checkpoint=tmp_path / "no" / "a")
    refused(model, X, y, "The folder of checkpoint='.*' is not there")


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_epoch(
    tmp_path, monkeypatch
):
    X, y = data()
    # A name too long for a file beside it, as for root every folder takes one.
    model = clone(SEQ2SEQ).set_params(checkpoint=tmp_path / ("a" * 255))
    monkeypatch.setattr(_base._training.Net, "run_single_epoch", None)
    refused(model, X, y, "checkpoint='.*' cannot be written: .*", error=OSError)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path):
    X, y = data()
    path = tmp_path / "fit.checkpoint"
    model = clone(SEQ2SEQ).set_params(checkpoint=path)
    interrupted(model, X, y)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        match = r"fit\.checkpoint' cannot be written: .*What was there before is intact"
        refused(model, X, y, match, error=OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit.checkpoint"]


def test_names_of_the_columns_of_parquet(files_of_names):
    """Fitted on one order, asked in another: refused, whatever holds the rows."""
    X, y, right, wrong = files_of_names
    model = clone(SEQ2SEQ).fit([right], y)
    assert model.feature_names_in_.tolist() == list("abcdef")
    expected = model.predict_proba([right])
    frame = pd.DataFrame(X, columns=list("abcdef"))
    assert_array_equal(model.predict_proba(frame), expected)
    for rows in ([wrong], frame[list("fedcba")]):
        with pytest.raises(ValueError, match="Feature names must be in the same order"):
            model.predict(rows)
    model = clone(SEQ2SEQ).fit(frame, y)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        model.predict_proba([wrong])


@pytest.fixture
def files_of_names(tmp_path):
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcdef"))
    paths = tmp_path / "right.parquet", tmp_path / "wrong.parquet"
    frame.to_parquet(paths[0])
    frame[list("fedcba")].to_parquet(paths[1])
    return X, y, *paths


def test_the_preprocessing_names_the_columns_of_files(files_of_names):
    _, y, path, _ = files_of_names
    sampler = V2VSLS(max_epochs=1, random_state=0)
    list(sampler.resample_blocks([path], y))
    for fitted in (sampler, clone(SEQ2SEQ).fit([path], y)):
        names = fitted.preprocessor_.get_feature_names_out()
        assert [name[-1] for name in names] == list("abcdef")
    assert sampler.sample(3)[0].shape == (3, 6)


@pytest.mark.parametrize("output", ["both", "vectors"])
@pytest.mark.parametrize("out_of_core", [True, "auto"])
def test_fewer_different_rows_than_neighbours(out_of_core, output):
    X = np.repeat([[0.0], [1.0]], 50, axis=0)
    y = np.repeat([0, 1], 50)
    model = clone(SEQ2SEQ).set_params(
        neighbors="subsets",
        n_neighbors=5,
        out_of_core=out_of_core,
        output=output,
        max_epochs=20,
    )
    assert model.fit(X, y).score(X, y) == (1 if output == "both" else 0.5)


@pytest.mark.parametrize("output", ["labels", "vectors"])
def test_probabilities_have_one_dtype(output):
    X, y = data()
    model = clone(SEQ2SEQ).set_params(output=output).fit(X, y)
    assert model.predict_proba(X).dtype == np.float32
    assert model.predict_proba(da.from_array(X)).dtype == np.float32


def test_the_voting_rows_go_with_another_output():
    X, y = data()
    model = clone(SEQ2SEQ).set_params(output="vectors").fit(X, y)
    model.set_params(output="labels").fit(X, y)
    fresh = clone(model).fit(X, y)
    assert vars(model).keys() == vars(fresh).keys()
    assert len(pickle.dumps(model)) == len(pickle.dumps(fresh))


@each_model
def test_out_that_is_no_array(model):
    X, y = data()
    model = clone(model).fit(X, y)
    with pytest.raises(ValueError, match="out is a list, but must be an array"):
        model.predict_proba(X, out=[0] * len(X))
    out = np.empty((len(X), 3))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        model.predict_proba(X, out=out)


# -------------------------------------------------------------------------- the sampler

SAMPLER = V2VSLS(max_epochs=2, device="cpu", random_state=0)


def imbalanced(n_samples=400):
    X, y = data(n_samples)
    rows = np.flatnonzero((y == 0) | (np.arange(len(y)) % 4 == 0))
    return X[rows], np.array(["no", "maybe", "yes"])[y[rows]]


def test_resampling_by_block_fills_an_array(tmp_path):
    X, y = imbalanced()
    counts = {label: int((y == label).sum()) for label in np.unique(y)}
    most = max(counts.values())
    found = {}
    for name, source in sources(tmp_path, X).items():
        out = np.lib.format.open_memmap(
            tmp_path / "out.npy", "w+", np.float32, (3 * most, 6)
        )
        found[name], labels = clone(SAMPLER).fit_resample(source, y, out=out)
        assert found[name] is out
        assert_array_equal(out[: len(X)], X)
        assert_array_equal(labels[: len(X)], y)
        assert {label: int((labels == label).sum()) for label in counts} == (
            dict.fromkeys(counts, most)
        )
        found[name] = np.array(out)
    for rows in found.values():
        assert_array_equal(rows, found["npy"])
    # New rows, within the range of the old, near those of their class.
    new = found["npy"][len(X) :]
    assert ((new >= X.min(axis=0)) & (new <= X.max(axis=0))).all()
    # A row whose own error is given back to it is the real neighbour, one in six.
    distinct = len(np.unique(out, axis=0)) - len(X)
    assert distinct > (1 - 2 / 6) * len(new)


def test_rows_by_block_are_like_those_in_memory():
    X, y = imbalanced(3000)
    sampler = V2VSLS(random_state=0)
    expected, labels = sampler.fit_resample(X, y)
    out = np.empty_like(expected)
    assert_array_equal(sampler.fit_resample(X, y, out=out)[1], labels)
    for label in ("maybe", "yes"):
        in_memory, by_block = (
            rows[len(X) :][labels[len(X) :] == label] for rows in (expected, out)
        )
        gaps = by_block.mean(axis=0) - in_memory.mean(axis=0)
        assert (np.abs(gaps) < 0.2 * in_memory.std(axis=0)).all()
        ratios = by_block.std(axis=0) / in_memory.std(axis=0)
        assert_allclose(ratios, 1, atol=0.1)


def test_blocks_of_rows_and_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(_v2vsls, "BLOCK_ROWS", 16)
    X, y = imbalanced()
    sampler = clone(SAMPLER).set_params(sampling_strategy={"yes": len(y)})
    blocks = list(sampler.resample_blocks(sources(tmp_path, X)["zarr"], y))
    assert all(len(rows) == len(labels) <= 20 for rows, labels in blocks)
    rows, labels = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    out = np.empty_like(rows)
    assert_array_equal(clone(sampler).fit_resample(X, y, out=out)[1], labels)
    assert_array_equal(out, rows)
    assert (labels == "yes").sum() == len(y)
    assert not hasattr(sampler, "parent_indices_")
    assert sampler.sample(3)[1].tolist() == ["yes"] * 3


def test_blocks_outlive_another_fit():
    X, y = imbalanced()
    sampler = clone(SAMPLER)
    expected = np.concatenate([rows for rows, _ in sampler.resample_blocks(X, y)])
    blocks = sampler.resample_blocks(X, y)
    sampler.fit_resample(100 * X[:, :2] + 1e6, y)
    assert_array_equal(np.concatenate([rows for rows, _ in blocks]), expected)


def test_a_sample_of_the_parents(monkeypatch):
    monkeypatch.setattr(_v2vsls, "MAX_PARENTS", 10)
    monkeypatch.setattr(_v2vsls, "MIN_CONTEXT", 12)
    monkeypatch.setattr(_v2vsls, "MAX_CONTEXT", 12)
    X, y = imbalanced()
    sampler = clone(SAMPLER).set_params(residual_scale=0.0, rejection=0.0)
    rows, labels = zip(*sampler.resample_blocks(X, y), strict=True)
    new = np.concatenate(rows)[len(y) :][np.concatenate(labels)[len(y) :] == "yes"]
    # Without residuals a row is one of K predictions for one of ten parents.
    assert 10 < len(np.unique(new, axis=0)) <= 50


def test_what_resampling_by_block_refuses(tmp_path):
    X, y = imbalanced()
    sampler = clone(SAMPLER)
    h5 = sources(tmp_path, X)["h5py"]
    n_new = 3 * max(np.unique(y, return_counts=True)[1])
    match = rf"out has the shape \(7, 6\), but needs \({n_new}, 6\)"
    with pytest.raises(ValueError, match=match):
        sampler.fit_resample(h5, y, out=np.empty((7, 6)))
    with pytest.raises(ValueError, match="out has the dtype int64, which cannot hold"):
        sampler.fit_resample(h5, y, out=np.empty((n_new, 6), dtype=np.int64))
    with pytest.raises(ValueError, match="Dataset holds rows that are read by block"):
        sampler.fit_resample(h5, y)
    with pytest.raises(ValueError, match="Found input variables with inconsistent"):
        sampler.resample_blocks(h5, y[:-1])
    with pytest.raises(ValueError, match="needs all candidates at once"):
        clone(sampler).set_params(stop_when_exhausted=True).resample_blocks(h5, y)
    with pytest.raises(ValueError, match="'k_neighbors' parameter"):
        clone(sampler).set_params(k_neighbors=0).resample_blocks(h5, y)
    with pytest.raises(ValueError, match="encode the categories before"):
        clone(sampler).set_params(categorical_features=[0]).resample_blocks(h5, y)
    for table in (pd.DataFrame(X), X.tolist(), sparse.csr_array(X)):
        kind = type(table).__name__
        with pytest.raises(TypeError, match=rf"from a list of paths, not from {kind}"):
            sampler.resample_blocks(table, y)
    large = X.astype(float)
    large[100, 2] = 1e39
    out = np.empty((n_new, 6), dtype=np.float32)
    match = r"Row 100 holds 1e\+39, too large for out's dtype float32"
    with pytest.raises(ValueError, match=match):
        clone(sampler).fit_resample(large, y, out=out)
    X[100, 2] = np.nan
    with pytest.raises(ValueError, match="Row 100 of X contains NaN in column 2"):
        sampler.resample_blocks(X, y)
    assert not hasattr(sampler, "classes_")


def test_a_balanced_file_is_copied():
    X, y = data(90)
    y = np.arange(90) % 3
    out = np.empty_like(X)
    clone(SAMPLER).fit_resample(X, y, out=out)
    assert_array_equal(out, X)


def test_a_disk_that_fills_up_while_resampling():
    class Full:
        shape, dtype = (0, 6), np.dtype(np.float32)

        def __setitem__(self, rows, values):
            if rows.stop > 60:
                raise OSError(28, "No space left on device")

    X, y = imbalanced()
    out = Full()
    out.shape = (3 * max(np.unique(y, return_counts=True)[1]), 6)
    with pytest.raises(
        OSError, match=r"Rows 60 to 79 cannot be written into out: .*28"
    ):
        clone(SAMPLER).fit_resample(X, y, out=out)


def test_weightless_rows_do_not_count_for_what_goes_by_the_number_of_rows():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2100, 3)), np.arange(2100) % 2
    weight = (np.arange(2100) >= 200).astype(float)
    for by_block in (False, True):
        model = KNNSeq2SeqClassifier(out_of_core=by_block, max_epochs=1, random_state=0)
        model.fit(X, y, sample_weight=weight)
        assert model._module_args["n_frequencies"] == 0


def test_rows_of_weight_zero_do_not_change_the_scale_of_the_loss():
    X, y = data()
    weight = np.repeat([1.0, 0.0], 200)
    model = clone(SEQ2SEQ).set_params(out_of_core=True)
    part = clone(model).fit(X[:200], y[:200]).loss_curve_
    # Of other batches.
    assert_allclose(model.fit(X, y, weight).loss_curve_, part, rtol=0.2)


class Addressed:
    """Its repr is that of object, which holds its address."""


def test_the_address_of_an_object_is_no_other_parameter():
    one, other = (
        clone(SEQ2SEQ)
        .set_params(skorch_params={"callbacks__x": Addressed()})
        ._fingerprint([])
        for _ in range(2)
    )
    assert one == other


def test_nothing_is_left_beside_a_refused_checkpoint(tmp_path):
    X, y = data(100)
    path = tmp_path / "fit"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is no checkpoint"):
        clone(SEQ2SEQ).set_params(checkpoint=path).fit(X, y)
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]
