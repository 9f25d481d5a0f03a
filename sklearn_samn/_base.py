"""What the estimators share: validation, training, prediction, persistence."""

import hashlib
import inspect
import math
import os
import re
import warnings
from contextlib import contextmanager
from functools import cache, partial
from numbers import Integral, Real

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import NotFittedError
from sklearn.utils import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    check_random_state,
    check_X_y,
    column_or_1d,
)
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    check_is_fitted,
    validate_data,
)

from . import _blocks, _neighbors, _preprocessing, _training
from ._preprocessing import FLOATS
from .modules import NeighborMemory, NeighborSequenceLoss
from .modules.embedding import ACTIVATIONS, class_probabilities
from .modules.memory import product_of_experts

# Packages whose frames are passed over on the way to the user's line.
LIBRARIES = {"sklearn", "imblearn", "sklearn_samn", "contextlib"}

# How NumPy's errors begin for a value that is not a number.
NOT_A_NUMBER = (
    "could not convert string to float",
    "float() argument must be",
    # Of categories in pandas 3, and before.
    "Cannot cast str dtype to float",
    "Cannot cast object dtype to float",
    # Of lists and the like.
    "setting an array element with a sequence",
)

# Largest batch that batch_size="auto" takes.
MAX_AUTO_BATCH_SIZE = 256
# Most rows that a GPU predicts at once.
GPU_BATCH = 8192

# neighbor_weight="auto" of the neighbour networks is VOTE_SHARE for up to MAX_VOTE_ROWS
# training rows, else zero: a search among more takes many times as long as the network.
VOTE_SHARE, MAX_VOTE_ROWS = 0.4, 10_000
# Rows that vote.
N_VOTERS = 20

# At most so many of the rows read by block are kept: to scale by, as neighbours and as
# memories.
MAX_SAMPLE_ROWS = 100_000
# At most so many of them are held out.
MAX_HOLDOUT_ROWS = 10_000


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


