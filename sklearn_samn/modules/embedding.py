"""From a row of a table to the features the networks work on."""

import math
from copy import deepcopy
from functools import partial
from itertools import pairwise

import torch
from torch import nn

# A GPU is given so many times the rows that a CPU works on at once.
GPU_SHARE = 16
# A softmax goes class by class for up to FEW_CLASSES, on multiples of FILLED_ROWS rows,
# which fill the registers of any CPU.
FEW_CLASSES, FILLED_ROWS = 16, 16


def at_once(size, tensor):
    """``size``, which fits the cache of a CPU, or GPU_SHARE times as much on a GPU."""
    return size if tensor.is_cpu else GPU_SHARE * size


def class_probabilities(scores):
    """Softmax over the last dimension, in predictions.

    On a CPU torch walks from row to row, which takes ten times as long for a few
    classes as from class to class. That way the last rows, too few to fill a register,
    would be left to other instructions with other last bits: they are filled up, so
    that with one thread a row's do not depend on its place.

    Parameters
    ----------
    scores : Tensor of shape (..., n_classes)
        Class scores.

    Returns
    -------
    Tensor of shape (..., n_classes)
        Probabilities.

    Examples
    --------
    >>> import torch
    >>> with torch.no_grad():
    ...     class_probabilities(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    tensor([[0.5000, 0.5000],
            [0.2689, 0.7311]])
    """
    n_classes = scores.shape[-1]
    if scores.requires_grad or not scores.is_cpu or n_classes > FEW_CLASSES:
        return scores.softmax(-1)
    n_rows = scores.numel() // n_classes
    filled_up = math.ceil(n_rows / FILLED_ROWS) * FILLED_ROWS
    across = scores.new_zeros(n_classes, filled_up)
    across[:, :n_rows] = scores.reshape(n_rows, n_classes).T
    return across.softmax(0)[:, :n_rows].T.unflatten(0, scores.shape[:-1])


class Mish(nn.Mish):
    """x tanh(log(1 + exp(x))); on a CPU in a third of the time of torch's own.

    Notes
    -----
    **Shape**

    - input and output: any

    Examples
    --------
    >>> import torch
    >>> Mish()(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8651])
    """

    def forward(self, x):
        if not x.is_cpu:
            return super().forward(x)
        square = (-x).sigmoid().square()
        return x * ((1 - square) / (1 + square))


ACTIVATIONS = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "mish": Mish,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a single row by its running statistics.

    Notes
    -----
    **Shape**

    - input and output: (n_samples, n_features)

    Examples
    --------
    >>> import torch
    >>> BatchNorm(2)(torch.ones(1, 2)).shape
    torch.Size([1, 2])
    """

    def forward(self, x):
        if self.training and len(x) > 1:
            return super().forward(x)
        return self.by_running_statistics(x)

    def by_running_statistics(self, x):
        """As in evaluation: nothing is learned of the rows' mean and variance."""
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class MemberLinear(nn.Module):
    """Linear layers of several networks in one product.

    Parameters
    ----------
    n_members : int
        Number of networks.
    in_features, out_features : int
        Widths.
    bias : bool, default=True
        Whether a learned constant is added.

    Notes
    -----
    **Shape**

    - input: (n_members, n_samples, in_features); where the layer has no bias of its
      own also a constant for all members, (out_features,)
    - output: (n_members, n_samples, out_features)

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import MemberLinear
    >>> MemberLinear(2, 4, 8)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, n_members, in_features, out_features, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        # Inputs last, as in torch's own layer: few outputs are faster that way.
        weight = torch.empty(n_members, out_features, in_features)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))
        constant = torch.empty(n_members, out_features).uniform_(-bound, bound)
        self.bias = nn.Parameter(constant) if bias else None

    def forward(self, x, constant=None):
        """The products, and the constant: the layer's own if it has one."""
        if self.bias is not None:
            constant = self.bias.unsqueeze(1)
        if len(x) == 1:
            # Half the time of a product of batches.
            constant = None if constant is None else constant.view(-1)
            return nn.functional.linear(x, self.weight.squeeze(0), constant)
        if constant is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(constant, x, self.weight.mT)


