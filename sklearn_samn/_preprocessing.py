"""What the networks see: a matrix of scaled numbers made from any table."""

import warnings
from datetime import date, timedelta
from functools import cached_property
from math import isfinite, nan
from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse, vstack
from scipy.special import ndtr, ndtri
from sklearn import config_context
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    QuantileTransformer,
    TargetEncoder,
)
from sklearn.utils import check_array, check_random_state, gen_batches

# Scaled values end up between -CLIP and CLIP.
CLIP = 3.0
# The share of a normal distribution beyond one of them.
BEYOND = ndtr(-CLIP)
# A scaled value that is as good as infinite, and whose square fits into float32.
FAR_OUT = 1e15
# A column of more levels is encoded by their targets, not one column a level.
MAX_ONE_HOT = 64
# From so many training rows on scaling="auto" goes by quantiles.
MIN_QUANTILE_ROWS = 2_000
# Rows that are scaled, and values whose medians are taken, at a time.
BLOCK_ROWS, BLOCK_VALUES = 4096, 2**20
# Rows that the quantiles are taken from, at most.
MAX_QUANTILE_ROWS = 100_000

FLOATS = [np.float64, np.float32]

# How the dtypes of pandas, pyarrow and polars that hold categories and strings begin.
CATEGORIES = ("categor", "enum", "dictionary")
STRINGS = ("string", "large_string", "utf8")
# What dates and durations are as objects; those of pandas are of the first two.
DATES = (date, timedelta, np.datetime64, np.timedelta64)


