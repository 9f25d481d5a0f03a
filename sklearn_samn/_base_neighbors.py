"""What the classifiers that learn to predict a row's neighbours share."""

import hashlib
import os
import re
from functools import cache
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import _num_samples, check_is_fitted

from . import _blocks, _neighbors, _preprocessing, _training
from ._base import BaseNeuralClassifier, highest_temperature, stratified_holdout
from ._validation import check_layer_sizes, validate_blocks
from .modules import NeighborMemory, NeighborSequenceLoss
from .modules.embedding import ACTIVATIONS, class_probabilities
from .modules.memory import product_of_experts

# neighbor_weight="auto" of the neighbour networks is VOTE_SHARE for up to MAX_VOTE_ROWS
# training rows, else zero: a search among more takes many times as long as the network.
VOTE_SHARE, MAX_VOTE_ROWS = 0.4, 10_000
# Rows that vote.
N_VOTERS = 20
# Of so many rows the votes of the others tell how sure the probabilities may be.
MAX_TUNING = 512
# At most so many of the rows read by block are held out.
MAX_HOLDOUT_ROWS = 10_000


class NeighborSequenceMixin:
    """Parameters and loss of a network that predicts a row's neighbours."""

    _parameter_constraints = {
        "alpha": [Interval(Real, 0, None, closed="left")],
        "lam": [Interval(Real, 0, None, closed="left")],
        "vector_reduction": [StrOptions({"mean", "sum"})],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
    }

    def _make_criterion(self):
        return NeighborSequenceLoss(
            alpha=self.alpha, lam=self.lam, vector_reduction=self.vector_reduction
        )


class BaseNeighborClassifier(NeighborSequenceMixin, BaseNeuralClassifier):
    """Template of the classifiers that learn to predict a row's neighbours."""

    _parameter_constraints = {
        **BaseNeuralClassifier._parameter_constraints,
        **NeighborSequenceMixin._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbors": [
            StrOptions({"exact", "subsets"}),
            HasMethods(["fit", "kneighbors"]),
        ],
        "n_subsets": [Interval(Integral, 1, None, closed="left")],
        "subset_size": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "neighbor_weight": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "out_of_core": [StrOptions({"auto"}), "boolean"],
        "checkpoint": [str, os.PathLike, None],
    }

    # On fewer rows and on more columns waves were no gain.
    _min_wave_rows, _max_wave_columns = 2_000, 30

    # An array to write into is no metadata of the rows.
    __metadata_request__predict = {"out": UNUSED}
    __metadata_request__predict_proba = {"out": UNUSED}

    def _get_module_args(self, n_features, n_rows):
        return {
            "n_features": n_features,
            "n_classes": len(self.classes_),
            "n_neighbors": self.n_neighbors,
            "hidden_layer_sizes": check_layer_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "hidden_size": self.hidden_size,
            "temperature": self.temperature,
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            **self._waves(n_rows),
        }

    def _training_params(self, n_rows):
        return {**super()._training_params(n_rows), "data_parallel": True}

    def _make_datasets(self, module, Z, y, weight, train, valid, rng, device):
        self._check_enough_rows(len(train))
        reference, codes, position, search = self._keep_rows(
            Z[train], y[train], weight[train], train, len(train), rng
        )
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

    def _keep_rows(self, Z, y, weight, rows, n_rows, rng):
        """Keep what prediction needs of the distinct rows of Z.

        Returns them, their labels, each row's place among them, and their search.
        """
        first, position = _neighbors.distinct_rows(Z, y)
        if len(first) < 2:
            raise ValueError(
                f"All {len(Z)} training rows are equal, so that none has a neighbour; "
                f"give rows that differ."
            )
        reference, codes = Z[first], y[first]
        mass = np.bincount(position, weights=weight)
        # Built once, and only where something asks for it.
        search = cache(
            lambda: _neighbors.make_search(self.neighbors, reference, self.n_jobs)
        )
        self._keep_reference(reference, codes, mass, rows[first], search, rng)
        self._keep_voters(reference, codes, mass, n_rows)
        return reference, codes, position, search

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
        if self._vote_share:
            self._vote_temperature = self._choose_temperature(n_rows)

    def _choose_temperature(self, n_rows):
        """What the logarithms of the class probabilities are divided by.

        A network has learned the labels of its training rows and cannot say how sure it
        should be of others. The votes of the others on these rows can: what they need,
        the probabilities need by half.
        """
        pool = self._make_pool(torch.device("cpu"))
        # The same rows whatever the seed: what training draws must not depend on them.
        row = np.random.default_rng(0).permutation(len(pool.rows))[:MAX_TUNING]
        row = torch.from_numpy(row)
        x, labels, weight = pool.entries[0, row], pool.labels[row], pool.weight()[row]
        # All copies of a row left out: those that were made know its label.
        share = torch.ones_like(weight)
        best = pool.best_temperature(x, labels, weight, row, share, N_VOTERS)
        return min(best**0.5, highest_temperature(n_rows))

    def _neighbor_share(self, n_rows):
        """``neighbor_weight``, or what "auto" is for so many training rows."""
        if self.neighbor_weight != "auto":
            return float(self.neighbor_weight)
        return VOTE_SHARE if n_rows <= MAX_VOTE_ROWS else 0.0

    def _keep(self, net, past):
        super()._keep(net, past)
        vars(self).pop("_pool", None)
        if self._vote_share:
            self._pool = self._make_pool(self._device)

    def __getstate__(self):
        # Made anew of the rows.
        return {k: v for k, v in super().__getstate__().items() if k != "_pool"}

    def _probabilities(self, x):
        probabilities = self._label_probabilities(x)
        if not self._vote_share:
            return probabilities
        votes = self._pool(x, N_VOTERS)
        logs = product_of_experts(probabilities, votes, self._vote_share)
        return class_probabilities(logs / self._vote_temperature)

    def _run(self, function, X, **params):
        check_is_fitted(self)
        # In one thread: those that share the batches would make it once each.
        self._prepare_vote()
        return super()._run(function, X, **params)

    def _prepare_vote(self):
        """Make what a pickle leaves out."""
        if self._vote_share and "_pool" not in vars(self):
            self._pool = self._make_pool(self._device)

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
        _training.check_agreement((fingerprint, wanted))
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
        params["n_processes"] = _training.count_processes()
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
        preprocess = self._transform_again if warm else self._fit_preprocessor
        Z = preprocess(rows, y[sample], seed)
        self._fit_module(
            self._get_module_args(Z.shape[1], used.sum()),
            lambda module: self._make_block_datasets(
                X, y, weight, used, Z, sample, held_out, valid, rng, device
            ),
            seed=seed,
            device=device,
            warm=warm,
            checkpoint=checkpoint,
        )
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
        size = min(size, _blocks.MAX_SAMPLE_ROWS, len(train))
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
        n_rows = int(used.sum())
        reference, codes, *_ = self._keep_rows(
            Z, y[sample], weight[sample], sample, n_rows, rng
        )
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
            n_rows,
            len(X),
            X.count_blocks_in(_blocks.BUFFER_BYTES, self._bytes_beside_rows()),
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

        Raises
        ------
        ValueError
            If unscaled features are too large for the precision of the network, rows
            that are read by block are not finite, or ``out`` cannot hold the result.
        OSError
            If ``out`` cannot be written.
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
