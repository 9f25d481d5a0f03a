"""Scaling of columns of numbers, there and back."""

from functools import cached_property

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import QuantileTransformer
from sklearn.utils import check_random_state, gen_batches

from ._tables import as_numbers

# Scaled values end up between -CLIP and CLIP.
CLIP = 3.0
# The share of a normal distribution beyond one of them.
BEYOND = ndtr(-CLIP)
# A scaled value that is as good as infinite, and whose square fits into float32.
FAR_OUT = 1e15
# Rows that are scaled, and values whose medians are taken, at a time.
BLOCK_ROWS, BLOCK_VALUES = 4096, 2**20
# Rows that the quantiles are taken from, at most.
MAX_QUANTILE_ROWS = 100_000
# A column is lopsided where from its median to one decile it is so many times as far as
# to the other.
LOPSIDED = 4


class NumericScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Scale columns of numbers and put a neutral value where one is missing.

    Parameters
    ----------
    scaling : {"robust", "mixed", "quantile"} or None, default="robust"
        "robust": centre at the median, divide by the interquartile range, clip
        smoothly. "quantile": to a normal distribution, by rank; columns of up to two
        different values are scaled robustly. "mixed": so are all others, too, but for
        lopsided ones. None leaves the numbers as they are.
    dtype : {"float32", "float64"}, default="float32"
        Of the result.
    random_state : int, RandomState instance or None, default=None
        Draws the rows for the quantiles of a long table.
    within_reach : sequence of labels, default=()
        Classes half of whose rows are to be within three scales of the centre of each
        column, for what is scaled further out cannot be scaled back: the scale is wider
        where they are not. Needs ``y`` in ``fit``.

    Attributes
    ----------
    center_, scale_ : ndarray of shape (n_features,)
        Median and interquartile range of each column, the latter as ``within_reach``
        widens it.
    curved_ : ndarray of bool of shape (n_features,)
        Columns that go by quantiles.
    quantiles_ : QuantileTransformer or None
        Fitted on those columns after they were scaled robustly.
    n_features_in_ : int
        Number of columns.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1], [2], [np.nan]])
    >>> NumericScaler(dtype="float64").fit_transform(X).round(3).tolist()
    [[-0.949], [0.0], [0.949], [0.0]]
    """

    def __init__(
        self, scaling="robust", dtype="float32", random_state=None, within_reach=()
    ):
        self.scaling = scaling
        self.dtype = dtype
        self.random_state = random_state
        self.within_reach = within_reach

    def fit(self, X, y=None):
        """Take medians, ranges and quantiles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN where a value is missing.
        y : array-like of shape (n_samples,), default=None
            Their labels, for ``within_reach``.

        Returns
        -------
        self : object
            The fitted transformer.
        """
        X = as_numbers(X)
        self.n_features_in_ = X.shape[1]
        self.center_, self.scale_ = robust_statistics(X)
        for label in self.within_reach:
            rows = X[np.asarray(y) == label]
            reach = _median_distances(rows, self.center_) / CLIP
            self.scale_ = np.maximum(self.scale_, reach)
        self.curved_ = np.zeros(X.shape[1], dtype=bool)
        if self.scaling == "quantile":
            self.curved_ = ~_has_two_values(X)
        elif self.scaling == "mixed":
            self.curved_ = is_lopsided(X)
        self.quantiles_ = self._fit_quantiles(X) if self.curved_.any() else None
        vars(self).pop("_knots", None)
        return self

    @cached_property
    def _knots(self):
        """Of each column of quantiles what they interpolate between."""
        shares = self.quantiles_.references_
        return [quantile_knots(q, shares) for q in self.quantiles_.quantiles_.T]

    def __getstate__(self):
        # Made again when needed: as large as the quantiles themselves.
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_knots"}

    def _fit_quantiles(self, X):
        if len(X) > MAX_QUANTILE_ROWS:
            # Here, not in QuantileTransformer, which gets a copy of what it draws from.
            rng = check_random_state(self.random_state)
            X = X[rng.choice(len(X), MAX_QUANTILE_ROWS, replace=False)]
        quantiles = QuantileTransformer(
            output_distribution="normal",
            n_quantiles=min(max(min(1000, len(X) // 30), 10), len(X)),
            subsample=None,
            copy=False,
        )
        # Clipped, or one outlier would stretch the last quantile over all others.
        statistics = self.center_[self.curved_], self.scale_[self.curved_]
        clipped = robust_clip(X[:, self.curved_], statistics, np.float64)
        # As below: sorted columns have their quantiles in a third of the time.
        clipped.sort(axis=0)
        return quantiles.fit(clipped)

    def transform(self, X):
        """Scale rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Scaled rows, without NaN.
        """
        X = as_numbers(X)
        dtype = np.dtype(self.dtype)
        if self.scaling is None:
            Z, neutral = X.astype(dtype, order="C"), self.center_
        else:
            Z, neutral = self._scaled(X, dtype), np.zeros(X.shape[1])
        missing = np.isnan(Z)
        if missing.any():
            np.copyto(Z, neutral.astype(dtype), where=missing)
        return Z

    def _scaled(self, X, dtype):
        statistics = self.center_, self.scale_
        exact = dtype if self.quantiles_ is None else np.float64
        # Row by row in memory, whatever the order of X (a frame's is by column): the
        # last bits of a matrix product depend on it.
        Z = np.empty(X.shape, dtype)
        # Block by block: what is in between would be several times the table.
        # Not gen_batches, whose validation takes as long as the scaling of a few rows.
        for start in range(0, len(X), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            block = robust_clip(X[rows], statistics, exact)
            if self.quantiles_ is not None:
                block[:, self.curved_] = self._normal_scores(block[:, self.curved_])
            Z[rows] = block
        return Z

    def _normal_scores(self, X):
        """Normal scores of the shares of the rows that are below.

        Values tied with the first or the last quantile have the mean of their shares,
        as all others; QuantileTransformer puts them 5.2 from the centre.
        """
        shares = np.empty_like(X)
        for column, knots in enumerate(self._knots):
            # In ascending order, in which np.interp seeks next to the value before.
            order = X[:, column].argsort()
            shares[order, column] = np.interp(X[order, column], *knots)
        return ndtri(BEYOND + (1 - 2 * BEYOND) * shares)

    def inverse_transform(self, X):
        """Rows in the units they came in.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Scaled rows.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Rows; what reaches the clip maps far out, finite.
        """
        X = np.asarray(X, dtype=float)
        if self.scaling is None:
            return X
        if self.quantiles_ is not None:
            X = X.copy()
            X[:, self.curved_] = self._from_normal_scores(X[:, self.curved_])
        return undo_robust_clip(X, (self.center_, self.scale_))

    def _from_normal_scores(self, Z):
        """The way back; even shares need no search."""
        quantiles = self.quantiles_.quantiles_
        last, n_columns = len(quantiles) - 1, Z.shape[1]
        shares = (ndtr(Z) - BEYOND) / (1 - 2 * BEYOND)
        shares.clip(0, 1, out=shares)
        shares *= last
        # Of NaN, which stays NaN, the last.
        below = np.fmin(shares, last - 1).astype(np.intp)
        shares -= below
        below *= n_columns
        below += np.arange(n_columns)
        low, high = quantiles.take(below), quantiles.take(below + n_columns)
        return low + shares * (high - low)


def quantile_knots(quantiles, shares):
    """The curve of a QuantileTransformer through the quantiles of a column.

    A value that is several quantiles at once has the mean of their shares, its
    neighbours on either side the first and the last: what QuantileTransformer finds by
    interpolating in both directions, at twice the time.

    Parameters
    ----------
    quantiles, shares : ndarray of shape (n_quantiles,)
        The quantiles, ascending, and the share of the rows below each.

    Returns
    -------
    values, below : ndarray of shape (n_knots,)
        For :func:`numpy.interp`.

    Examples
    --------
    >>> import numpy as np
    >>> values, below = quantile_knots(np.array([0.0, 1, 1]), np.array([0, 0.5, 1]))
    >>> np.interp([0.5, 1 - 1e-9, 1], values, below).round(3).tolist()
    [0.25, 0.5, 0.75]
    """
    first = np.flatnonzero(np.diff(quantiles, prepend=-np.inf))
    last = np.append(first[1:], len(quantiles)) - 1
    values, low, high = quantiles[first], shares[first], shares[last]
    tied = first < last
    with np.errstate(under="ignore"):
        before, after = np.nextafter(values[tied], [[-np.inf], [np.inf]])
    # Not next to zero, where a thread of torch takes every number for zero.
    zero, tiny = values[tied] == 0, np.finfo(float).tiny
    before[zero], after[zero] = -tiny, tiny
    below = np.concatenate([(low + high) / 2, low[tied], high[tied]])
    # Where the next double is a quantile itself, that has its own share.
    values, kept = np.unique(np.r_[values, before, after], return_index=True)
    return values, below[kept]


def _has_two_values(X):
    """Whether a column has at most two different values, missing ones aside."""
    low, high = np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
    return ((X == low) | (X == high) | np.isnan(X)).all(axis=0)


def is_lopsided(X):
    """Which columns have one side that is much longer than the other.

    Robust scaling has little room for the short one: of incomes, say, all below the
    median are next to each other.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; NaN where a value is missing.

    Returns
    -------
    ndarray of bool of shape (n_features,)
        Whether from the median to one decile it is more than four times as far as to
        the other, which differs from it; by nearest ranks.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-3, 3, 99)
    >>> is_lopsided(np.column_stack([X, np.exp(X), X > 2])).tolist()
    [False, True, False]
    """
    lopsided = np.empty(X.shape[1], dtype=bool)
    # A few columns at a time: all of them would be copied.
    for some in gen_batches(X.shape[1], max(BLOCK_VALUES // len(X), 1)):
        # Of halves, no difference overflows.
        columns = np.ascontiguousarray(X[:, some].T) / 2
        last = (~np.isnan(columns)).sum(axis=1).clip(1) - 1
        deciles = np.rint(np.outer(last, [0.1, 0.5, 0.9])).astype(int)
        # Missing ones come last.
        columns = np.sort(columns, axis=1)
        low, center, high = np.take_along_axis(columns, deciles, axis=1).T
        sides = np.sort([center - low, high - center], axis=0)
        lopsided[some] = (sides[0] > 0) & (sides[1] / LOPSIDED > sides[0])
    return lopsided


def robust_statistics(X):
    """Centre and scale of each column: its median and its interquartile range.

    A column whose interquartile range is zero is scaled by half of the median distance
    of the values that are not at its centre, for two values half of their difference; a
    constant column by one. Missing values are left out; a column of nothing else has
    centre 0.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; NaN where a value is missing.

    Returns
    -------
    center, scale : ndarray of shape (n_features,)
        Medians, and what the centred columns are divided by.

    Examples
    --------
    >>> import numpy as np
    >>> center, scale = robust_statistics(np.array([[0.0, 7], [1, 7], [2, 7], [9, 7]]))
    >>> center.tolist(), scale.tolist()
    ([1.5, 7.0], [3.0, 1.0])
    """
    missing = np.isnan(X)
    if not missing.any():
        return _complete_statistics(X)
    # Column by column: NumPy's quantiles that skip NaN do the same, slower.
    center, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
    for column in np.flatnonzero(~missing.all(axis=0)):
        present = X[~missing[:, column], column]
        center[[column]], scale[[column]] = _complete_statistics(present[:, None])
    return center, scale


def _complete_statistics(X):
    center, scale = np.empty((2, X.shape[1]))
    # A few columns at a time: all of them would be copied twice.
    for some in gen_batches(X.shape[1], max(BLOCK_VALUES // len(X), 1)):
        center[some], scale[some] = _statistics_of_columns(X[:, some])
    return center, scale


def _statistics_of_columns(X):
    # Columns in a row each are twice as fast to sort; of halves, none overflows.
    columns = np.ascontiguousarray(X.T) / 2
    # Sorted with vector instructions: NumPy's search for quantiles takes longer in
    # columns that are not.
    columns.sort(axis=1)
    low, center, high = np.quantile(
        columns, [0.25, 0.5, 0.75], axis=1, overwrite_input=True
    )
    with np.errstate(over="ignore"):
        scale = np.minimum(2 * (high - low), np.finfo(float).max)
    # What is below it may count as zero in the threads of torch.
    tiny = np.finfo(X.dtype).tiny
    tied = scale < tiny
    pairs = zip(columns[tied], center[tied], strict=True)
    scale[tied] = [_distance_from_center(*pair) for pair in pairs]
    scale[scale < tiny] = 1.0
    return 2 * center, scale


def _median_distances(X, center):
    """Median distance of the rows from the centre of each column."""
    with np.errstate(over="ignore"):
        distances = np.minimum(np.abs(X - center), np.finfo(float).max)
    return robust_statistics(distances)[0]


def _distance_from_center(column, center):
    """Median over the values that are not at the centre, zero if there are none."""
    distances = np.abs(column[column != center] - center)
    # Not np.median: the sum of two distances may overflow.
    return np.quantile(distances, 0.5) if distances.size else 0.0


def robust_clip(X, statistics, dtype):
    """Scale, then clip smoothly: z / sqrt(1 + (z / 3)^2), z = (x - centre) / scale.

    Nearly linear around the median and flat far out, so that an outlier of 1e12 neither
    hides the rest of its column nor reaches the network.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    statistics : tuple (center, scale)
        From :func:`robust_statistics`.
    dtype : numpy dtype
        Of the result.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Rows within [-3, 3].

    Examples
    --------
    >>> import numpy as np
    >>> statistics = np.zeros(1), np.ones(1)
    >>> robust_clip(np.array([[0.1], [1e12]]), statistics, float).round(3).tolist()
    [[0.1], [3.0]]
    """
    center, scale = statistics
    with np.errstate(over="ignore"):
        # Centre before the cast: a timestamp has no digits to lose in float32.
        Z = X - center
        Z /= scale
        Z = Z.astype(dtype, copy=False)
    np.clip(Z, -FAR_OUT, FAR_OUT, out=Z)
    root = Z / CLIP
    np.square(root, out=root)
    root += 1
    Z /= np.sqrt(root, out=root)
    return Z


@np.errstate(over="ignore")
def undo_robust_clip(Z, statistics):
    """Rows in the units they came in; what reaches the clip maps far out, finite."""
    X = np.array(Z, dtype=float)
    center, scale = statistics
    # Finite: nothing times infinity would be no number.
    scale = np.minimum(CLIP * scale, np.finfo(float).max)
    # Block by block and in place: else most of the time goes into new memory.
    for rows in gen_batches(max(len(X), 1), BLOCK_ROWS):
        block = X[rows]
        block /= CLIP
        np.clip(block, -0.999, 0.999, out=block)
        root = np.square(block)
        np.subtract(1, root, out=root)
        block /= np.sqrt(root, out=root)
        block *= scale
        block += center
    return X