def take_rows(X, rows):
    """Rows by index of a frame or an array."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def take_columns(X, columns):
    """Columns by index of a frame or an array."""
    return X.iloc[:, columns] if hasattr(X, "iloc") else X[:, columns]


def as_table(X):
    """A frame as it is, anything else as an array that keeps strings and numbers."""
    if hasattr(X, "columns"):
        return X
    # NumPy would make strings of the numbers in a list that holds both.
    dtype = None if hasattr(X, "dtype") else object
    return check_array(X, dtype=dtype, ensure_all_finite=False)


def as_pandas(X):
    """A table of pyarrow, whose dates and strings would not be seen, as a frame."""
    return X.to_pandas() if hasattr(X, "column_names") else X


def is_dense_frame(X):
    """Whether X is a pandas frame other than a sparse one."""
    dtypes = X.dtypes if hasattr(X, "iloc") and X.ndim == 2 else ()
    return not all(str(d).startswith("Sparse") for d in dtypes)


def stack_rows(X, parts, n_rows):
    """The rows of X, then those of each part: frame, array or sparse matrix like X.

    The parts come one by one and have at most ``n_rows`` rows together.
    """
    if issparse(X):
        # Older releases of SciPy stack sparse arrays to a sparse matrix.
        return type(X)(vstack([X, *map(type(X), parts)], format=X.format))
    if hasattr(X, "iloc"):
        import pandas as pd

        return pd.concat([X, *parts], ignore_index=True)
    # Into their place at once: kept parts would leave holes in memory.
    stacked, stop = np.empty((len(X) + n_rows, X.shape[1]), X.dtype), len(X)
    stacked[:stop] = X
    for part in parts:
        start, stop = stop, stop + len(part)
        stacked[start:stop] = part
    return stacked[:stop]


def column_dtypes(X):
    """Pairs of name and dtype of each column of a frame; none of anything else."""
    if not hasattr(X, "columns") or not hasattr(X, "dtypes"):
        return []
    return list(zip(X.columns, X.dtypes, strict=True))


def columns_of_dates(X):
    """Name and dtype of the columns of dates or durations; an array has no names."""
    pairs = column_dtypes(X)
    for position, (name, dtype) in enumerate(pairs):
        # Columns of objects alone are taken out and looked through.
        is_object = str(dtype) == "object"
        if _holds_dates(take_columns(X, position) if is_object else (), dtype):
            yield name, dtype
    if not pairs and _holds_dates(X, dtype := getattr(X, "dtype", None)):
        yield None, dtype


def _holds_dates(values, dtype):
    if getattr(dtype, "kind", None) in ("m", "M"):
        return True
    if str(dtype) == "object":
        return any(isinstance(value, DATES) for value in np.asarray(values).flat)
    return str(dtype).startswith(("Date", "Datetime", "Duration", "Time", "period"))


def _is_category(dtype):
    return str(dtype).lower().startswith(CATEGORIES)


def _holds_strings(values, dtype):
    if getattr(dtype, "kind", None) == "O" and str(dtype) == "object":
        return any(isinstance(value, str) for value in values)
    # Not "str" alone: polars has a Struct.
    return str(dtype) == "str" or str(dtype).lower().startswith(STRINGS)


def categorical_mask(X, categorical_features):
    """Which columns are categories, or None where none is.

    Parameters
    ----------
    X : frame, array or list
        Rows.
    categorical_features : "auto", "from_dtype", array-like or None
        The parameter of the estimators.

    Returns
    -------
    ndarray of bool of shape (n_features,) or None
        True for categories.
    """
    if categorical_features is None:
        return None
    if isinstance(categorical_features, str):
        mask = np.array(_mask_by_dtype(X, categorical_features == "auto"), dtype=bool)
    else:
        mask = _mask_of_columns(X, np.asarray(categorical_features))
    return mask if mask.any() else None


def _mask_by_dtype(X, strings):
    return [
        _is_category(dtype)
        or (strings and _holds_strings(take_columns(X, position), dtype))
        for position, (_, dtype) in enumerate(column_dtypes(X))
    ]


def _mask_of_columns(X, wanted):
    n_features = (X if issparse(X) else as_table(X)).shape[1]
    mask = np.zeros(n_features, dtype=bool)
    if wanted.size == 0:
        return mask
    if wanted.dtype.kind == "b":
        if wanted.shape != (n_features,):
            raise ValueError(
                f"categorical_features set as a boolean mask must have the shape "
                f"({n_features},), got {wanted.shape}."
            )
        return wanted.copy()
    if wanted.dtype.kind in "iu":
        if wanted.min() < 0 or wanted.max() >= n_features:
            raise ValueError(
                f"categorical_features set as integer indices must lie in "
                f"[0, {n_features - 1}], got {wanted.tolist()}."
            )
    elif all(isinstance(name, str) for name in wanted.ravel().tolist()):
        wanted = _positions(X, wanted.ravel().tolist())
    else:
        raise ValueError(
            f"categorical_features must be an array-like of bool, int or str, got "
            f"{wanted.tolist()!r}."
        )
    mask[wanted] = True
    return mask


def refuse_columns_without_numbers(X, categorical):
    """Raise a ValueError for columns that are to be numbers but cannot hold new ones.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows.
    categorical : ndarray of bool of shape (n_features,)
        Which columns are categories.
    """
    if hasattr(X, "iloc"):
        for name, dtype, named in zip(X.columns, X.dtypes, categorical, strict=True):
            if _is_category(dtype) and not named:
                raise ValueError(
                    f"Column {name!r} is of dtype {dtype}, which holds its categories "
                    f"alone, but is not among categorical_features: name it there, or "
                    f"cast it to numbers."
                )
    elif getattr(X, "dtype", np.dtype(object)).kind in "US" and not categorical.all():
        raise ValueError(
            f"X is an array of dtype {X.dtype}, too narrow for new numbers in the "
            f"columns {np.flatnonzero(~categorical).tolist()}: pass "
            f"X.astype(object), or a DataFrame."
        )


def _positions(X, names):
    if not hasattr(X, "columns"):
        raise ValueError(
            f"categorical_features={names!r} are names of columns, which need a "
            f"DataFrame; for other data give indices or a boolean mask."
        )
    columns = list(X.columns)
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise ValueError(
            f"categorical_features holds {unknown!r}, which are no columns of X."
        )
    return [columns.index(name) for name in names]


def as_numbers(X):
    """An array of floats; missing values of any kind are NaN."""
    if type(X) is np.ndarray and X.dtype in FLOATS:
        # check_array would take as long to say so as the scaling of a few rows does.
        return X
    if np.shape(X)[1] == 0:
        # scikit-learn looks for a dtype that all columns have in common.
        return np.empty(np.shape(X))
    return check_array(as_dense(X), dtype=FLOATS, ensure_all_finite=False)


def as_dense(X):
    """A frame with its sparse columns made dense; anything else as it is."""
    dtypes = X.dtypes if hasattr(X, "isetitem") else ()
    columns = [i for i, d in enumerate(dtypes) if str(d).startswith("Sparse")]
    X = X.copy(deep=False) if columns else X
    for column in columns:
        X.isetitem(column, X.iloc[:, column].sparse.to_dense())
    return X


def as_categories(X):
    """An array of str, and NaN for missing values of any kind.

    A number becomes the same level whatever its type: 1, 1.0 and "1" are one.

    Examples
    --------
    >>> as_categories(np.array([["a", 1], [None, 2.5]], dtype=object)).tolist()
    [['a', '1'], [nan, '2.5']]
    """
    levels = np.empty(X.shape, dtype=object)
    for column in range(X.shape[1]):
        levels[:, column] = _levels(np.asarray(take_columns(X, column)))
    return levels


def _levels(values):
    values = values.tolist()
    # Each level once: a column has few.
    labels = {value: _label(value) for value in set(values)}
    return [labels[value] for value in values]


def _label(value):
    if isinstance(value, str):
        return str(value)
    if _is_missing(value):
        return nan
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real) and isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def _is_missing(value):
    # pandas' NA is neither equal nor unequal to itself.
    return type(value).__name__ in ("NoneType", "NAType") or value != value


def _missing(values):
    """Where a column of a frame or an array has no value."""
    if hasattr(values, "isna"):
        return values.isna().to_numpy()
    if values.dtype != object:
        return values != values
    return np.array([_is_missing(value) for value in values.tolist()], dtype=bool)


def make_preprocessor(X, y, categorical, scaling, dtype, seed):
    """An unfitted transformer from a table to the matrix that a network sees.

    Parameters
    ----------
    X : frame or ndarray of shape (n_samples, n_features)
        The training rows, which decide on indicators of missing values and on the
        encoding of categories.
    y : ndarray of shape (n_samples,)
        Class codes.
    categorical : ndarray of bool of shape (n_features,) or None
        From :func:`categorical_mask`.
    scaling : {"auto", "robust", "quantile"} or None
        The parameter of the estimators.
    dtype : str
        Of the matrix.
    seed : int
        Of quantiles and of cross-fitting.

    Returns
    -------
    NumericScaler or ColumnTransformer
        The latter only where there are categories or missing values.
    """
    if scaling == "auto":
        scaling = "quantile" if len(y) >= MIN_QUANTILE_ROWS else "robust"
    scaler = NumericScaler(scaling=scaling, dtype=dtype, random_state=seed)
    numeric, one_hot, target = _kinds(X, categorical)
    # Where all are numbers they are not copied.
    numbers = as_numbers(X if categorical is None else take_columns(X, numeric))
    missing = numeric[np.isnan(numbers).any(axis=0)]
    if categorical is None and not len(missing):
        return scaler.set_output(transform="default")
    parts = [
        ("numeric", lambda: scaler, numeric),
        ("missing", _indicator, missing),
        ("one_hot", lambda: _one_hot(dtype), one_hot),
        ("target", lambda: _target(y, scaling, dtype, seed), target),
    ]
    preprocessor = ColumnTransformer(
        [(name, make(), columns) for name, make, columns in parts if len(columns)]
    )
    # Whatever scikit-learn's configuration says, the networks take arrays.
    return preprocessor.set_output(transform="default")


def _kinds(X, categorical):
    """Indices of the columns that are numbers, that have few levels, that have many."""
    if categorical is None:
        categorical = np.zeros(X.shape[1], dtype=bool)
    many = categorical.copy()
    for column in np.flatnonzero(categorical).tolist():
        levels = as_categories(take_columns(X, [column]))
        many[column] = len(set(levels[:, 0].tolist())) > MAX_ONE_HOT
    kinds = ~categorical, categorical & ~many, many
    return [np.flatnonzero(kind) for kind in kinds]


def _indicator():
    numbers = FunctionTransformer(as_numbers, feature_names_out="one-to-one")
    return make_pipeline(numbers, MissingIndicator(sparse=False, error_on_new=False))


def _one_hot(dtype):
    levels = FunctionTransformer(as_categories, feature_names_out="one-to-one")
    encoder = OneHotEncoder(
        handle_unknown="ignore", sparse_output=False, dtype=np.dtype(dtype).type
    )
    return make_pipeline(levels, encoder)


def _target(y, scaling, dtype, seed):
    levels = FunctionTransformer(as_categories, feature_names_out="one-to-one")
    # Levels have no outliers, and quantiles would be theirs, not the rows'.
    scaling = "robust" if scaling else None
    scaler = NumericScaler(scaling=scaling, dtype=dtype)
    return make_pipeline(levels, _target_encoder(y, seed), scaler)


def _target_encoder(y, seed):
    """Seeded cross-fitting: a training row's encoding does not know its own label."""
    folds = int(min(5, np.bincount(y).max()))
    if folds < 2:
        raise ValueError(
            f"A column of more than {MAX_ONE_HOT} levels is encoded by the classes of "
            f"other rows, but y holds no class twice: give more rows, or leave it out."
        )
    if TargetEncoder().get_params().get("shuffle") is True:
        return TargetEncoder(cv=folds, shuffle=True, random_state=seed)
    # scikit-learn 1.9 deprecates the seed for a splitter, which 1.8 does not take.
    return TargetEncoder(cv=StratifiedKFold(folds, shuffle=True, random_state=seed))