class MemberBatchNorm(nn.Module):
    """Batch normalisation of several networks, each feature of each by itself.

    Parameters
    ----------
    n_members, n_features : int
        Number of networks and their width.

    Notes
    -----
    **Shape**

    - input and output: (n_members, n_samples, n_features)

    Examples
    --------
    >>> import torch
    >>> MemberBatchNorm(2, 4)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, n_members, n_features):
        super().__init__()
        self.norm = BatchNorm(n_members * n_features)

    def forward(self, x):
        rows = x.transpose(0, 1)
        return self.norm(rows.flatten(1)).view(rows.shape).transpose(0, 1)


class MemberModules(nn.ModuleList):
    """Copies of any module side by side.

    Parameters
    ----------
    module : nn.Module
        From (n_samples, n_features) to (n_samples, h).
    n_members : int
        Number of copies. All start from the weights of the module.

    Notes
    -----
    **Shape**

    - input: (n_members, n_samples, n_features)
    - output: (n_members, n_samples, h)

    Examples
    --------
    >>> import torch
    >>> MemberModules(torch.nn.Linear(4, 8), 2)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, module, n_members):
        super().__init__(deepcopy(module) for _ in range(n_members))

    def forward(self, x):
        if len(self) == 1:
            return self[0](x[0]).unsqueeze(0)
        return torch.stack([module(rows) for module, rows in zip(self, x, strict=True)])


def one_of(name, value, options):
    """The value of a parameter, or a ValueError that names the options."""
    if value not in options:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(options)}.")
    return value


def output_width(module, n_features):
    """Width h of what a module makes of rows of so many features, (n_samples, h)."""
    trial = deepcopy(module).eval()
    dtype = next((p.dtype for p in trial.parameters()), torch.get_default_dtype())
    try:
        with torch.no_grad():
            made = trial(torch.zeros(2, n_features, dtype=dtype))
    except RuntimeError as error:
        raise ValueError(
            f"feature_extractor cannot take rows of {n_features} columns, as many as "
            f"the preprocessing makes of X ({error})."
        ) from error
    if not isinstance(made, torch.Tensor):
        raise ValueError(
            f"feature_extractor must return a tensor, but gives {type(made).__name__}."
        )
    if made.ndim != 2 or len(made) != 2:
        raise ValueError(
            f"feature_extractor must turn rows of shape (2, {n_features}) into (2, h), "
            f"but gives {tuple(made.shape)}; end it with nn.Flatten()."
        )
    if made.shape[1] == 0 or made.dtype != dtype:
        raise ValueError(
            f"feature_extractor must give at least one column of {dtype}, as its "
            f"parameters are, but gives {made.shape[1]} of {made.dtype}."
        )
    return made.shape[1]


class PeriodicEmbedding(nn.Module):
    """Numbers beside a few learned waves of each.

    A number x becomes x and cos(w x + b) for several frequencies w and phases b: layers
    follow a bumpy feature more easily along waves.

    Parameters
    ----------
    n_members : int or None
        Networks, each with waves of its own; None is one network without that
        dimension.
    n_numeric : int
        The first columns, which are numbers; the others pass as they are.
    n_frequencies : int, default=16
        Waves a number.
    learned : bool, default=True
        Whether training changes frequencies and phases, or leaves them as drawn.

    Notes
    -----
    **Shape**

    - input: (n_members, n_samples, n_features)
    - output: (n_members, n_samples, n_features + n_numeric * n_frequencies)

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev and A. Babenko, "On Embeddings for Numerical
       Features in Tabular Deep Learning", NeurIPS 2022, section 3.3.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import PeriodicEmbedding
    >>> PeriodicEmbedding(1, n_numeric=2)(torch.zeros(1, 3, 5)).shape
    torch.Size([1, 3, 37])
    """

    def __init__(self, n_members, n_numeric, *, n_frequencies=16, learned=True):
        super().__init__()
        self.n_numeric = n_numeric
        members = () if n_members is None else (n_members,)
        shape = (*members, 1, n_numeric, n_frequencies)
        # Slow waves, of a period of about ten standard deviations.
        self.frequency = nn.Parameter(0.1 * 2 * math.pi * torch.randn(shape))
        self.phase = nn.Parameter(2 * math.pi * torch.rand(shape))
        self.requires_grad_(learned)

    def out_features(self, n_features):
        """Width of the output for an input of so many columns."""
        return n_features + self.phase.shape[-2:].numel()

    def forward(self, x):
        numbers = x[..., : self.n_numeric, None]
        waves = torch.addcmul(self.phase, numbers, self.frequency).cos()
        return torch.cat([x, waves.flatten(-2)], dim=-1)


