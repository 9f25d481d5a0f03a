"""Tables of any kind: frames, arrays, sparse matrices; their columns and new rows."""

from datetime import date, timedelta
from math import isfinite, nan
from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse, vstack
from sklearn.utils import check_array

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
    # polars takes no NumPy integers.
    return (X.iloc if hasattr(X, "iloc") else X)[:, np.asarray(columns).tolist()]


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


def is_frame(X):
    """Whether X is a DataFrame of pandas."""
    return hasattr(X, "iloc") and X.ndim == 2


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
    if values.dtype.kind == "f" and values.itemsize < 8:
        # By the digits that tell it from the next: 0.1 is one level in any precision.
        known, place = np.unique(values, return_inverse=True)
        exact = known.astype(float)
        parts = np.isfinite(exact) & (exact != np.rint(exact))
        exact[parts] = known[parts].astype(str).astype(float)
        values = exact[place.ravel()]
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
    # Adding zero: -0.0 would be another spelling of 0.
    numbers[:, whole] = np.rint(numbers[:, whole]) + 0.0
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
        if as_type is str:
            # As whole numbers are written: the level "11" is not to be "11.0".
            as_type = _label
        elif issubclass(as_type, Integral) and not _is_whole(numbers[~kept]):
            # Of other rows the values are no whole numbers.
            as_type = float
        new[~kept] = [as_type(number) for number in numbers[~kept].tolist()]
        return new
    if column.dtype.type is str:
        # A string dtype of pandas.
        labels = [_label(number) for number in numbers.tolist()]
        return type(column)(labels, dtype=column.dtype).mask(kept, column)
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
