"""The memory of SAMNClassifier: what it holds, what can be asked of it."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import (
    load_digits,
    make_blobs,
    make_classification,
    make_moons,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from torch import nn

from sklearn_samn import SAMNClassifier, _samn
from sklearn_samn.datasets import load_credit_default
from sklearn_samn.modules import SAMN, SampleNetwork
from sklearn_samn.modules.sample_network import SHARES

# Nothing looks at the memory.
NO_READS = {"head": "linear", "n_attention_blocks": 0}


def blobs(n_samples=120, n_classes=3, seed=0):
    """Classes that lie apart; labels are strings."""
    centers = 6 * np.eye(4)[:n_classes]
    X, y = make_blobs(n_samples, centers=centers, random_state=seed)
    return X, np.array(["a", "b", "c", "d"])[y]


def fitted(X, y, **params):
    """On the CPU, where what is inside can be looked at as arrays."""
    params = {"max_epochs": 5, "random_state": 0, "device": "cpu", **params}
    return SAMNClassifier(**params).fit(X, y)


# --- what is stored


def test_every_training_row_is_stored():
    X, y = blobs()
    model = fitted(X, y)
    assert isinstance(model.net_.module_, SampleNetwork)
    assert_array_equal(model.support_, np.arange(120))
    assert_array_equal(model.support_labels_, y)
    assert model.embed(X).shape == (120, 64)
    # The entries are what the finished network makes of the rows.
    entries = model.net_.module_.memory.entries[0].numpy()
    assert_allclose(entries, model.embed(X), atol=1e-5)
    means = [model.embed(X)[y == label].mean(axis=0) for label in "abc"]
    assert_allclose(model.prototypes_, means, atol=1e-4)
    assert model.prototype_labels_.tolist() == ["a", "b", "c"]


def test_equal_rows_are_stored_once_with_their_weight():
    X, y = blobs(30)
    twice = np.repeat(np.arange(30), 2)
    model = fitted(X[twice], y[twice])
    assert_array_equal(model.support_, np.arange(0, 60, 2))
    weight = model.net_.module_.memory.log_weight.exp().numpy()
    assert_allclose(weight, 2)
    # Equal rows of different labels, too, with their shares.
    both = fitted(np.repeat(X, 3, axis=0), np.tile(["a", "b", "b"], 30))
    assert_array_equal(both.support_, np.arange(0, 90, 3))
    assert_allclose(both.net_.module_.memory.labels, np.tile([1 / 3, 2 / 3], (30, 1)))
    assert set(both.support_labels_) == {"b"}


def test_rows_of_weight_zero_and_of_the_hold_out_are_not_stored():
    X, y = blobs()
    weight = np.ones(120)
    weight[::3] = 0
    model = SAMNClassifier(max_epochs=3, random_state=0)
    model.fit(X, y, sample_weight=weight)
    assert_array_equal(model.support_, np.flatnonzero(weight))
    model.set_params(early_stopping=True, validation_fraction=0.25)
    assert len(model.fit(X, y).support_) == 90


def test_support_size_bounds_what_is_stored():
    X, y = blobs(300)
    model = fitted(X, y, support_size=75)
    assert len(model.support_) == len(set(model.support_)) == 75
    assert len(model.pool_) == 300
    assert_array_equal(model.support_labels_, y[model.support_])
    assert model.score(X, y) > 0.95
    small = len(pickle.dumps(model))
    large = len(pickle.dumps(fitted(X, y, support_size=None)))
    # 64 floats, class, weight, number, and three attributes a row.
    assert 225 * 64 * 4 < large - small < 225 * (64 * 4 + 64)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_a_row_sees_nothing_of_itself_in_any_block():
    X, y = make_moons(150, noise=0.2, random_state=0)
    model = fitted(X, y, n_attention_blocks=2, neighbor_weight=0.0)
    network = model.net_.module_
    Z = torch.from_numpy(model.preprocessor_.transform(X))
    own = network.memory.find(torch.arange(150))
    with torch.no_grad():
        weights = network.attend(Z, own).fill_diagonal_(0)
        expected = (weights / weights.sum(1, keepdim=True)).mean(0)
        assert_allclose(model.support_weights_, expected, atol=1e-6)
        network.memory.labels[own[0]] = network.memory.labels[own[0]].flip(0)
        for hidden, same in ((own, True), (None, False)):
            found = network.attend(Z[:1], None if hidden is None else hidden[:1])[0, 1:]
            known = weights[0, 1:] / weights[0, 1:].sum()
            assert torch.allclose(found / found.sum(), known, atol=1e-6) == same


def test_rows_that_move_the_attention_are_the_likelier_support():
    X, y = make_moons(150, noise=0.2, random_state=0)
    full = fitted(X, y, support_size=None, dtype="float64")
    memory = full.net_.module_.memory
    Z = torch.from_numpy(full.preprocessor_.transform(X))

    def shares():
        """Of each row's attention, own row excluded, what falls on class 1."""
        weights = full.net_.module_.attend(Z).fill_diagonal_(0)
        return (weights @ memory.labels)[:, 1] / weights.sum(1)

    # How much each row moves it, by differences.
    moves = []
    with torch.no_grad():
        for row in range(150):
            memory.log_weight[row] = 1e-5
            above = shares()
            memory.log_weight[row] = -1e-5
            moves.append(float((above - shares()).square().mean().sqrt() / 2e-5))
            memory.log_weight[row] = 0
    importance = np.array(moves) + np.mean(moves)
    # Far from equal, measured by the tolerance below.
    assert importance.max() > 1.5 * importance.min()
    model = fitted(X, y, support_size=40, dtype="float64")
    weight = model.net_.module_.memory.log_weight.exp().numpy()
    # Kept with a probability in proportion, and weighted with its inverse.
    expected = 1 / importance[model.support_]
    certain = np.isclose(weight, 40 / 150)
    assert certain.sum() < 10
    weight, expected = weight[~certain], expected[~certain]
    assert_allclose(weight / weight.mean(), expected / expected.mean(), rtol=1e-5)
    # Each class has the rows that are due to it, to one.
    due = importance[y == 1].sum() / importance.sum() * 40
    assert abs((model.support_labels_ == 1).sum() - due) < 2


@pytest.mark.parametrize("support_size", [20, 300])
def test_no_class_is_left_out_of_the_support(support_size):
    X, y = blobs(3000)
    rare = np.random.default_rng(0).normal([0, 0, 9], 1, size=(3, 3))
    X, y = np.vstack([X[:, :3], rare]), np.append(y, ["d"] * 3)
    for seed in range(5):
        model = fitted(X, y, support_size=support_size, random_state=seed, max_epochs=1)
        assert set(model.support_labels_) == set("abcd")
        assert len(model.support_) == support_size


