"""What is refused, in words that name the parameter, the column and the cure."""

import inspect
import math
import warnings
from contextlib import contextmanager
from numbers import Integral

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    check_X_y,
    column_or_1d,
)
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from . import _tables
from ._tables import FLOATS

# Packages whose frames are passed over on the way to the user's line.
LIBRARIES = {"sklearn", "imblearn", "sklearn_samn", "contextlib"}

# How NumPy's errors begin for a value that is not a number.
NOT_A_NUMBER = (
    "could not convert string to float",
    "float() argument must be",
    # Of categories in pandas 3, and before.
    "Cannot cast str dtype to float",
    "Cannot cast object dtype to float",
    # Of an array of strings that is not asked for floats.
    "dtype='numeric' is not compatible with arrays of bytes/strings",
    # Of lists and the like.
    "setting an array element with a sequence",
    "int too large to convert to float",
)


@contextmanager
def unchanged_on_failure(estimator):
    """Whatever ends the block early leaves the estimator as it was before."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def warn_user(message, category=UserWarning):
    """Warn at the line of the user's that called into this package."""
    level, frame = 1, inspect.currentframe()
    while frame.f_back and _package(frame) in LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _package(frame):
    return frame.f_globals["__name__"].partition(".")[0]


def weights_by_class(class_weight, y, classes):
    """Weight of each class, or a ValueError that names the parameter."""
    weight = compute_class_weight(class_weight, classes=classes, y=y)
    if not (np.isfinite(weight) & (weight >= 0)).all() or not weight.any():
        raise ValueError(
            f"class_weight={class_weight!r} must hold finite weights of at least 0, "
            f"not all of them 0."
        )
    return weight


def check_layer_sizes(sizes):
    """The widths as a list of int, or a ValueError that names the parameter."""
    sizes = list(sizes)
    if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes={sizes!r} is no sequence of widths; each must be an "
            f"int of at least 1, as in (128, 128), or () for no hidden layer."
        )
    return [int(size) for size in sizes]


def check_finite(X, estimator, columns=None):
    """Raise a ValueError that names the first column with infinity.

    ``columns`` are the positions of X's columns in the whole table, by default all.
    """
    if issparse(X):
        X = X.toarray()
    if X.dtype == object:
        X = X.astype(float)
    if not np.isinf(X).any():
        return
    row, column = np.argwhere(np.isinf(X))[0]
    column = column if columns is None else columns[column]
    names = getattr(estimator, "feature_names_in_", None)
    name = repr(str(names[column])) if names is not None else column
    raise ValueError(
        f"Input X contains infinity in column {name} (first in row {row}). "
        f"{type(estimator).__name__} does not accept infinity: replace it, by NaN "
        f"where the value is missing."
    )


def validate_finite(estimator, X, y="no_validation", *, reset, **params):
    """scikit-learn's ``validate_data``, with errors that name the column and a cure.

    Parameters
    ----------
    estimator : estimator
        Whose data it is.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,), default="no_validation"
        Labels.
    reset : bool
        Whether the number and the names of the features are to be learned.
    **params
        Passed to :func:`sklearn.utils.validation.validate_data`.

    Returns
    -------
    X, or (X, y) where y is given
        Validated arrays.
    """
    _check_no_dates(estimator, X)
    with _strings_named(estimator, X, reset=reset):
        validated = validate_data(
            estimator, X, y, reset=reset, ensure_all_finite=False, **params
        )
        rows = validated[0] if isinstance(validated, tuple) else validated
        if rows.dtype == object:
            # A list that holds None comes as objects: refuse what is no number.
            rows.astype(float)
    check_finite(rows, estimator)
    return validated


def validate_table(estimator, X, y="no_validation", *, reset):
    """Check a table of which some columns are categories, by ``is_categorical_``.

    Parameters
    ----------
    estimator : estimator
        Whose data it is.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,), default="no_validation"
        Labels.
    reset : bool
        Whether the number and the names of the features are to be learned.

    Returns
    -------
    X, or (X, y) where y is given
        X as it came, a list as an array; y validated.
    """
    X = _tables.as_table(X)
    _check_no_dates(estimator, X)
    validate_data(estimator, X, y, reset=reset, skip_check_array=True)
    _check_levels(X, np.flatnonzero(estimator.is_categorical_))
    numeric = np.flatnonzero(~estimator.is_categorical_)
    numbers = _tables.as_dense(_tables.take_columns(X, numeric))
    if not len(numeric):
        numbers = np.empty(numbers.shape)
    params = {
        "dtype": FLOATS,
        "ensure_all_finite": False,
        "ensure_min_features": int(not estimator.is_categorical_.any()),
        "estimator": estimator,
    }
    with _strings_named(estimator, numbers, numeric, reset=reset):
        if isinstance(y, str) and y == "no_validation":
            numbers = check_array(numbers, **params)
        else:
            numbers, y = check_X_y(numbers, y, **params)
    check_finite(numbers, estimator, numeric)
    return X if isinstance(y, str) else (X, y)


