"""Which stored rows matter: a sample of them that keeps what the memory says."""

from bisect import bisect_left

import numpy as np


def sample_by_importance(importance, n_samples, rng):
    """Rows drawn with probabilities as near to their importance as can be.

    Systematic sampling with unequal probabilities: any run of consecutive rows, such as
    a class of rows in order, gets its expected number, to within one.

    Parameters
    ----------
    importance : ndarray of shape (n_rows,)
        Above 0.
    n_samples : int
        How many to draw, fewer than n_rows.
    rng : numpy.random.Generator or RandomState
        Draws where the first step begins.

    Returns
    -------
    rows : ndarray of shape (n_samples,)
        Positions, ascending.
    weights : ndarray of shape (n_samples,)
        One over the probability, times n_samples / n_rows: sums over the sample with
        these weights are, on the mean, those over all rows but for a constant.

    References
    ----------
    .. [1] W. G. Madow, "On the theory of systematic sampling, II", Annals of
       Mathematical Statistics 20(3), 1949.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_samn._support import sample_by_importance
    >>> rng = np.random.default_rng(0)
    >>> rows, weights = sample_by_importance(np.array([9.0, 1.0, 1.0]), 2, rng)
    >>> rows.tolist(), weights.round(2).tolist()
    ([0, 1], [0.67, 1.33])
    """
    probability = _probabilities(importance, n_samples)
    steps = np.cumsum(probability)
    # The sum itself is only as exact as its roundings.
    steps[-1] = n_samples
    rows = np.flatnonzero(np.diff(np.floor(steps + rng.uniform()), prepend=0))
    return rows, n_samples / len(importance) / probability[rows]


def raise_rare_classes(importance, classes, n_samples):
    """Importance raised where it must be for each class to have two rows.

    Parameters
    ----------
    importance : ndarray of shape (n_rows,)
        Above 0.
    classes : ndarray of shape (n_rows,)
        Class code of each.
    n_samples : int
        Rows that :func:`sample_by_importance` will draw.

    Returns
    -------
    ndarray of shape (n_rows,)
        The importance.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_samn._support import raise_rare_classes
    >>> raise_rare_classes(np.ones(6), np.array([0, 0, 0, 0, 0, 1]), 4).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 3.0]
    """
    due = 2 * importance.sum() / n_samples
    return importance * np.maximum(due / np.bincount(classes, importance)[classes], 1)


def sample_size(moves, importance, error):
    """The fewest rows with which what a memory says errs by no more than that.

    Parameters
    ----------
    moves : ndarray of shape (n_rows,)
        Root mean square, over those who ask the memory, of the derivative of its answer
        with respect to the logarithm of the weight of each row.
    importance : ndarray of shape (n_rows,)
        By which they are drawn, above 0.
    error : float
        Expected root mean square of the change in the answers when
        :func:`sample_by_importance` draws, to first order and as if each row were drawn
        by itself.

    Returns
    -------
    int
        At most n_rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_samn._support import sample_size
    >>> moves = np.full(1000, 1e-3)
    >>> [sample_size(moves, moves, error) for error in (0.1, 0.05, 0.01)]
    [91, 286, 910]
    """

    def suffices(n_samples):
        probability = _probabilities(importance, n_samples)
        variance = moves**2 * (1 - probability) / probability
        return np.sqrt(variance.sum()) <= error

    return bisect_left(range(1, len(moves)), True, key=suffices) + 1


def _probabilities(importance, n_samples):
    """min(1, c * importance), with the c for which they sum to n_samples."""
    certain = np.zeros(len(importance), dtype=bool)
    while True:
        rest = n_samples - certain.sum()
        probability = importance * (rest / importance[~certain].sum())
        probability[certain] = 1
        above = probability > 1
        if not above.any():
            return probability
        certain |= above
