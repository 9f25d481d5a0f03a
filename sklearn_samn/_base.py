"""What the classifiers and the sampler share: training, prediction, persistence."""

from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from . import _preprocessing, _tables, _training
from ._tables import FLOATS
from ._validation import (
    check_one_kind,
    plain_labels,
    unchanged_on_failure,
    validate_finite,
    validate_table,
    warn_user,
    weights_by_class,
)

# Largest batch that batch_size="auto" takes.
MAX_AUTO_BATCH_SIZE = 256
# Most rows that a GPU predicts at once.
GPU_BATCH = 8192
# The number of training rows in partial_fit: more may always come.
UNBOUNDED = np.inf


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


def between_sizes(small, large, n_rows):
    """Small for 800 rows and fewer, large for 4,000 and more; logarithmic between."""
    share = np.clip(np.log(max(n_rows, 1) / 800) / np.log(5), 0, 1)
    return float(small + (large - small) * share)


def highest_temperature(n_rows):
    """Of class probabilities; higher for few rows, whose labels networks memorise."""
    return between_sizes(1.4, 1.0, n_rows)


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

    @property
    def _device(self):
        """Where the network is."""
        return next(self.net_.module_.parameters()).device

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
                # By their text: copies of a module are not equal.
                if name in before and repr(before[name]) != repr(new)
            )
            raise ValueError(
                f"warm_start=True and partial_fit continue from the fitted network, "
                f"whose shape does not fit the present data and parameters: "
                f"{changes or 'another network of yours, or other columns'}. "
                f"Set them back, or begin anew: fit with warm_start=False."
            ) from error

    def _fit_module(
        self, args, make_datasets, *, seed, device, warm, finish=None, **changes
    ):
        """Make the network, or go on from the one there is; train it and keep it.

        ``make_datasets(module)`` gives the rows to train on and those held out,
        ``finish(module, dataset)`` is called with the trained module; ``changes`` go
        before the estimator's own parameters of the training.
        """
        past = self.history_ if warm else ()
        weights = _training.weights_to_numpy(self.net_) if warm else None
        before, self._module_args = vars(self).get("_module_args"), args
        with _training.reproducible(seed, device):
            module = self._to_dtype(self._module_class(**args))
            if warm:
                self._load_previous(module, weights, before)
            dataset, valid = make_datasets(module)
            net = _training.train(
                module.to(device),
                self._make_criterion(),
                dataset,
                valid=valid,
                patience=None if valid is None else self.n_iter_no_change,
                device=device,
                **{**self._training_params(len(dataset)), **changes},
            )
            if finish is not None:
                finish(net.module_, dataset)
        self._keep(net, past)

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

    def _keep(self, net, past):
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
        losses = [r["valid_loss"] for r in self.history_ if "valid_loss" in r]
        self.validation_scores_ = [-loss for loss in losses] or None


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
        preprocess = self._transform_again if warm else self._fit_preprocessor
        if warm and chunk:
            preprocess = self._transform_chunk
        Z = self._preprocess(X, y, weight > 0, partial(preprocess, seed=seed))
        train, valid = np.flatnonzero(weight > 0), None
        if self.early_stopping and not chunk:
            train, valid = stratified_holdout(y, train, self.validation_fraction, rng)
        if not chunk:
            # First by the largest: a sum of very large ones is infinite.
            weight = weight / weight.max()
            weight = weight / weight[train].mean()

        def make_datasets(module):
            if not warm:
                self._start(module, y[train], weight[train])
            return self._make_datasets(module, Z, y, weight, train, valid, rng, device)

        self._fit_module(
            self._get_module_args(Z.shape[1], UNBOUNDED if chunk else len(train)),
            make_datasets,
            seed=seed,
            device=device,
            warm=warm,
            finish=None if chunk else partial(self._finish, rng=rng),
            checkpoint=self._make_checkpoint(rng, seed, Z, y, weight),
            **changes,
        )
        return self

    def _preprocess(self, X, y, used, preprocess):
        """What the network sees of the used rows, by a function of rows and y."""
        if used.all():
            return preprocess(X, y)
        rows = np.flatnonzero(used)
        seen = preprocess(_tables.take_rows(X, rows), y[rows])
        # Others keep their place, but nobody looks at them.
        Z = np.zeros((len(y), seen.shape[1]), dtype=seen.dtype)
        Z[rows] = seen
        return Z

    def _transform_chunk(self, X, y, seed):
        return _preprocessing.transform(self.preprocessor_, X)

    def _transform_again(self, X, y, seed):
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

    def _has_network_with(self, name):
        """Whether there is a network already, which has the parameter."""
        return name in vars(self).get("_module_args", {})

    def _waves(self, n_rows):
        """Columns of numbers, and the waves that each gets."""
        n_numeric = _preprocessing.count_numeric(self.preprocessor_)
        n_frequencies = self.n_frequencies
        if n_frequencies == "auto":
            few = n_numeric <= self._max_wave_columns
            n_frequencies = 16 if few and n_rows >= self._min_wave_rows else 0
            if self.warm_start and self._has_network_with("n_frequencies"):
                n_frequencies = self._module_args["n_frequencies"]
        return {"n_numeric": n_numeric, "n_frequencies": n_frequencies}

    def _start(self, module, y, weight):
        """What a new module should know of the data before training; nothing here."""

    def _finish(self, module, dataset, rng):
        """What a trained module should take along of the data; nothing here."""

    def _validate_training_data(self, X, y, sample_weight, reset, classes=None):
        X = _tables.as_pandas(X)
        check_one_kind(y)
        y = plain_labels(y)
        if reset:
            self.is_categorical_ = _tables.categorical_mask(
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
            if classes is None:
                classes = self._weighted_classes(seen)
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

    def _weighted_classes(self, y):
        """Those of y; with a dict, of which these rows may have a part, of all fits."""
        warm = self.warm_start and hasattr(self, "classes_")
        by_name = self.class_weight != "balanced"
        return self.classes_ if warm and by_name else np.unique(y)

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
        X = _tables.as_pandas(X)
        if self.is_categorical_ is not None:
            return validate_table(self, X, y, reset=reset)
        return validate_finite(self, X, y, reset=reset, dtype=FLOATS)

    def _run(self, function, X, **params):
        """Results of ``function(tensor)`` for all rows of X, by the batch."""
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        device = self._device
        if device.type != "cpu":
            params = {"largest": GPU_BATCH, **params}

        def tensor(rows):
            rows = _tables.take_rows(X, rows)
            Z = _preprocessing.transform(self.preprocessor_, rows)
            return self._tensor(Z, device)

        return _training.predict_batches(function, tensor, X.shape[0], **params)

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
