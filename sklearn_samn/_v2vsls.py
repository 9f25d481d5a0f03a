"""V2VSLS, the oversampler."""

from copy import copy
from math import ceil
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from imblearn.over_sampling.base import BaseOverSampler
from imblearn.utils import check_sampling_strategy, check_target_type
from scipy import sparse
from scipy.special import softmax
from sklearn.utils import check_random_state, check_scalar, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm  # comes with skorch

from . import _blocks, _neighbors, _preprocessing, _tables, _training
from ._base import NeuralMixin, stratified_holdout
from ._base_neighbors import NeighborSequenceMixin
from ._validation import (
    check_one_kind,
    plain_labels,
    unchanged_on_failure,
    validate_blocks,
    validate_finite,
    validate_table,
    warn_user,
    weights_by_class,
)
from .modules import Seq2SeqNetwork

# Rows of each class that is not resampled which the network is shown.
MIN_CONTEXT, MAX_CONTEXT = 200, 2000
# Rows of a class that gets some, where rows are read by block: those that are learned
# from and are parents.
MAX_PARENTS = 20_000
# Rows that are made at a time, and among which some are rejected.
BLOCK_ROWS = 2048
# Classes that a warning names.
MAX_NAMED = 5
# Rows generated for each that is asked for, where some are rejected.
SURPLUS = 1.5
NOTHING_LEARNED = (
    "This %(name)s has made no rows yet, and fit makes none: call fit_resample with a "
    "class that gets some, then sample more of them."
)
# Attributes: what a call learned, and the account of the rows it made.
LEARNED = (
    *("_net", "_weights", "n_iter_", "history_", "loss_curve_", "validation_scores_"),
    *("_module_args", "preprocessor_", "_rows", "_row_indices", "_Z", "_links"),
    "_limits",
)
ACCOUNT = (
    *("parent_indices_", "neighbor_indices_", "decoder_steps_"),
    *("label_probabilities_", "acceptance_scores_"),
)