class Dropout(nn.Module):
    """Dropout that takes a random byte an element.

    A Bernoulli draw an element, as in :class:`torch.nn.Dropout`, takes as long on a CPU
    as the layer before it.

    Parameters
    ----------
    p : float in [0, 1)
        Share of the elements that become zero, rounded to a 256th; the others grow by
        as much.

    Notes
    -----
    **Shape**

    - input and output: any

    Examples
    --------
    >>> import torch
    >>> Dropout(0.5)(torch.ones(10, 10)).unique()
    tensor([0., 2.])
    """

    def __init__(self, p):
        super().__init__()
        self.threshold = min(round(256 * p), 255)

    def forward(self, x):
        if not self.training or not self.threshold:
            return x
        eights = torch.empty(
            math.ceil(x.numel() / 8), dtype=torch.int64, device=x.device
        )
        # All 64 bits: from the lowest integer on, without an end.
        draws = eights.random_(-(2**63), None).view(torch.uint8)[: x.numel()]
        kept = draws.view(x.shape) >= self.threshold
        return x * kept.to(x.dtype).mul_(256 / (256 - self.threshold))

    def extra_repr(self):
        """What is printed of the module."""
        return f"p={self.threshold / 256:.3f}"


class FeatureExtractor(nn.Sequential):
    """Layers of an ordinary network, linear - batch norm - activation - dropout.

    Parameters
    ----------
    n_features : int
        Width of the input.
    hidden_layer_sizes : sequence of int, default=(128,)
        Width of each layer. Empty: the input is passed on.
    activation : {"relu", "silu", "mish", "gelu", "tanh"}, default="silu"
        Activation after each layer.
    dropout : float in [0, 1), default=0.0
        Dropout after each activation.
    batch_norm : bool, default=False
        Batch normalisation before each activation.
    n_numeric, n_frequencies : int, default=0
        Waves for each of the first columns, which are numbers, before the layers; see
        :class:`PeriodicEmbedding`.
    learn_waves : bool, default=True
        Whether training changes them.
    n_members : int or None, default=None
        Several networks side by side, on input and output of shape (n_members,
        n_samples, width); None is one network without that dimension.

    Attributes
    ----------
    out_features : int
        Width of the output.

    Notes
    -----
    **Shape**

    - input: (n_samples, n_features)
    - output: (n_samples, out_features)

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import FeatureExtractor
    >>> FeatureExtractor(4, hidden_layer_sizes=(16, 8))(torch.zeros(3, 4)).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        n_features,
        hidden_layer_sizes=(128,),
        *,
        activation="silu",
        dropout=0.0,
        batch_norm=False,
        n_numeric=0,
        n_frequencies=0,
        learn_waves=True,
        n_members=None,
    ):
        layers = []
        if n_numeric and n_frequencies:
            waves = PeriodicEmbedding(
                n_members,
                n_numeric,
                n_frequencies=n_frequencies,
                learned=learn_waves,
            )
            layers.append(waves)
            n_features = waves.out_features(n_features)
        linear, norm = nn.Linear, BatchNorm
        if n_members is not None:
            linear = partial(MemberLinear, n_members)
            norm = partial(MemberBatchNorm, n_members)
        sizes = [n_features, *hidden_layer_sizes]
        for n_in, n_out in pairwise(sizes):
            # The shift of the batch norm makes the bias of the layer redundant.
            layers.append(linear(n_in, n_out, bias=not batch_norm))
            if batch_norm:
                layers.append(norm(n_out))
            layers.append(ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]())
            # Also of zero: the weights have the same names whatever it is.
            layers.append(Dropout(dropout))
        super().__init__(*layers)
        self.out_features = sizes[-1]
