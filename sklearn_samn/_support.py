"""Which stored rows matter: a sample of them that keeps what the memory says."""

import numpy as np


def sample_by_importance(importance, n_samples, rng):
    """Rows drawn with probabilities as near to their importance as can be.

    Drawn in equal steps along the sum of the probabilities, so that each stretch of
    rows, a class of rows in order, say, has as many as its probabilities add up to.

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