def test_a_support_speaks_for_all_rows_better_than_a_random_part():
    X, y = make_moons(2000, noise=0.2, random_state=0)
    errors, gaps = [], []
    for seed in range(3):
        params = {"head": "kernel", "n_attention_blocks": 0, "random_state": seed}
        full = fitted(X, y, support_size=None, **params)
        expected, means = full.predict_proba(X), full.prototypes_
        part = fitted(X, y, support_size=200, **params)
        kept = part.embed(X[part.support_])
        unweighted = [kept[part.support_labels_ == c].mean(axis=0) for c in (0, 1)]
        gaps.append([np.abs(m - means).mean() for m in (part.prototypes_, unweighted)])

        # A random part of the same size in place of all rows.
        rows = np.random.default_rng(seed).choice(2000, 200, replace=False)
        memory = full.net_.module_.memory
        entries, labels = memory.entries[:, rows], memory.labels[rows]
        memory.fill(entries, labels, torch.ones(200), memory.rows[rows])
        errors.append(
            [np.abs(m.predict_proba(X) - expected).mean() for m in (part, full)]
        )
    error, at_random = np.mean(errors, axis=0)
    assert error < 0.75 * at_random
    gap, of_unweighted = np.mean(gaps, axis=0)
    assert gap < 0.75 * of_unweighted


@pytest.mark.parametrize("memory_size", [1, 30, 10_000])
def test_any_memory_size(memory_size):
    X, y = blobs()
    model = fitted(X, y, memory_size=memory_size, max_epochs=15)
    assert model.score(X, y) > 0.95
    assert len(model.support_) == 120


def test_a_stored_row_decides_by_its_label():
    """Rows that differ from stored ones by nothing take their class from them."""
    X, y = make_moons(400, noise=0.1, random_state=0)
    model = fitted(X, y, head="kernel", max_epochs=20)
    assert model.score(X, y) > 0.95
    memory = model.net_.module_.memory
    before = model.predict(X)
    memory.labels.copy_(1 - memory.labels)
    assert (model.predict(X) != before).mean() > 0.95


# --- the vote of the nearest


def test_the_vote_pools_with_the_network():
    X, y = blobs()
    alone = fitted(X, y, neighbor_weight=0.0, dtype="float64")
    params = {"n_neighbors": 5, "temperature": 1.0, "dtype": "float64"}
    pooled = fitted(X, y, neighbor_weight=0.4, **params)
    network, entries = pooled.net_.module_, alone.net_.module_.memory.entries
    # The training is the same.
    assert torch.equal(network.memory.entries, entries)
    Z = pooled.preprocessor_.transform(X)
    assert_array_equal(network.pool.entries[0], Z[pooled.pool_])
    vote = network.pool(torch.from_numpy(Z), 5).numpy()
    expected = alone.predict_proba(X) ** 0.6 * (vote + 1e-6) ** 0.4
    expected /= expected.sum(axis=1, keepdims=True)
    assert_allclose(pooled.predict_proba(X), expected, rtol=1e-9)


