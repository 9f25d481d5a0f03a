"""SAMNClassifier."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call

from . import _training
from ._base import BaseNeuralClassifier, check_layer_sizes, unchanged_on_failure
from .modules import SAMN, SAMNLoss
from .modules.embedding import ACTIVATIONS


def _has_attention(estimator):
    if estimator.n_attention_blocks:
        return True
    raise AttributeError("n_attention_blocks=0 leaves no attention to ask for")


class SAMNClassifier(BaseNeuralClassifier):
    """Sample attention memory network: an SVM and a neural network in one.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int, default=(128, 128)
        Widths of the layers between the scaled row and the attention. Empty for none,
        as in the paper.
    activation : {"relu", "silu", "mish", "gelu", "tanh"}, default="silu"
        Activation of those layers.
    dropout : float in [0, 1), default=0.2
        Dropout after each hidden layer.
    batch_norm : bool, default=True
        Batch normalisation in each hidden layer.
    n_attention_blocks : int, at least 0, default=1
        Blocks of sample attention, each adding to a row what the memory says to it; 0
        switches sample attention off.
    kernel : {"linear", "poly", "rbf", "sigmoid"}, default="linear"
        Scores of the attention, and of ``head="kernel"``: the kernels of an SVM.
    degree : int, at least 1, default=3
        Degree of the polynomial kernel.
    coef0 : float, default=1.0
        Constant of the polynomial and the sigmoid kernel.
    n_prototypes : int, at least 1, default=1
        Prototypes a class; a row counts for the nearest of its class.
    memory_gate : "learned" or float in (0, 1], default=0.05
        Share g of the batch in the gated update M_t = (1 - g) M_(t-1) + g P_t of the
        prototypes. "learned" is the paper's recurrent gate, a sigmoid layer; a number
        is a fixed momentum, the default because it classified better. 1 switches the
        memory off: the prototypes are those of the last batch.
    head : {"distance", "kernel", "linear"}, default="distance"
        What scores a class: minus the squared distance to its nearest prototype, the
        kernel with it, or a linear layer (no prototypes, an ablation).
    loss : {"softmax", "squared_hinge"}, default="softmax"
        Cross-entropy, or the squared hinge of an SVM, one class against the rest.
    label_smoothing : float in [0, 1), default=0.05
        Share of the target spread over all classes. Only used with the softmax loss.
    inter_weight : float, at least 0, default=0.1
        Weight of the term that pushes prototypes of different classes ``margin`` apart;
        0 switches it off.
    inner_weight : float, at least 0, default=0.1
        Weight of the term that pulls rows to the nearest prototype of their class; 0
        switches it off.
    margin : float, at least 0, default=1.0
        Distance, as root mean square over the features of the embedding, from which on
        two prototypes are far enough apart.
    max_epochs : int, at least 1, default=30
        Passes over the training rows.
    lr : float above 0, default=0.003
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
    scaling : {"auto", "robust", "quantile"} or None, default="auto"
        How numbers are scaled inside. "robust": centred at the median, divided by the
        interquartile range, then clipped smoothly to (-3, 3), so that raw features and
        outliers work as they come. "quantile": to a normal distribution by rank, save
        columns of two values. "auto": "robust" below 2,000 training rows, "quantile"
        from there. None takes them as they are.
    categorical_features : "auto", "from_dtype", array-like or None, default="auto"
        Which columns are categories. "auto": those of a DataFrame that hold strings or
        have a categorical dtype; "from_dtype": the latter; an array: a mask of bool,
        indices, or names of columns of a DataFrame; None: none. Up to 64 levels
        become a column each, more are encoded by their targets.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, as in scikit-learn: "balanced" is inversely
        proportional to the class counts.
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
        Seeds the initial weights, the order of the rows, dropout. With an int, the same
        call gives the same result to the bit on a CPU; global random streams are left
        alone.
    verbose : int, default=0
        0 is silent, 1 shows a progress bar on stderr, 2 prints skorch's table of
        epochs.
    skorch_params : dict or None, default=None
        For experts: parameters of :class:`skorch.NeuralNet` that go before those above,
        such as ``{"callbacks": [...], "optimizer": torch.optim.NAdam}``. Callbacks see
        epochs, not batches' losses.

    Attributes
    ----------
    prototypes_ : ndarray of shape (n_prototypes_total, hidden_layer_sizes[-1])
        The memory: class prototypes in the space of :meth:`embed`. Empty with
        ``head="linear"`` and no attention.
    prototype_labels_ : ndarray of shape (n_prototypes_total,)
        Class of each prototype.
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
        Minus the loss on the hold-out after each epoch; None without one.
    history_ : list of dict
        One record an epoch: epoch, train_loss, valid_loss, dur (seconds).

    See Also
    --------
    KNNSeq2SeqClassifier : Learns to predict a row's neighbours.
    sklearn.svm.SVC : Attention over samples with one fixed similarity.

    Notes
    -----
    A row walks: hidden layers; attention blocks, in which it queries the memory of
    class prototypes; squared distances to the prototypes, as class scores. In training
    each batch then moves the memory. The class shares of ``y`` are the starting point
    of the class biases.

    The published version, one hidden layer, a learned gate, plain Adam, is
    ``SAMNClassifier(hidden_layer_sizes=(128,), activation="relu", dropout=0.0,
    batch_norm=False, memory_gate="learned", lr_schedule="constant", lr=1e-3,
    optimizer="adam", weight_decay=0.0)``.

    A pickle holds the weights as arrays, no optimizer state and no training rows.

    References
    ----------
    .. [1] Q. Yang, L. Luo, H. Zhang, H. Peng and Z. Chen, "SAMN: A Sample Attention
       Memory Network Combining SVM and NN in One Architecture", arXiv 2309.13930,
       sections 3.2 to 3.4.

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
    >>> model.attention(X_test).shape
    (38, 1, 3)
    """

    def __init__(
        self,
        *,
        hidden_layer_sizes=(128, 128),
        activation="silu",
        dropout=0.2,
        batch_norm=True,
        n_attention_blocks=1,
        kernel="linear",
        degree=3,
        coef0=1.0,
        n_prototypes=1,
        memory_gate=0.05,
        head="distance",
        loss="softmax",
        label_smoothing=0.05,
        inter_weight=0.1,
        inner_weight=0.1,
        margin=1.0,
        max_epochs=30,
        lr=3e-3,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.n_attention_blocks = n_attention_blocks
        self.kernel = kernel
        self.degree = degree
        self.coef0 = coef0
        self.n_prototypes = n_prototypes
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

    _module_class = SAMN

    _parameter_constraints = {
        **BaseNeuralClassifier._parameter_constraints,
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "n_attention_blocks": [Interval(Integral, 0, None, closed="left")],
        "kernel": [StrOptions({"linear", "poly", "rbf", "sigmoid"})],
        "degree": [Interval(Integral, 1, None, closed="left")],
        "coef0": [Real],
        "n_prototypes": [Interval(Integral, 1, None, closed="left")],
        "memory_gate": [StrOptions({"learned"}), Interval(Real, 0, 1, closed="right")],
        "head": [StrOptions({"distance", "kernel", "linear"})],
        "loss": [StrOptions({"softmax", "squared_hinge"})],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "inter_weight": [Interval(Real, 0, None, closed="left")],
        "inner_weight": [Interval(Real, 0, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="left")],
    }

    def _get_module_args(self, n_features, n_classes):
        return {
            "n_features": n_features,
            "n_classes": n_classes,
            "hidden_layer_sizes": check_layer_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            "n_attention_blocks": self.n_attention_blocks,
            "kernel": self.kernel,
            "degree": self.degree,
            "coef0": self.coef0,
            "n_prototypes": self.n_prototypes,
            "memory_gate": self.memory_gate,
            "head": self.head,
        }

    def _start(self, module, y, weight):
        prior = np.bincount(y, weights=weight, minlength=len(self.classes_))
        # A class that has yet to come (partial_fit) starts like the rarest so far.
        prior[prior == 0] = prior[prior > 0].min()
        module.set_prior(torch.from_numpy(prior / prior.sum()))

    def _make_criterion(self):
        return SAMNLoss(
            loss=self.loss,
            inter_weight=self.inter_weight,
            inner_weight=self.inner_weight,
            margin=self.margin,
            label_smoothing=self.label_smoothing,
        )

    def _make_datasets(self, Z, y, weight, train, valid, rng, device):
        return [
            None if rows is None else self._dataset(Z, y, weight, rows, labels, device)
            for rows, labels in [(train, True), (valid, False)]
        ]

    def _dataset(self, Z, y, weight, rows, labels, device):
        """Rows; with their labels as inputs where they may write to the memory."""
        x, y, weight = (self._tensor(a[rows], device) for a in (Z, y, weight))

        def batch(index):
            # index_select takes half the time of x[index].
            target = {
                "y": y.index_select(0, index),
                "weight": weight.index_select(0, index),
            }
            rows = {"x": x.index_select(0, index)}
            return {**rows, **(target if labels else {})}, target

        return _training.BatchDataset(len(rows), batch)

    def _keep(self, net, past=()):
        super()._keep(net, past)
        memory = net.module_.memory
        filled = memory.filled.cpu().numpy()
        self.prototypes_ = memory.entries.cpu().numpy()[filled]
        self.prototype_labels_ = self.classes_[memory.classes.cpu().numpy()[filled]]

    def _probabilities(self, x):
        return self.net_.module_(x).logits.softmax(1)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Update network and memory from a chunk of rows, in one pass over it.

        The preprocessing is that of the first chunk, so that chunk should be typical;
        lr is constant; early stopping does not apply.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the chunk.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; must be given at the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weight of each row in the loss.

        Returns
        -------
        self : object
            The updated estimator.

        Raises
        ------
        ValueError
            If ``classes`` is missing at the first call, or y holds others, or
            ``class_weight="balanced"``, which needs all of y.
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
        _check_partial_fit_first_call(self, classes)
        X, y, weight = self._validate_training_data(X, y, sample_weight, reset=first)
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
            holdout=False,
            max_epochs=1,
            lr_schedule="constant",
            verbose=0,
            moments_of=getattr(vars(self).get("_net"), "optimizer_", None),
        )

    def embed(self, X):
        """Rows as the network sees them when it compares them with the prototypes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, hidden_layer_sizes[-1])
            Embeddings, in the space of ``prototypes_``.
        """
        return self._run(lambda x: self.net_.module_.embed(x), X)

    @available_if(_has_attention)
    def attention(self, X):
        """Attention of each row over the memory.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_attention_blocks, n_entries)
            Weights that sum to one over the entries of ``prototypes_``.
        """
        filled = self.net_.module_.memory.filled
        return self._run(lambda x: self.net_.module_.attend(x)[:, :, filled], X)