def stratified_holdout(y, rows, fraction, rng):
    """Split rows into those to train on and those held out, each class on both sides.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Class codes.
    rows : ndarray of shape (n_rows,)
        Indices of the rows to split.
    fraction : float in (0, 1)
        Share of each class held out, one row at the least.
    rng : numpy.random.Generator
        Source of the split.

    Returns
    -------
    train, valid : ndarray
        Ascending row indices; ``valid`` is None, with a warning, where a class has a
        single row.
    """
    members = [rows[y[rows] == code] for code in np.unique(y[rows])]
    if min(map(len, members)) < 2:
        warn_user(
            "early_stopping needs two rows of each class, one to train on and one to "
            "hold out, but a class has a single row: training runs all max_epochs "
            "without a hold-out."
        )
        return rows, None
    sizes = [min(max(round(fraction * len(m)), 1), len(m) - 1) for m in members]
    valid = np.concatenate(
        [rng.choice(m, k, replace=False) for m, k in zip(members, sizes, strict=True)]
    )
    return np.setdiff1d(rows, valid), np.sort(valid)


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
            # Columns of categories that scikit-learn took for numbers.
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
    X = _preprocessing.as_table(X)
    _check_no_dates(estimator, X)
    validate_data(estimator, X, y, reset=reset, skip_check_array=True)
    _check_levels(X, np.flatnonzero(estimator.is_categorical_))
    numeric = np.flatnonzero(~estimator.is_categorical_)
    numbers = _preprocessing.as_dense(_preprocessing.take_columns(X, numeric))
    if not len(numeric):
        numbers = np.empty(numbers.shape)
    params = {
        "dtype": FLOATS,
        "ensure_all_finite": False,
        "ensure_min_features": 0,
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
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def _check_no_dates(estimator, X):
    """Raise a ValueError for dates, which scikit-learn would take for nanoseconds."""
    for name, dtype in _preprocessing.columns_of_dates(X):
        column = "" if name is None else f" in column {name!r}"
        raise ValueError(
            f"Input X holds dates or durations{column} (dtype {dtype}). "
            f"{type(estimator).__name__} needs numbers: turn them into what counts "
            f"about them, such as days since a date, the month or the weekday."
        )


def _check_levels(X, columns):
    """Raise a ValueError for lists and the like, which cannot be told apart."""
    for position in columns:
        values = np.asarray(_preprocessing.take_columns(X, position))
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
    except (TypeError, ValueError) as error:
        if not str(error).startswith(NOT_A_NUMBER):
            raise
        # A TypeError for objects that are neither, as scikit-learn's checks want it.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        message = _strings_message(estimator, X, columns, error, reset)
        raise kind(message) from error


def _strings_message(estimator, X, columns, error, reset):
    if not hasattr(X, "columns"):
        X = np.asarray(X, dtype=object)
    if X.ndim != 2:
        return (
            f"Expected 2D array, got {X.ndim}D array instead, of values that are no "
            f"numbers ({error}). {type(estimator).__name__} takes a table of rows."
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
    values = (_preprocessing.take_columns(X, i) for i in range(n_features))
    first = next((i for i, v in enumerate(values) if not _is_numeric(v)), 0)
    if hasattr(X, "columns"):
        return repr(X.columns[first])
    return first if columns is None else columns[first]


def _is_numeric(values):
    try:
        np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        return False
    return True


class NeuralMixin:
    """Owner of a network: trains it through skorch, keeps it, pickles it as arrays.

    A subclass says ``_module_class`` and gives the training parameters.
    """

    _parameter_constraints = {
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "lr_schedule": [StrOptions({"one_cycle", "constant"})],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "optimizer": [StrOptions(set(_training.OPTIMIZERS))],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "batch_norm": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "skorch_params": [dict, None],
        "categorical_features": [
            "array-like",
            StrOptions({"auto", "from_dtype"}),
            None,
        ],
    }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @property
    def net_(self):
        """skorch net that holds the trained module; rebuilt when first needed."""
        if "_net" not in vars(self):
            if "_weights" not in vars(self):
                raise NotFittedError(f"This {type(self).__name__} is not fitted yet.")
            # The first weights are drawn, only to be replaced.
            with _training.reproducible(0, torch.device("cpu")):
                module = self._module_class(**self._module_args)
            self._to_dtype(module)
            _training.load_weights(module, self._weights)
            self._net = _training.wrap(module, self._available_device())
        return self._net

    def __getstate__(self):
        # Always dropped: the net (optimizer, callbacks, device). Always kept: weights.
        state = dict(super().__getstate__())
        if state.pop("_net", None) is not None:
            state["_weights"] = _training.weights_to_numpy(self._net)
        return state

    def _available_device(self):
        try:
            return _training.resolve_device(self.device)
        except ValueError as error:
            warn_user(f"{error} Predicting on the CPU.", RuntimeWarning)
            return torch.device("cpu")

    def _numpy_dtype(self):
        # That of the fit, whatever the parameter is by now.
        return np.dtype(vars(self).get("_fitted_dtype", "float32"))

    def _to_dtype(self, module):
        return module.to(getattr(torch, self._numpy_dtype().name))

    def _seed(self):
        return check_random_state(self.random_state).randint(np.iinfo(np.int32).max)

    def _tensor(self, array, device):
        """The array on the device; floats in the dtype of the network."""
        if array.dtype.kind == "f":
            array = array.astype(self._numpy_dtype(), copy=False)
        return torch.from_numpy(np.require(array, requirements="CW")).to(device)

    def _row_tensors(self, arrays, rows, device):
        """Those rows of each array as tensors; no copy is made of all of them."""
        everyone = len(rows) == len(arrays[0])
        taken = arrays if everyone else [array[rows] for array in arrays]
        return [self._tensor(array, device) for array in taken]

    def _resolve_batch_size(self, n_rows):
        if self.batch_size == "auto":
            wanted = 2 ** max(round(np.log2(n_rows / 16)), 4)
            return int(min(wanted, MAX_AUTO_BATCH_SIZE, n_rows))
        if self.batch_size > n_rows:
            warn_user(
                f"batch_size={self.batch_size} is larger than the {n_rows} training "
                f"rows and is clipped to them; set batch_size='auto' or a lower value."
            )
        return min(self.batch_size, n_rows)

    def _name_columns(self):
        """Give ``preprocessor_`` the names that validated rows and blocks have lost."""
        if hasattr(self, "feature_names_in_"):
            self.preprocessor_.feature_names_in_ = self.feature_names_in_

    def _load_previous(self, module, weights, before):
        try:
            _training.load_weights(module, weights)
        except RuntimeError as error:
            changes = "; ".join(
                f"{name} {before[name]!r} then, {new!r} now"
                for name, new in self._module_args.items()
                if name in before and before[name] != new
            )
            raise ValueError(
                f"warm_start=True and partial_fit continue from the fitted network, "
                f"whose shape does not fit the present data and parameters: {changes}. "
                f"Set them back, or begin anew: fit with warm_start=False."
            ) from error

    def _train(self, module, criterion, dataset, valid, device, **changes):
        """The trained net; ``changes`` go before the estimator's own parameters."""
        return _training.train(
            module,
            criterion,
            dataset,
            valid=valid,
            patience=None if valid is None else self.n_iter_no_change,
            device=device,
            **{**self._training_params(len(dataset)), **changes},
        )

    def _training_params(self, n_rows):
        """Parameters of the training on so many rows."""
        return {
            "lr": self.lr,
            "lr_schedule": self.lr_schedule,
            "max_epochs": self.max_epochs,
            "batch_size": self._resolve_batch_size(n_rows),
            "optimizer": self.optimizer,
            "weight_decay": self.weight_decay,
            "verbose": int(self.verbose),
            "skorch_params": self.skorch_params,
        }

    def _keep(self, net, past=()):
        """Take over a trained net and its history, after ``past`` epochs."""
        self._net = net
        vars(self).pop("_weights", None)
        records = _training.history_records(net)
        self.history_ = [
            {**record, "epoch": epoch}
            for epoch, record in enumerate([*past, *records], start=1)
        ]
        self.n_iter_ = len(self.history_)
        self.loss_curve_ = [record["train_loss"] for record in self.history_]
        self.validation_scores_ = None
        if "valid_loss" in records[-1]:
            losses = (record.get("valid_loss") for record in self.history_)
            self.validation_scores_ = [-loss for loss in losses if loss is not None]


class BaseNeuralClassifier(NeuralMixin, ClassifierMixin, BaseEstimator):
    """Template of the classifiers: the same steps in the same order.

    validate, preprocess, split off a hold-out, make the batches, train, keep. A
    subclass gives ``_module_class``, ``_get_module_args``, ``_make_criterion``,
    ``_make_datasets`` and ``_probabilities``.
    """

    _parameter_constraints = {
        **NeuralMixin._parameter_constraints,
        "dtype": [StrOptions({"float32", "float64"})],
        "scaling": [StrOptions({"auto", "robust", "quantile"}), None],
        "n_frequencies": [
            StrOptions({"auto"}),
            Interval(Integral, 0, None, closed="left"),
        ],
    }

    # n_frequencies="auto" has waves from so many training rows on, for up to so many
    # columns of numbers.
    _min_wave_rows, _max_wave_columns = 0, 20

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows: numbers, NaN where one is missing, and categories as
            ``categorical_features`` says.
        y : array-like of shape (n_samples,)
            Class labels, at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weight of each row in the loss, and among the stored rows that
            are attended to or vote. Rows of weight zero are left out altogether.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data cannot be used or the training diverges; the estimator is
            then as it was before the call.
        """
        with unchanged_on_failure(self):
            return self._fit(X, y, sample_weight)

    def _fit(self, X, y, sample_weight):
        warm = self.warm_start and hasattr(self, "classes_")
        X, y, weight = self._validate_training_data(X, y, sample_weight, reset=not warm)
        self._set_classes(y[weight > 0], warm)
        return self._fit_network(X, y, weight, warm=warm)

    def _fit_network(self, X, y, weight, *, warm, chunk=False, **changes):
        """Preprocessing, batches, training: the second half of fit and partial_fit.

        A chunk is a part of rows that come bit by bit; ``changes`` go before the
        parameters of the training.
        """
        self._fitted_dtype = self.dtype
        device = _training.resolve_device(self.device)
        seed = self._seed()
        rng = np.random.default_rng(seed)
        y = np.searchsorted(self.classes_, y)
        look = partial(self._fit_preprocessor, seed=seed)
        if warm and chunk:
            look = self._look_at_chunk
        elif warm:
            look = partial(self._look_again, seed=seed)
        Z = self._preprocess(X, y, weight > 0, look)
        train, valid = np.flatnonzero(weight > 0), None
        if self.early_stopping and not chunk:
            train, valid = stratified_holdout(y, train, self.validation_fraction, rng)
        if not chunk:
            # First by the largest: a sum of very large ones is infinite.
            weight = weight / weight.max()
            weight = weight / weight[train].mean()
        past = self.history_ if warm else ()
        weights = _training.weights_to_numpy(self.net_) if warm else None
        before = vars(self).get("_module_args")
        checkpoint = self._make_checkpoint(rng, seed, Z, y, weight)
        self._module_args = self._get_module_args(
            Z.shape[1], np.inf if chunk else len(train)
        )
        with _training.reproducible(seed, device):
            module = self._to_dtype(self._module_class(**self._module_args))
            if warm:
                self._load_previous(module, weights, before)
            else:
                self._start(module, y[train], weight[train])
            datasets = self._make_datasets(
                module, Z, y, weight, train, valid, rng, device
            )
            net = self._train(
                module.to(device),
                self._make_criterion(),
                *datasets,
                device,
                checkpoint=checkpoint,
                **changes,
            )
            if not chunk:
                self._finish(net.module_, datasets[0], rng)
        self._keep(net, past)
        return self

    def _preprocess(self, X, y, used, look):
        """What the network sees of the used rows; ``look`` makes it of rows and y."""
        if used.all():
            return look(X, y)
        rows = np.flatnonzero(used)
        seen = look(_preprocessing.take_rows(X, rows), y[rows])
        # Others keep their place, but nobody looks at them.
        Z = np.zeros((len(y), seen.shape[1]), dtype=seen.dtype)
        Z[rows] = seen
        return Z

    def _look_at_chunk(self, X, y):
        return _preprocessing.transform(self.preprocessor_, X)

    def _look_again(self, X, y, seed):
        return _preprocessing.transform_again(self.preprocessor_, X, y, seed)

    def _fit_preprocessor(self, X, y, seed):
        self.preprocessor_ = _preprocessing.make_preprocessor(
            X, y, self.is_categorical_, self.scaling, self.dtype, seed
        )
        Z = _preprocessing.fit_transform(self.preprocessor_, X, y)
        self._name_columns()
        return Z

    def _make_checkpoint(self, rng, *facts):
        """Where training goes on from if the facts are the same; nothing here."""

    def _goes_on(self, name):
        """Whether there is a network already, which has the parameter."""
        return name in vars(self).get("_module_args", {})

    def _waves(self, n_rows):
        """Columns of numbers, and the waves that each gets."""
        n_numeric = _preprocessing.count_numeric(self.preprocessor_)
        n_frequencies = self.n_frequencies
        if n_frequencies == "auto":
            few = n_numeric <= self._max_wave_columns
            n_frequencies = 16 if few and n_rows >= self._min_wave_rows else 0
            if self.warm_start and self._goes_on("n_frequencies"):
                n_frequencies = self._module_args["n_frequencies"]
        return {"n_numeric": n_numeric, "n_frequencies": n_frequencies}

    def _start(self, module, y, weight):
        """What a new module should know of the data before training; nothing here."""

    def _finish(self, module, dataset, rng):
        """What a trained module should take along of the data; nothing here."""

    def _validate_training_data(self, X, y, sample_weight, reset, classes=None):
        X = _preprocessing.as_pandas(X)
        check_one_kind(y)
        if reset:
            self.is_categorical_ = _preprocessing.categorical_mask(
                X, self.categorical_features
            )
        X, y = self._validate(X, y, reset=reset)
        check_classification_targets(y)
        return X, y, self._row_weights(X, y, sample_weight, classes)

    def _row_weights(self, X, y, sample_weight, classes=None):
        """Weight of each row; ``classes`` are those that y may hold, by default all."""
        # One number for all rows, where they are equal.
        weight = np.broadcast_to(1.0, y.shape)
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        if self.class_weight is not None and weight.any():
            # Rows of weight zero are not there, so they do not count either.
            seen = y[weight > 0]
            classes = np.unique(seen) if classes is None else classes
            seen = seen[np.isin(seen, classes)]
            by_class = weights_by_class(self.class_weight, seen, classes)
            # Of other labels the weight is zero, or partial_fit refuses them.
            place = np.searchsorted(classes, y).clip(max=len(classes) - 1)
            with np.errstate(over="ignore"):
                weight = weight * by_class[place]
            if not np.isfinite(weight).all():
                raise ValueError(
                    "sample_weight times class_weight is infinite for some rows; "
                    "divide one of them by its largest value."
                )
        if not weight.any():
            raise ValueError(
                "sample_weight and class_weight leave every row a weight of zero; each "
                "class needs a row of positive weight."
            )
        return weight

    def _set_classes(self, y, warm):
        classes = np.unique(y)
        if warm and not np.isin(classes, self.classes_).all():
            raise ValueError(
                f"warm_start=True continues with the classes of the first fit, "
                f"{self.classes_}, but y holds {classes}."
            )
        if warm:
            return
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes, but y holds only one "
                f"class: {classes.tolist()[0]!r}."
            )
        self.classes_ = classes

    def _validate(self, X, y="no_validation", *, reset):
        """Numbers as an array of them, a table with categories as it came."""
        X = _preprocessing.as_pandas(X)
        if self.is_categorical_ is not None:
            return validate_table(self, X, y, reset=reset)
        return validate_finite(self, X, y, reset=reset, dtype=FLOATS)

    def _rows(self, X):
        """Number of rows, and a function from a slice of them to what the net sees."""
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        device = next(self.net_.module_.parameters()).device

        def tensor(rows):
            rows = _preprocessing.take_rows(X, rows)
            Z = _preprocessing.transform(self.preprocessor_, rows)
            return self._tensor(Z, device)

        return X.shape[0], tensor

    def _run(self, function, X, **params):
        """Results of ``function(tensor)`` for all rows of X, by the batch."""
        n_rows, tensor = self._rows(X)
        if not next(self.net_.module_.parameters()).is_cpu:
            params = {"largest": GPU_BATCH, **params}
        return _training.predict_batches(function, tensor, n_rows, **params)

    def predict_proba(self, X):
        """Class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``. A row's depend on that row
            alone, not on the others of the call, but for rounding.

        Raises
        ------
        ValueError
            If unscaled features are too large for the precision of the network.
        """
        return self._predict_rows(X)

    def _predict_rows(self, X, first=0):
        """Class probabilities of rows, the first of which has that number."""
        probabilities = self._run(self._probabilities, X)
        self._check_finite(probabilities, first)
        return probabilities

    def predict_log_proba(self, X):
        """Logarithms of the class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Of :meth:`predict_proba`; minus infinity for a probability of zero.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _check_finite(self, outputs, first=0):
        """Refuse outputs, of which each row from ``first`` on has some, not finite."""
        finite = np.isfinite(outputs)
        if not finite.all():
            row = first + np.argwhere(~finite)[0, 0]
            raise ValueError(
                f"The prediction for row {row} is not finite: its "
                f"features are too large for {self._fitted_dtype}. Scale them, or fit "
                f"with scaling='robust'."
            )

    def predict(self, X):
        """Most probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Class labels.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]


class BaseNeighborClassifier(BaseNeuralClassifier):
    """Template of the classifiers that learn to predict a row's neighbours."""

    _parameter_constraints = {
        **BaseNeuralClassifier._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbors": [
            StrOptions({"exact", "subsets"}),
            HasMethods(["fit", "kneighbors"]),
        ],
        "n_subsets": [Interval(Integral, 1, None, closed="left")],
        "subset_size": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "lam": [Interval(Real, 0, None, closed="left")],
        "vector_reduction": [StrOptions({"mean", "sum"})],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "neighbor_weight": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "n_jobs": [Integral, None],
        "out_of_core": [StrOptions({"auto"}), "boolean"],
        "checkpoint": [str, os.PathLike, None],
    }

    # On fewer rows and on more columns waves were no gain.
    _min_wave_rows, _max_wave_columns = 2_000, 30

    # An array to write into is no metadata of the rows.
    __metadata_request__predict = {"out": UNUSED}
    __metadata_request__predict_proba = {"out": UNUSED}

    def _training_params(self, n_rows):
        return {**super()._training_params(n_rows), "data_parallel": True}

    def _make_criterion(self):
        return NeighborSequenceLoss(
            alpha=self.alpha, lam=self.lam, vector_reduction=self.vector_reduction
        )

    def _make_datasets(self, module, Z, y, weight, train, valid, rng, device):
        self._check_enough_rows(len(train))
        first, position = _neighbors.distinct_rows(Z[train], y[train])
        rows = train[first]
        reference, codes = Z[rows], y[rows]
        mass = np.bincount(position, weights=weight[train])
        # Built once, and only where something asks for it.
        search = cache(
            lambda: _neighbors.make_search(self.neighbors, reference, self.n_jobs)
        )
        self._keep_reference(reference, codes, mass, rows, search, rng)
        self._keep_voters(reference, codes, mass, len(train))
        found = self._neighbor_indices(reference, search, rng)
        # rng: training draws what it needs anew, validation must not.
        tables = [(train, position, found[position], rng)]
        if valid is not None:
            nowhere = np.full(len(valid), -1)
            found = self._nearest(search(), Z[valid], nowhere, len(reference))
            tables.append((valid, nowhere, found, None))
        x, labels = (self._tensor(a, device) for a in (reference, codes))
        datasets = [
            self._dataset(
                *self._row_tensors((Z, y, weight), rows, device),
                *(self._tensor(a, device) for a in (own, found)),
                x,
                labels,
                draws,
            )
            for rows, own, found, draws in tables
        ]
        return datasets if len(datasets) == 2 else [*datasets, None]

    def _check_enough_rows(self, n_rows):
        if n_rows <= self.n_neighbors:
            raise ValueError(
                f"Expected n_neighbors < n_samples_fit, but n_neighbors = "
                f"{self.n_neighbors}, n_samples_fit = {n_rows} (rows of positive "
                f"weight, without a hold-out); lower n_neighbors or give more rows."
            )

    def _dataset(self, x, y, weight, own, found, reference, labels, rng):
        """Rows with their neighbours gathered by the batch, never (n, K, d) at once."""

        def batch(index):
            # index_select takes half the time of x[index].
            neighbors = found.index_select(0, index)
            target = {
                "y": y.index_select(0, index),
                "weight": weight.index_select(0, index),
                "labels": labels[neighbors],
                "vectors": reference[neighbors],
            }
            extra = self._extra_inputs(own.index_select(0, index), reference, rng)
            return {"x": x.index_select(0, index), **extra}, target

        return _training.BatchDataset(len(x), batch, x.device)

    def _neighbor_indices(self, Z, search, rng):
        own = np.arange(len(Z))
        if self.neighbors == "subsets":
            return self._nearest_in_subsets(Z, Z, own, rng)
        return self._nearest(search(), Z, own, len(Z))

    def _nearest_in_subsets(self, reference, Z, own, rng):
        return _neighbors.nearest_in_subsets(
            reference,
            Z,
            own,
            self.n_neighbors,
            n_subsets=self.n_subsets,
            subset_size=self.subset_size,
            rng=rng,
            n_jobs=self.n_jobs,
        )

    def _nearest(self, search, Z, own, n_reference):
        """K nearest others; where equal rows leave fewer, they come round again."""
        return _neighbors.nearest_of_few(search, Z, own, self.n_neighbors, n_reference)

    def _keep_reference(self, Z, y, weight, rows, search, rng):
        """What prediction needs of the training rows; nothing by default."""

    def _keep_voters(self, Z, y, weight, n_rows):
        """The rows of which the nearest vote in predictions, where any do."""
        self._vote_share = self._neighbor_share(n_rows)
        self._voters = (Z, y, weight) if self._vote_share else None

    def _neighbor_share(self, n_rows):
        """``neighbor_weight``, or what "auto" is for so many training rows."""
        if self.neighbor_weight != "auto":
            return float(self.neighbor_weight)
        return VOTE_SHARE if n_rows <= MAX_VOTE_ROWS else 0.0

    def _keep(self, net, past=()):
        super()._keep(net, past)
        vars(self).pop("_pool", None)
        if self._vote_share:
            self._pool = self._make_pool(next(net.module_.parameters()).device)

    def __getstate__(self):
        # Made anew of the rows.
        return {k: v for k, v in super().__getstate__().items() if k != "_pool"}

    def _probabilities(self, x):
        probabilities = self._label_probabilities(x)
        if not self._vote_share:
            return probabilities
        votes = self._pool(x, N_VOTERS)
        return class_probabilities(
            product_of_experts(probabilities, votes, self._vote_share)
        )

    def _run(self, function, X, **params):
        check_is_fitted(self)
        # In one thread: those that share the batches would make it once each.
        self._prepare_vote()
        return super()._run(function, X, **params)

    def _prepare_vote(self):
        """Make what a pickle leaves out."""
        if self._vote_share and "_pool" not in vars(self):
            self._pool = self._make_pool(next(self.net_.module_.parameters()).device)

    def _make_pool(self, device):
        """The memory of the rows that vote."""
        Z, y, weight = (self._tensor(array, device) for array in self._voters)
        n_classes, row = len(self.classes_), torch.arange(len(Z), device=device)
        labels = torch.eye(n_classes, dtype=Z.dtype, device=device)[y.long()]
        pool = self._to_dtype(NeighborMemory(n_classes, Z.shape[1], 0)).to(device)
        pool.fill(Z.unsqueeze(0), labels, weight, row)
        return pool

    def _extra_inputs(self, own, reference, rng):
        """Inputs of the module beside the rows, whose reference rows are ``own``."""
        return {}

    def _make_checkpoint(self, rng, *facts):
        wanted = self.checkpoint is not None
        repeatable = isinstance(self.random_state, Integral) and not self.warm_start
        if wanted and not repeatable:
            raise ValueError(
                f"checkpoint={self.checkpoint!r} needs an int as random_state, as in "
                f"random_state=0, and warm_start=False: fit goes on only where it "
                f"would do the same again."
            )
        if not (wanted or _training.in_parallel()):
            return None
        fingerprint = self._fingerprint(facts)
        _training.check_agreement(fingerprint)
        return (
            _training.Checkpoint(self.checkpoint, fingerprint, rng) if wanted else None
        )

    def _fingerprint(self, facts):
        """A hash of the parameters that a training depends on, and of facts."""
        params = self.get_params(deep=False)
        for name in ("checkpoint", "random_state", "n_jobs", "verbose"):
            del params[name]
        # Each of several processes has a GPU of its own.
        params["device"] = str(params["device"]).partition(":")[0]
        # Objects without a repr of their own show their address.
        text = re.sub(r" at 0x[0-9a-f]+", "", repr([type(self), params]))
        digest = hashlib.sha256(text.encode())
        for fact in facts:
            digest.update(np.ascontiguousarray(fact))
        return digest.hexdigest()

    # Rows larger than memory ----------------------------------------------------------

    def _by_block(self, X):
        """Whether X is to be read by block."""
        lazy = _blocks.is_lazy(X)
        if lazy and not self.out_of_core:
            raise ValueError(
                f"out_of_core=False takes arrays in memory, not {type(X).__name__}; "
                f"set out_of_core='auto', or read it into an array before."
            )
        wanted = self.out_of_core != "auto" and self.out_of_core
        return lazy or (wanted and _blocks.can_be_read(X))

    def _fit(self, X, y, sample_weight):
        if self._by_block(X):
            blocks = _blocks.Blocks(X, _blocks.BLOCK_BYTES)
            return self._fit_blocks(blocks, y, sample_weight)
        if self.out_of_core not in ("auto", False):
            raise ValueError(
                f"out_of_core=True needs rows that are sliced as X[start:stop], such "
                f"as numpy.memmap, or a list of paths, not {type(X).__name__}; set "
                f"out_of_core='auto'."
            )
        return super()._fit(X, y, sample_weight)

    def _fit_blocks(self, X, y, sample_weight):
        """The steps of fit, with a sample and a buffer of the rows in memory."""
        warm = self.warm_start and hasattr(self, "classes_")
        y, weight = self._validate_blocks(X, y, sample_weight, reset=not warm)
        self._set_classes(y[weight > 0], warm)
        self._fitted_dtype = self.dtype
        device = _training.resolve_device(self.device)
        seed = self._seed()
        rng = np.random.default_rng(seed)
        # As few bytes as can be: there is one for each row of the file.
        codes = np.min_scalar_type(len(self.classes_))
        y = np.searchsorted(self.classes_, y).astype(codes)
        size = X.count_rows_in(_blocks.BUFFER_BYTES)
        used, sample, valid = self._split_blocks(y, weight, size, rng)
        # The pass that validates every row.
        rows, held_out = X.gather(sample, valid)
        # The starts: the blocks in another order are another training.
        facts = [seed, X.shape, X.starts, rows, y]
        # Without it all weights follow from y, and would be as many bytes again.
        facts += [] if sample_weight is None else [weight]
        checkpoint = self._make_checkpoint(rng, *facts)
        past = self.history_ if warm else ()
        weights = _training.weights_to_numpy(self.net_) if warm else None
        before = vars(self).get("_module_args")
        look = self._look_again if warm else self._fit_preprocessor
        Z = look(rows, y[sample], seed)
        self._module_args = self._get_module_args(Z.shape[1], used.sum())
        with _training.reproducible(seed, device):
            module = self._to_dtype(self._module_class(**self._module_args))
            if warm:
                self._load_previous(module, weights, before)
            datasets = self._make_block_datasets(
                X, y, weight, used, Z, sample, held_out, valid, rng, device
            )
            net = self._train(
                module.to(device),
                self._make_criterion(),
                *datasets,
                device,
                checkpoint=checkpoint,
            )
        self._keep(net, past)
        return self

    def _bytes_beside_rows(self):
        """Of a row in the buffer: label, weight, own number and neighbours."""
        weight = np.dtype(self._numpy_dtype()).itemsize
        return 8 + weight + 8 + 8 * self.n_neighbors

    def _validate_blocks(self, X, y, sample_weight, reset):
        """Labels and weights; the rows are checked when they are read."""
        if not isinstance(self.neighbors, str):
            raise ValueError(
                f"neighbors={self.neighbors!r}: rows that are read by block have their "
                f"neighbours found by Algorithm 1; set neighbors='subsets'."
            )
        y = validate_blocks(self, X, y, reset=reset)
        if reset:
            self.is_categorical_ = None
        weight = self._row_weights(X, y, sample_weight)
        if sample_weight is not None or self.class_weight is not None:
            # The sum of very large ones would be infinite, very small ones count as
            # zero in training.
            weight = weight / weight.max()
        return y, weight

    def _split_blocks(self, y, weight, size, rng):
        """A mask of the rows to train on, a sample of them, and the rows held out.

        The sample has a row of each class at the least.
        """
        train, valid = np.flatnonzero(weight > 0), None
        if self.early_stopping:
            most = min(MAX_HOLDOUT_ROWS, size) / len(train)
            share = min(self.validation_fraction, most)
            train, valid = stratified_holdout(y, train, share, rng)
        self._check_enough_rows(len(train))
        size = min(size, MAX_SAMPLE_ROWS, len(train))
        sample = rng.choice(train, size, replace=False)
        unseen = np.setdiff1d(y[train], y[sample])
        first = [train[np.argmax(y[train] == code)] for code in unseen]
        sample = np.sort(np.append(sample, np.array(first, dtype=sample.dtype)))
        used = np.zeros(len(y), dtype=bool)
        used[train] = True
        # Not train[:0]: a view would keep all of train.
        return used, sample, np.empty(0, dtype=int) if valid is None else valid

    def _make_block_datasets(
        self, X, y, weight, used, Z, sample, held_out, valid, rng, device
    ):
        """Rows read by the buffer, the sample being their neighbours and memories."""
        first, position = _neighbors.distinct_rows(Z, y[sample])
        reference, codes = Z[first], y[sample[first]]
        mass = np.bincount(position, weights=weight[sample])
        search = cache(
            lambda: _neighbors.make_search(self.neighbors, reference, self.n_jobs)
        )
        self._keep_reference(reference, codes, mass, sample[first], search, rng)
        self._keep_voters(reference, codes, mass, int(used.sum()))
        look_up = _neighbors.make_lookup(reference, codes)
        mean = weight.mean(where=used)
        known = [self._tensor(a, device) for a in (reference, codes.astype(np.int64))]

        def tensors(rows, y, weight, own):
            found = self._nearest_in_subsets(reference, rows, own, rng)
            arrays = rows, y.astype(np.int64), weight / mean, own, found
            return tuple(self._tensor(array, device) for array in arrays)

        def read(number):
            rows = _preprocessing.transform(self.preprocessor_, X.read(number))
            here = slice(X.starts[number], X.starts[number] + len(rows))
            arrays = rows, y[here], weight[here], look_up(rows, y[here])
            return tensors(*(array[used[here]] for array in arrays))

        dataset = _training.BufferDataset(
            int(used.sum()),
            len(X),
            X.count_in(_blocks.BUFFER_BYTES, self._bytes_beside_rows()),
            read,
            lambda *buffer: self._dataset(*buffer, *known, rng),
        )
        if not len(valid):
            return dataset, None
        rows = _preprocessing.transform(self.preprocessor_, held_out)
        nowhere = np.full(len(valid), -1)
        arrays = tensors(rows, y[valid], weight[valid], nowhere)
        return dataset, self._dataset(*arrays, *known, None)

    def predict_proba(self, X, *, out=None):
        """Class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; read by block as ``out_of_core`` says.
        out : array-like of shape (n_samples, n_classes), default=None
            Where to put them: an array, or what has shape and dtype of one and takes
            ``out[start:stop] = values``, such as an ``h5py.Dataset``. A new array by
            default.

        Returns
        -------
        array-like of shape (n_samples, n_classes)
            ``out``: probabilities, in the order of ``classes_``. A row's depend on that
            row alone, not on the others of the call, but for rounding.

        Raises
        ------
        ValueError
            If unscaled features are too large for the precision of the network, rows
            that are read by block are not finite, or ``out`` cannot hold the result.
        OSError
            If ``out`` cannot be written.
        """
        check_is_fitted(self)
        values = np.full(len(self.classes_), 0.5, dtype=self._numpy_dtype())
        return self._predict_into(out, self._predict_rows, X, values, values.shape)

    def predict(self, X, *, out=None):
        """Most probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; read by block as ``out_of_core`` says.
        out : array-like of shape (n_samples,), default=None
            Where to put the labels: an array, or what has shape and dtype of one and
            takes ``out[start:stop] = values``, such as an ``h5py.Dataset``. A new array
            by default.

        Returns
        -------
        array-like of shape (n_samples,)
            ``out``: class labels.
        """
        check_is_fitted(self)

        def labels(rows, first=0):
            return self.classes_[self._predict_rows(rows, first).argmax(axis=1)]

        return self._predict_into(out, labels, X, self.classes_, ())

    def _predict_into(self, out, predict, X, values, shape):
        """Write ``predict(rows, number of the first)`` into out.

        ``values`` are some of the results or of their dtype, ``shape`` is that of one
        row's.
        """
        by_block = self._by_block(X)
        if out is None and not by_block:
            return predict(X)
        # A row's probabilities by the batch, and all batches joined.
        beside = 2 * len(self.classes_) * np.dtype(self._numpy_dtype()).itemsize
        blocks = _blocks.Blocks(X, _blocks.BUFFER_BYTES, beside) if by_block else None
        n_rows = blocks.shape[0] if by_block else _num_samples(X)
        if out is None:
            out = np.empty((n_rows, *shape), dtype=values.dtype)
        _blocks.check_out(out, (n_rows, *shape), values, X if by_block else None)
        for start, rows in blocks if by_block else [(0, X)]:
            named = blocks.named(rows) if by_block else rows
            _blocks.write(out, start, predict(named, start))
            # Else the next block is read beside this one.
            del rows, named
        return out

    def predict_neighbors(self, X):
        """Predicted neighbours of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        label_probabilities : ndarray of shape (n_samples, n_neighbors, n_classes)
            Distribution over ``classes_`` of each predicted neighbour, nearest first;
            None where the network predicts no labels.
        vectors : ndarray of shape (n_samples, n_neighbors, n_features)
            Feature vectors of the predicted neighbours, in the units of X; None where
            the network predicts no vectors. A category is the index, as a float, of
            the likeliest of the ``categories_`` of the encoder in ``preprocessor_``,
            or NaN where its column has more than 64 and is encoded by their targets.
        """
        return self._run(self._neighbors_in_units, X)

    def _neighbors_in_units(self, x):
        probabilities, vectors = self._neighbor_sequence(x)
        if vectors is None:
            return probabilities, None
        rows = vectors.flatten(0, 1).cpu().numpy()
        rows = torch.from_numpy(_preprocessing.in_units(self.preprocessor_, rows))
        return probabilities, rows.unflatten(0, vectors.shape[:2])