def test_neighbours_know_what_the_network_smooths_over():
    """A class that is drawn anew for each of many values of a feature."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=300)
    value = rng.integers(300, size=3000)
    X, y = np.column_stack([value, rng.normal(size=3000)]), labels[value]
    scores = [
        [
            SAMNClassifier(max_epochs=5, neighbor_weight=share, random_state=seed)
            .fit(X[:2000], y[:2000])
            .score(X[2000:], y[2000:])
            for share in (0.0, "auto")
        ]
        for seed in range(4)
    ]
    without, with_votes = np.mean(scores, axis=0)
    # Two standard errors of a share of 1,000 rows.
    assert with_votes > without + 0.032


def two_columns_in_noise(n_samples):
    """Classes in a fine pattern of two columns of twelve; one label in ten is wrong."""
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(n_samples, 12))
    squares = (3 * X[:, :2]).astype(int).sum(axis=1) % 2
    return X, np.where(rng.uniform(size=n_samples) < 0.1, 1 - squares, squares)


def test_columns_that_matter_count_in_the_vote():
    X, y = two_columns_in_noise(3000)
    model = fitted(X[:1500], y[:1500], max_epochs="auto")
    network = model.net_.module_
    scale = network.pool.scale
    assert scale[:2].min() > 3 * scale[2:].max()
    Z = torch.from_numpy(model.preprocessor_.transform(X[1500:]))
    scores = []
    for columns in (torch.ones(12), scale):
        network.pool.scale = columns
        scores.append((network.pool(Z).argmax(1).numpy() == y[1500:]).mean())
    # Five standard errors of a share of 1,500 rows.
    assert scores[1] > scores[0] + 0.065


@pytest.mark.parametrize(
    ("params", "columns", "share"),
    [
        ({}, True, True),
        ({"neighbor_weight": 0.25}, True, False),
        ({"neighbor_weight": 0.0}, False, False),
        ({"feature_extractor": nn.Linear(12, 8), "neighbor_weight": 0.2}, False, False),
        ({"pool_size": 20}, False, False),
        ({"pool_size": 21}, True, True),
    ],
)
def test_the_vote_is_tuned(params, columns, share):
    X, y = two_columns_in_noise(1000)
    model = fitted(X, y, **params)
    network, few = model.net_.module_, fitted(X[:700], y[:700], **params).net_.module_
    assert (network.pool.scale != 1).any() == columns
    untuned = 0.3 * (params.get("pool_size", 1000) / 1000) ** 0.75
    expected = params.get("neighbor_weight", untuned)
    assert (network.neighbor_weight != expected) == share
    assert (few.pool.scale == 1).all()
    # What is tuned outlives a pickle and more rows.
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    model.partial_fit(X[:50], y[:50])
    assert model.net_.module_.neighbor_weight == network.neighbor_weight
    assert model.net_.module_.label_temperature == network.label_temperature
    assert torch.equal(model.net_.module_.pool.scale, network.pool.scale)
    # A fit of few rows that goes on from many has no use for it.
    model.set_params(warm_start=True).fit(X[:700], y[:700])
    assert (model.net_.module_.pool.scale == 1).all()


@pytest.mark.parametrize("share", ["auto", 0.0])
def test_temperature_is_of_the_probabilities_alone(share):
    X, y = blobs()
    params = {"neighbor_weight": share, "dtype": "float64"}
    plain = fitted(X, y, temperature=1.0, **params)
    surer = fitted(X, y, temperature=0.25, **params)
    expected = plain.predict_proba(X) ** 4
    expected /= expected.sum(axis=1, keepdims=True)
    assert_allclose(surer.predict_proba(X), expected, rtol=1e-9)
    assert_array_equal(surer.predict(X), plain.predict(X))


def temperature(X, y, **params):
    return fitted(X, y, **params).net_.module_.label_temperature


def test_the_temperature_says_how_noisy_the_classes_are():
    X, y = blobs()
    noise = np.random.default_rng(0).integers(3, size=len(y))
    assert temperature(X, y) == 0.5
    assert temperature(X, noise) == 1.4
    # Nothing votes, or there are no others.
    for params in ({"neighbor_weight": 0.0}, {"pool_size": 20}, {"head": "kernel"}):
        assert temperature(X, noise, **params) == 1
    chunks = SAMNClassifier(random_state=0).partial_fit(X, y, classes=np.unique(y))
    assert chunks.net_.module_.label_temperature == 1
    # The neighbours vote before a network of the user's, too.
    params = {"feature_extractor": nn.Linear(4, 8), "neighbor_weight": 0.2}
    assert temperature(X, noise, **params) == 1.4


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_no_temperature_without_the_vote_it_came_from(method):
    X, y = blobs()
    model = fitted(X, y, warm_start=True)
    assert model.net_.module_.label_temperature == 0.5
    getattr(model.set_params(neighbor_weight=0.0), method)(X, y)
    assert model.net_.module_.label_temperature == 1


def test_what_is_tuned_is_no_reason_to_refuse_a_warm_start():
    X, y = two_columns_in_noise(1000)
    model = fitted(X, y, warm_start=True).set_params(hidden_layer_sizes=(5,))
    with pytest.raises(ValueError, match=r"parameters: hidden_layer_sizes [^;]*\."):
        model.fit(X, y)


@pytest.mark.parametrize(("weight", "wrong"), [(1.0, 0.2), (2.0, 1 / 3)])
def test_the_temperature_is_that_of_the_votes(weight, wrong, monkeypatch):
    """Votes of 0.9, of which every fifth is wrong: as sure as 0.8 they were right."""
    network = SampleNetwork(2, 2, memory_size=10, neighbor_weight=0.3)
    labels = torch.eye(2)[[0] * 8 + [1] * 2]
    votes = torch.tensor([[0.9, 0.1]]).expand(10, 2)
    monkeypatch.setattr(network.pool, "leave_one_out", lambda *args: votes)
    rows = torch.zeros(10, 2), labels, torch.ones(10), torch.arange(10)
    rows[2][8:] = weight
    network.choose_temperature(*rows, torch.ones(10), highest=5)
    best = np.log(0.9 / 0.1) / np.log((1 - wrong) / wrong)
    # Temperatures are tried in steps of a ninth.
    assert network.label_temperature == pytest.approx(best ** (2 / 3) / 1.2, rel=0.04)


def test_networks_of_many_rows_are_trusted():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4000, 2)), rng.integers(2, size=4000)
    found = [temperature(X[:n], y[:n], max_epochs=1) for n in (800, 1800, 4000)]
    assert found == [1.4, pytest.approx(1.2, abs=0.01), 1.0]


def test_copies_that_were_made_do_not_make_it_surer():
    X, y = two_columns_in_noise(400)
    alone = temperature(X, y)
    assert alone > 1
    for n_copies in (2, 5):
        copies = np.repeat(X, n_copies, axis=0), np.repeat(y, n_copies)
        assert temperature(*copies) == alone


def test_copies_that_were_observed_tell_the_noise():
    """Few different rows, each many times, with labels of which a third is wrong."""
    rng = np.random.default_rng(0)
    X = rng.integers(2, size=(600, 5))
    y = np.where(rng.uniform(size=600) < 0.3, 1 - X[:, 0], X[:, 0])
    assert temperature(X, y) > 0.95


@pytest.mark.parametrize(
    ("load", "n_train"), [(load_digits, 600), (load_credit_default, 300)]
)
def test_probabilities_are_better_for_the_temperature(load, n_train):
    """Surer where the classes are easily told apart, less sure where they are not."""
    X, y = load(return_X_y=True)
    params = {"train_size": n_train, "test_size": 1000, "stratify": y}
    X, X_test, y, y_test = train_test_split(X, y, **params, random_state=0)
    losses = [
        log_loss(y_test, fitted(X, y, **params).predict_proba(X_test))
        for params in ({"max_epochs": "auto", "temperature": t} for t in (1.0, "auto"))
    ]
    assert losses[1] < 0.98 * losses[0]


@pytest.mark.parametrize(
    ("share", "size", "n_pooled"),
    [
        ("auto", "auto", 900),
        # Untuned it would be 0.18.
        (0.17, "auto", 500),
        (0.19, "auto", 900),
        (0.4, 300, 300),
        (0.2, None, 1000),
    ],
)
def test_more_rows_vote_where_their_vote_counts(share, size, n_pooled, monkeypatch):
    monkeypatch.setattr("sklearn_samn._filling.MIN_POOL", 500)
    monkeypatch.setattr("sklearn_samn._filling.MAX_POOL", 900)
    X, y = two_columns_in_noise(1000)
    model = fitted(X, y, neighbor_weight=share, pool_size=size)
    assert len(model.pool_) == n_pooled


def test_a_class_of_which_no_row_is_stored_stays_possible():
    X, y = blobs()
    model = fitted(X, y, support_size=1, pool_size=1, neighbor_weight=0.5)
    probabilities = model.predict_proba(X)
    assert len(model.support_) == len(model.pool_) == 1
    assert (probabilities > 0).all()


def test_the_share_of_the_vote():
    X, y = blobs()

    def share(**params):
        return fitted(X, y, **params).net_.module_.neighbor_weight

    assert share() == 0.3
    assert share(support_size=1, pool_size=None) == 0.3
    assert share(pool_size=60) == pytest.approx(0.3 * 0.5**0.75)
    assert share(pool_size=60, neighbor_weight=0.7) == 0.7
    chunks = SAMNClassifier(random_state=0).partial_fit(X, y, classes=np.unique(y))
    assert chunks.net_.module_.neighbor_weight == 0


@pytest.mark.parametrize(
    ("params", "votes"),
    [
        ({}, True),
        ({"neighbor_weight": 0.0}, False),
        ({"head": "kernel"}, False),
        ({"head": "linear"}, False),
        ({"feature_extractor": torch.nn.Linear(4, 8)}, False),
        ({"feature_extractor": torch.nn.Linear(4, 8), "neighbor_weight": 0.2}, True),
        ({"support_size": 50}, True),
    ],
)
def test_rows_are_kept_where_they_vote(params, votes):
    X, y = blobs()
    model = fitted(X, y, **params)
    assert_array_equal(model.pool_, np.arange(120 if votes else 0))
    model.partial_fit(X[:30] + 9, y[:30])
    assert model.support_.max() == 149
    assert_array_equal(np.sort(model.pool_), np.arange(150 if votes else 0))
    Z = model.preprocessor_.transform(np.concatenate([X, X[:30] + 9]))
    pool = model.net_.module_.pool
    kept = pool.rows >= 0
    assert_array_equal(pool.entries[0, kept], Z[model.pool_])
    codes = np.searchsorted(model.classes_, np.append(y, y[:30]))
    assert_array_equal(pool.labels[kept].argmax(1), codes[model.pool_])


def test_votes_without_a_fit():
    X, y = blobs()
    params = {"neighbor_weight": 0.5, "pool_size": 40, "scaling": "robust"}
    model = SAMNClassifier(**params, random_state=0)
    model.partial_fit(X[:60], y[:60], classes=np.unique(y))
    assert len(set(model.pool_)) == 40
    assert max(model.pool_) < 60
    # The rows of the next chunk take the places of those.
    model.partial_fit(X[60:], y[60:])
    assert len(set(model.pool_)) == 40
    assert min(model.pool_) >= 60
    assert model.score(X, y) > 0.95


def test_pool_size_bounds_the_rows_that_vote():
    X, y = make_moons(300, noise=0.2, random_state=0)
    model = fitted(X, y, pool_size=60, support_size=None)
    assert len(model.support_) == 300
    assert len(set(model.pool_)) == 60
    weight = model.net_.module_.pool.log_weight.exp()
    # They stand for all rows, in the mean over what could have been drawn.
    assert 0.8 * 60 < weight.sum() < 1.25 * 60
    assert weight.std() > 0.05


def test_the_label_is_the_most_probable_class():
    X, y = make_moons(1500, noise=0.3, random_state=0)
    X_train, X_test, y_train, _ = train_test_split(X, y, random_state=0)
    for share in (0.0, "auto", 0.8):
        model = fitted(X_train, y_train, neighbor_weight=share)
        best = model.predict_proba(X_test).argmax(axis=1)
        assert_array_equal(model.predict(X_test), best)


# --- a support by the error it makes


def test_the_support_is_as_large_as_the_classes_are_hard():
    sizes = {}
    for noise in (0.05, 0.3):
        X, y = make_moons(3000, noise=noise, random_state=0)
        sizes[noise] = len(fitted(X, y).support_)
    # The least is 128 rows a class.
    assert sizes[0.05] == 256 < sizes[0.3] < 3000


def test_the_support_errs_no_more_than_it_should():
    X, y = make_moons(4000, noise=0.3, random_state=0)
    X, X_test, y, _ = train_test_split(X, y, random_state=0)

    def shares(model):
        """Of the attention of new rows, what falls on class 1."""
        network = model.net_.module_
        with torch.no_grad():
            x = torch.from_numpy(model.preprocessor_.transform(X_test))
            return (network.attend(x) @ network.memory.labels[:, 1]).numpy()

    squares = []
    for seed in range(4):
        full = fitted(X, y, support_size=None, random_state=seed)
        part = fitted(X, y, random_state=seed)
        # More than the least, which is 128 rows a class.
        assert 256 < len(part.support_) < 2000
        squares.append(((shares(part) - shares(full)) ** 2).mean())
    assert np.sqrt(np.mean(squares)) == pytest.approx(0.02, rel=0.25)


# --- what can be asked


@pytest.mark.parametrize("params", [{}, {"n_members": 2}, {"kernel": "rbf"}])
def test_attention(params):
    X, y = blobs()
    model = fitted(X, y, **params)
    weights, rows = model.attention(X[:7], top_k=4)
    assert weights.shape == rows.shape == (7, 4)
    assert (np.diff(weights, axis=1) <= 0).all()
    everything, entries = model.attention(X[:7], top_k=1000)
    assert everything.shape == (7, 120)
    assert_allclose(everything.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(np.sort(entries, axis=1), np.tile(np.arange(120), (7, 1)))
    assert_allclose(everything[:, :4], weights)
    # The rows looked at are those of the own class, its own copy first.
    assert (y[rows] == y[:7, None]).mean() > 0.9
    if params.get("n_members", 1) == 1:
        assert_array_equal(rows[:, 0], np.arange(7))


def test_attention_by_its_formula():
    X, y = blobs()
    model = fitted(X, y, dtype="float64", neighbor_weight=0.0)
    z = model.embed(X)
    distances = np.linalg.norm(z[:5, None] - z, axis=2)
    scale = np.log1p(np.exp(model.net_.module_.temperature.item()))
    expected = np.exp(-scale * distances)
    expected /= expected.sum(axis=1, keepdims=True)
    weights, rows = model.attention(X[:5], top_k=120)
    assert_allclose(weights, np.take_along_axis(expected, rows, 1), rtol=1e-4)
    table = model.explain(X[:5], n_samples=3)
    found = np.take_along_axis(distances, rows[:, :3], 1).ravel()
    assert_allclose(table["distance"], found, atol=1e-5)


def test_explain():
    X, y = blobs()
    table = fitted(X, y).explain(X[10:14], n_samples=3)
    assert table.columns.tolist() == ["row", "sample", "label", "weight", "distance"]
    assert table["row"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert_array_equal(table["label"], y[table["sample"]])
    nearest = table.groupby("row").first()
    assert nearest["sample"].tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize("support_size", ["auto", 60])
def test_explain_counts_the_vote(support_size):
    X, y = blobs()
    params = {"neighbor_weight": 0.4, "n_neighbors": 5}
    model = fitted(X, y, support_size=support_size, **params)
    table = model.explain(X[:8], n_samples=200)
    assert_allclose(table.groupby("row")["weight"].sum(), 1, rtol=1e-5)
    # The attention of each entry, and of the vote its share among the five nearest.
    weights, samples = model.attention(X[:8], top_k=200)
    expected = np.zeros((8, 120))
    np.put_along_axis(expected, samples, 0.6 * weights, axis=1)
    Z = torch.from_numpy(model.preprocessor_.transform(X[:8]))
    votes, places = model.net_.module_.pool.voters(Z, 5)
    for row in range(8):
        expected[row, model.pool_[places[row]]] += 0.4 * votes[row].numpy()
    assert_allclose(table["weight"], -np.sort(-expected, axis=1).ravel(), atol=1e-6)
    assert (votes > 0).all()


@pytest.mark.parametrize("method", ["attention", "explain"])
@pytest.mark.parametrize("value", [0, 2.5])
def test_bad_number_of_entries(method, value):
    X, y = blobs()
    model = fitted(X, y)
    name = {"attention": "top_k", "explain": "n_samples"}[method]
    with pytest.raises((ValueError, TypeError), match=name):
        getattr(model, method)(X, **{name: value})


@pytest.mark.parametrize("params", [{}, {"support_size": 60}])
def test_stored_rows_are_as_the_finished_network_embeds_them(params):
    X, y = blobs()
    model = fitted(X, y, n_attention_blocks=3, neighbor_weight=0.0, **params)
    entries = model.net_.module_.memory.entries[0]
    assert_allclose(model.embed(X[model.support_]), entries, atol=1e-4)
    # So a row is at no distance from itself.
    table = model.explain(X[model.support_[:9]], n_samples=1)
    assert_array_equal(table["sample"], model.support_[:9])
    assert_allclose(table["distance"], 0, atol=1e-4)


def test_support_weights_leave_the_own_row_out():
    X, y = blobs()
    # One row far from all others: nobody looks at it but itself.
    X[17] = 60
    model = fitted(X, y)
    weights = model.support_weights_
    assert weights.shape == (120,)
    assert_allclose(weights.sum(), 1, rtol=1e-4)
    own = model.attention(X)[0][17, 0]
    assert weights[17] < 0.5 * np.median(weights) < 0.1 * own


def test_without_any_attention():
    X, y = blobs()
    model = SAMNClassifier(head="linear", n_attention_blocks=0, random_state=0)
    assert not hasattr(model, "attention")
    model.set_params(max_epochs=10).fit(X, y)
    assert not hasattr(model, "explain")
    with pytest.raises(AttributeError, match="attention"):
        model.attention(X)
    assert model.score(X, y) > 0.95
    assert model.diagnostics_["attention_entropy"] is None


@pytest.mark.parametrize("params", [{"n_prototypes": 1}, {"head": "linear"}])
def test_attention_of_the_block_that_auto_makes(params):
    X, y = blobs()
    model = fitted(X, y, **params)
    # What the fitted network has counts, not what is set for the next.
    model.set_params(n_attention_blocks=0, head="linear")
    weights, _ = model.attention(X, top_k=1000)
    assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert len(model.explain(X[:2], n_samples=1)) == 2


def test_embedding_without_a_memory():
    X, y = blobs()
    model = fitted(X, y, head="linear", n_attention_blocks=0, dtype="float64")
    module = model.net_.module_
    scores = module.linear(torch.from_numpy(model.embed(X))[None]) + module.bias
    probabilities = scores.softmax(2)[0].detach().numpy()
    assert_allclose(model.predict_proba(X), probabilities, rtol=1e-10)


def test_weights_that_all_but_vanish():
    """Exponential decay over years: too small for a float of 32 bits."""
    X, y = blobs()
    decay = 0.5 ** (np.arange(len(X)) * 4.0)
    assert 0 < decay.min() < 1e-140
    model = SAMNClassifier(max_epochs=2, random_state=0)
    model.fit(X, y, sample_weight=decay)
    assert np.isfinite(model.predict_proba(X)).all()
    assert len(model.support_) == len(X)


def test_rows_of_vanishing_weight_vote_where_no_other_is_near():
    """Yesterday's rows weigh something; those of ten years ago decide on their kind."""
    age = np.arange(1000.0)[::-1]
    X = np.column_stack([age, np.random.default_rng(0).normal(size=1000)])
    y = X[:, 1] > 0
    model = SAMNClassifier(max_epochs=2, neighbor_weight=0.9, random_state=0)
    model.fit(X, y, sample_weight=0.5 ** (age / 5))
    assert_allclose(model.predict_proba(X).sum(1), 1, rtol=1e-6)
    assert model.score(X[:500], y[:500]) > 0.8