class V2VSLS(NeighborSequenceMixin, NeuralMixin, BaseOverSampler):
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
    rejection : float in [0, 1], default=0.1
        The dial between recall and precision. Half as many rows again are generated as
        asked for; those whose ``acceptance_scores_`` are below this quantile of the
        scores of the real rows of the class are thrown away, the lowest first. Where
        classes are far apart that takes away what lies between them, where they overlap
        little. 0, the paper's, generates no more than asked for. Not with
        ``stop_when_exhausted``.
    residual_scale : float, at least 0, default=1.0
        Synthetic rows are the predicted vectors plus this times a prediction error of
        the same step at the row or a near one of its class, which gives back the spread
        that squared error takes away; each error is stretched by a random factor,
        uniform between 0 and 2. 0, the paper's, adds none.
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
    categorical_features : "auto", "from_dtype", array-like or None, default="auto"
        Which columns are categories: "auto" are those of a DataFrame of a category or
        string dtype or with strings, "from_dtype" those of a category dtype alone; or
        their indices, names, or a boolean mask; None for none. A synthetic row has
        each category from its parent or from the parent's neighbour. The network sees
        them one-hot; a column of more than 64 levels by its target statistics.
    scaling : {"auto", "robust", "quantile"} or None, default="auto"
        Of the numbers inside: "robust" by median and interquartile range with a smooth
        clip, "quantile" by ranks to a normal distribution, None not at all. "auto" is
        "robust", but for columns of which one side is more than four times as long as
        the other, such as incomes, which go by quantiles.
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
        Rows a step at most; an epoch is cut into equal batches, of two rows at least.
        "auto" is a power of two, about a sixteenth of the training rows, within 16 and
        256. More than there are rows is clipped with a warning.
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
        "mps". Resolved in ``fit_resample``. A fitted sampler loads on a machine without
        its device and makes rows there on the CPU, with a warning unless "auto".
    n_jobs : int or None, default=None
        Parallel jobs of scikit-learn's neighbour search; None is one, save within
        ``joblib.parallel_config``. torch trains on one CPU thread, so that results do
        not depend on the machine's cores.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the order of the rows, dropout, the draws. With an
        int, the same call gives the same result to the bit on a CPU; global random
        streams are left alone.
    verbose : int, default=0
        0 is silent, 1 shows progress bars on stderr, of the training and of the rows
        made, 2 prints skorch's table of epochs.
    skorch_params : dict or None, default=None
        For experts: parameters of :class:`skorch.NeuralNet` that go before those above,
        such as ``{"callbacks": [...], "optimizer": torch.optim.NAdam}``. Callbacks
        are told of each batch and epoch, the history holds epochs alone. On a GPU
        training is then several times slower: its steps are not recorded.

    Attributes
    ----------
    parent_indices_ : ndarray of shape (n_synthetic,)
        Row of X each synthetic row was made from, in the order they are appended.
        Those made from row 17: ``np.flatnonzero(sampler.parent_indices_ == 17)``.
    neighbor_indices_ : ndarray of shape (n_synthetic,)
        Row of X that is the parent's neighbour at that step: where features of both
        are equal they stay so, and categories come from either.
    decoder_steps_ : ndarray of shape (n_synthetic,)
        Decoder step, 0 to ``k_neighbors - 1``, it came from.
    label_probabilities_ : ndarray of shape (n_synthetic, n_classes)
        Label distribution predicted at that step, which it was drawn by.
    acceptance_scores_ : ndarray of shape (n_synthetic,)
        Mean probability of its class over the K neighbours that the network predicts
        for the finished row; ``rejection`` throws away the lowest.
    sampling_strategy_ : dict
        Rows to make of each class.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    preprocessor_ : transformer
        From rows of X to what the network sees.
    is_categorical_ : ndarray of bool of shape (n_features,)
        Which columns are categories.
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
        Minus the loss on the hold-out after each epoch that had one; None where none
        had.
    history_ : list of dict
        One record an epoch: epoch, train_loss, dur (seconds) and, with a hold-out,
        valid_loss.

    See Also
    --------
    KNNSeq2SeqClassifier : The network as a classifier.
    imblearn.over_sampling.SMOTE : Interpolates between neighbours.

    Notes
    -----
    Synthetic rows stay within the range of each feature, and features that hold only
    whole numbers get whole numbers. A value is missing where it is missing in the
    parent. A DataFrame comes back with its dtypes.

    The network is trained on the classes that get rows and on as many rows of each
    other class, 200 to 2,000, so that time grows with the rows of the small classes and
    with those asked for (times K and features), hardly with the large ones.

    Rows that are equal in features and label are one neighbour, and no neighbours of
    each other. A class of fewer rows than ``k_neighbors + 1``, copies counted, uses its
    rows as neighbours more than once, with a warning; the rows made from a class of one
    row are copies of it, unless ``keep_ties=False``. With ``neighbors_of="all"`` the
    neighbours of such a class are of others.

    A category is one column: columns of zeros and ones that stand for its levels are
    numbers to the sampler, of which a row may get two or none.

    The published version is ``V2VSLS(neighbors_of="all", residual_scale=0.0,
    keep_ties=False, stop_when_exhausted=True, rejection=0.0, class_weight=None,
    vector_reduction="sum", lr_schedule="constant", optimizer="adam",
    weight_decay=0.0, scaling="robust")``.

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
        rejection=0.1,
        residual_scale=1.0,
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
        categorical_features="auto",
        scaling="auto",
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
        self.rejection = rejection
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
        self.categorical_features = categorical_features
        self.scaling = scaling
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
        **NeighborSequenceMixin._parameter_constraints,
        "k_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbors_of": [StrOptions({"class", "all"})],
        "certainty": [Interval(Real, 0, None, closed="left")],
        "rejection": [Interval(Real, 0, 1, closed="both")],
        "residual_scale": [Interval(Real, 0, None, closed="left")],
        "keep_ties": ["boolean"],
        "stop_when_exhausted": ["boolean"],
        "scaling": [StrOptions({"auto", "robust", "quantile"}), None],
        "cell": [StrOptions({"lstm", "gru"})],
    }

    def _check_X_y(self, X, y, accept_sparse=("csr", "csc")):
        if hasattr(y, "iloc") and y.ndim == 2 and y.shape[1] == 1:
            y = y.iloc[:, 0]
        y, binarize_y = check_target_type(plain_labels(y), indicate_one_vs_all=True)
        mask = _tables.categorical_mask(X, self.categorical_features)
        array = mask is None and not _tables.is_frame(X)
        if array or sparse.issparse(X):
            X, y = validate_finite(self, X, y, reset=True, accept_sparse=accept_sparse)
        if mask is None:
            mask = np.zeros(X.shape[1], dtype=bool)
        self.is_categorical_ = mask
        if not (array or sparse.issparse(X)):
            # As it came, so that each column gets rows of its own dtype.
            X, y = validate_table(self, X, y, reset=True)
            _tables.refuse_columns_without_numbers(X, mask)
        return X, y, binarize_y

    def fit(self, X, y):
        """Check rows and parameters, as in imbalanced-learn, and learn nothing.

        Use :meth:`fit_resample`.

        Parameters
        ----------
        X : {array-like, dataframe, sparse matrix} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            Class labels.

        Returns
        -------
        self : object
            The sampler, without what it learned before.
        """
        with unchanged_on_failure(self):
            super().fit(X, y)
            self._forget((*LEARNED, *ACCOUNT, "classes_"))
        return self

    def fit_resample(self, X, y, **params):
        """Train the network and resample.

        Parameters
        ----------
        X : {array-like, dataframe, sparse matrix} of shape (n_samples, n_features)
            Rows: numbers, NaN where one is missing, and categories as
            ``categorical_features`` says. A sparse matrix is made dense inside. With
            ``out`` anything that :meth:`resample_blocks` reads.
        y : array-like of shape (n_samples,)
            Class labels, at least two classes.
        **params : dict
            ``out``, an array-like of shape (n_samples_new, n_features): where to put
            the rows, which are then read and made by block, as :meth:`resample_blocks`
            does: an array, or what has shape and dtype of one and takes
            ``out[start:stop] = rows``, such as an ``h5py.Dataset``. Its dtype must be
            one of floats, to which rows are rounded.

        Returns
        -------
        X_resampled : array-like of shape (n_samples_new, n_features)
            The rows of X, unchanged and in order, then the synthetic ones, of the type
            of X; ``out`` where that is given.
        y_resampled : array-like of shape (n_samples_new,)
            Their labels, of the type of y; an ndarray beside ``out``.

        Raises
        ------
        ValueError
            If the data cannot be used, the training diverges, or ``out`` cannot hold
            the rows; the sampler is then as it was before the call.
        TypeError
            If X is a frame of polars or pyarrow, or, with ``out``, not an array.
        OSError
            If ``out`` cannot be written; the sampler is as before then, too.
        """
        # Not in the signature, where scikit-learn would take it for metadata of rows.
        out = params.pop("out", None)
        if out is not None:
            return self._fit_resample_into(out, X, y, **params)
        if _blocks.is_lazy(X):
            raise ValueError(
                f"{type(X).__name__} holds rows that are read by block: say by out= "
                f"where to put them and the new ones, or take them from "
                f"resample_blocks."
            )
        if hasattr(X, "to_pandas"):
            raise TypeError(
                f"X is a {type(X).__module__.split('.')[0]} {type(X).__name__}, which "
                f"imbalanced-learn does not take: pass X.to_pandas()."
            )
        check_one_kind(y)
        with unchanged_on_failure(self):
            return super().fit_resample(X, y, **params)

    def _fit_resample_into(self, out, X, y):
        with unchanged_on_failure(self):
            X, y, rng = self._learn_blocks(X, y, out)
            labels, start = [], 0
            for rows, of_rows in self._blocks_of(X, y, rng):
                _blocks.write(out, start, rows)
                labels.append(of_rows)
                start += len(rows)
        return out, np.concatenate(labels)

    def resample_blocks(self, X, y):
        """Train the network, then read and make rows block by block.

        For data larger than memory. The network learns from at most 20,000 rows of
        each class that gets new ones, drawn at random; those are also the parents.
        Scaling is that of a random sample of all rows and up to 200 rows of each class,
        ranges are those of the rows learned from. No account of the rows is kept: the
        attributes that say where each came from are not set. :meth:`sample` works as
        usual.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or list of path
            Numbers without missing values: anything with shape, dtype and
            ``X[start:stop]``, such as a :class:`numpy.memmap`, an ``h5py.Dataset``, a
            ``zarr.Array``, a ``dask.array.Array``, or paths of ``.npy`` or
            ``.parquet`` parts.
        y : array-like of shape (n_samples,)
            Class labels, at least two classes.

        Returns
        -------
        iterator of (ndarray of shape (n_rows, n_features), ndarray of shape (n_rows,))
            Rows and their labels: all of X in order, then the synthetic ones, in the
            numbers that ``sampling_strategy`` asks for. Rows of float32 come as such,
            all others as float64.

        Raises
        ------
        ValueError
            If the data cannot be used or the training diverges; the sampler is then as
            it was before the call.
        TypeError
            If X is not an array, such as a list of rows or a frame.
        """
        with unchanged_on_failure(self):
            X, y, rng = self._learn_blocks(X, y)
        # Of a copy: another fit may come before the last block.
        return copy(self)._blocks_of(X, y, rng)

    def _learn_blocks(self, X, y, out=None):
        """Learn from a sample of the rows; the rows, their labels, and a generator."""
        self._validate_params()
        if self.stop_when_exhausted:
            raise ValueError(
                "stop_when_exhausted=True needs all candidates at once: rows that are "
                "made by block cannot have it, set stop_when_exhausted=False."
            )
        if not _blocks.can_be_read(X):
            raise TypeError(
                f"Rows are read by block from arrays that are sliced as X[start:stop], "
                f"or from a list of paths, not from {type(X).__name__}: pass an array, "
                f"as numpy.asarray(X), or call fit_resample without out=."
            )
        table, X = X, _blocks.Blocks(X, _blocks.BLOCK_BYTES)
        y = validate_blocks(self, X, y, reset=True)
        self.is_categorical_ = np.zeros(X.shape[1], dtype=bool)
        self.classes_ = np.unique(y)
        # As few bytes as can be: there is one for each row of the file.
        codes = np.searchsorted(self.classes_, y)
        codes = codes.astype(np.min_scalar_type(len(self.classes_)))
        strategy = check_sampling_strategy(
            self.sampling_strategy, y, self._sampling_type
        )
        self.sampling_strategy_ = strategy
        wanted = self._wanted()
        if out is not None:
            shape = (X.shape[0] + int(sum(wanted.values())), X.shape[1])
            _blocks.check_out(out, shape, np.array([0.5], dtype=X.dtype), table)
        self._forget(ACCOUNT if wanted else LEARNED + ACCOUNT)
        rng = np.random.default_rng(self._seed())
        sample, members = self._draw_rows(codes, wanted, X, rng)
        # The pass that validates every row.
        rows, table = X.gather(sample, members)
        if wanted:
            self._learn(
                table,
                codes[members].astype(np.int64),
                wanted,
                rng,
                scale_on=(rows, codes[sample]),
            )
        return X, y, rng

    def _draw_rows(self, codes, wanted, X, rng):
        """Rows to scale by, and rows to learn from."""
        size = X.count_rows_in(_blocks.BUFFER_BYTES)
        size = min(size, _blocks.MAX_SAMPLE_ROWS, len(codes))
        sample = rng.choice(len(codes), size, replace=False)
        members, some = [], []
        for code in range(len(self.classes_)):
            rows = np.flatnonzero(codes == code)
            size = min(len(rows), MAX_PARENTS if code in wanted else MAX_CONTEXT)
            members.append(rng.choice(rows, size, replace=False))
            # Of all rows the sample may have none of a rare class.
            some.append(members[-1][:MIN_CONTEXT])
        sample = np.unique(np.concatenate([sample, *some]))
        return sample, np.sort(np.concatenate(members))

    def _blocks_of(self, X, y, rng):
        """Rows of X with their labels, then synthetic ones."""
        for start, rows in X:
            # A copy, as the rows are: the caller may shuffle both in place.
            yield rows, y[start : start + len(rows)].copy()
        wanted = self._wanted()
        for made in self._generate(wanted, rng) if wanted else ():
            labels = self.classes_[[made.code]].repeat(len(made.rows))
            yield made.rows, labels.astype(y.dtype)

    def _wanted(self):
        """Rows to make of each class, by its code."""
        for label, n_new in self.sampling_strategy_.items():
            if not float(n_new).is_integer():
                raise ValueError(
                    f"sampling_strategy={self.sampling_strategy!r} asks for {n_new} "
                    f"new rows of class {label!r}; give a whole number of rows."
                )
        return {
            int(np.searchsorted(self.classes_, label)): int(n_new)
            for label, n_new in self.sampling_strategy_.items()
            if n_new > 0
        }

    def _fit_resample(self, X, y):
        self.classes_, codes = np.unique(y, return_inverse=True)
        wanted = self._wanted()
        made, parts = [], ()
        if wanted:
            rng = np.random.default_rng(self._seed())
            table = X.toarray() if sparse.issparse(X) else X
            self._learn(table, codes, wanted, rng)
            parts = self._generate_rows(wanted, rng, made)
        else:
            self._forget(LEARNED)
        X = _tables.stack_rows(X, parts, sum(wanted.values()))
        self._account_for(made)
        labels = [self.classes_[[part.code]].repeat(len(part.steps)) for part in made]
        return X, np.concatenate([y, *labels]).astype(y.dtype)

    def _generate_rows(self, wanted, rng, made):
        """Synthetic rows, block by block; their account goes to ``made``."""
        for part in self._generate(wanted, rng):
            made.append(part._replace(rows=None))
            yield part.rows

    def _forget(self, names):
        """What a call before this one left is not this one's."""
        for name in names:
            vars(self).pop(name, None)

    def _account_for(self, made):
        """Where each synthetic row came from, as fitted attributes."""
        indices, scores = np.empty(0, dtype=int), np.empty(0)
        empty = indices, indices, indices, np.empty((0, len(self.classes_))), scores
        # The fields of a part, but for the code and the rows.
        parts = zip(empty, *(part[2:] for part in made), strict=True)
        for name, arrays in zip(ACCOUNT, parts, strict=True):
            setattr(self, name, np.concatenate(arrays))

    def sample(self, n_samples, y=None, random_state=None):
        """More synthetic rows, without another training and without an account.

        With ``stop_when_exhausted`` fewer where candidates run out, with a warning.

        Parameters
        ----------
        n_samples : int, at least 1
            How many.
        y : label, default=None
            Their class, one of those that ``fit_resample`` made rows of; None is the
            one it had fewest of.
        random_state : int, RandomState instance or None, default=None
            Seeds the draws; with an int, the same rows each time.

        Returns
        -------
        X_new : {ndarray, dataframe} of shape (n_samples, n_features)
            Synthetic rows.
        y_new : ndarray of shape (n_samples,)
            Their labels.

        Raises
        ------
        NotFittedError
            If ``fit_resample`` has made no rows yet; ``fit`` makes none.
        ValueError
            If it made none of the class, or a parameter is invalid.
        """
        check_is_fitted(self, "_links", msg=NOTHING_LEARNED)
        self._validate_params()
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        code = self._code_to_sample(y)
        rng = check_random_state(random_state)
        rng = np.random.default_rng(rng.randint(np.iinfo(np.int32).max))
        first, *others = (part.rows for part in self._generate({code: n_samples}, rng))
        rows = _tables.stack_rows(first, others, n_samples - len(first))
        return rows, self.classes_[[code]].repeat(len(rows))

    def _code_to_sample(self, y):
        learned = {self.classes_[code]: code for code in self._links}
        if y is None:
            return min(learned.values(), key=lambda code: len(self._links[code][0]))
        if not np.isscalar(y) or y not in learned:
            labels = self.classes_[list(learned.values())].tolist()
            raise ValueError(
                f"y={y!r} is no class that fit_resample made rows of; these are "
                f"{labels}. Ask for it in sampling_strategy."
            )
        return learned[y]

    def _learn(self, table, codes, wanted, rng, scale_on=None):
        """Preprocess, find the neighbours, train; keep what new rows are made from.

        ``scale_on`` are rows and their codes where those of ``table`` are not all.
        """
        self._warn_of_small_classes(codes, wanted)
        seed = int(rng.integers(np.iinfo(np.int32).max))
        self.preprocessor_ = _preprocessing.make_preprocessor(
            table,
            codes,
            self.is_categorical_,
            "mixed" if self.scaling == "auto" else self.scaling,
            "float32",
            seed,
            within_reach=list(wanted),
        )
        if scale_on is None:
            Z = _preprocessing.fit_transform(self.preprocessor_, table, codes)
        else:
            self.preprocessor_.fit(*scale_on)
            self._name_columns()
            Z = _preprocessing.transform(self.preprocessor_, table)
        equal = Z
        if Z[:1, _preprocessing.encoded_by_target(self.preprocessor_)].size:
            # Cross-fitting encodes a level in several ways.
            equal = _preprocessing.transform(self.preprocessor_, table)
        rows, sequences = self._sequences(Z, equal, codes, wanted, rng)
        self._fit_network(Z, codes, rows, sequences, seed, rng)
        self._limits = _tables.observed_limits(self._numbers(table))
        resampled = np.isin(codes[rows], list(wanted))
        self._row_indices = np.unique([rows[resampled], *sequences[resampled].T])
        self._rows = _tables.take_rows(table, self._row_indices)
        # As the network saw them, encoded without their own labels.
        self._Z = Z[self._row_indices]
        self._links = {
            code: self._link(Z, equal, codes, rows, sequences, code) for code in wanted
        }

    def _link(self, Z, equal, codes, rows, sequences, code):
        """A class's rows, their neighbours, and which of them lend a row a residual.

        The first two are positions in ``_rows``, the last in the first: the row itself
        and its nearest of the class.
        """
        of_class = codes[rows] == code
        members, neighbors = rows[of_class], sequences[of_class]
        near = neighbors
        if self.neighbors_of == "all":
            near = self._nearest(Z, equal, members, codes)
        return (
            np.searchsorted(self._row_indices, members),
            np.searchsorted(self._row_indices, neighbors),
            np.column_stack([np.arange(len(members)), np.searchsorted(members, near)]),
        )

    def _numbers(self, table):
        columns = np.flatnonzero(~self.is_categorical_)
        numbers = _tables.take_columns(table, columns)
        return _tables.as_numbers(numbers)

    def _warn_of_small_classes(self, codes, wanted):
        if self.neighbors_of == "all":
            return
        counts, labels = np.bincount(codes).tolist(), self.classes_.tolist()
        small = [code for code in wanted if counts[code] <= self.k_neighbors]
        if not small:
            return
        has = [
            f"{labels[code]!r} has {counts[code]} row{'s' * (counts[code] > 1)}"
            for code in small[:MAX_NAMED]
        ]
        more = f" and {len(small) - MAX_NAMED} more" * (len(small) > MAX_NAMED)
        cure = "Lower k_neighbors"
        if min(counts[code] for code in small) == 1:
            cure = "Leave classes of one row out of sampling_strategy"
        warn_user(
            f"Class {', class '.join(has)}{more}, fewer than k_neighbors + 1 = "
            f"{self.k_neighbors + 1}: rows are used as neighbours more than once. "
            f"{cure} to silence this."
        )

    def _sequences(self, Z, equal, codes, wanted, rng):
        """Rows the network is trained on, and the indices of the K nearest of each."""
        if self.neighbors_of == "all":
            if len(Z) <= self.k_neighbors:
                raise ValueError(
                    f"Expected k_neighbors < n_samples, but k_neighbors = "
                    f"{self.k_neighbors}, n_samples = {len(Z)}; lower k_neighbors."
                )
            rows = np.arange(len(Z))
            return rows, self._nearest(Z, equal, rows, codes)
        largest = max(np.count_nonzero(codes == code) for code in wanted)
        n_context = min(max(largest, MIN_CONTEXT), MAX_CONTEXT)
        rows, sequences = [], []
        for code in np.unique(codes):
            members = np.flatnonzero(codes == code)
            if code not in wanted and len(members) > n_context:
                members = np.sort(rng.choice(members, n_context, replace=False))
            rows.append(members)
            sequences.append(self._nearest(Z, equal, members, codes))
        return np.concatenate(rows), np.concatenate(sequences)

    def _nearest(self, Z, equal, members, codes):
        """Indices of each member's nearest other members, repeated where too few.

        Members whose rows in ``equal`` and codes are equal are one.
        """
        first, position = _neighbors.distinct_rows(equal[members], codes[members])
        members = members[first]
        if len(members) == 1:
            return members.repeat(self.k_neighbors)[None][position]
        search = _neighbors.make_search("exact", Z[members], self.n_jobs)
        own = np.arange(len(members))
        found = _neighbors.nearest_of_few(
            search, Z[members], own, self.k_neighbors, len(members)
        )
        return members[found][position]

    def _fit_network(self, Z, codes, rows, sequences, seed, rng):
        device = _training.resolve_device(self.device)
        train, valid = np.arange(len(rows)), None
        if self.early_stopping:
            train, valid = stratified_holdout(
                codes[rows], train, self.validation_fraction, rng
            )
        weight = np.ones(len(rows))
        if self.class_weight is not None:
            labels = self.classes_[codes[rows]]
            by_class = weights_by_class(self.class_weight, labels, self.classes_)
            weight = by_class[codes[rows]] / by_class[codes[rows[train]]].mean()
        args = {
            "n_features": Z.shape[1],
            "n_classes": len(self.classes_),
            "n_neighbors": self.k_neighbors,
            "hidden_size": self.hidden_size,
            "cell": self.cell,
            "temperature": self.temperature,
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
        }
        z, y = self._tensor(Z, device), self._tensor(codes, device)
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
        warm = self.warm_start and hasattr(self, "net_")
        self._fit_module(
            args, lambda module: datasets, seed=seed, device=device, warm=warm
        )

    def _dataset(self, z, y, rows, weight, sequences):
        def batch(index):
            row, neighbors = rows[index], sequences[index]
            target = {"y": y[row], "weight": weight[index]}
            target["labels"], target["vectors"] = y[neighbors], z[neighbors]
            return {"x": z[row]}, target

        return _training.BatchDataset(len(rows), batch, z.device)

    def _generate(self, wanted, rng):
        """Synthetic rows of each class of ``wanted``, block by block."""
        numbers = self._numbers(self._rows).astype(float)
        bar = tqdm(
            total=sum(wanted.values()),
            unit="row",
            desc="resample",
            leave=False,
            disable=self.verbose != 1,
        )
        with bar:
            for code, n_new in wanted.items():
                predicted = self._predict(self._Z[self._links[code][0]])
                # The paper's rule needs all candidates at once; else what is in between
                # would be several times the rows.
                size = n_new if self.stop_when_exhausted else BLOCK_ROWS
                for block in gen_batches(n_new, size):
                    n_rows = block.stop - block.start
                    yield self._make_block(numbers, predicted, code, n_rows, rng)
                    bar.update(n_rows)

    def _make_block(self, numbers, predicted, code, n_new, rng):
        """Rows of a class from what is predicted for each of its rows."""
        log_probs, vectors = predicted
        members, sequences, donors = self._links[code]
        rejects = self.rejection > 0 and not self.stop_when_exhausted
        n_drawn = ceil(SURPLUS * n_new) if rejects else n_new
        drawn, steps = self._draw(log_probs, code, n_drawn, rng)
        donors = donors[drawn, rng.integers(donors.shape[1], size=len(drawn))]
        rows = self._make_rows(numbers, vectors, code, drawn, steps, donors, rng)
        scores = self._scores(rows, members[drawn], code)
        real = np.exp(log_probs[:, :, code]).mean(axis=1)
        kept = _accepted(scores, np.quantile(real, self.rejection), n_new)
        drawn, steps = drawn[kept], steps[kept]
        return _Synthetic(
            code,
            _tables.take_rows(rows, kept),
            self._row_indices[members[drawn]],
            self._row_indices[sequences[drawn, steps]],
            steps,
            np.exp(log_probs[drawn, steps]),
            scores[kept],
        )

    def _make_rows(self, numbers, vectors, code, drawn, steps, donors, rng):
        """A row each from a predicted vector and a donor's residual."""
        members, sequences, _ = self._links[code]
        parents, neighbors = members[drawn], sequences[drawn, steps]
        n_numbers = numbers.shape[1]
        new = vectors[drawn, steps, :n_numbers]
        real = self._Z[sequences[donors, steps], :n_numbers]
        # Of random length: else a class of n rows could have n K (K + 1) new ones, and
        # a row that is its own donor would be a copy of its neighbour.
        scale = self.residual_scale * rng.uniform(0, 2, size=(len(drawn), 1))
        new += scale * (real - vectors[donors, steps, :n_numbers])
        new = _preprocessing.numbers_in_units(self.preprocessor_, new)
        new = _tables.within(self._limits, new)
        kept = np.isnan(numbers[parents])
        if self.keep_ties:
            kept |= numbers[parents] == numbers[neighbors]
        return _tables.cross_rows(
            self._rows, parents, neighbors, self.is_categorical_, new, kept, rng
        )

    def _predict(self, Z):
        z, module = self._tensor(Z, self._device), self.net_.module_
        return _training.predict_batches(module, z.__getitem__, len(Z), BLOCK_ROWS)

    def _scores(self, rows, parents, code):
        """How sure the network is of the class of each row's neighbours."""
        if not len(rows):
            return np.empty(0)
        module = self.net_.module_
        by_target = _preprocessing.encoded_by_target(self.preprocessor_)

        def tensor(some):
            Z = _preprocessing.transform(
                self.preprocessor_, _tables.take_rows(rows, some)
            )
            # The encoder knows the class that most of these levels came from.
            Z[:, by_target] = self._Z[parents[some], by_target]
            return self._tensor(Z, self._device)

        return _training.predict_batches(
            lambda x: module.label_probs(x)[:, code],
            tensor,
            len(rows),
            BLOCK_ROWS,
        )

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
            logits = self.certainty * log_probs[:, :, code].astype(float).ravel()
            drawn = rng.choice(logits.size, n_new, p=softmax(logits))
        return np.divmod(drawn, log_probs.shape[1])


def _accepted(scores, threshold, n_kept):
    """Positions of the first scores from the threshold on, then of the highest others.

    Examples
    --------
    >>> _accepted(np.array([0.9, 0.1, 0.5, 0.2, 0.8]), 0.6, 3).tolist()
    [0, 2, 4]
    """
    order = np.argsort(-np.minimum(scores, threshold), kind="stable")
    return np.sort(order[:n_kept])


class _Synthetic(NamedTuple):
    """Synthetic rows of a class, and for each of them where it came from."""

    code: int
    rows: Any
    parents: np.ndarray
    neighbors: np.ndarray
    steps: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray
