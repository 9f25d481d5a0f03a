"""Neighbour targets against searches by brute force."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import make_blobs, make_moons
from sklearn.neighbors import NearestNeighbors

from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier, _neighbors
from sklearn_samn._neighbors import (
    distinct_rows,
    draw_subsets,
    make_search,
    nearest,
    nearest_in_subsets,
    nearest_of_few,
    nearest_others,
)


def nearest_by_hand(rows, query, own, n_neighbors, among=None):
    """Indices of the nearest rows, one distance after the other."""
    among = range(len(rows)) if among is None else among
    distances = [
        (sum((a - b) ** 2 for a, b in zip(rows[i], query, strict=True)), int(i))
        for i in among
        if i != own
    ]
    return [i for _, i in sorted(distances)[:n_neighbors]]


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(40, 3))


# ------------------------------------------------------------------- distinct rows


def distinct_by_hand(X, y):
    # 0.0 and -0.0 are equal and hash alike.
    seen, first, position = {}, [], []
    for i, (row, label) in enumerate(zip(X.tolist(), y.tolist(), strict=True)):
        key = (*row, label)
        if key not in seen:
            seen[key] = len(first)
            first.append(i)
        position.append(seen[key])
    return first, position


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(5))
def test_distinct_rows_are_those_of_a_dict(seed, dtype):
    rng = np.random.default_rng(seed)
    X = rng.choice([-1.5, -0.0, 0.0, 0.1], size=(200, 3)).astype(dtype)
    y = rng.integers(2, size=200)
    first, position = distinct_rows(X, y)
    expected_first, expected_position = distinct_by_hand(X, y)
    assert len(first) < 60
    assert first.tolist() == expected_first
    assert position.tolist() == expected_position


def test_signed_zeros_are_equal_and_labels_are_not():
    X = np.array([[0.0, 1], [-0.0, 1], [0.0, 1], [0.0, -1]])
    first, position = distinct_rows(X, np.array([0, 0, 1, 0]))
    assert first.tolist() == [0, 2, 3]
    assert position.tolist() == [0, 0, 1, 2]


def test_distinct_rows_leave_their_input_alone():
    X = np.array([[-0.0], [1.0]])
    distinct_rows(X, np.zeros(2))
    assert np.signbit(X).tolist() == [[True], [False]]


# ------------------------------------------------------------------ nearest others


@pytest.mark.parametrize("n_neighbors", [1, 4, 39])
def test_nearest_others_by_brute_force(rows, n_neighbors):
    search = make_search("exact", rows)
    found = nearest_others(search, rows, np.arange(40), n_neighbors)
    expected = [nearest_by_hand(rows, rows[i], i, n_neighbors) for i in range(40)]
    assert found.tolist() == expected


def test_a_tree_where_it_saves_distances():
    """Many rows near a line in 20 dimensions, and as many that fill them."""
    rng = np.random.default_rng(0)
    everywhere = rng.standard_normal((50_000, 20))
    line = np.linspace(0, 1e4, 50_000)[:, None] + everywhere
    assert make_search("exact", line).algorithm == "kd_tree"
    assert make_search("exact", line[:49_999]).algorithm == "auto"
    assert make_search("exact", everywhere).algorithm == "auto"


def test_queries_from_elsewhere_have_no_own_row(rows):
    search = make_search("exact", rows)
    queries = rows[:5]
    found = nearest_others(search, queries, np.full(5, -1), 3)
    expected = [nearest_by_hand(rows, query, None, 3) for query in queries]
    assert found.tolist() == expected
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_rows_in_the_search_and_from_elsewhere_in_one_call(rows):
    search = make_search("exact", rows)
    found = nearest_others(search, rows[[7, 8, 9]], np.array([7, -1, 9]), 2)
    expected = [
        nearest_by_hand(rows, rows[query], own, 2)
        for query, own in [(7, 7), (8, None), (9, 9)]
    ]
    assert found.tolist() == expected


def test_equal_rows_of_another_label_are_neighbours_at_distance_zero():
    X = np.array([[0.0], [0.0], [1.0], [1.0], [5.0]])
    y = np.array([0, 1, 0, 0, 1])
    first, position = distinct_rows(X, y)
    # Row 3 is a copy of row 2 and no neighbour of it.
    assert first.tolist() == [0, 1, 2, 4]
    reference = X[first]
    found = nearest_others(make_search("exact", reference), reference, np.arange(4), 1)
    assert first[found[:2, 0]].tolist() == [1, 0]
    assert first[found[2, 0]] in (0, 1)
    assert first[found[3, 0]] == 2
    assert position[3] == position[2]


def test_more_equal_rows_than_neighbours():
    X, own = np.zeros((20, 2)), np.arange(20)
    found = nearest_others(make_search("exact", X), X, own, 3)
    assert found.shape == (20, 3)
    assert (found != own[:, None]).all()
    assert all(len(set(row)) == 3 for row in found.tolist())
    # Some rows are not among their own K + 1, or this test shows nothing.
    among = NearestNeighbors(n_neighbors=4).fit(X).kneighbors(X)[1]
    assert (among != own[:, None]).all(axis=1).any()


def test_float32(rows):
    rows = rows.astype(np.float32)
    found = nearest_others(make_search("exact", rows), rows, np.arange(40), 5)
    exact = rows.astype(float)
    expected = [nearest_by_hand(exact, exact[i], i, 5) for i in range(40)]
    assert found.tolist() == expected


# -------------------------------------------------------------------- the search


class Counting:
    """The least an object needs: fit and kneighbors; no scikit-learn class."""

    calls = []  # shared: the object that is searched is a clone

    def __init__(self, sign):
        self.sign = sign

    def fit(self, X):
        self.rows_ = X
        return self

    def kneighbors(self, X, n_neighbors, return_distance):
        assert return_distance is False
        self.calls.append((len(X), n_neighbors))
        distances = self.sign * ((X[:, None] - self.rows_[None]) ** 2).sum(axis=2)
        return distances.argsort(axis=1)[:, :n_neighbors].tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_an_object_of_ones_own(rows, sign, monkeypatch):
    monkeypatch.setattr(Counting, "calls", [])
    mine = Counting(sign)
    search = make_search(mine, rows)
    found = nearest_others(search, rows, np.arange(40), 3)
    assert search is not mine
    assert vars(mine) == {"sign": sign}
    assert Counting.calls == [(40, 4)]
    # The search's own order counts: with the sign turned, the furthest rows.
    if sign == 1:
        expected = [nearest_by_hand(rows, rows[i], i, 3) for i in range(40)]
    else:
        expected = [nearest_by_hand(rows, rows[i], i, 39)[::-1][:3] for i in range(40)]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    "found, match",
    [
        (np.full((40, 4), -1), r"gave int64 in the shape \(40, 4\), of at least -1"),
        (np.zeros((2, 40, 4), int), r"gave int64 in the shape \(2, 40, 4\)"),
        (np.zeros((40, 3), int), r"in the shape \(40, 4\), but gave .* \(40, 3\)"),
        (np.zeros((40, 4)), "but gave float64"),
    ],
)
def test_an_object_that_finds_no_rows(rows, found, match, monkeypatch):
    monkeypatch.setattr(Counting, "kneighbors", lambda *args, **params: found)
    search = make_search(Counting(1), rows)
    with pytest.raises(ValueError, match=rf"neighbors=.*Counting.*{match}"):
        nearest_others(search, rows, np.arange(40), 3)


@pytest.mark.parametrize(
    "found, match",
    [
        (np.tile(np.arange(37, 41), (40, 1)), "gave the index 40, but there are 40"),
        (np.repeat(np.arange(40)[:, None], 4, axis=1), "must give each row once"),
    ],
)
def test_an_object_that_finds_rows_that_are_none(rows, found, match, monkeypatch):
    monkeypatch.setattr(Counting, "kneighbors", lambda *args, **params: found)
    search = make_search(Counting(1), rows)
    with pytest.raises(ValueError, match=rf"neighbors=.*Counting.*{match}"):
        nearest_of_few(search, rows, np.arange(40), 3, len(rows))


def test_indices_of_any_integer_dtype(rows, monkeypatch):
    found = nearest_others(make_search("exact", rows), rows, np.full(40, -1), 4)
    as_given = found.astype(np.uint64)
    monkeypatch.setattr(Counting, "kneighbors", lambda *args, **params: as_given)
    same = nearest(make_search(Counting(1), rows), rows, 4)
    assert same.dtype == np.intp
    assert same.tolist() == found.tolist()


def test_an_estimator_is_cloned_with_its_parameters():
    mine = NearestNeighbors(metric="chebyshev")
    X = np.array([[0.0, 0.0], [2.0, 2.0], [2.5, 0.0]])
    found = nearest_others(make_search(mine, X), X, np.arange(3), 1)
    assert not hasattr(mine, "n_samples_fit_")
    # Chebyshev distances from the first row are 2 and 2.5, Euclidean 2.83 and 2.5.
    assert found[0, 0] == 1
    found = nearest_others(make_search("exact", X), X, np.arange(3), 1)
    assert found[0, 0] == 2


def test_n_jobs_reaches_the_search(rows):
    assert make_search("exact", rows, n_jobs=2).n_jobs == 2


# -------------------------------------------------------------------- Algorithm 1


def test_one_subset_is_drawn_without_replacement():
    drawn = draw_subsets(50, 1, 20, np.random.default_rng(0))
    assert len(drawn) == 20
    assert (np.diff(drawn) > 0).all()
    assert drawn.min() >= 0 and drawn.max() < 50


def test_subsets_are_drawn_one_by_one():
    drawn = draw_subsets(50, 4, 20, np.random.default_rng(0))
    # More than one subset holds, fewer than four without a common row would.
    assert 20 < len(drawn) < 50
    assert (np.diff(drawn) > 0).all()


def test_subsets_as_large_as_the_data_are_the_data():
    drawn = draw_subsets(7, 1, 100, np.random.default_rng(0))
    assert drawn.tolist() == list(range(7))


def test_every_row_is_drawn_about_as_often():
    rng = np.random.default_rng(0)
    draws = [draw_subsets(10, 1, 3, rng) for _ in range(2000)]
    counts = np.bincount(np.concatenate(draws), minlength=10)
    # 600 expected each; the standard deviation is 20.5.
    assert abs(counts - 600).max() < 5 * 20.5


def test_algorithm_1_by_brute_force_over_the_same_draws(rows, monkeypatch):
    monkeypatch.setattr(_neighbors, "BLOCK_SIZE", 8)
    queries = np.vstack([rows[:20], rows[:2] + 0.01])
    own = np.array([*range(20), -1, -1])
    found = nearest_in_subsets(
        rows,
        queries,
        own,
        3,
        n_subsets=2,
        subset_size=6,
        rng=np.random.default_rng(5),
    )
    rng, expected, draws = np.random.default_rng(5), [], []
    for start in (0, 8, 16):
        drawn = draw_subsets(40, 2, 6, rng)
        draws.append(set(drawn.tolist()))
        for query, index in zip(
            queries[start : start + 8], own[start : start + 8], strict=True
        ):
            expected.append(nearest_by_hand(rows, query, index, 3, among=drawn))
    assert found.tolist() == expected
    # Both kinds of query are there: some that drew their own row, some that did not.
    drew_itself = {i in draws[i // 8] for i in range(20)}
    assert drew_itself == {True, False}
    # Blocks draw anew.
    assert draws[0] != draws[1] != draws[2]


def test_one_block_shares_its_draws(rows):
    found = nearest_in_subsets(
        rows,
        rows,
        np.arange(40),
        2,
        n_subsets=1,
        subset_size=4,
        rng=np.random.default_rng(0),
    )
    assert len(np.unique(found)) <= 4


def test_algorithm_1_over_all_rows_is_the_exact_search(rows):
    found = nearest_in_subsets(
        rows,
        rows,
        np.arange(40),
        5,
        n_subsets=1,
        subset_size=40,
        rng=np.random.default_rng(0),
    )
    exact = nearest_others(make_search("exact", rows), rows, np.arange(40), 5)
    assert found.tolist() == exact.tolist()


def test_algorithm_1_in_float32(rows):
    rows = rows.astype(np.float32)
    found = nearest_in_subsets(
        rows,
        rows,
        np.arange(40),
        5,
        n_subsets=1,
        subset_size=40,
        rng=np.random.default_rng(0),
    )
    exact = rows.astype(float)
    expected = [nearest_by_hand(exact, exact[i], i, 5) for i in range(40)]
    assert found.tolist() == expected


def test_subsets_of_equal_rows_never_hold_the_own_row():
    X, own = np.ones((30, 2)), np.arange(30)
    found = nearest_in_subsets(
        X, X, own, 3, n_subsets=3, subset_size=10, rng=np.random.default_rng(0)
    )
    assert (found != own[:, None]).all()
    assert all(len(set(row)) == 3 for row in found.tolist())


def test_subsets_too_small(rows):
    def search(subset_size):
        return nearest_in_subsets(
            rows,
            rows,
            np.arange(40),
            5,
            n_subsets=1,
            subset_size=subset_size,
            rng=np.random.default_rng(0),
        )

    message = (
        r"n_subsets=1 subsets of subset_size=5 hold 5 different rows, fewer than "
        r"n_neighbors \+ 1 = 6"
    )
    with pytest.raises(ValueError, match=message):
        search(5)
    assert search(6).shape == (40, 5)


# ------------------------------------------------------- the vote of the nearest rows

NETWORKS = [KNNSeq2SeqClassifier, MemNetKNNClassifier]


def share_of_class_1(X, y, weight, x):
    """Of the 20 rows nearest to x, all weights but for the prior's twentieth."""
    distances = np.linalg.norm(X - x, axis=1)
    nearest = np.argsort(distances)[:20]
    d = distances[nearest]
    nearness = np.exp((d.min() - d) / (0.15 * d.mean()))
    nearness = (nearness - nearness.min() + 1e-6) * weight[nearest]
    vote = nearness @ y[nearest] / nearness.sum()
    return 0.95 * vote + 0.05 * weight @ y / weight.sum()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("out_of_core", [False, True])