def test_labels_of_equal_rows():
    X, y = blobs()
    X[:3], y[:3] = X[0], ["a", "b", "b"]
    model = fitted(X, y)
    assert model.support_[0] == 0
    assert model.support_labels_[0] == "b"


@pytest.mark.parametrize("class_weight", [{"b": 2, "c": 3}, {"a": 1, "b": 1, "c": 0}])
def test_class_weights_of_classes_that_a_chunk_lacks(class_weight):
    X, y = blobs()
    X, y, classes = X[y < "c"], y[y < "c"], ["a", "b", "c"]
    model = SAMNClassifier(class_weight=class_weight, random_state=0)
    model.partial_fit(X, y, classes=classes)
    equal = np.array([class_weight.get(label, 1.0) for label in y])
    other = SAMNClassifier(random_state=0)
    other.partial_fit(X, y, classes=classes, sample_weight=equal)
    assert_array_equal(model.predict_proba(X), other.predict_proba(X))


def test_diagnostics():
    X, y = blobs()
    model = fitted(X, y, max_epochs=20, early_stopping=True)
    signs = model.diagnostics_
    assert set(signs) == {"attention_entropy", "prototype_distance", "validation_gap"}
    assert 0 < signs["attention_entropy"] < 0.95
    gaps = np.linalg.norm(model.prototypes_[:, None] - model.prototypes_, axis=2)
    smallest = gaps[np.triu_indices(3, 1)].min() / 8
    assert_allclose(signs["prototype_distance"], smallest, rtol=1e-5)
    last = model.history_[-1]
    assert signs["validation_gap"] == last["valid_loss"] - last["train_loss"]
    # An attention that learned nothing tells no row from another.
    untrained = fitted(X, y, max_epochs=1, lr=1e-12)
    assert untrained.diagnostics_["attention_entropy"] > signs["attention_entropy"]
    assert untrained.diagnostics_["validation_gap"] is None


