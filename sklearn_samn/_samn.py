"""SAMNClassifier."""

import math
from copy import deepcopy
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import check_is_fitted

from . import _training
from ._base import (
    MAX_AUTO_BATCH_SIZE,
    UNBOUNDED,
    BaseNeuralClassifier,
    between_sizes,
)
from ._filling import (
    MAX_LOOKING,
    MIN_POOL,
    MemoryFiller,
    entropy,
    looking_batch,
    pool_sizes,
    untuned_share,
)
from ._neighbors import distinct_rows
from ._validation import check_layer_sizes, unchanged_on_failure
from .modules import SAMN, SAMNLoss, SampleNetwork
from .modules.embedding import ACTIVATIONS

# Smallest batch that batch_size="auto" takes.
MIN_AUTO_BATCH_SIZE = 32
# What "auto" is for up to 800 and for from 4,000 training rows; between them it moves
# with the logarithm of their number.
BY_SIZE = {"dropout": (0.3, 0.1), "max_epochs": (20, 16)}
# memory_size="auto" is so many rows per class, at least MIN_MEMORY. From MEMORY_ROWS
# training rows on it grows in proportion to them, up to MEMORY_GROWTH times as many.
MEMORY_OF_CLASS, MIN_MEMORY, MEMORY_ROWS, MEMORY_GROWTH = 32, 128, 4000, 4
MAX_MEMORY = 2048
# Fewest rows whose attention is asked for at a time, as each call costs.
MIN_EXPLAINED = 64
# Arguments of the network that may be others when training goes on (warm_start,
# partial_fit).
CHANGING = {
    "dropout",
    "label_temperature",
    "learn_waves",
    "memory_size",
    "neighbor_weight",
    "pool_size",
}
# Rows below which n_attention_blocks="auto" is 1, not 0.
MAX_BLOCK_ROWS = 2_000
# Rows from which on the waves are learned: a tenth of the time, and for fewer nothing.
MIN_LEARNED_WAVE_ROWS = 2_000


def _has_attention(estimator):
    """Ask the fitted network; before the fit, "auto" may still mean a block."""
    args = vars(estimator).get("_module_args", {})
    head = args.get("head", estimator.head)
    blocks = args.get("n_attention_blocks", estimator.n_attention_blocks)
    samples = "memory_size" in args if args else estimator.n_prototypes == "samples"
    if blocks != 0 or (samples and head != "linear"):
        return True
    raise AttributeError(
        f"n_attention_blocks={estimator.n_attention_blocks!r} with head={head!r} and "
        f"n_prototypes={estimator.n_prototypes!r} leaves no attention to ask for"
    )


def _has_memory(estimator):
    """Whether ``explain`` has stored rows to list: the head or a block reads them."""
    head = vars(estimator).get("_module_args", {}).get("head", estimator.head)
    return head != "linear" or _has_attention(estimator)


