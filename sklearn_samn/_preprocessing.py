"""What the networks see: a matrix of scaled numbers made from any table."""

import warnings

import numpy as np
from sklearn import config_context
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, TargetEncoder

from ._scaling import NumericScaler
from ._tables import as_categories, as_numbers, take_columns

# A column of more levels is encoded by their targets, not one column a level.
MAX_ONE_HOT = 64
# From so many training rows on scaling="auto" goes by quantiles.
MIN_QUANTILE_ROWS = 2_000


def make_preprocessor(X, y, categorical, scaling, dtype, seed, within_reach=()):
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
    scaling : {"auto", "robust", "mixed", "quantile"} or None
        Of :class:`NumericScaler`; "auto" is "mixed" below 2,000 rows, else "quantile".
    dtype : str
        Of the matrix.
    seed : int
        Of quantiles and of cross-fitting.
    within_reach : sequence of int, default=()
        Codes of classes whose numbers are to be scaled back.

    Returns
    -------
    NumericScaler or ColumnTransformer
        The former where ``categorical`` is None and nothing is missing.
    """
    if scaling == "auto":
        scaling = "quantile" if len(y) >= MIN_QUANTILE_ROWS else "mixed"
    scaler = NumericScaler(
        scaling=scaling, dtype=dtype, random_state=seed, within_reach=within_reach
    )
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
    return make_pipeline(numbers, MissingIndicator(sparse=False))


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
    if not np.array_equal(np.unique(y), encoder.classes_):
        # Of other classes there would be other columns.
        return Z
    columns = next(c for name, _, c in preprocessor.transformers_ if name == "target")
    rows = levels.transform(take_columns(X, columns))
    encoded = fit_transform(_target_encoder(y, seed), rows, y)
    Z[:, encoded_by_target(preprocessor)] = scaler.transform(encoded)
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


def encoded_by_target(preprocessor):
    """Which columns of the matrix are levels encoded by their targets, a slice."""
    return getattr(preprocessor, "output_indices_", {}).get("target", slice(0, 0))


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
    """The first columns of the matrix, scaled numbers, in their units.

    ``preprocessor`` is a fitted ColumnTransformer.
    """
    scaler = preprocessor.named_transformers_.get("numeric")
    return scaler.inverse_transform(Z) if scaler else np.empty((len(Z), 0))