def fit_transform(preprocessor, X, y):
    """The matrix of the training rows, without warnings meant for cross-validation."""
    # TargetEncoder fails where metadata is routed, in scikit-learn 1.9.
    routing = config_context(enable_metadata_routing=False)
    with routing, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return np.ascontiguousarray(preprocessor.fit_transform(X, y))


def transform_again(preprocessor, X, y, seed):
    """The matrix of the training rows of a later fit.

    Encodings by targets are cross-fitted on these rows: the encoder of the first fit
    knows the labels of those that were there as well.
    """
    Z = transform(preprocessor, X)
    target = getattr(preprocessor, "named_transformers_", {}).get("target")
    if target is None:
        return Z
    levels, encoder, scaler = (step for _, step in target.steps)
    if len(np.unique(y)) < len(encoder.classes_):
        # Without one of the classes the others' columns would be other ones.
        return Z
    columns = next(c for name, _, c in preprocessor.transformers_ if name == "target")
    rows = levels.transform(take_columns(X, columns))
    encoded = fit_transform(_target_encoder(y, seed), rows, y)
    Z[:, preprocessor.output_indices_["target"]] = scaler.transform(encoded)
    return Z


def transform(preprocessor, X):
    """What the network sees of rows, as a C-contiguous array."""
    return np.ascontiguousarray(preprocessor.transform(X))