# --- prototypes, the smallest memory


def test_prototypes_of_the_paper():
    X, y = blobs()
    model = fitted(
        X,
        y,
        n_prototypes=2,
        n_attention_blocks=2,
        hidden_layer_sizes=(16, 8),
        kernel="linear",
        head="distance",
    )
    assert isinstance(model.net_.module_, SAMN)
    assert model.prototypes_.shape == (6, 8)
    assert model.prototype_labels_.tolist() == ["a", "a", "b", "b", "c", "c"]
    assert not hasattr(model, "support_")
    weights, entries = model.attention(X[:7])
    assert weights.shape == entries.shape == (7, 6)
    assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert model.embed(X[:7]).shape == (7, 8)
    distances = np.linalg.norm(model.embed(X)[:, None] - model.prototypes_, axis=2)
    assert (model.prototype_labels_[distances.argmin(axis=1)] == y).mean() > 0.9
    table = model.explain(X[:2], n_samples=2)
    assert_array_equal(table["label"], model.prototype_labels_[table["sample"]])
    nearest = table.groupby("row").first()
    assert_allclose(nearest["distance"], distances[:2].min(axis=1), rtol=1e-5)
    assert 0 <= model.diagnostics_["attention_entropy"] <= 1


@pytest.mark.parametrize("head", ["distance", "kernel", "both"])
@pytest.mark.parametrize("n_prototypes, n_attention_blocks", [(1, 1), (3, 0)])
def test_explain_gives_prototypes_the_probability_of_their_class(
    head, n_prototypes, n_attention_blocks
):
    X, y = blobs()
    model = fitted(
        X,
        y,
        head=head,
        n_prototypes=n_prototypes,
        n_attention_blocks=n_attention_blocks,
        max_epochs=20,
    )
    assert model.score(X, y) > 0.95
    table = model.explain(X, n_samples=100)
    assert len(table) == len(X) * len(model.prototypes_)
    found = table.pivot_table("weight", "row", "label", aggfunc="sum")
    assert_allclose(found, model.predict_proba(X), atol=1e-6)
    # One prototype speaks for each class.
    assert ((table["weight"] > 0).groupby(table["row"]).sum() == 3).all()


