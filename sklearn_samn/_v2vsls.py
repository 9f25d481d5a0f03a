"""V2VSLS, the oversampler."""

from numbers import Integral, Real

import numpy as np
from imblearn.over_sampling.base import BaseOverSampler
from imblearn.utils import check_target_type
from scipy import sparse
from sklearn.utils._param_validation import Interval, StrOptions

from . import _neighbors, _training
from ._base import (
    NeuralMixin,
    check_one_kind,
    stratified_holdout,
    unchanged_on_failure,
    validate_finite,
    warn_user,
    weights_by_class,
)
from .modules import NeighborSequenceLoss, Seq2SeqNetwork

# Rows of each class that is not resampled which the network is shown.
MIN_CONTEXT, MAX_CONTEXT = 200, 2000


class V2VSLS(NeuralMixin, BaseOverSampler):
    """Oversample with a sequence-to-sequence network that predicts neighbours.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Which classes get how many rows, in imbalanced-learn's spelling: the share of
        minority to majority (binary only), the classes to resample up to the majority's
        count ("minority", "not minority", "not majority", "all", "auto" for "not
        majority"), or a dict of class and count.
    k_neighbors : int, at least 1, default=5
        K, the neighbours the network learns to predict of each row.
    neighbors_of : {"class", "all"}, default="class"
        Among which rows a row's neighbours are sought. "class": its own class, and the
        network is trained on the classes to be resampled and a sample of the others.
        "all", the paper's: all rows.
    certainty : float, at least 0, default=3.0
        A predicted neighbour is drawn with a weight of P(class) to this power; 0 draws
        evenly. Higher is more precise, lower covers more of the class.
    residual_scale : float, at least 0, default=1.2
        Synthetic rows are the predicted vectors plus this times a prediction error of
        the same step at a near row of the class, which gives back the spread that
        squared error takes away. 0, the paper's, adds none.
    keep_ties : bool, default=True
        Whether features in which parent and real neighbour are equal keep that value.
        False is the paper's.
    stop_when_exhausted : bool, default=False
        The paper's rule: each predicted neighbour that carries the class's label is
        used once, in random order, and when they run out, with a warning, the class
        stays short of ``sampling_strategy``.
    alpha : float, at least 0, default=3.0
        Weight of the row's own label in the loss.
    lam : float, at least 0, default=1.3
        The paper's lambda, weight of the vectors in the loss.
    vector_reduction : {"mean", "sum"}, default="mean"
        Over the features of a vector: "sum" is the paper's squared norm; "mean", the
        default, divides it by their number, so that ``lam`` means the same for wide
        tables: the sum lets the vectors drown the labels there.
    temperature : float above 0, default=0.85
        tau, temperature of the label softmax; below 1 it sharpens.
    cell : {"lstm", "gru"}, default="lstm"
        Recurrent cell of encoder and decoder.
    hidden_size : int, at least 1, default=64
        Width of the encoder's and the decoder's state.
    dropout : float in [0, 1), default=0.2
        Dropout on the context and the decoder's states.
    batch_norm : bool, default=True
        Batch normalisation of the input.
    standardize : bool, default=True
        Whether features are standardised inside, by mean and standard deviation after
        far-out values were pulled in. False takes them as they are.
    class_weight : dict, "balanced" or None, default="balanced"
        Weight of each class in the loss, as in scikit-learn: "balanced" is inversely
        proportional to the class counts.
    max_epochs : int, at least 1, default=10
        Passes over the training rows.
    lr : float above 0, default=0.01
        Learning rate; with ``lr_schedule="one_cycle"`` its highest value.
    lr_schedule : {"one_cycle", "constant"}, default="one_cycle"
        "one_cycle" climbs in a line to ``lr`` over the first tenth of the steps and
        falls to zero in a cosine; "constant" is the paper's.
    batch_size : "auto" or int, at least 1, default="auto"
        Rows a step. "auto" is the power of two nearest to a sixteenth of the training
        rows, within 16 and 256. More than there are rows is clipped with a warning.
    optimizer : {"adamw", "adam", "sgd"}, default="adamw"
        Optimizer, torch's fused version.
    weight_decay : float, at least 0, default=0.01
        Weight decay of the weight matrices; biases and norms do not decay.
    early_stopping : bool, default=False
        Whether to hold out part of the training rows, stop when the loss on them no
        longer falls, and go back to the best weights.
    validation_fraction : float in (0, 1), default=0.1
        Share of each class held out, one row at the least. Only used with early
        stopping.
    n_iter_no_change : int, at least 1, default=10
        Epochs without a lower hold-out loss before training stops. Only used with early
        stopping.
    warm_start : bool, default=False
        Whether ``fit_resample`` continues from the weights of the call before, on data
        of the same width and number of classes. The optimizer starts afresh.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU; or "cpu", "cuda", "cuda:1",
        "mps". Resolved in ``fit``. A fitted estimator loads on a machine without its
        device and predicts there on the CPU, with a warning unless "auto".
    n_jobs : int or None, default=None
        Processes of scikit-learn's neighbour search; None is one. torch trains on one
        CPU thread, so that results do not depend on the machine's cores.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the order of the rows, dropout, the draws. With an
        int, the same call gives the same result to the bit on a CPU; global random
        streams are left alone.
    verbose : int, default=0
        0 is silent, 1 shows a progress bar on stderr, 2 prints skorch's table of
        epochs.
    skorch_params : dict or None, default=None
        For experts: parameters of :class:`skorch.NeuralNet` that go before those above,
        such as ``{"callbacks": [...], "optimizer": torch.optim.NAdam}``. Callbacks see
        epochs, not batches' losses.

    Attributes
    ----------
    parent_indices_ : ndarray of shape (n_synthetic,)
        Row of X each synthetic row was made from, in the order they are appended.
    decoder_steps_ : ndarray of shape (n_synthetic,)
        Decoder step, 0 to ``k_neighbors - 1``, it came from.
    sampling_strategy_ : dict
        Rows to make of each class.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X had string column names.
    net_ : skorch.NeuralNet
        The net, whose ``module_`` is the trained torch module.
    n_iter_ : int
        Epochs trained.
    loss_curve_ : list of float
        Training loss of each epoch.
    validation_scores_ : list of float or None
        Minus the loss on the hold-out after each epoch; None without one.
    history_ : list of dict
        One record an epoch: epoch, train_loss, valid_loss, dur (seconds).

    See Also
    --------
    KNNSeq2SeqClassifier : The network as a classifier.
    imblearn.over_sampling.SMOTE : Interpolates between neighbours.

    Notes
    -----
    Synthetic rows stay within the range of each feature, and features that hold only
    whole numbers get whole numbers.

    The published version is ``V2VSLS(neighbors_of="all", residual_scale=0.0,
    keep_ties=False, stop_when_exhausted=True, class_weight=None,
    vector_reduction="sum", lr_schedule="constant", optimizer="adam",
    weight_decay=0.0)``.

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to Sequence
       Deep Neural Networks and Memory Networks", arXiv 1804.11214, sections 3 and 4.

    Examples
    --------
    >>> from collections import Counter
    >>> from sklearn.datasets import make_classification
    >>> from sklearn_samn import V2VSLS
    >>> X, y = make_classification(weights=[0.9], random_state=0)
    >>> X_resampled, y_resampled = V2VSLS(random_state=0).fit_resample(X, y)
    >>> Counter(y.tolist()), Counter(y_resampled.tolist())
    (Counter({0: 91, 1: 9}), Counter({0: 91, 1: 91}))
    """

    def __init__(
        self,
        *,
        sampling_strategy="auto",
        k_neighbors=5,
        neighbors_of="class",
        certainty=3.0,
        residual_scale=1.2,
        keep_ties=True,
        stop_when_exhausted=False,
        alpha=3.0,
        lam=1.3,
        vector_reduction="mean",
        temperature=0.85,
        cell="lstm",
        hidden_size=64,
        dropout=0.2,
        batch_norm=True,
        standardize=True,
        class_weight="balanced",
        max_epochs=10,
        lr=1e-2,
        lr_schedule="one_cycle",
        batch_size="auto",
        optimizer="adamw",
        weight_decay=0.01,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        device="auto",
        n_jobs=None,
        random_state=None,
        verbose=0,
        skorch_params=None,
    ):
        super().__init__(sampling_strategy=sampling_strategy)
        self.k_neighbors = k_neighbors
        self.neighbors_of = neighbors_of
        self.certainty = certainty
        self.residual_scale = residual_scale
        self.keep_ties = keep_ties
        self.stop_when_exhausted = stop_when_exhausted
        self.alpha = alpha
        self.lam = lam
        self.vector_reduction = vector_reduction
        self.temperature = temperature
        self.cell = cell
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.standardize = standardize
        self.class_weight = class_weight
        self.max_epochs = max_epochs
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.skorch_params = skorch_params

    _module_class = Seq2SeqNetwork

    _parameter_constraints = {
        **BaseOverSampler._parameter_constraints,
        **NeuralMixin._parameter_constraints,
        "k_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbors_of": [StrOptions({"class", "all"})],
        "certainty": [Interval(Real, 0, None, closed="left")],
        "residual_scale": [Interval(Real, 0, None, closed="left")],
        "keep_ties": ["boolean"],
        "standardize": ["boolean"],
        "stop_when_exhausted": ["boolean"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "lam": [Interval(Real, 0, None, closed="left")],
        "vector_reduction": [StrOptions({"mean", "sum"})],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "cell": [StrOptions({"lstm", "gru"})],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
    }

    def _check_X_y(self, X, y, accept_sparse=("csr", "csc")):
        y, binarize_y = check_target_type(y, indicate_one_vs_all=True)
        X, y = validate_finite(self, X, y, reset=True, accept_sparse=accept_sparse)
        return X, y, binarize_y

    def fit_resample(self, X, y, **params):
        """Train the network and resample.

        Parameters
        ----------
        X : {array-like, dataframe, sparse matrix} of shape (n_samples, n_features)
            Finite numbers. A sparse matrix is made dense inside.
        y : array-like of shape (n_samples,)
            Class labels, at least two classes.
        **params : dict
            None; there for imbalanced-learn's interface.

        Returns
        -------
        X_resampled : {ndarray, dataframe, sparse matrix} of shape \
                (n_samples_new, n_features)
            The rows of X, unchanged and in order, then the synthetic ones.
        y_resampled : ndarray of shape (n_samples_new,)
            Their labels.
        """
        check_one_kind(y)
        with unchanged_on_failure(self):
            return super().fit_resample(X, y, **params)

    def _fit_resample(self, X, y):
        dense = X.toarray() if sparse.issparse(X) else X
        self.classes_, codes = np.unique(y, return_inverse=True)
        wanted = {
            int(np.searchsorted(self.classes_, label)): n_new
            for label, n_new in self.sampling_strategy_.items()
            if n_new > 0
        }
        if not wanted:
            # What a call before this one learned is not this one's.
            for name in ("_net", "_weights", "n_iter_", "history_", "loss_curve_"):
                vars(self).pop(name, None)
        made = self._generate(dense, codes, wanted) if wanted else []
        parts = [np.empty((0, dense.shape[1])), *(rows for rows, *_ in made)]
        new = np.concatenate(parts).astype(X.dtype)
        self.parent_indices_ = _joined(parents for _, parents, _ in made)
        self.decoder_steps_ = _joined(steps for *_, steps in made)
        labels = [
            np.repeat(self.classes_[code], len(rows))
            for code, (rows, *_) in zip(wanted, made, strict=True)
        ]
        y_new = np.concatenate([y, *labels]).astype(y.dtype)
        if sparse.issparse(X):
            # Older releases of SciPy stack sparse arrays to a sparse matrix.
            return type(X)(sparse.vstack([X, type(X)(new)], format=X.format)), y_new
        return np.concatenate([X, new]), y_new

    def _generate(self, X, codes, wanted):
        """Rows, parents and steps of each class of ``wanted``."""
        seed = self._seed()
        rng = np.random.default_rng(seed)
        self._warn_of_small_classes(codes, wanted)
        table = _Table(X, self.standardize)
        rows, sequences = self._sequences(table.seen, codes, wanted, rng)
        self._fit_network(table.seen, codes, rows, sequences, seed, rng)
        return [
            self._generate_class(table, codes, rows, sequences, code, n_new, rng)
            for code, n_new in wanted.items()
        ]

    def _warn_of_small_classes(self, codes, wanted):
        counts, labels = np.bincount(codes), self.classes_.tolist()
        for code in wanted:
            if self.neighbors_of == "class" and counts[code] <= self.k_neighbors:
                warn_user(
                    f"Class {labels[code]!r} has {counts[code]} rows, fewer "
                    f"than k_neighbors + 1 = {self.k_neighbors + 1}: its rows are used "
                    f"as neighbours more than once. Lower k_neighbors to silence this."
                )

    def _sequences(self, Z, codes, wanted, rng):
        """Rows the network is trained on, and the indices of the K nearest of each."""
        if self.neighbors_of == "all":
            if len(Z) <= self.k_neighbors:
                raise ValueError(
                    f"Expected k_neighbors < n_samples, but k_neighbors = "
                    f"{self.k_neighbors}, n_samples = {len(Z)}; lower k_neighbors."
                )
            rows = np.arange(len(Z))
            return rows, self._nearest(Z, rows)
        largest = max(np.count_nonzero(codes == code) for code in wanted)
        n_context = min(max(largest, MIN_CONTEXT), MAX_CONTEXT)
        rows, sequences = [], []
        for code in np.unique(codes):
            members = np.flatnonzero(codes == code)
            if code not in wanted and len(members) > n_context:
                members = np.sort(rng.choice(members, n_context, replace=False))
            rows.append(members)
            sequences.append(self._nearest(Z, members))
        return np.concatenate(rows), np.concatenate(sequences)

    def _nearest(self, Z, members):
        """Indices of each member's nearest other members, repeated where too few."""
        n_others = min(self.k_neighbors, len(members) - 1)
        if n_others == 0:
            return np.repeat(members[:, None], self.k_neighbors, axis=1)
        search = _neighbors.make_search("exact", Z[members], self.n_jobs)
        own = np.arange(len(members))
        found = _neighbors.nearest_others(search, Z[members], own, n_others)
        return members[found[:, np.arange(self.k_neighbors) % n_others]]

    def _fit_network(self, Z, codes, rows, sequences, seed, rng):
        device = _training.resolve_device(self.device)
        train, valid = np.arange(len(rows)), None
        if self.early_stopping:
            train, valid = stratified_holdout(
                codes[rows], train, self.validation_fraction, rng
            )
        weight = np.ones(len(rows))
        if self.class_weight is not None:
            weight = weights_by_class(self.class_weight, self.classes_[codes[rows]])
            weight = weight / weight[train].mean()
        self._module_args = {
            "n_features": Z.shape[1],
            "n_classes": len(self.classes_),
            "n_neighbors": self.k_neighbors,
            "hidden_size": self.hidden_size,
            "cell": self.cell,
            "temperature": self.temperature,
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
        }
        criterion = NeighborSequenceLoss(
            alpha=self.alpha, lam=self.lam, vector_reduction=self.vector_reduction
        )
        z, y = self._tensor(Z, device), self._tensor(codes, device)
        warm = self.warm_start and hasattr(self, "net_")
        past = self.history_ if warm else ()
        weights = _training.weights_to_numpy(self.net_) if warm else None
        with _training.reproducible(seed, device):
            datasets = [
                None
                if part is None
                else self._dataset(
                    z,
                    y,
                    *(self._tensor(a[part], device) for a in (rows, weight, sequences)),
                )
                for part in (train, valid)
            ]
            module = self._module_class(**self._module_args)
            if warm:
                self._load_previous(module, weights)
            net = self._train(module.to(device), criterion, *datasets, device)
        self._keep(net, past)

    def _dataset(self, z, y, rows, weight, sequences):
        def batch(index):
            row, neighbors = rows[index], sequences[index]
            target = {"y": y[row], "weight": weight[index]}
            target["labels"], target["vectors"] = y[neighbors], z[neighbors]
            return {"x": z[row]}, target

        return _training.BatchDataset(len(rows), batch)

    def _generate_class(self, table, codes, rows, sequences, code, n_new, rng):
        own = codes[rows] == code
        members, sequences = rows[own], sequences[own]
        log_probs, vectors = self._predict(table.seen[members])
        parents, steps = self._draw(log_probs, code, n_new, rng)
        new = vectors[parents, steps].astype(float)
        if self.residual_scale:
            donors = self._donors(table.seen, members, parents, rng)
            real = table.standardized(sequences[donors, steps])
            new += self.residual_scale * (real - vectors[donors, steps])
        new = table.to_units(new)
        if self.keep_ties:
            parent, neighbor = table.X[members[parents]], sequences[parents, steps]
            tied = parent == table.X[neighbor]
            new[tied] = parent[tied]
        return new, members[parents], steps

    def _predict(self, Z):
        module = self.net_.module_
        z = self._tensor(Z, next(module.parameters()).device)
        return _training.predict_batches(lambda x: module(x), z.__getitem__, len(Z))

    def _draw(self, log_probs, code, n_new, rng):
        """Positions of the parents and their decoder steps."""
        if self.stop_when_exhausted:
            candidates = np.flatnonzero(log_probs.argmax(2).ravel() == code)
            drawn = rng.permutation(candidates)[:n_new]
            if len(drawn) < n_new:
                warn_user(
                    f"Class {self.classes_.tolist()[code]!r} gets {len(drawn)} of the "
                    f"{n_new} rows asked for: no more candidates carry its label. Set "
                    f"stop_when_exhausted=False to meet sampling_strategy."
                )
        else:
            weight = np.exp(
                self.certainty * log_probs[:, :, code].astype(float)
            ).ravel()
            drawn = rng.choice(weight.size, n_new, p=weight / weight.sum())
        return np.divmod(drawn, self.k_neighbors)

    def _donors(self, Z, members, parents, rng):
        """For each parent itself or one of its nearest of the class, at random."""
        if len(members) == 1:
            return parents
        k = min(self.k_neighbors, len(members) - 1)
        search = _neighbors.make_search("exact", Z[members], self.n_jobs)
        own = np.arange(len(members))
        near = _neighbors.nearest_others(search, Z[members], own, k)
        near = np.column_stack([own, near])
        return near[parents, rng.integers(k + 1, size=len(parents))]


class _Table:
    """Rows in their own units and standardised, and the way back.

    ``seen`` is what the network sees: standardised by mean and standard deviation
    after far-out values were pulled in, so that an outlier of 1e12 does not hide the
    rest of its column.
    """

    def __init__(self, X, standardize):
        self.X = X.astype(float)
        self.low, self.high = self.X.min(axis=0), self.X.max(axis=0)
        self.whole = (self.X == np.rint(self.X)).all(axis=0)
        self.mean, self.std, self.seen = 0.0, 1.0, self.X.astype(np.float32)
        if standardize:
            self._standardize()

    def _standardize(self):
        low, high = np.quantile(self.X, [0.01, 0.99], axis=0)
        reach = 3 * (high - low)
        near = np.clip(self.X, low - reach, high + reach)
        # A column all but constant is left as it is: pulling in would empty it.
        near = np.where(reach > 0, near, self.X)
        self.mean, self.std = near.mean(axis=0), near.std(axis=0)
        self.std[self.std == 0] = 1.0
        self.seen = ((near - self.mean) / self.std).astype(np.float32)

    def standardized(self, rows):
        """Rows by index, standardised, far-out values as they are."""
        return (self.X[rows] - self.mean) / self.std

    def to_units(self, Z):
        """In the units of X, within its range, whole numbers where X has only such."""
        X = np.clip(Z * self.std + self.mean, self.low, self.high)
        X[:, self.whole] = np.rint(X[:, self.whole])
        return X


def _joined(parts):
    return np.concatenate([np.empty(0, dtype=int), *parts])