def count_numeric(preprocessor):
    """How many columns of the matrix are scaled numbers; they are the first."""
    if isinstance(preprocessor, NumericScaler):
        return preprocessor.n_features_in_
    columns = preprocessor.output_indices_.get("numeric", slice(0, 0))
    return columns.stop - columns.start


def in_units(preprocessor, Z):
    """Rows of a network in the units of the table, a column for each of the table's.

    Parameters
    ----------
    preprocessor : NumericScaler or ColumnTransformer
        Fitted.
    Z : ndarray of shape (n_samples, n_features_out)
        Rows in its output.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Numbers scaled back; the index of the largest entry for a one-hot encoded
        column; NaN for a column encoded by targets.
    """
    if isinstance(preprocessor, NumericScaler):
        return preprocessor.inverse_transform(Z)
    X = np.full((len(Z), preprocessor.n_features_in_), np.nan)
    for name, transformer, columns in preprocessor.transformers_:
        part = Z[:, preprocessor.output_indices_[name]]
        if name == "numeric":
            X[:, columns] = transformer.inverse_transform(part)
        elif name == "one_hot":
            ends = np.cumsum([len(levels) for levels in transformer[-1].categories_])
            groups = np.split(part, ends[:-1], axis=1)
            X[:, columns] = np.column_stack([group.argmax(axis=1) for group in groups])
    return X


