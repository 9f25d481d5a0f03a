"""Neighbour sequences, the targets of the neighbour networks.

The search itself is scikit-learn's, or that of any object with ``kneighbors``. A row
never sees itself: rows that are equal in features and label count once, so a
copy of a row is no neighbour of it either.
"""

import numpy as np
from sklearn.base import clone
from sklearn.neighbors import KDTree, NearestNeighbors

# Rows that share the draws of Algorithm 1.
BLOCK_SIZE = 1024
# From MIN_TREE_ROWS rows on a k-d tree is tried on N_TRIALS queries. It pays where it
# computes less than MAX_TREE_SHARE of the distances: one costs it some forty times more
# than in a product of matrices.
MIN_TREE_ROWS, N_TRIALS, MAX_TREE_SHARE = 50_000, 200, 1 / 40


def distinct_rows(X, y):
    """Indices of the first of each set of equal (row, label) pairs.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    y : ndarray of shape (n_samples,)
        Labels.

    Returns
    -------
    first : ndarray of shape (n_distinct,)
        Ascending indices of the distinct rows.
    position : ndarray of shape (n_samples,)
        For each row, the position of its equal in ``first``.

    Examples
    --------
    >>> first, position = distinct_rows(np.array([[1.0], [2.0], [1.0]]), np.zeros(3))
    >>> first.tolist(), position.tolist()
    ([0, 1], [0, 1, 0])
    """
    keys = _row_keys([*X.T, y])
    _, first, position = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[position.ravel()]


def _row_keys(columns):
    """A number of 64 bits for each row, equal for equal rows.

    Sorting these takes a tenth of the memory of sorting the rows; that two of a
    million different rows share one has a probability of 3e-8.
    """
    keys = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        # Adding zero makes -0.0 and 0.0 the same bits.
        bits = (column + 0.0).astype(np.float64).view(np.uint64)
        keys ^= bits + np.uint64(0x9E3779B97F4A7C15) + (keys << 6) + (keys >> 2)
        # The finalizer of splitmix64: every bit depends on every other.
        keys = (keys ^ (keys >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> 27)) * np.uint64(0x94D049BB133111EB)
        keys ^= keys >> 31
    return keys


def make_lookup(X, y):
    """A function that finds the equals of (row, label) pairs among distinct ones.

    Parameters
    ----------
    X : ndarray of shape (n_distinct, n_features)
        Distinct rows.
    y : ndarray of shape (n_distinct,)
        Labels.

    Returns
    -------
    callable
        From rows and labels of the same dtypes to the index of the equal of each, -1
        where there is none.

    Examples
    --------
    >>> look_up = make_lookup(np.array([[3.0], [1.0]]), np.zeros(2))
    >>> look_up(np.array([[1.0], [2.0], [3.0]]), np.zeros(3)).tolist()
    [1, -1, 0]
    """
    keys = _row_keys([*X.T, y])
    order = np.argsort(keys)
    keys = keys[order]

    def look_up(X, y):
        wanted = _row_keys([*X.T, y])
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[place] == wanted, order[place], -1)

    return look_up


def make_search(neighbors, X, n_jobs=None):
    """A fitted object with ``kneighbors`` over the rows of X.

    Parameters
    ----------
    neighbors : "exact", "subsets" or object with ``fit`` and ``kneighbors``
        An object is cloned; a string means :class:`sklearn.neighbors.NearestNeighbors`,
        which is exact.
    X : ndarray of shape (n_samples, n_features)
        Rows to search.
    n_jobs : int or None, default=None
        Of scikit-learn's search.

    Returns
    -------
    object
        The fitted search.
    """
    if isinstance(neighbors, str):
        return NearestNeighbors(algorithm=_algorithm(X), n_jobs=n_jobs).fit(X)
    search = clone(neighbors, safe=False)
    search.fit(X)
    return search


