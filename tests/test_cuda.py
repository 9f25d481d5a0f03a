"""What is done on a GPU, where there is one, beside the same on the CPU."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs

from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
)
from sklearn_samn._training import checkpoint

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a machine with CUDA"
    ),
]

SEQ2SEQ = KNNSeq2SeqClassifier(max_epochs=5, device="cuda", random_state=0)
SAMN = SAMNClassifier(max_epochs=5, device="cuda", random_state=0)
CLASSIFIERS = {
    "samn": SAMN,
    # A memory smaller than the data, several members, blocks of attention.
    "samn members": clone(SAMN).set_params(
        memory_size=64, support_size=100, n_members=2, n_attention_blocks=2
    ),
    "samn paper": clone(SAMN).set_params(n_prototypes=1),
    "seq2seq": SEQ2SEQ,
    "vectors": clone(SEQ2SEQ).set_params(output="vectors"),
    "memnet": MemNetKNNClassifier(max_epochs=5, device="cuda", random_state=0),
}
every_classifier = pytest.mark.parametrize("name", CLASSIFIERS)


def rows(n_samples=300):
    centers = 8 * np.eye(4)[:3]
    X, y = make_blobs(n_samples, centers=centers, cluster_std=1.5, random_state=0)
    X[::20, 0] = np.nan
    return X, y


@every_classifier
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_cpu_predicts_what_the_gpu_does(name, early_stopping):
    X, y = rows()
    model = clone(CLASSIFIERS[name]).set_params(early_stopping=early_stopping)
    model.fit(X[:200], y[:200])
    assert next(model.net_.module_.parameters()).is_cuda
    assert model.score(X[200:], y[200:]) > 0.8
    elsewhere = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    assert not next(elsewhere.net_.module_.parameters()).is_cuda
    assert_allclose(elsewhere.predict_proba(X), model.predict_proba(X), atol=1e-3)


@pytest.fixture
def replays(monkeypatch):
    """A list that grows with each step that is replayed."""
    replay, done = torch.cuda.CUDAGraph.replay, []

    def counted(graph):
        done.append(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    return done


@every_classifier
@pytest.mark.parametrize("n_samples", [300, 301])
def test_recorded_steps_are_the_steps(name, n_samples, replays):
    X, y = rows(n_samples)
    model = clone(CLASSIFIERS[name]).set_params(max_epochs=12, batch_size=75)
    plain = clone(model).set_params(skorch_params={"callbacks": []}).fit(X, y)
    assert not replays
    model.fit(X, y)
    assert len(replays) > 10
    assert_allclose(model.loss_curve_, plain.loss_curve_, rtol=1e-3)
    assert_allclose(model.predict_proba(X), plain.predict_proba(X), atol=1e-2)


@pytest.mark.parametrize("name", ["seq2seq", "memnet"])
def test_a_recorded_training_goes_on_from_a_checkpoint(name, tmp_path, replays):
    X, y = rows()
    whole = clone(CLASSIFIERS[name]).set_params(batch_size=75, max_epochs=12)
    model = clone(whole).set_params(checkpoint=tmp_path / "checkpoint")
    whole.fit(X, y)
    replace_file, n_written = checkpoint.replace_file, []

    def interrupted(path, content):
        replace_file(path, content)
        n_written.append(path)
        if len(n_written) == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "replace_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
    replays.clear()
    model.fit(X, y)
    assert replays
    # Not to the bit: the first steps are not recorded ones.
    assert_allclose(model.predict_proba(X), whole.predict_proba(X), atol=1e-3)


def test_fits_leave_no_memory_behind():
    X, y = rows()
    model = clone(SEQ2SEQ).set_params(max_epochs=20)
    model.fit(X, y)
    before = torch.cuda.memory_allocated()
    for _ in range(40):
        model.fit(X, y)
    assert torch.cuda.memory_allocated() < before + 2**20


def test_few_steps_are_not_recorded(replays):
    X, y = rows()
    clone(SAMN).partial_fit(X, y, classes=[0, 1, 2])
    assert not replays


def test_a_network_of_the_users_is_not_recorded(replays):
    class Halting(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1e9 else x

    X, y = rows()
    model = clone(SAMN).set_params(feature_extractor=Halting(4, 4), max_epochs=20)
    model.fit(np.nan_to_num(X), y)
    assert not replays


@pytest.mark.parametrize("name", ["samn", "samn members"])
def test_a_vote_tuned_by_many_rows(name):
    X, y = rows(1000)
    # A column that says nothing, which is to count less in the vote.
    X[:, 3] = np.random.default_rng(0).normal(size=1000)
    model = clone(CLASSIFIERS[name]).set_params(pool_size=900).fit(X, y)
    scale = model.net_.module_.pool.scale
    assert scale.is_cuda
    assert scale[3] < scale.max() == 1
    elsewhere = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    assert_allclose(elsewhere.predict_proba(X), model.predict_proba(X), atol=1e-3)
    likeliest = model.classes_[model.predict_proba(X).argmax(axis=1)]
    assert_array_equal(model.predict(X), likeliest)


@every_classifier
def test_the_same_seed_gives_the_same_predictions(name):
    X, y = rows()
    first, second = (clone(CLASSIFIERS[name]).fit(X, y) for _ in range(2))
    assert_array_equal(first.predict_proba(X), second.predict_proba(X))


@every_classifier
def test_methods_beside_predict(name):
    X, y = rows()
    model = clone(CLASSIFIERS[name]).fit(X, y)
    elsewhere = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    if hasattr(model, "embed"):
        assert_allclose(elsewhere.embed(X), model.embed(X), atol=1e-2)
        weights, _ = model.attention(X[:5])
        assert_allclose(elsewhere.attention(X[:5])[0], weights, atol=1e-2)
        assert len(model.explain(X[:5], n_samples=2)) == 10
        model.partial_fit(X, y)
    else:
        _, vectors = model.predict_neighbors(X[:5])
        assert vectors.shape == (5, 5, 4)
    model.set_params(warm_start=True).fit(X, y)
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize("name", ["seq2seq", "memnet"])
def test_rows_that_are_read_by_block(name):
    X, y = rows()
    X = np.nan_to_num(X).astype(np.float32)
    model = clone(CLASSIFIERS[name]).set_params(out_of_core=True).fit(X, y)
    out = model.predict_proba(X, out=np.empty((len(X), 3), dtype=np.float32))
    assert_allclose(out, model.predict_proba(X), atol=1e-5)
    assert model.score(X, y) > 0.8


def test_the_sampler():
    X, y = rows()
    kept = (y > 0) | (np.arange(len(y)) % 4 == 0)
    X, y = X[kept], y[kept]
    sampler = V2VSLS(device="cuda", random_state=0)
    X_new, y_new = sampler.fit_resample(X, y)
    assert_array_equal(X_new[: len(X)], X)
    assert len(set(np.bincount(y_new).tolist())) == 1
    assert sampler.sample(7)[0].shape == (7, 4)