def numbers_in_units(preprocessor, Z):
    """The scaled numbers of rows, the first columns of the matrix, in their units."""
    if isinstance(preprocessor, NumericScaler):
        return preprocessor.inverse_transform(Z)
    scaler = preprocessor.named_transformers_.get("numeric")
    return scaler.inverse_transform(Z) if scaler else np.empty((len(Z), 0))


def observed_limits(numbers):
    """Least and largest value of each column, and whether it holds whole numbers only.

    Examples
    --------
    >>> low, high, whole = observed_limits(np.array([[1, 0.5], [3, np.nan]]))
    >>> low.tolist(), high.tolist(), whole.tolist()
    ([1.0, 0.5], [3.0, 0.5], [True, False])
    """
    low, high = np.fmin.reduce(numbers, axis=0), np.fmax.reduce(numbers, axis=0)
    # Column by column: all of them would be copied.
    return low, high, np.array([_is_whole(c) for c in numbers.T], dtype=bool)


def _is_whole(column):
    return ((column == np.rint(column)) | np.isnan(column)).all()


def within(limits, numbers):
    """Numbers within what was observed, whole where only such were."""
    low, high, whole = limits
    numbers = np.clip(numbers, low, high)
    numbers[:, whole] = np.rint(numbers[:, whole])
    return numbers


def cross_rows(table, parents, partners, categorical, numbers, kept, rng):
    """New rows of the dtypes of a table: numbers as given, categories inherited.

    Parameters
    ----------
    table : frame or ndarray of shape (n_samples, n_features)
        Rows to inherit from.
    parents, partners : ndarray of shape (n_new,)
        Two rows of the table for each new one, which has each of its categories from
        the one or the other, at even odds; from the first where either's is missing.
    categorical : ndarray of bool of shape (n_features,)
        Which columns are categories.
    numbers : ndarray of shape (n_new, n_numeric)
        The other columns.
    kept : ndarray of bool of shape (n_new, n_numeric)
        Where the value is the parent's own instead.
    rng : numpy.random.Generator
        Tosses the coins.

    Returns
    -------
    frame or ndarray of shape (n_new, n_features)
        New rows.
    """
    rows = take_rows(table, parents)
    if hasattr(rows, "iloc"):
        rows = rows.reset_index(drop=True)
    for column in np.flatnonzero(categorical).tolist():
        values = take_columns(table, column)
        missing = _missing(values)
        # Missing where the parent's is, and only there.
        own = (rng.random(len(parents)) < 0.5) | missing[parents] | missing[partners]
        heirs = np.where(own, parents, partners)
        _set_column(rows, column, take_rows(values, heirs))
    numeric = np.flatnonzero(~categorical).tolist()
    for column, values, own in zip(numeric, numbers.T, kept.T, strict=True):
        _set_column(rows, column, _like(take_columns(rows, column), values, own))
    return rows


def _set_column(rows, column, values):
    if hasattr(rows, "iloc"):
        rows.isetitem(column, values.reset_index(drop=True))
    else:
        rows[:, column] = values