class SAMNClassifier(BaseNeuralClassifier):
    """Sample attention memory network: an SVM and a neural network in one.

    Parameters
    ----------
    feature_extractor : torch.nn.Module or None, default=None
        A network of the user's from (n_samples, n_features) to (n_samples, h), for
        images or sequences, say. It is copied, its weights are where training starts.
        None is made of the parameters up to ``n_frequencies``.
    hidden_layer_sizes : array-like of int, default=(128, 128)
        Widths of the layers between the preprocessed row and the attention. Empty for
        none.
    activation : {"relu", "silu", "mish", "gelu", "tanh"}, default="silu"
        Activation of those layers.
    dropout : "auto" or float in [0, 1), default="auto"
        Dropout after each hidden layer. "auto" falls from 0.3 for up to 800 training
        rows to 0.1 from 4,000 on.
    batch_norm : bool, default=True
        Batch normalisation in each hidden layer.
    n_frequencies : "auto" or int, at least 0, default="auto"
        Waves that each number enters the network with, beside itself; 0 for none.
        "auto" is 16 for up to 20 columns of numbers, else 0. They are drawn at random,
        and from 2,000 training rows on learned, as in a ``partial_fit`` that does not
        go on from a ``fit``. Only used with stored samples.
    n_attention_blocks : "auto" or int, at least 0, default="auto"
        Blocks of sample attention, each adding to a row what it reads in the memory.
        "auto" is 1 with prototypes; with stored samples, which the head reads as well,
        1 below 2,000 training rows and 0 from there.
    kernel : {"exponential", "linear", "poly", "rbf", "sigmoid"}, default="exponential"
        Scores of the attention, and of ``head="kernel"`` and "both": the kernels of an
        SVM. "exponential" falls with the distance, "rbf" with its square. With stored
        samples "linear" and "poly" are of rows of unit root mean square, as the scores
        of many blocks would grow without bound, and ``head="distance"`` has "rbf".
    degree : int, at least 1, default=3
        Degree of the polynomial kernel.
    coef0 : float, default=1.0
        Constant of the polynomial and the sigmoid kernel.
    n_prototypes : "samples" or int, at least 1, default="samples"
        What the memory holds: stored training rows, or so many prototypes a class, of
        which a row counts for the nearest of its class. 1 is the paper's.
    memory_size : "auto" or int, at least 1, default="auto"
        Stored rows that training attends to. Where there are more training rows, those
        visited last. "auto" is 32 a class, 128 at least, for up to 4,000 training rows,
        growing to four times as many for 16,000 and more, 2,048 at most; 2,048 in
        ``partial_fit``, where prediction attends to the same rows. Only used with
        stored samples.
    support_size : "auto", int, at least 1, or None, default="auto"
        Stored rows that prediction attends to; None is all training rows. Where there
        are more of them, those that matter are the likelier to be kept, see Notes.
        "auto" is as few as speak for all rows: 128 a class at least, 8,192 at most, the
        fewer the easier the classes are told apart. A number also bounds
        ``memory_size`` in ``partial_fit``. Only used with stored samples.
    embedding_size : int, at least 1, default=64
        Numbers by which each read of the memory compares: a stored row has so many for
        each block, or once without blocks. Only used with stored samples.
    n_members : int, at least 1, default=1
        Networks trained side by side whose probabilities are averaged: better
        probabilities for more time. Only used with stored samples.
    neighbor_weight : "auto" or float in [0, 1), default="auto"
        Share w of the ``n_neighbors`` stored rows that are nearest to a row as the
        preprocessing leaves it: class probabilities are the network's to the power
        1 - w times the neighbours' to the power w, normalised. Takes no training.
        "auto" is w0, 0.3 times the share of the training rows that is in the pool to
        the power 0.75; from 800 different training rows on, w0 / 3 plus the share from
        0 to 0.4 that would serve 512 of them best, see Notes; 0 in a ``partial_fit``
        that does not go on from a ``fit``, and with a ``feature_extractor``. Only used
        with stored samples and ``head="both"``.
    n_neighbors : int, at least 1, default=20
        Rows that vote, the nearer the more.
    temperature : "auto" or float in [0.01, 100], default="auto"
        What the logarithms of the class probabilities are divided by: below 1
        ``predict_proba`` is surer, above 1 less so, the most probable class is the
        same. "auto" is chosen in ``fit`` by how sure the votes of training rows on each
        other should have been, see Notes, at least 0.5, at most 1.4 for up to 800
        different training rows, falling to 1 for 4,000 and more; 1 where none vote, or
        all that are in the pool; ``partial_fit`` keeps what there is while rows vote,
        at first 1. Only used with stored samples.
    pool_size : "auto", int, at least 1, or None, default="auto"
        Training rows among which the neighbours are looked for, kept as the
        preprocessing leaves them. None is all, in ``partial_fit`` 8,192; "auto" is
        8,192 at most, and 32,768 where w is above the w0 of 8,192 rows. Chosen as the
        support is. Time and memory of a prediction, and the size of a pickle, grow with
        it and with ``support_size``; ``predict`` asks for the vote only where it can
        change the class. Only used where neighbours vote.
    memory_gate : "learned" or float in (0, 1], default=0.05
        Share g of the batch in the gated update M_t = (1 - g) M_(t-1) + g P_t of the
        prototypes. "learned" is the paper's recurrent gate, a sigmoid layer; a number
        is a fixed momentum, the default because it classified better. 1 switches the
        memory off: the prototypes are those of the last batch. Only used with
        prototypes.
    head : {"both", "distance", "kernel", "linear"}, default="both"
        What scores a class. "kernel": the memory; with stored samples the logarithm of
        the attention that falls on the class, with prototypes the kernel with the
        nearest. "distance": the same by the negative squared distance, whatever
        ``kernel``; with stored samples the blocks attend by it, too. "linear": a linear
        layer. "both": the linear layer and the memory.
    loss : {"softmax", "squared_hinge"}, default="softmax"
        Cross-entropy, or the squared hinge of an SVM, one class against the rest.
    label_smoothing : float in [0, 1), default=0.05
        Share of the target spread over all classes. Only used with the softmax loss.
    inter_weight : float, at least 0, default=0.1
        Weight of the term that pushes prototypes of different classes ``margin`` apart;
        0 switches it off. Only used with prototypes.
    inner_weight : float, at least 0, default=0.1
        Weight of the term that pulls rows to the nearest prototype of their class; 0
        switches it off. Only used with prototypes.
    margin : float, at least 0, default=1.0
        Distance, as root mean square over the features of the embedding, from which on
        two prototypes are far enough apart. Only used with prototypes.
    max_epochs : "auto" or int, at least 1, default="auto"
        Passes over the training rows. "auto" falls from 20 for up to 800 training rows
        to 16 from 4,000 on.
    lr : float above 0, default=0.007
        Learning rate; with ``lr_schedule="one_cycle"`` its highest value.
    lr_schedule : {"one_cycle", "constant"}, default="one_cycle"
        "one_cycle" climbs in a line to ``lr`` over the first tenth of the steps and
        falls to zero in a cosine; "constant" is the paper's.
    batch_size : "auto" or int, at least 1, default="auto"
        Rows a step at most; an epoch is cut into equal batches, of two rows at least.
        "auto" is a quarter of the training rows, within 32 and 256. More than there are
        rows is clipped with a warning.
    optimizer : {"adamw", "adam", "sgd"}, default="adamw"
        Optimizer, torch's fused version.
    weight_decay : float, at least 0, default=0.01
        Weight decay of the weight matrices, the waves and the parameters of the
        attention; other biases and norms do not decay, save those of hidden layers with
        several members and without ``batch_norm``.
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
        Weight of each class in the loss, the memory and the vote, as in scikit-learn:
        "balanced" is inversely proportional to the class counts.
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
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the order of the rows, dropout, the hold-out, the
        rows that are stored, and in preprocessing the rows for the quantiles and the
        folds of the encoding by targets. With an int, the same call gives the same
        result to the bit on a CPU; global random streams are left alone.
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
    support_ : ndarray of shape (n_support,)
        Indices of the training rows that are stored, counted over all chunks after
        ``partial_fit``. Equal rows of a chunk count as the first of them. Only with
        stored samples, as are the next three.
    support_labels_ : ndarray of shape (n_support,)
        Their classes; of equal rows with several labels, the heaviest.
    support_weights_ : ndarray of shape (n_support,)
        Mean attention of training rows on each, own row excluded. Not after
        ``partial_fit``, nor where nothing reads a memory.
    pool_ : ndarray of shape (n_pooled,)
        Indices of the training rows among which the neighbours are looked for. Empty
        where none vote.
    prototypes_ : ndarray of shape (n_prototypes_total, n_embedded)
        Class prototypes in the space of :meth:`embed`; the weighted class means of
        stored samples. Empty with ``head="linear"`` and no attention.
    prototype_labels_ : ndarray of shape (n_prototypes_total,)
        Class of each prototype.
    n_samples_seen_ : int
        Rows of the last ``fit`` and of the calls of ``partial_fit`` since.
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
    KNNSeq2SeqClassifier : Learns to predict a row's neighbours.
    sklearn.svm.SVC : Attention over samples with one fixed similarity.

    Notes
    -----
    A row walks: waves and hidden layers; attention blocks, in which it queries the
    memory; class scores from a linear layer and from the attention on each class. Each
    batch of the training is then written to the memory, where a row never sees itself
    or a copy of itself in the same ``fit`` or chunk. When training ends, the support is
    stored as the finished network embeds it. The class shares of ``y`` are the starting
    point of the class biases.

    The published version, one prototype a class, one hidden layer, a learned gate,
    plain Adam, is ``SAMNClassifier(n_prototypes=1, head="distance", kernel="linear",
    hidden_layer_sizes=(128,), activation="relu", dropout=0.0, batch_norm=False,
    memory_gate="learned", label_smoothing=0.0, max_epochs=30, lr_schedule="constant",
    lr=1e-3, optimizer="adam", weight_decay=0.0, scaling="robust")``.

    The support plays the part of an SVM's support vectors. A row matters by its
    influence, the derivative of the attention on its class with respect to the
    logarithm of its weight, as root mean square over up to 1,024 training rows: small
    for rows deep in their class and for rows that none attends to. With
    ``support_size`` below the number of rows, rows are drawn with probabilities that
    grow with their influence, and those kept have the inverse of the probability as
    their weight, so that they stand for the others.
    With ``support_size="auto"`` there are so many that the shares of the classes in a
    row's attention are expected to err by 0.02 (root mean square).

    In prediction the rows of the pool that are nearest before any layer vote as well
    (``neighbor_weight``): what a network smooths over, such as a value that stands for
    a class of its own, they have not forgotten. From 800 different training rows on the
    vote is tuned on 512 of them, own rows left out, one copy of each (a copy that was
    made to count more would answer for it: give a ``sample_weight`` instead): a
    column's differences are multiplied by the root mean square of the loss's derivative
    by it to the power 0, 1 or 2, whichever makes the neighbours' votes best; then the
    share w is chosen, unless it is given. Not with a ``feature_extractor``, nor with as
    many ``n_neighbors`` as there are rows in the pool.

    The votes of the others on up to 512 training rows also choose
    ``temperature="auto"``, below 800 rows, too: the network has learned the labels of
    these rows and is sure of them, the votes have not. It is t to the power 2/3,
    divided by 1.2, with t the temperature [2]_ at which the votes would have had the
    lowest cross-entropy; with copies of a row among the others and without, the higher
    of the two.

    A pickle holds the weights, the support, embedded, and the pool, as the
    preprocessing left it, as arrays; no optimizer state.

    References
    ----------
    .. [1] Q. Yang, L. Luo, H. Zhang, H. Peng and Z. Chen, "SAMN: A Sample Attention
       Memory Network Combining SVM and NN in One Architecture", arXiv 2309.13930,
       sections 3.2 to 3.4.
    .. [2] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern
       Neural Networks", ICML 2017, section 4.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn_samn import SAMNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    >>> model = SAMNClassifier(random_state=0).fit(X_train, y_train)
    >>> model.score(X_test, y_test) > 0.9
    True
    >>> weights, rows = model.attention(X_test, top_k=3)
    >>> weights.shape, rows.shape
    ((38, 3), (38, 3))
    """

    def __init__(
        self,
        *,
        feature_extractor=None,
        hidden_layer_sizes=(128, 128),
        activation="silu",
        dropout="auto",
        batch_norm=True,
        n_frequencies="auto",
        n_attention_blocks="auto",
        kernel="exponential",
        degree=3,
        coef0=1.0,
        n_prototypes="samples",
        memory_size="auto",
        support_size="auto",
        embedding_size=64,
        n_members=1,
        neighbor_weight="auto",
        n_neighbors=20,
        temperature="auto",
        pool_size="auto",
        memory_gate=0.05,
        head="both",
        loss="softmax",
        label_smoothing=0.05,
        inter_weight=0.1,
        inner_weight=0.1,
        margin=1.0,
        max_epochs="auto",
        lr=7e-3,
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
        random_state=None,
        verbose=0,
        skorch_params=None,
    ):
        self.feature_extractor = feature_extractor
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.n_frequencies = n_frequencies
        self.n_attention_blocks = n_attention_blocks
        self.kernel = kernel
        self.degree = degree
        self.coef0 = coef0
        self.n_prototypes = n_prototypes
        self.memory_size = memory_size
        self.support_size = support_size
        self.embedding_size = embedding_size
        self.n_members = n_members
        self.neighbor_weight = neighbor_weight
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.pool_size = pool_size
        self.memory_gate = memory_gate
        self.head = head
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.inter_weight = inter_weight
        self.inner_weight = inner_weight
        self.margin = margin
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
        self.random_state = random_state
        self.verbose = verbose
        self.skorch_params = skorch_params

    _parameter_constraints = {
        **BaseNeuralClassifier._parameter_constraints,
        **{
            name: [
                StrOptions({"auto"}),
                *BaseNeuralClassifier._parameter_constraints[name],
            ]
            for name in BY_SIZE
        },
        "feature_extractor": [torch.nn.Module, None],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "n_attention_blocks": [
            StrOptions({"auto"}),
            Interval(Integral, 0, None, closed="left"),
        ],
        "kernel": [StrOptions({"linear", "poly", "rbf", "sigmoid", "exponential"})],
        "degree": [Interval(Integral, 1, None, closed="left")],
        "coef0": [Interval(Real, None, None, closed="neither")],
        "n_prototypes": [
            StrOptions({"samples"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "memory_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "support_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "embedding_size": [Interval(Integral, 1, None, closed="left")],
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "neighbor_weight": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "temperature": [StrOptions({"auto"}), Interval(Real, 0.01, 100, closed="both")],
        "pool_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "memory_gate": [StrOptions({"learned"}), Interval(Real, 0, 1, closed="right")],
        "head": [StrOptions({"both", "distance", "kernel", "linear"})],
        "loss": [StrOptions({"softmax", "squared_hinge"})],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "inter_weight": [Interval(Real, 0, None, closed="left")],
        "inner_weight": [Interval(Real, 0, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="left")],
    }

    @property
    def _module_class(self):
        return SampleNetwork if "memory_size" in self._module_args else SAMN

    def _get_module_args(self, n_features, n_rows):
        args = {
            "n_features": n_features,
            "n_classes": len(self.classes_),
            # A copy: a network is made of it again after a round trip, whatever became
            # of the user's.
            "feature_extractor": deepcopy(self.feature_extractor),
            "hidden_layer_sizes": check_layer_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "dropout": self._by_size("dropout", n_rows),
            "batch_norm": self.batch_norm,
            "n_attention_blocks": self._n_blocks(n_rows),
            "kernel": self.kernel,
            "degree": self.degree,
            "coef0": self.coef0,
            "head": self.head,
        }
        if self.n_prototypes != "samples":
            return {
                **args,
                "n_prototypes": self.n_prototypes,
                "memory_gate": self.memory_gate,
            }
        share = self._neighbor_share(n_rows)
        return {
            **args,
            "memory_size": self._n_entries(n_rows),
            "n_members": self.n_members,
            **self._waves(n_rows),
            "learn_waves": self._learns_waves(n_rows),
            "embedding_size": self.embedding_size,
            "neighbor_weight": share,
            "n_neighbors": self.n_neighbors,
            "label_temperature": self._temperature(n_rows, share),
            # A fit fills the pool when training ends.
            "pool_size": self._n_pooled() if share and n_rows == UNBOUNDED else 0,
        }

    def _learns_waves(self, n_rows):
        if n_rows == UNBOUNDED and self._has_network_with("learn_waves"):
            return self._module_args["learn_waves"]
        return n_rows >= MIN_LEARNED_WAVE_ROWS

    def _neighbor_share(self, n_rows):
        if self.head != "both":
            return 0.0
        if self.neighbor_weight != "auto":
            return float(self.neighbor_weight)
        if n_rows == UNBOUNDED:
            goes_on = self._has_network_with("neighbor_weight")
            return self._module_args["neighbor_weight"] if goes_on else 0.0
        if self.feature_extractor is not None:
            return 0.0
        return untuned_share(pool_sizes(self.pool_size, n_rows)[0], n_rows)

    def _temperature(self, n_rows, share):
        if self.temperature != "auto":
            return float(self.temperature)
        goes_on = n_rows == UNBOUNDED and self._has_network_with("label_temperature")
        # A fit chooses it when training ends.
        return self._module_args["label_temperature"] if share and goes_on else 1.0

    def _n_entries(self, n_rows):
        wanted = self.memory_size
        if n_rows < UNBOUNDED:
            if wanted == "auto":
                wanted = max(MEMORY_OF_CLASS * len(self.classes_), MIN_MEMORY)
                wanted *= np.clip(n_rows / MEMORY_ROWS, 1, MEMORY_GROWTH)
                wanted = min(round(wanted), MAX_MEMORY)
            return min(wanted, n_rows)
        wanted = MAX_MEMORY if wanted == "auto" else wanted
        # What is stored is what prediction reads; what a fit has stored stays.
        bounded = self.support_size not in ("auto", None)
        size = min(wanted, self.support_size if bounded else np.inf)
        return max(size, self._present_size("memory_size"))

    def _n_pooled(self):
        """Rows of the pool that partial_fit writes to."""
        wanted = MIN_POOL if self.pool_size in ("auto", None) else self.pool_size
        return max(wanted, self._present_size("pool_size"))

    def _present_size(self, name):
        """A size of the network there is already; 0 without one."""
        return self._module_args[name] if self._has_network_with(name) else 0

    def _n_blocks(self, n_rows):
        if self.n_attention_blocks == "auto":
            if self.n_prototypes != "samples":
                return 1
            if self._has_network_with("n_attention_blocks"):
                return self._module_args["n_attention_blocks"]
            return int(n_rows < MAX_BLOCK_ROWS)
        return self.n_attention_blocks

    def _by_size(self, name, n_rows):
        """The parameter, or what "auto" is for so many training rows."""
        value = getattr(self, name)
        if value != "auto":
            return value
        return between_sizes(*BY_SIZE[name], n_rows)

    def _training_params(self, n_rows):
        return {
            **super()._training_params(n_rows),
            "max_epochs": round(self._by_size("max_epochs", n_rows)),
            # A network of the user's may decide by values.
            "recordable": self.feature_extractor is None,
        }

    def _resolve_batch_size(self, n_rows):
        if self.batch_size != "auto":
            return super()._resolve_batch_size(n_rows)
        wanted = max(math.ceil(n_rows / 4), MIN_AUTO_BATCH_SIZE)
        return min(wanted, MAX_AUTO_BATCH_SIZE, n_rows)

    def _fit(self, X, y, sample_weight):
        self.n_samples_seen_ = 0
        if not self.warm_start:
            vars(self).pop("_module_args", None)
        return super()._fit(X, y, sample_weight)

    def _fit_network(self, X, y, weight, **params):
        super()._fit_network(X, y, weight, **params)
        self.n_samples_seen_ += len(y)
        return self

    def _start(self, module, y, weight):
        prior = np.bincount(y, weights=weight, minlength=len(self.classes_))
        # A class that has yet to come (partial_fit) starts like the rarest so far.
        prior[prior == 0] = prior[prior > 0].min()
        module.set_prior(torch.from_numpy(prior / prior.sum()))

    def _load_previous(self, module, weights, before):
        held, holds = ("memory_size" in args for args in (before, self._module_args))
        if held != holds:
            raise ValueError(
                f"warm_start=True and partial_fit continue from the fitted network, "
                f"which attends to {'stored samples' if held else 'prototypes'}. Set "
                f"n_prototypes back, or begin anew: fit with warm_start=False."
            )
        # A memory of another size takes what it has room for: fit forgets it anyway,
        # partial_fit writes on behind it.
        stored = {}
        for name, new in module.state_dict().items():
            old = weights.get(name, new)
            memory = name.partition(".")[0]
            if memory not in ("memory", "pool") or old.ndim != new.ndim:
                continue
            if old.shape != new.shape:
                stored[name] = new.numpy()
                room = tuple(map(slice, np.minimum(old.shape, new.shape)))
                stored[name][room] = old[room]
            if name.endswith(".rows") and len(old) != len(new):
                stored[f"{memory}.next"] = np.array(len(old) % max(len(new), 1))
        before = {k: v for k, v in before.items() if k not in CHANGING}
        super()._load_previous(module, {**weights, **stored}, before)

    def _make_criterion(self):
        prototypes = self.n_prototypes != "samples"
        return SAMNLoss(
            loss=self.loss,
            inter_weight=self.inter_weight if prototypes else 0.0,
            inner_weight=self.inner_weight if prototypes else 0.0,
            margin=self.margin,
            label_smoothing=self.label_smoothing,
        )

    def _make_datasets(self, module, Z, y, weight, train, valid, rng, device):
        if isinstance(module, SAMN):
            codes, weights = self._row_tensors((y, weight), train, device)
            everyone = torch.arange(len(train), device=device)
            stored = {"y": codes, "weight": weights}, everyone
        elif module.queries:
            stored = self._stored_rows(module, Z, y, weight, train, device)
        else:
            stored = None
        return [
            self._dataset(Z, y, weight, train, stored, device),
            None if valid is None else self._dataset(Z, y, weight, valid, None, device),
        ]

    def _stored_rows(self, module, Z, y, weight, train, device):
        """Tables of what the memory is told, and each row's place in them.

        Equal rows are one entry, with their weight and their shares of the classes, so
        that no row meets its copies: it would look itself up, or, where only copies of
        its class were hidden, see its class by what is missing.
        """
        seen = Z if len(train) == len(Z) else Z[train]
        first, position = distinct_rows(seen, np.zeros(len(train), dtype=Z.dtype))
        mass = np.zeros((len(first), len(self.classes_)), dtype=self._numpy_dtype())
        # The memory takes the logarithm: of weights too small the smallest there is.
        share = weight[train].clip(np.finfo(mass.dtype).tiny)
        np.add.at(mass, (position, y[train]), share)
        total = mass.sum(axis=1)
        mass /= total[:, None]
        row = train[first] + self.n_samples_seen_
        for memory in (module.memory, module.pool):
            memory.start(torch.from_numpy(row), self.n_samples_seen_)
        tables = {"labels": mass, "weight": total, "row": row}
        tables = {name: self._tensor(a, device) for name, a in tables.items()}
        return tables, self._tensor(position, device)

    def _dataset(self, Z, y, weight, rows, stored, device):
        """Rows; with what the memory stores of them where they may write to it."""
        uneven = (weight[rows] != 1).any()
        x, y, weight = self._row_tensors((Z, y, weight), rows, device)

        def batch(index):
            # index_select takes half the time of x[index].
            target = {"y": y.index_select(0, index)}
            if uneven:
                target["weight"] = weight.index_select(0, index)
            inputs = {"x": x.index_select(0, index)}
            if stored is not None:
                tables, position = stored
                place = position.index_select(0, index)
                inputs |= {k: a.index_select(0, place) for k, a in tables.items()}
            return inputs, target

        return _training.BatchDataset(len(rows), batch, device)

    def _finish(self, module, dataset, rng):
        """Fill the memory with its support, and see how training rows look at it."""
        module.eval()
        looking = torch.from_numpy(rng.permutation(len(dataset))[:MAX_LOOKING])
        self._attention_entropy = None
        vars(self).pop("support_weights_", None)
        with torch.no_grad():
            if isinstance(module, SampleNetwork) and module.queries:
                filler = self._make_filler(module, dataset, rng)
                filler.fill()
                self.support_weights_, self._attention_entropy = filler.look(looking)
            elif isinstance(module, SAMN) and module.attention:
                weights = module.attend(dataset[looking][0]["x"])[:, -1]
                n_entries = torch.tensor(weights.shape[1])
                self._attention_entropy = float(entropy(weights, n_entries).mean())

    def _make_filler(self, module, dataset, rng):
        return MemoryFiller(
            module,
            dataset,
            rng,
            support_size=self.support_size,
            pool_size=self.pool_size,
            # A network of the user's may be no function with a gradient.
            tune_columns=self.feature_extractor is None,
            tune_share=self.neighbor_weight == "auto",
            tune_temperature=self.temperature == "auto",
        )

    def _keep(self, net, past):
        super()._keep(net, past)
        if isinstance(net.module_, SampleNetwork):
            self._keep_samples(net.module_)
        else:
            self._keep_prototypes(net.module_.memory)

    def _keep_prototypes(self, memory):
        for name in ("support_", "support_labels_", "support_weights_", "pool_"):
            vars(self).pop(name, None)
        filled = memory.filled.cpu().numpy()
        codes = memory.classes.cpu().numpy()[filled]
        self.prototypes_ = memory.entries.cpu().numpy()[filled]
        self.prototype_labels_ = self.classes_[codes]

    def _keep_samples(self, module):
        memory, pooled = module.memory, module.pool.rows.cpu().numpy()
        filled = (memory.rows >= 0).cpu().numpy()
        self._module_args = {
            **self._module_args,
            "memory_size": len(filled),
            "pool_size": len(pooled),
            "neighbor_weight": module.neighbor_weight,
            "label_temperature": module.label_temperature,
        }
        self.pool_ = pooled[pooled >= 0]
        self.support_ = memory.rows.cpu().numpy()[filled]
        labels = memory.labels.cpu().numpy()[filled]
        self.support_labels_ = self.classes_[labels.argmax(axis=1)]
        entries = memory.entries.transpose(0, 1).flatten(1).cpu().numpy()[filled]
        present = np.flatnonzero(labels.any(axis=0))
        mass = memory.log_weight.exp().cpu().numpy()[filled] * labels.T[present]
        self.prototypes_ = mass / mass.sum(axis=1, keepdims=True) @ entries
        self.prototype_labels_ = self.classes_[present]

    @property
    def diagnostics_(self):
        """Signs of a training that failed, as a dict.

        ``attention_entropy`` is that of the training rows' attention as a share of its
        highest value: 1 is an attention that tells no entry from another.
        ``prototype_distance`` is the smallest distance between prototypes of different
        classes, as root mean square over the features: 0 is a collapse.
        ``validation_gap`` is the loss on the hold-out less that on the training rows,
        in the last epoch: a large one is an overfit. A value is None where it cannot be
        had: without attention, after ``partial_fit``, without a hold-out.
        """
        check_is_fitted(self)
        last = self.history_[-1]
        gap = last["valid_loss"] - last["train_loss"] if "valid_loss" in last else None
        return {
            "attention_entropy": self._attention_entropy,
            "prototype_distance": self._prototype_distance(),
            "validation_gap": gap,
        }

    def _prototype_distance(self):
        other = self.prototype_labels_[:, None] != self.prototype_labels_
        if not other.any():
            return None
        gaps = euclidean_distances(self.prototypes_)[other]
        return float(gaps.min() / np.sqrt(self.prototypes_.shape[1]))

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
        check_is_fitted(self)
        if not isinstance(self.net_.module_, SampleNetwork):
            return super().predict(X)
        codes, probabilities = self._run(self.net_.module_.most_probable, X)
        self._check_finite(probabilities)
        return self.classes_[codes]

    def _probabilities(self, x):
        return self.net_.module_.probabilities(x)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Update network and memory from a chunk of rows, in one pass over it.

        The preprocessing is that of the first chunk, so that chunk should be typical;
        lr is constant; early stopping and ``verbose`` do not apply; what goes by the
        number of training rows is as for very many.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the chunk.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; must be given at the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weight of each row in the loss and in the memory, as it is;
            in ``fit`` ratios alone count.

        Returns
        -------
        self : object
            The updated estimator.

        Raises
        ------
        ValueError
            If ``classes`` is missing at the first call, or y holds others, or
            ``class_weight="balanced"``, which needs all of y, or the data cannot be
            used or the training diverges; the estimator is then as it was before.
        """
        with unchanged_on_failure(self):
            return self._partial_fit(X, y, classes, sample_weight)

    def _partial_fit(self, X, y, classes, sample_weight):
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported by partial_fit, which sees "
                "one chunk of y: pass a dict of class weights, or sample_weight."
            )
        first = not hasattr(self, "classes_")
        if first:
            self.n_samples_seen_ = 0
        self._attention_entropy = None
        vars(self).pop("support_weights_", None)
        _check_partial_fit_first_call(self, classes)
        if len(self.classes_) < 2:
            raise ValueError(
                f"SAMNClassifier needs at least 2 classes, but classes={classes!r}."
            )
        X, y, weight = self._validate_training_data(
            X, y, sample_weight, reset=first, classes=self.classes_
        )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y holds the labels {unknown}, which are not among the classes of the "
                f"first call to partial_fit, {self.classes_}."
            )
        return self._fit_network(
            X,
            y,
            weight,
            warm=not first,
            chunk=True,
            max_epochs=1,
            lr_schedule="constant",
            verbose=0,
            moments_of=getattr(vars(self).get("_net"), "optimizer_", None),
        )

    def embed(self, X):
        """Rows as the memory stores them and compares them.

        Without a memory, the rows that the linear layer scores.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_embedded)
            Embeddings, in the space of ``prototypes_``.
        """
        embeddings = self._run(self._embedding, X)
        self._check_finite(embeddings)
        return embeddings

    def _embedding(self, x):
        z = self.net_.module_.embed(x)
        return z if z.ndim == 2 else z.transpose(0, 1).flatten(1)

    @available_if(_has_attention)
    def attention(self, X, *, top_k=10):
        """The stored rows that each row looks at most.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        top_k : int, at least 1, default=10
            Entries a row, or all there are if fewer.

        Returns
        -------
        weights : ndarray of shape (n_samples, top_k)
            Attention, highest first; over all entries it sums to one.
        entries : ndarray of shape (n_samples, top_k)
            What is looked at: the indices of training rows, or of ``prototypes_``
            where the memory holds those.

        Raises
        ------
        AttributeError
            If the network has no attention.
        ValueError
            If ``top_k`` or X cannot be used.
        """
        check_scalar(top_k, "top_k", Integral, min_val=1)
        return self._highest("attend", X, top_k)[:2]

    def _highest(self, method, X, n_entries):
        """Weights, entries and distances of those of the highest weight for each row.

        ``method`` is that of the network that gives the weights.
        """
        check_is_fitted(self)
        module = self.net_.module_
        numbers = _numbers(module, method)
        places = (numbers >= 0).nonzero().squeeze(1)

        def look(x):
            weights = getattr(module, method)(x)
            # Prototypes: the last of the blocks.
            weights = weights[:, -1] if weights.ndim == 3 else weights
            best, index = weights[:, places].topk(min(n_entries, len(places)), dim=1)
            entries = numbers[places[index]]
            return best, entries, module.distances(x, entries)

        batch_size = max(looking_batch(numbers), MIN_EXPLAINED)
        weights, entries, distances = self._run(look, X, batch_size=batch_size)
        if not isinstance(module, SampleNetwork):
            # Of all places, those that hold a prototype.
            entries = np.searchsorted(places.cpu().numpy(), entries)
        # A row too far out for its distances sees nothing.
        self._check_finite(np.where(weights[:, 0] > 0, 0, np.nan))
        return weights, entries, distances

    def _labels_of_stored(self, entries):
        """The label that each entry stands for, an array of their shape."""
        module = self.net_.module_
        if not isinstance(module, SampleNetwork):
            return self.prototype_labels_[entries]
        rows = module.stored()
        codes = module.labels_of(rows).argmax(1).cpu().numpy()
        return self.classes_[codes[np.searchsorted(rows.cpu().numpy(), entries)]]

    @available_if(_has_memory)
    def explain(self, X, *, n_samples=5):
        """The stored rows that decide on each row, as a table.

        Needs pandas.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        n_samples : int, at least 1, default=5
            Stored rows to list for each.

        Returns
        -------
        pandas.DataFrame
            A line for each row and stored row, the heaviest first, with columns ``row``
            (position in X), ``sample`` (index of the training row, or of the
            prototype), ``label`` (its class), ``weight`` and ``distance`` (as the last
            of the reads sees them, mean over the members). The weight is the share of
            the attention, and where neighbours vote of attention and vote together,
            mixed as ``neighbor_weight`` says; over all stored rows it sums to one. That
            of a prototype is the probability of the class it speaks for, unless
            ``head="linear"`` leaves attention alone.

        Raises
        ------
        AttributeError
            If the network has no memory.
        ImportError
            If there is no pandas.
        ValueError
            If ``n_samples`` or X cannot be used.
        """
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError(
                "explain returns a pandas DataFrame: pip install "
                "'sklearn_samn[pandas]', or use attention."
            ) from error
        weights, samples, distances = self._highest("decide", X, n_samples)
        return DataFrame(
            {
                "row": np.repeat(np.arange(len(weights)), weights.shape[1]),
                "sample": samples.ravel(),
                "label": self._labels_of_stored(samples).ravel(),
                "weight": weights.ravel(),
                "distance": distances.ravel(),
            }
        )


def _numbers(module, method):
    """What each column of the weights that ``method`` gives is of; -1 for nothing."""
    if not isinstance(module, SampleNetwork):
        places = torch.arange(len(module.memory.filled), device=module.bias.device)
        return torch.where(module.memory.filled, places, -1)
    return module.stored() if method == "decide" else module.memory.rows