def test_the_vote_of_the_nearest_by_hand(network, out_of_core):
    X, y = make_moons(150, noise=0.3, random_state=0)
    weight = np.random.default_rng(0).integers(1, 4, 100).astype(float)
    params = {"dtype": "float64", "scaling": None, "max_epochs": 2, "random_state": 0}
    params["out_of_core"] = out_of_core
    alone, voted = (
        network(neighbor_weight=w, **params)
        .fit(X[:100], y[:100], sample_weight=weight)
        .predict_proba(X[100:])
        for w in (0.0, 0.3)
    )
    rows = X[:100], y[:100], weight
    votes = np.array([share_of_class_1(*rows, x) for x in X[100:]])
    expected = alone**0.7 * (np.column_stack([1 - votes, votes]) + 1e-6) ** 0.3
    expected **= 1 / min(np.sqrt(best_temperature(*rows)), 1.4)
    assert_allclose(voted, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)


def best_temperature(X, y, weight):
    """That at which the votes of the others on each row are worth most."""
    prior, votes = weight @ y / weight.sum(), []
    for row in range(len(X)):
        others = np.arange(len(X)) != row
        vote = share_of_class_1(X[others], y[others], weight[others], X[row])
        # The prior remains that of all.
        moved = prior - weight[others] @ y[others] / weight[others].sum()
        votes.append(vote + 0.05 * moved)
    odds = np.log(np.array(votes) + 1e-6) - np.log(1 - np.array(votes) + 1e-6)
    tried = 2 ** np.linspace(-2, 2, 33)
    losses = [weight @ np.log1p(np.exp(np.where(y, -odds, odds) / t)) for t in tried]
    return tried[np.argmin(losses)]