def test_prototypes_without_attention():
    X, y = blobs()
    model = SAMNClassifier(n_prototypes=1, n_attention_blocks=0, max_epochs=3)
    assert not hasattr(model, "attention")
    assert model.fit(X, y).embed(X).shape == (120, 128)
    bare = SAMNClassifier(n_prototypes=1, hidden_layer_sizes=(), max_epochs=3)
    assert bare.fit(X, y).embed(X).shape == X.shape


def test_another_memory_after_another_fit():
    X, y = blobs()
    model = fitted(X, y)
    model.set_params(n_prototypes=1).fit(X, y)
    assert not hasattr(model, "support_")
    assert len(model.prototypes_) == 3
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))


# --- settings that go by the number of rows


@pytest.mark.parametrize(
    ("n_samples", "max_epochs", "dropout", "n_blocks", "batch_size"),
    [
        (90, 20, 0.3, 1, 32),
        (590, 20, 0.3, 1, 148),
        (1789, 18, 0.2, 1, 256),
        (4000, 16, 0.1, 0, 256),
    ],
)
def test_auto(n_samples, max_epochs, dropout, n_blocks, batch_size):
    model = SAMNClassifier()
    params = model._training_params(n_samples)
    assert params["max_epochs"] == max_epochs
    assert params["batch_size"] == batch_size
    assert_allclose(model._by_size("dropout", n_samples), dropout, rtol=1e-3)
    assert model._n_blocks(n_samples) == n_blocks


@pytest.mark.parametrize(
    ("n_rows", "n_classes", "n_entries"),
    [
        (100, 2, 100),
        (4000, 2, 128),
        (4000, 6, 192),
        (5000, 26, 1040),
        (12_000, 2, 384),
        (300_000, 2, 512),
        (300_000, 26, 2048),
        (np.inf, 2, 2048),
    ],
)
def test_auto_memory_size(n_rows, n_classes, n_entries):
    model = SAMNClassifier()
    model.classes_ = np.arange(n_classes)
    assert model._n_entries(n_rows) == n_entries


@pytest.mark.parametrize(("n_features", "n_waves"), [(4, 16), (20, 16), (21, 0)])
def test_waves_where_there_are_few_numbers(n_features, n_waves):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, n_features)), np.arange(60) % 2
    assert fitted(X, y, max_epochs=1)._module_args["n_frequencies"] == n_waves


@pytest.mark.parametrize("learned", [False, True])
def test_waves_are_learned_from_many_rows(learned, monkeypatch):
    X, y = blobs()
    monkeypatch.setattr(_samn, "MIN_LEARNED_WAVE_ROWS", len(X) + (not learned))
    waves = [fitted(X, y, max_epochs=n).net_.module_.extract[0][0] for n in (1, 2)]
    for name in ("frequency", "phase"):
        once, twice = (getattr(w, name) for w in waves)
        assert torch.equal(once, twice) == (not learned)


# --- chunks


def test_partial_fit_stores_the_rows_seen_last():
    X, y = blobs(200)
    model = SAMNClassifier(memory_size=50, random_state=0)
    for start in range(0, 200, 40):
        rows = slice(start, start + 40)
        model.partial_fit(X[rows], y[rows], classes=["a", "b", "c"])
    assert model.n_samples_seen_ == 200
    # All of the last chunk and ten of the one before.
    assert set(model.support_) > set(range(160, 200))
    assert len(model.support_) == 50
    assert model.support_.min() >= 120
    assert_array_equal(model.support_labels_, y[model.support_])
    assert not hasattr(model, "support_weights_")
    assert model.diagnostics_["attention_entropy"] is None
    assert model.attention(X[:3], top_k=2)[1].min() >= 120


def test_partial_fit_adds_to_the_few_rows_of_a_fit():
    X, y = blobs()
    model = fitted(X[:30], y[:30], memory_size=80)
    entries = model.net_.module_.memory.entries.clone()
    model.partial_fit(X[30:60], y[30:60])
    assert_array_equal(np.sort(model.support_), np.arange(60))
    assert torch.equal(model.net_.module_.memory.entries[:, :30], entries)
    model.partial_fit(X[60:], y[60:])
    # Room for 80: the fit's are gone, and ten of the first chunk.
    assert len(model.support_) == 80
    assert model.support_.min() >= 30
    assert set(model.support_) > set(range(60, 120))