def _like(column, numbers, kept):
    """Numbers as the values of a column are, of its dtype or type; some are its own."""
    if column.dtype == object:
        new = column.copy()
        known = {type(value) for value in column[~kept] if not _is_missing(value)}
        as_type = known.pop() if len(known) == 1 else float
        if issubclass(as_type, Integral) and not _is_whole(numbers[~kept]):
            # Of other rows the values are no whole numbers.
            as_type = float
        new[~kept] = [as_type(number) for number in numbers[~kept].tolist()]
        return new
    numbers = _within_dtype(numbers, _numpy_dtype(column.dtype))
    if hasattr(column, "iloc"):
        return type(column)(numbers).astype(column.dtype).mask(kept, column)
    return np.where(kept, column, numbers.astype(column.dtype))


def _numpy_dtype(dtype):
    """NumPy's dtype behind a nullable one, one of pyarrow or a sparse one."""
    return getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype))


def _within_dtype(numbers, dtype):
    """Floats that an integer dtype can hold: its largest may round to one too many."""
    if dtype.kind not in "iu":
        return numbers
    limits = np.iinfo(dtype)
    high = float(limits.max)
    return numbers.clip(
        limits.min, high if int(high) == limits.max else np.nextafter(high, 0)
    )


class NumericScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Scale columns of numbers and put a neutral value where one is missing.

    Parameters
    ----------
    scaling : {"robust", "quantile"} or None, default="robust"
        "robust": centre at the median, divide by the interquartile range, clip
        smoothly. "quantile": to a normal distribution, by rank; columns of up to two
        different values are scaled robustly. None leaves the numbers as they are.
    dtype : {"float32", "float64"}, default="float32"
        Of the result.
    random_state : int, RandomState instance or None, default=None
        Draws the rows for the quantiles of a long table.

    Attributes
    ----------
    center_, scale_ : ndarray of shape (n_features,)
        Median and interquartile range of each column.
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

    def __init__(self, scaling="robust", dtype="float32", random_state=None):
        self.scaling = scaling
        self.dtype = dtype
        self.random_state = random_state

    def fit(self, X, y=None):
        """Take medians, ranges and quantiles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN where a value is missing.
        y : None
            Not used.

        Returns
        -------
        self : object
            The fitted transformer.
        """
        X = as_numbers(X)
        self.n_features_in_ = X.shape[1]
        self.center_, self.scale_ = robust_statistics(X)
        self.curved_ = np.zeros(X.shape[1], dtype=bool)
        if self.scaling == "quantile":
            self.curved_ = ~_has_two_values(X)
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
        return quantiles.set_output(transform="default").fit(clipped)

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
            Z, neutral = robust_clip(X, None, dtype), self.center_
        else:
            Z, neutral = self._scaled(X, dtype), np.zeros(X.shape[1])
        missing = np.isnan(Z)
        if missing.any():
            np.copyto(Z, neutral.astype(dtype), where=missing)
        return Z

    def _scaled(self, X, dtype):
        statistics = self.center_, self.scale_
        exact = dtype if self.quantiles_ is None else np.float64
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
    tiny = np.finfo(float).tiny
    tied = scale < tiny
    pairs = zip(columns[tied], center[tied], strict=True)
    scale[tied] = [_distance_from_center(*pair) for pair in pairs]
    scale[scale < tiny] = 1.0
    return 2 * center, scale


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
    statistics : tuple (center, scale) or None
        From :func:`robust_statistics`; None leaves the features as they are.
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
    # Row by row in memory, whatever the order of X (a frame's is by column): the last
    # bits of a matrix product depend on it.
    if statistics is None:
        return X.astype(dtype, order="C")
    center, scale = statistics
    with np.errstate(over="ignore"):
        # Centre before the cast: a timestamp has no digits to lose in float32.
        Z = X - center
        Z /= scale
        Z = Z.astype(dtype, order="C", copy=False)
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
    if statistics is None:
        return X
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
