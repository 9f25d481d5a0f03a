"""MemNetKNNClassifier."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval

from ._base_neighbors import BaseNeighborClassifier
from .modules import MemoryNetwork


class MemNetKNNClassifier(BaseNeighborClassifier):
    """Memory network that learns to predict a row's nearest neighbours hop by hop.

    Parameters
    ----------
    predict_vectors : bool, default=True
        Whether the feature vectors of the neighbours are predicted beside their labels:
        MNkNN_VEC, else MNkNN.
    n_neighbors : int, at least 1, default=5
        K, the number of neighbours that the network predicts for each row.
    memory_size : int, at least 2, default=64
        Training rows in the memory. In training they are drawn anew for each batch, and
        a row does not see itself.
    n_memories : int, at least 1, default=4
        Memories that are drawn at the end of ``fit`` and kept; a prediction is the mean
        over them. One, as in the paper, gives nearly the same.
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
        The paper's lambda, weight of the vectors in the loss.
    vector_reduction : {"mean", "sum"}, default="mean"
        Over the features of a vector: "sum" is the paper's squared norm; "mean", the
        default, divides it by their number, so that ``lam`` means the same for wide
        tables: the sum lets the vectors drown the labels there.
    temperature : float above 0, default=0.85
        tau, temperature of the label softmax; below 1 it sharpens.
    hidden_layer_sizes : array-like of int, default=(128,)
        Widths of the layers between the scaled row and the embeddings of query and
        memory. Empty for none, as in the paper.
    activation : {"relu", "silu", "mish", "gelu", "tanh"}, default="mish"
        Activation of those layers.
    hidden_size : int, at least 1, default=64
        Width of the embeddings.
    dropout : float in [0, 1), default=0.2
        Dropout on the states the labels and vectors are read from; half of it in the
        hidden layers.
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
        "auto" is 0.4 for up to 10,000 training rows and 0, the paper's, for more.
        ``predict_neighbors`` is the network alone.
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
    max_grad_norm : float above 0 or None, default=10.0
        Longer gradients are cut to this length; None cuts none. The hops multiply by
        the same matrix again and again, and one steep batch can undo a training.
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
        Seeds the initial weights, the order of the rows, dropout, the memories, the
        draws of subsets, the hold-out, and in preprocessing the rows for the quantiles
        and the folds of the encoding by targets. With an int, the same call gives the
        same result to the bit on a CPU; global random streams are left alone.
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
    memory_indices_ : ndarray of shape (n_memories, memory_size)
        Training row behind each entry of the kept memories. Where there are no more
        different rows than ``memory_size``, one memory holds them all.
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
    KNNSeq2SeqClassifier : The same task for a sequence-to-sequence network.

    Notes
    -----
    Hop t attends over the memory and predicts the t-th neighbour; the network's class
    probabilities are the mean of the K label distributions. The loss is that of
    :class:`KNNSeq2SeqClassifier`.

    The published version is ``MemNetKNNClassifier(hidden_layer_sizes=(),
    n_frequencies=0, neighbor_weight=0.0, n_memories=1, vector_reduction="sum",
    lr_schedule="constant", optimizer="adam", max_grad_norm=None, weight_decay=0.0,
    scaling="robust")``; it draws new random rows at each prediction, where here the
    memories are fixed, so that it can be repeated.

    A pickle holds the weights, ``n_memories * memory_size`` scaled training rows and,
    where training rows vote (``neighbor_weight``), one copy of these.

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to Sequence
       Deep Neural Networks and Memory Networks", arXiv 1804.11214, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_samn import MemNetKNNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MemNetKNNClassifier(n_neighbors=3, random_state=0).fit(X, y)
    >>> weights, indices = model.attention(X[:2])
    >>> weights.shape, indices.shape
    ((2, 4, 3, 64), (4, 64))
    """

    def __init__(
        self,
        *,
        predict_vectors=True,
        n_neighbors=5,
        memory_size=64,
        n_memories=4,
        neighbors="exact",
        n_subsets=50,
        subset_size=64,
        alpha=9.5,
        lam=0.12,
        vector_reduction="mean",
        temperature=0.85,
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
        max_grad_norm=10.0,
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
        self.predict_vectors = predict_vectors
        self.n_neighbors = n_neighbors
        self.memory_size = memory_size
        self.n_memories = n_memories
        self.neighbors = neighbors
        self.n_subsets = n_subsets
        self.subset_size = subset_size
        self.alpha = alpha
        self.lam = lam
        self.vector_reduction = vector_reduction
        self.temperature = temperature
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
        self.max_grad_norm = max_grad_norm
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

    _module_class = MemoryNetwork

    _parameter_constraints = {
        **BaseNeighborClassifier._parameter_constraints,
        "predict_vectors": ["boolean"],
        # A row masks itself, so a memory of one could be left empty.
        "memory_size": [Interval(Integral, 2, None, closed="left")],
        "n_memories": [Interval(Integral, 1, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    }

    def _training_params(self, n_rows):
        params = super()._training_params(n_rows)
        return {**params, "max_grad_norm": self.max_grad_norm}

    def _get_module_args(self, n_features, n_rows):
        args = super()._get_module_args(n_features, n_rows)
        return args | {"output": "both" if self.predict_vectors else "labels"}

    def _keep_reference(self, Z, y, weight, rows, search, rng):
        size = min(self.memory_size, len(Z))
        # A memory of all rows is the same memory every time.
        n_memories = self.n_memories if size < len(Z) else 1
        draws = (rng.choice(len(Z), size, replace=False) for _ in range(n_memories))
        drawn = np.sort(list(draws), axis=1)
        self._memories = Z[drawn]
        self.memory_indices_ = rows[drawn]

    def _extra_inputs(self, own, reference, rng):
        if rng is None:
            return {"memory": self._tensor(self._memories[0], reference.device)}
        size = self._memories.shape[1]
        drawn = torch.from_numpy(rng.choice(len(reference), size, replace=False))
        if reference.is_cuda:
            # Else the copy would wait for the steps before.
            drawn = drawn.pin_memory()
        drawn = drawn.to(reference.device, non_blocking=True)
        return {"memory": reference[drawn], "masked": drawn == own.unsqueeze(1)}

    def _over_memories(self, function, x):
        """Results of ``function(query, memory)`` for each kept memory, in a list."""
        query = self.net_.module_.query(x)
        memories = self._tensor(self._memories, query.device)
        return [function(query, memory) for memory in memories]

    def _neighbor_sequence(self, x):
        log_probs, vectors = zip(
            *self._over_memories(self.net_.module_.read, x), strict=True
        )
        probabilities = torch.stack(log_probs).exp().mean(0)
        if self._module_args["output"] == "labels":
            return probabilities, None
        return probabilities, torch.stack(vectors).mean(0)

    def _label_probabilities(self, x):
        probabilities = self._over_memories(self.net_.module_.label_probs, x)
        return torch.stack(probabilities).mean(0)

    def attention(self, X):
        """Attention of each hop over the rows in the memories.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        weights : ndarray of shape (n_samples, n_memories, n_neighbors, memory_size)
            Weights that sum to one over the last axis; hop t is the one that predicts
            the t-th neighbour.
        indices : ndarray of shape (n_memories, memory_size)
            ``memory_indices_``, the training row behind each entry.
        """

        def attend(x):
            weights = self._over_memories(self.net_.module_.attend, x)
            return torch.stack(weights, dim=1)

        return self._run(attend, X), self.memory_indices_