@pytest.mark.parametrize(
    "before, after, match",
    [
        (
            {"n_prototypes": 1},
            {"n_prototypes": "samples"},
            "attends to prototypes. Set",
        ),
        ({}, {"n_prototypes": 1}, "attends to stored samples. Set n_prototypes back"),
        ({}, NO_READS, "does not fit .* head 'both' then, 'linear' now"),
        (NO_READS, {"head": "both"}, "does not fit .* head 'linear' then, 'both' now"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_another_kind_of_memory_is_no_continuation(before, after, match, method):
    X, y = blobs()
    model = fitted(X, y, warm_start=True, **before)
    known = dict(vars(model.set_params(**after)))
    with pytest.raises(ValueError, match=match):
        getattr(model, method)(X, y)
    assert vars(model) == known


def test_partial_fit_keeps_what_a_larger_fit_has_stored():
    X, y = blobs()
    model = fitted(X, y, memory_size=20).partial_fit(X[:9], y[:9])
    assert_array_equal(np.sort(model.support_), np.arange(9, 129))


def test_support_size_bounds_what_partial_fit_stores():
    X, y = blobs()
    model = SAMNClassifier(support_size=25, random_state=0)
    model.partial_fit(X, y, classes=np.unique(y))
    assert len(model.support_) == 25


def test_partial_fit_goes_on_after_fit_and_after_a_pickle():
    X, y = blobs()
    model = fitted(X, y, max_epochs=20)
    model = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    assert model.n_samples_seen_ == 240
    assert_array_equal(np.sort(model.support_), np.arange(240))
    assert model.score(X, y) > 0.95


def test_partial_fit_learns():
    X, y = blobs(300)
    model = SAMNClassifier(random_state=0)
    for _ in range(15):
        model.partial_fit(X, y, classes=["a", "b", "c", "d"])
    assert model.score(X, y) > 0.95
    assert (model.predict(X) != "d").all()
    # One class at a time: of the other classes the memory is all that is left.
    model.partial_fit(X[y == "a"][:5], y[y == "a"][:5])
    assert model.score(X, y) > 0.9


def test_warm_start_on_more_rows():
    X, y = blobs(300)
    model = fitted(X[:100], y[:100], warm_start=True)
    model.fit(X, y)
    assert_array_equal(model.support_, np.arange(300))
    assert model.n_iter_ == 10
    assert model.score(X, y) > 0.95


# --- a network of the user's


def make_cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


@pytest.mark.parametrize("params", [{}, {"n_prototypes": 1}, {"n_members": 2}])
def test_feature_extractor(params):
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X / 16, y, train_size=500, random_state=0, stratify=y
    )
    cnn = make_cnn()
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    model = fitted(
        X_train, y_train, feature_extractor=cnn, scaling=None, max_epochs=30, **params
    )
    # Ten digits, 50 of each to learn from.
    assert model.score(X_test, y_test) > 0.9
    # The user's own copy is left alone.
    assert all(torch.equal(before[k], v) for k, v in cnn.state_dict().items())
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X_test), model.predict_proba(X_test))


def test_a_feature_extractor_that_does_not_fit():
    X, y = blobs()
    with pytest.raises(
        ValueError, match=r"feature_extractor must turn rows .* \(2, 2, 2\)"
    ):
        fitted(X, y, feature_extractor=nn.Unflatten(1, (2, 2)))


# --- rows see no copy of themselves


def test_a_row_does_not_see_its_class_by_the_copies_that_are_hidden():
    """Of equal rows of both classes nothing tells which is which."""
    X, y = np.zeros((90, 3)), np.repeat([0, 1], [60, 30])
    # Without waves: there would be nothing but constants to normalise.
    params = {"label_smoothing": 0.0, "n_frequencies": 0}
    model = fitted(X, y, max_epochs=40, **params)
    assert (model.predict(X) == 0).all()
    # What was learned is not better than the shares of the classes.
    best = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert model.loss_curve_[-1] > best - 0.02


def test_oversampled_copies_do_not_teach_the_memory_to_look_themselves_up():
    """Of noise there is nothing to learn, however often each row is there."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 5)), rng.integers(0, 2, 300)
    model = fitted(np.tile(X, (4, 1)), np.tile(y, 4), max_epochs=15, head="kernel")
    fresh = rng.normal(size=(2000, 5))
    confidence = model.predict_proba(fresh).max(axis=1)
    # Rows that could look themselves up would be sure of everything.
    assert np.mean(confidence) < 0.8


def test_no_warning_in_a_plain_fit():
    X, y = blobs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SAMNClassifier(random_state=0).fit(X, y).score(X, y) > 0.9


# --- what goes wrong


def test_weights_of_a_chunk_count_though_all_are_equal():
    X, y = blobs()
    # Chunks of one class each, the last of which counts more.
    heavy, light = (SAMNClassifier(random_state=0) for _ in range(2))
    for label in np.unique(y):
        rows, weight = X[y == label], 1 + 99.0 * (label == "c")
        heavy.partial_fit(rows, y[y == label], np.unique(y), np.full(len(rows), weight))
        light.partial_fit(rows, y[y == label], np.unique(y))
    stored = heavy.net_.module_.memory
    assert_allclose(stored.log_weight[stored.rows >= 80], np.log(100), rtol=1e-6)
    between = X[y != "c"].mean(axis=0) + X[y == "c"].mean(axis=0)
    share = [model.predict_proba(between[None] / 2)[0, 2] for model in (heavy, light)]
    assert share[0] > share[1]


def test_no_support_weights_of_the_fit_before():
    X, y = blobs()
    model = fitted(X, y, max_epochs=1)
    assert len(model.support_weights_) == len(model.support_)
    model.set_params(head="linear", n_attention_blocks=0).fit(X, y)
    assert not hasattr(model, "support_weights_")


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("predict", 1e20),
        ("predict_proba", 1e20),
        ("attention", 1e20),
        ("explain", 1e20),
        ("embed", 3e38),
    ],
)
def test_rows_too_far_out_for_float32(method, value):
    X, y = blobs()
    model = fitted(X, y, max_epochs=1, scaling=None)
    with pytest.raises(ValueError, match="prediction for row 1 is not finite"):
        getattr(model, method)(np.vstack([X[:1], np.full((1, X.shape[1]), value)]))


@pytest.mark.parametrize("kernel", ["linear", "poly"])
def test_several_blocks_of_an_unbounded_kernel_learn(kernel):
    X, y = make_classification(900, 8, n_informative=5, n_classes=3, random_state=0)
    model = SAMNClassifier(
        kernel=kernel, head="kernel", n_attention_blocks=3, random_state=0
    ).fit(X[:600], y[:600])
    # A quarter to a third is what they had without a norm; one block has 0.8 to 0.9.
    assert model.score(X[600:], y[600:]) > 0.65
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_the_distance_head_has_its_own_kernel():
    X, y = blobs()
    by_distance = fitted(X, y, head="distance", n_attention_blocks=1)
    by_rbf = fitted(X, y, head="kernel", kernel="rbf", n_attention_blocks=1)
    assert_array_equal(by_distance.predict_proba(X), by_rbf.predict_proba(X))


def test_partial_fit_goes_on_with_momentum():
    """The waves that a small fit leaves alone have none, and stay as they are."""
    X, y = blobs()
    params = {"optimizer": "sgd", "skorch_params": {"optimizer__momentum": 0.9}}
    model = fitted(X, y, **params)
    waves = model.net_.module_.state_dict()
    name = next(name for name in waves if name.endswith("frequency"))
    before = waves[name].clone()
    model.partial_fit(X, y)
    assert_array_equal(model.net_.module_.state_dict()[name], before)


@pytest.mark.parametrize(("pool_size", "share"), [("auto", 0.3), (60, 0.3 * 0.8**0.75)])
def test_copies_do_not_take_the_share_of_the_vote(pool_size, share):
    X, y = blobs(75)
    X, y = np.tile(X, (120, 1)), np.tile(y, 120)
    model = fitted(X, y, max_epochs=1, pool_size=pool_size)
    assert model.net_.module_.neighbor_weight == pytest.approx(share)


def test_entropy_of_an_even_attention_is_one():
    """Though no row looks at its own entry."""
    X, _ = blobs(5)
    even = fitted(X, [0, 1, 0, 1, 0], max_epochs=1, kernel="sigmoid", coef0=20.0)
    assert even.diagnostics_["attention_entropy"] == pytest.approx(1, abs=1e-4)


def test_losses_of_a_hold_out_stay_after_a_fit_without():
    X, y = blobs()
    model = fitted(X, y, early_stopping=True, max_epochs=3)
    scores = model.validation_scores_
    model.partial_fit(X, y)
    assert model.validation_scores_ == scores and len(scores) == 3


def test_explain_by_prototypes_without_their_head_is_the_attention():
    X, y = blobs()
    model = fitted(X, y, n_prototypes=1, head="linear")
    table = model.explain(X[:5], n_samples=3)
    weights, entries = model.attention(X[:5], top_k=3)
    assert_array_equal(table["weight"], weights.ravel())
    assert_array_equal(table["sample"], entries.ravel())


# --- what is forgotten and what is kept


def test_a_fit_does_not_know_the_fit_before(monkeypatch):
    X, y = blobs()
    monkeypatch.setattr(_samn, "MAX_BLOCK_ROWS", 100)
    model = fitted(X[:60], y[:60])
    assert model._module_args["n_attention_blocks"] == 1
    expected = fitted(X, y).predict_proba(X)
    assert_array_equal(model.fit(X, y).predict_proba(X), expected)


def test_partial_fit_keeps_the_pool_of_a_larger_fit():
    X, y = blobs()
    model = fitted(X, y).set_params(pool_size=20).partial_fit(X[:9], y[:9])
    assert_array_equal(np.sort(model.pool_), np.arange(9, 129))


def test_the_scores_start_from_the_weighted_prior():
    X, y = blobs(200)
    X, y = X[y != "c"], y[y != "c"]
    weight = {"a": 3, "b": 1, "c": 1}
    model = SAMNClassifier(class_weight=weight, lr=1e-12, random_state=0)
    model.partial_fit(X, y, classes=["a", "b", "c"])
    # A class that has yet to come starts like the rarest.
    share = np.array([3 * (y == "a").sum(), (y == "b").sum(), (y == "b").sum()])
    bias = model.net_.module_.bias.detach()
    assert_allclose(bias.exp(), share / share.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"label_smoothing": 0.3},
        {"margin": 20.0, "n_prototypes": 1},
        {"inner_weight": 1.0, "n_prototypes": 1},
        {"inter_weight": 1.0, "n_prototypes": 1},
    ],
    ids=lambda params: next(iter(params)),
)
def test_parameters_of_the_loss_reach_it(params):
    X, y = blobs()
    others = {k: v for k, v in params.items() if k == "n_prototypes"}
    plain, other = (
        fitted(X, y, max_epochs=1, **p).loss_curve_ for p in (others, params)
    )
    assert plain != other


def test_a_chunk_is_trained_on_whole():
    X, y = blobs()
    model = SAMNClassifier(early_stopping=True, random_state=0)
    model.partial_fit(X, y, classes=np.unique(y))
    assert_array_equal(np.sort(model.support_), np.arange(120))
    assert model.validation_scores_ is None


def test_a_small_chunk_with_a_column_of_many_levels():
    X, y = blobs(300)
    level = [str(i % 100) for i in range(300)]
    X = pd.DataFrame(X, columns=list("pqrs")).assign(level=level)
    model = SAMNClassifier(random_state=0).partial_fit(X, y, classes=["a", "b", "c"])
    first = [int(np.argmax(y == label)) for label in "abc"]
    model.partial_fit(X.iloc[first], y[first])
    assert model.n_samples_seen_ == 303


# --- the filling


def test_a_support_of_some_rows_is_in_order():
    X, y = blobs(300)
    support = fitted(X, y, support_size=40).support_
    assert len(support) == 40
    assert (np.diff(support) > 0).all()


def test_more_of_the_vote_the_more_of_the_rows_are_in_the_pool():
    X, y = two_columns_in_noise(1000)
    share = fitted(X, y, pool_size=500).net_.module_.neighbor_weight
    tuned = share - 0.3 * 0.5**0.75 / 3
    assert np.isclose(tuned, SHARES).any()


def test_the_vote_is_tuned_by_weighted_rows(monkeypatch):
    weights, choose = [], SampleNetwork.choose_share

    def spy(self, votes, **stored):
        weights.append(stored["weight"])
        return choose(self, votes, **stored)

    monkeypatch.setattr(SampleNetwork, "choose_share", spy)
    X, y = two_columns_in_noise(1000)
    fitted(X, y, class_weight={0: 1, 1: 3})
    ((heavy, light),) = ([w.max(), w.min()] for w in weights)
    assert heavy == pytest.approx(3 * light)


def test_columns_count_alike_before_a_network_of_the_users():
    """It may have no gradient by which they could be told apart."""
    X, y = two_columns_in_noise(900)
    extractor = torch.nn.Linear(12, 8)
    model = fitted(X, y, feature_extractor=extractor, neighbor_weight=0.3)
    assert (model.net_.module_.pool.scale == 1).all()
    assert model.net_.module_.neighbor_weight == 0.3