def validate_blocks(estimator, X, y, *, reset):
    """Check the shape and the labels of rows that are themselves checked when read.

    Parameters
    ----------
    estimator : estimator
        Whose data it is.
    X : Blocks of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,)
        Labels.
    reset : bool
        Whether the number and the names of the features are to be learned.

    Returns
    -------
    ndarray of shape (n_samples,)
        Labels.
    """
    wanted = estimator.categorical_features
    if not (wanted is None or isinstance(wanted, str) or len(wanted) == 0):
        raise ValueError(
            f"categorical_features={wanted!r}: rows that are read by block are "
            f"numbers alone; encode the categories before, and leave "
            f"categorical_features='auto'."
        )
    header = X.named(np.empty((0, X.shape[1])))
    validate_data(estimator, header, y, reset=reset, skip_check_array=True)
    check_one_kind(y)
    y = column_or_1d(plain_labels(y), warn=True)
    check_consistent_length(X, y)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def _check_no_dates(estimator, X):
    """Raise a ValueError for dates, which scikit-learn would take for nanoseconds."""
    for name, dtype in _tables.columns_of_dates(X):
        column = "" if name is None else f" in column {name!r}"
        raise ValueError(
            f"Input X holds dates or durations{column} (dtype {dtype}). "
            f"{type(estimator).__name__} needs numbers: turn them into what counts "
            f"about them, such as days since a date, the month or the weekday."
        )


def _check_levels(X, columns):
    """Raise a ValueError for lists and the like, which cannot be told apart."""
    for position in columns:
        values = np.asarray(_tables.take_columns(X, position))
        listed = values.flat if values.dtype == object else ()
        bad = next((value for value in listed if not _is_hashable(value)), None)
        if bad is not None:
            name = X.columns[position] if hasattr(X, "columns") else int(position)
            raise ValueError(
                f"Input X holds a {type(bad).__name__} in column {name!r} of "
                f"categories: {bad!r}. Give each a string or a number, or leave the "
                f"column out."
            )


def _is_hashable(value):
    # A tuple that holds a list has the method, too.
    try:
        hash(value)
    except TypeError:
        return False
    return True


def plain_labels(y):
    """Labels of a nullable dtype as an array, all others as they are.

    scikit-learn would make floats of truth values and of large integers.
    """
    dtype = getattr(y, "dtype", np.dtype(object))
    if isinstance(dtype, np.dtype):
        return y
    y = np.asarray(y)
    # Of some versions of pandas they come as objects. Other libraries' dtypes, of
    # polars or torch, have no kind.
    return np.array(y.tolist()) if getattr(dtype, "kind", "O") in "biu" else y


def check_one_kind(y):
    """Raise a ValueError for labels that have no order, such as 1 and "a"."""
    # Of a list NumPy would make strings, whatever else is in it.
    y = np.asarray(y, dtype=None if hasattr(y, "dtype") else object)
    listed = y.dtype == object and y.ndim > 0
    kinds = {_kind(label) for label in y.ravel()} if listed else set()
    # NaN is how some dtypes of strings show what is missing.
    nan = kinds >= {"str", "float"} and any(
        isinstance(label, float) and math.isnan(label) for label in y.ravel()
    )
    if nan or "NoneType" in kinds or "NAType" in kinds:
        raise ValueError(
            "y holds labels that are missing (None, NA or NaN); leave out the rows "
            "without a label, or give them a class of their own, a label of the "
            "others' type."
        )
    if len(kinds) > 1 and "str" in kinds:
        raise ValueError(
            f"y mixes labels of the types {sorted(kinds)}; make them one, as in "
            f"[str(label) for label in y]."
        )


def _kind(label):
    return "str" if isinstance(label, str) else type(label).__name__


@contextmanager
def _strings_named(estimator, X, columns=None, *, reset):
    """Turn the error of a string that is no number into one that names its column."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        if not str(error).startswith(NOT_A_NUMBER):
            raise
        # A TypeError for objects that are neither, as scikit-learn's checks want it.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        message = _strings_message(estimator, X, columns, error, reset)
        raise kind(message) from error


def _strings_message(estimator, X, columns, error, reset):
    if not hasattr(X, "columns"):
        X = np.asarray(X, dtype=object)
    if len(X.shape) != 2:
        return (
            f"Expected 2D array, got {len(X.shape)}D array instead, of values that are "
            f"no numbers ({error}). {type(estimator).__name__} takes a table of rows."
        )
    cure = (
        f"Say which columns are categories: categorical_features='auto' finds them in "
        f"a DataFrame, else pass their indices to {type(estimator).__name__}."
        if reset
        else "In fit it held numbers: give numbers, NaN where one is missing."
    )
    strings = isinstance(error, ValueError) and "sequence" not in str(error)
    what = "strings" if strings else "values that are no numbers"
    column = _first_column_of_strings(X, columns)
    return f"Input X holds {what} in column {column} ({error}). {cure}"


def _first_column_of_strings(X, columns):
    n_features = X.shape[1]
    values = (_tables.take_columns(X, i) for i in range(n_features))
    first = next((i for i, v in enumerate(values) if not _is_numeric(v)), 0)
    if hasattr(X, "columns"):
        return repr(X.columns[first])
    return first if columns is None else columns[first]


def _is_numeric(values):
    try:
        np.asarray(values, dtype=float)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