def _algorithm(X):
    """A tree for many rows near a few dimensions, else what scikit-learn takes."""
    if len(X) < MIN_TREE_ROWS:
        return "auto"
    tree, queries = KDTree(X), X[:: len(X) // N_TRIALS]
    tree.query(queries, k=5)
    share = tree.get_n_calls() / len(queries) / len(X)
    return "kd_tree" if share < MAX_TREE_SHARE else "auto"


def nearest(search, X, n_neighbors):
    """Indices of the rows nearest to each row of X, (n_queries, n_neighbors).

    Raises a ValueError where an object of the user's gives anything else.
    """
    found = search.kneighbors(X, n_neighbors=n_neighbors, return_distance=False)
    found = np.asarray(found)
    wanted = len(X), n_neighbors
    if found.shape != wanted or found.dtype.kind not in "iu" or (found < 0).any():
        raise ValueError(
            f"neighbors={search!r}: kneighbors(X, n_neighbors={n_neighbors}, "
            f"return_distance=False) must give indices from 0 on in the shape "
            f"{wanted}, but gave {found.dtype} in the shape {found.shape}, of at least "
            f"{found.min(initial=0)}."
        )
    return found.astype(np.intp, copy=False)


def nearest_others(search, X, own, n_neighbors):
    """Indices of each row's nearest rows, its own excluded.

    Parameters
    ----------
    search : object with ``kneighbors``
        Fitted search.
    X : ndarray of shape (n_queries, n_features)
        Queries.
    own : ndarray of shape (n_queries,)
        Index of each query in the search; -1 where it is not there.
    n_neighbors : int
        K.

    Returns
    -------
    ndarray of shape (n_queries, n_neighbors)
        Indices, nearest first.
    """
    found = nearest(search, X, n_neighbors + 1)
    keep = found != own[:, None]
    # A row with many equals may not be among its own K + 1: then the last one goes.
    keep[keep.all(axis=1), -1] = False
    if (~keep).sum() != len(X):
        raise ValueError(
            f"neighbors={search!r}: kneighbors must give each row once, but gave one "
            f"twice among the {n_neighbors + 1} nearest of a row."
        )
    return found[keep].reshape(len(X), n_neighbors)


def nearest_of_few(search, X, own, n_neighbors, n_rows):
    """As :func:`nearest_others`, among ``n_rows`` rows; too few come round again."""
    n_others = min(n_neighbors, n_rows - 1)
    found = nearest_others(search, X, own, n_others)
    if found.max(initial=0) >= n_rows:
        raise ValueError(
            f"neighbors={search!r}: kneighbors gave the index {found.max()}, but there "
            f"are {n_rows} rows, numbered from 0."
        )
    return found[:, np.arange(n_neighbors) % n_others]


def draw_subsets(n_rows, n_subsets, subset_size, rng):
    """The rows of R random subsets, each drawn without replacement, ascending.

    Examples
    --------
    >>> draw_subsets(4, 3, 4, np.random.default_rng(0)).tolist()
    [0, 1, 2, 3]
    """
    size = min(subset_size, n_rows)
    draws = [rng.choice(n_rows, size, replace=False) for _ in range(n_subsets)]
    return np.unique(np.concatenate(draws))


def nearest_in_subsets(
    rows, X, own, n_neighbors, *, n_subsets, subset_size, rng, n_jobs=None
):
    """Algorithm 1: each row's nearest others among R random subsets.

    A row met in several subsets counts once, so keeping the K nearest seen so far
    equals one search in the union of the subsets. A block of queries shares its draws;
    the next block draws anew.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Rows the subsets are drawn from.
    X, own, n_neighbors
        As in :func:`nearest_others`.
    n_subsets, subset_size : int
        R and the size of a subset.
    rng : numpy.random.Generator
        Source of the draws.
    n_jobs : int or None, default=None
        Of scikit-learn's search.

    Returns
    -------
    ndarray of shape (n_queries, n_neighbors)
        Indices into ``rows``, nearest first.

    Raises
    ------
    ValueError
        If the subsets hold fewer than K + 1 rows, though there are more.
    """
    nearest = np.empty((len(X), n_neighbors), dtype=np.intp)
    for start in range(0, len(X), BLOCK_SIZE):
        block = slice(start, start + BLOCK_SIZE)
        drawn = draw_subsets(len(rows), n_subsets, subset_size, rng)
        if len(drawn) <= min(n_neighbors, len(rows) - 1):
            raise ValueError(
                f"n_subsets={n_subsets} subsets of subset_size={subset_size} hold "
                f"{len(drawn)} different rows, fewer than n_neighbors + 1 = "
                f"{n_neighbors + 1}; raise one of the two or lower n_neighbors."
            )
        search = NearestNeighbors(algorithm="brute", n_jobs=n_jobs).fit(rows[drawn])
        place = np.searchsorted(drawn, own[block]).clip(max=len(drawn) - 1)
        place = np.where(drawn[place] == own[block], place, -1)
        found = nearest_of_few(search, X[block], place, n_neighbors, len(drawn))
        nearest[block] = drawn[found]
    return nearest
