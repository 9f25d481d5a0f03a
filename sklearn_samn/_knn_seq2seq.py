"""KNNSeq2SeqClassifier."""

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions

from . import _neighbors
from ._base_neighbors import BaseNeighborClassifier
from .modules import Seq2SeqNetwork


class KNNSeq2SeqClassifier(BaseNeighborClassifier):
    """Sequence-to-sequence network that learns to predict a row's nearest neighbours.

    Parameters
    ----------
    output : {"labels", "vectors", "both"}, default="both"
        What is predicted of the neighbours: their labels (the paper's V2LS), their
        feature vectors (V2VS), or both (V2VSLS). With "vectors" alone the class shares
        are those of the K different training rows nearest to each predicted vector,
        weighted with all their copies, at whatever distance; where there are no more
        than K different rows, all vote, and the shares are the prior.
    n_neighbors : int, at least 1, default=5
        K, the number of neighbours that the network predicts for each row.
    neighbors : {"exact", "subsets"} or object, default="exact"
        How the neighbours of the training rows are found. "exact": among all rows, by
        :class:`sklearn.neighbors.NearestNeighbors`. "subsets": Algorithm 1 of the
        paper, the nearest among ``n_subsets`` random subsets. An object with ``fit``
        and ``kneighbors`` is cloned and used. A row is no neighbour of itself, and rows
        equal in features and label count once.
    n_subsets : int, at least 1, default=50
        R, random subsets a row is compared with. Only used with
        ``neighbors="subsets"`` and with rows that are read by block.
    subset_size : int, at least 1, default=64
        Rows of a subset. Used where ``n_subsets`` is.
    alpha : float, at least 0, default=9.5
        Weight of the row's own label in the loss.
    lam : float, at least 0, default=0.12
        The paper's lambda, weight of the vectors in the loss beside the labels.
    vector_reduction : {"mean", "sum"}, default="mean"
        Over the features of a vector: "sum" is the paper's squared norm; "mean", the
        default, divides it by their number, so that ``lam`` means the same for wide
        tables: the sum lets the vectors drown the labels there.
    temperature : float above 0, default=0.85
        tau, temperature of the label softmax; below 1 it sharpens.
    cell : {"lstm", "gru"}, default="lstm"
        Recurrent cell of encoder and decoder.
    hidden_layer_sizes : array-like of int, default=(128,)
        Widths of the layers between the scaled row and the encoder. Empty for none, as
        in the paper.
    activation : {"relu", "silu", "mish", "gelu", "tanh"}, default="mish"
        Activation of those layers.
    hidden_size : int, at least 1, default=64
        Width of the encoder's and the decoder's state. From some 50,000 rows of little
        noise on, 128 pays, with ``hidden_layer_sizes=(256,)`` and ``dropout=0.1``.
    dropout : float in [0, 1), default=0.2
        Dropout on the context and the decoder's states; half of it in the hidden
        layers.
    batch_norm : bool, default=True
        Batch normalisation of the input.
    n_frequencies : "auto" or int, at least 0, default="auto"
        Learned waves that each number enters the network with, beside itself; 0, the
        paper's, for none. "auto" is 16 from 2,000 training rows on where there are up
        to 30 columns of numbers, else 0.
    neighbor_weight : "auto" or float in [0, 1), default="auto"
        Share w of a vote of training rows in the class probabilities, which are
        (network^(1 - w) * vote^w)^(1 / sqrt(t)), normalised. The vote is the class
        shares among the 20 different training rows nearest to a row, the nearer the
        more; copies are one row, of their summed weight. t is the temperature at which
        the votes of the others on up to 512 training rows have the lowest
        cross-entropy; sqrt(t) is at most 1.4 for up to 800 training rows, falling to 1
        for 4,000 and more. Nothing of it is trained, and with w = 0 there is no t.
        "auto" is 0.4 for up to 10,000 training rows and 0, the paper's, for more. Only
        used where labels are predicted. ``predict_neighbors`` is the network alone.
    max_epochs : int, at least 1, default=20
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
        Weight decay of the weight matrices and the waves; biases and norms do not
        decay.
    scaling : {"auto", "robust", "quantile"} or None, default="auto"
        How numbers are scaled inside. "robust": centred at the median, divided by the
        interquartile range, then clipped smoothly to (-3, 3), so that raw features and
        outliers work as they come. "quantile": to a normal distribution by rank, save
        columns of two values. "auto": "quantile" from 2,000 training rows on; below,
        "robust", but for columns of which one side is more than four times as long as
        the other, such as incomes, which go by quantiles. None takes them as they are.
    categorical_features : "auto", "from_dtype", array-like or None, default="auto"
        Which columns are categories. "auto": those of a DataFrame that hold strings or
        have a categorical dtype; "from_dtype": the latter; an array: a mask of bool,
        indices, or names of columns of a DataFrame; None: none. Up to 64 levels
        become a column each, more are encoded by their targets.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss and in the vote (``neighbor_weight``), as in
        scikit-learn: "balanced" is inversely proportional to the class counts.
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
        Whether ``fit`` continues from the weights, the preprocessing and the classes of
        the fit before. The optimizer starts afresh.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the network.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU; or "cpu", "cuda", "cuda:1",
        "mps". Resolved in ``fit``. A fitted estimator loads on a machine without its
        device and predicts there on the CPU, with a warning unless "auto".
    out_of_core : "auto" or bool, default="auto"
        Whether rows are read by block, never all at once, in ``fit`` and in prediction.
        "auto": rows that are not in memory yet: an ``h5py.Dataset``, ``zarr.Array`` or
        ``dask.array.Array``, or a list of paths of .npy or .parquet files. True: any
        array as well; a ``numpy.memmap`` needs it, since joblib makes one of every
        large array. False refuses what is no array. By block, ``fit`` takes finite
        numbers alone, scales by a random sample of at most 100,000 rows (64 MiB), draws
        neighbours, memories and the rows that vote from it, by Algorithm 1 (for
        ``neighbors="exact"``, too; an object is refused), and holds out 10,000 rows at
        most. An epoch takes each row once: blocks of about 1 MiB come in random order,
        and the rows of 64 MiB of them are shuffled together.
    checkpoint : path or None, default=None
        File that ``fit`` writes after each epoch, whole or not at all. If it is there
        already, ``fit`` goes on from it, on a CPU to the same bits as without the
        interruption; that of other data or parameters is refused. Deleted when ``fit``
        is done, so a file serves one fit at a time. Needs an int as ``random_state``
        and no ``warm_start``; callbacks in ``skorch_params`` start anew. It is a
        pickle: use none that you do not trust.
    n_jobs : int or None, default=None
        Parallel jobs of scikit-learn's neighbour search; None is one, save within
        ``joblib.parallel_config``. torch trains on one CPU thread, so that results do
        not depend on the machine's cores.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the order of the rows, dropout, the draws of subsets,
        the hold-out, and in preprocessing the rows for the quantiles and the folds of
        the encoding by targets. With an int, the same call gives the same result to the
        bit on a CPU; global random streams are left alone.
    verbose : int, default=0
        0 is silent, 1 shows a progress bar on stderr, 2 prints skorch's table of
        epochs.
    skorch_params : dict or None, default=None
        For experts: parameters of :class:`skorch.NeuralNet` that go before those above,
        such as ``{"callbacks": [...], "optimizer": torch.optim.NAdam}``. Callbacks
        are told of each batch and epoch, the history holds epochs alone. On a GPU
        training is then several times slower: its steps are not recorded.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X had string column names.
    is_categorical_ : ndarray of bool of shape (n_features,) or None
        Columns taken as categories; None where there is none.
    preprocessor_ : transformer
        Fitted; ``preprocessor_.transform(X)`` is what the network sees, and
        ``preprocessor_.get_feature_names_out()`` names its columns.
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
    MemNetKNNClassifier : The same task for a memory network.
    V2VSLS : The network as an oversampler.
    sklearn.neighbors.KNeighborsClassifier : Looks the neighbours up.

    Notes
    -----
    The network's class probabilities are the mean of the K predicted label
    distributions, or with ``output="vectors"`` a vote of the rows near the predicted
    vectors. The loss is
    L1 + lam L2, with L1 = (1/K) sum_t KL(Y_t) + alpha KL(Y) over the neighbours'
    labels and the row's own, and L2 = sum_t ||X_t - X_t^P||^2 over their vectors.

    The published version is ``KNNSeq2SeqClassifier(hidden_layer_sizes=(),
    n_frequencies=0, neighbor_weight=0.0, vector_reduction="sum",
    lr_schedule="constant", optimizer="adam", weight_decay=0.0, scaling="robust")``.

    A pickle holds the weights as arrays, the levels of categorical columns, and, where
    training rows vote (``neighbor_weight``, ``output="vectors"``), one copy of them,
    scaled.

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to Sequence
       Deep Neural Networks and Memory Networks", arXiv 1804.11214, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_samn import KNNSeq2SeqClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = KNNSeq2SeqClassifier(n_neighbors=3, random_state=0).fit(X, y)
    >>> label_probabilities, vectors = model.predict_neighbors(X[:2])
    >>> label_probabilities.shape, vectors.shape
    ((2, 3, 3), (2, 3, 4))
    """

    def __init__(
        self,
        *,
        output="both",
        n_neighbors=5,
        neighbors="exact",
        n_subsets=50,
        subset_size=64,
        alpha=9.5,
        lam=0.12,
        vector_reduction="mean",
        temperature=0.85,
        cell="lstm",
        hidden_layer_sizes=(128,),
        activation="mish",
        hidden_size=64,
        dropout=0.2,
        batch_norm=True,
        n_frequencies="auto",
        neighbor_weight="auto",
        max_epochs=20,
        lr=1e-2,
        lr_schedule="one_cycle",
        batch_size="auto",
        optimizer="adamw",
        weight_decay=0.01,
        scaling="auto",
        categorical_features="auto",
        class_weight=None,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        dtype="float32",
        device="auto",
        out_of_core="auto",
        checkpoint=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
        skorch_params=None,
    ):
        self.output = output
        self.n_neighbors = n_neighbors
        self.neighbors = neighbors
        self.n_subsets = n_subsets
        self.subset_size = subset_size
        self.alpha = alpha
        self.lam = lam
        self.vector_reduction = vector_reduction
        self.temperature = temperature
        self.cell = cell
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.n_frequencies = n_frequencies
        self.neighbor_weight = neighbor_weight
        self.max_epochs = max_epochs
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.scaling = scaling
        self.categorical_features = categorical_features
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.dtype = dtype
        self.device = device
        self.out_of_core = out_of_core
        self.checkpoint = checkpoint
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.skorch_params = skorch_params

    _module_class = Seq2SeqNetwork

    _parameter_constraints = {
        **BaseNeighborClassifier._parameter_constraints,
        "output": [StrOptions({"labels", "vectors", "both"})],
        "cell": [StrOptions({"lstm", "gru"})],
    }

    def _get_module_args(self, n_features, n_rows):
        args = super()._get_module_args(n_features, n_rows)
        return args | {"output": self.output, "cell": self.cell}

    def _keep_reference(self, Z, y, weight, rows, search, rng):
        for name in ("_reference", "_voices", "_search", "_searched_by"):
            vars(self).pop(name, None)
        if self.output == "vectors":
            # A vote needs real rows to look up: one copy of them, with what they say.
            self._reference, self._searched_by = Z, self.neighbors
            self._voices = y, weight
            self._search = search()

    def __getstate__(self):
        state = super().__getstate__()
        # Rebuilt from the rows; an object of the user's is kept as it is.
        if isinstance(state.get("_searched_by"), str):
            state.pop("_search", None)
        return state

    def _neighbor_sequence(self, x):
        log_probs, vectors = self.net_.module_(x)
        return None if log_probs is None else log_probs.exp(), vectors

    def _neighbor_share(self, n_rows):
        # Of predicted vectors the nearest rows are all that there is.
        if self.output == "vectors":
            return 0.0
        return super()._neighbor_share(n_rows)

    def _prepare_vote(self):
        super()._prepare_vote()
        if self._module_args["output"] == "vectors" and "_search" not in vars(self):
            self._search = _neighbors.make_search(
                self._searched_by, self._reference, self.n_jobs
            )

    def _label_probabilities(self, x):
        if self._module_args["output"] == "vectors":
            return self._vote(self.net_.module_(x).vectors)
        return self.net_.module_.label_probs(x)

    def _vote(self, vectors):
        """Share of each class among the K rows nearest to each of the K vectors."""
        n_rows, k, _ = vectors.shape
        # Copies are stored as one row, so that there may be fewer.
        n_voters = min(k, len(self._reference))
        vectors = vectors.flatten(0, 1).cpu().numpy()
        nearest = _neighbors.nearest(self._search, vectors, n_voters)
        codes, weights = (voice[nearest.ravel()] for voice in self._voices)
        n_classes = len(self.classes_)
        row = np.arange(n_rows).repeat(k * n_voters)
        votes = np.bincount(row * n_classes + codes, weights, n_rows * n_classes)
        votes = votes.reshape(n_rows, n_classes)
        shares = votes / votes.sum(1, keepdims=True)
        return torch.from_numpy(shares.astype(vectors.dtype))