@pytest.mark.parametrize("network", NETWORKS)
def test_probabilities_are_as_sure_as_the_votes_should_have_been(network):
    """Labels of noise make them careful, easy ones sure; no decision changes."""
    X, y = make_blobs(300, centers=[[-4, 0], [4, 0]], random_state=0)
    noise = np.random.default_rng(0).integers(2, size=300)
    params = {"max_epochs": 2, "random_state": 0}
    easy, noisy = (network(**params).fit(X, labels) for labels in (y, noise))
    assert easy._vote_temperature < 0.8
    assert noisy._vote_temperature == 1.4
    found, before = noisy.predict_proba(X), noisy._vote_temperature
    noisy._vote_temperature = 1.0
    untempered = noisy.predict_proba(X)
    assert (found.argmax(axis=1) == untempered.argmax(axis=1)).all()
    expected = untempered ** (1 / before)
    assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_vote_counts_where_the_network_has_not_learned(network):
    X, y = make_moons(500, noise=0.1, random_state=0)
    alone, voted = (
        network(neighbor_weight=w, max_epochs=1, random_state=0)
        .fit(X[:300], y[:300])
        .score(X[300:], y[300:])
        for w in (0.0, 0.9)
    )
    assert alone < 0.95 < voted


@pytest.mark.parametrize("network", NETWORKS)
def test_by_default_few_rows_vote_and_many_do_not(network):
    model = network()
    assert model._neighbor_share(10_000) == 0.4
    assert model._neighbor_share(10_001) == 0
    assert network(neighbor_weight=0.2)._neighbor_share(10_001) == 0.2


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_a_factor_of_all_weights_does_not_count(network, scale):
    X, y = make_moons(150, noise=0.3, random_state=0)
    weight = np.random.default_rng(0).integers(1, 4, 150).astype(float)
    params = {"max_epochs": 1, "random_state": 0, "out_of_core": True}
    expected, found = (
        network(**params).fit(X, y, sample_weight=w).predict_proba(X)
        for w in (weight, scale * weight)
    )
    assert_allclose(found, expected, atol=1e-6)


def test_rows_vote_by_predicted_vectors_alone():
    X, y = make_moons(100, noise=0.3, random_state=0)
    params = {"output": "vectors", "max_epochs": 1, "random_state": 0}
    default, voted = (
        KNNSeq2SeqClassifier(neighbor_weight=w, **params).fit(X, y).predict_proba(X)
        for w in ("auto", 0.5)
    )
    assert (default == voted).all()


def test_too_few_others_come_round_again():
    X = np.array([[0.0], [1.0], [3.0]])
    found = nearest_of_few(make_search("exact", X), X, np.arange(3), 5, 3)
    assert found.tolist() == [[1, 2, 1, 2, 1], [0, 2, 0, 2, 0], [1, 0, 1, 0, 1]]


def test_jobs_of_the_search_in_subsets(rows, monkeypatch):
    jobs = []

    class Spy(NearestNeighbors):
        def fit(self, X):
            jobs.append(self.n_jobs)
            return super().fit(X)

    monkeypatch.setattr(_neighbors, "NearestNeighbors", Spy)
    rng, own = np.random.default_rng(0), np.arange(len(rows))
    nearest_in_subsets(
        rows, rows, own, 3, n_subsets=2, subset_size=40, rng=rng, n_jobs=2
    )
    assert set(jobs) == {2}
