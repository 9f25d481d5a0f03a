"""From a row of a table to the features the networks work on."""

import math
from functools import partial
from itertools import pairwise

import torch
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
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

    - input: (n_members, n_samples, in_features)
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
        weight = torch.empty(n_members, in_features, out_features)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))
        constant = torch.empty(n_members, out_features).uniform_(-bound, bound)
        self.bias = nn.Parameter(constant) if bias else None

    def forward(self, x):
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


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
        if len(x) == 1:
            return self.norm(x[0]).unsqueeze(0)
        rows = x.transpose(0, 1)
        return self.norm(rows.flatten(1)).view(rows.shape).transpose(0, 1)


class PeriodicEmbedding(nn.Module):
    """Numbers beside a few learned waves of each.

    A number x becomes x and a linear map of cos(w x + b) over several frequencies w and
    phases b, all learned: a network of smooth layers follows a bumpy feature more
    easily along waves (the PBLD embedding of RealMLP).

    Parameters
    ----------
    n_members : int
        Networks, each with waves of its own.
    n_numeric : int
        The first columns, which are numbers; the others pass as they are.
    n_frequencies : int, default=16
        Waves a number.
    n_outputs : int, default=3
        Columns that the waves of a number become.

    Notes
    -----
    **Shape**

    - input: (n_members, n_samples, n_features)
    - output: (n_members, n_samples, n_features + n_numeric * n_outputs)

    References
    ----------
    .. [1] D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong
       Pre-Tuned MLPs and Boosted Trees on Tabular Data", NeurIPS 2024.

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import PeriodicEmbedding
    >>> PeriodicEmbedding(1, n_numeric=2)(torch.zeros(1, 3, 5)).shape
    torch.Size([1, 3, 11])
    """

    def __init__(self, n_members, n_numeric, *, n_frequencies=16, n_outputs=3):
        super().__init__()
        self.n_numeric = n_numeric
        shape = (n_members, n_numeric, n_frequencies)
        # Slow waves, of a period of about ten standard deviations.
        self.frequency = nn.Parameter(0.1 * 2 * math.pi * torch.randn(shape))
        self.phase = nn.Parameter(2 * math.pi * torch.rand(shape))
        self.linear = MemberLinear(n_members * n_numeric, n_frequencies, n_outputs)

    def forward(self, x):
        numbers = x[..., : self.n_numeric].transpose(1, 2).unsqueeze(3)
        waves = numbers * self.frequency.unsqueeze(2) + self.phase.unsqueeze(2)
        waves = self.linear(waves.cos().flatten(0, 1))
        waves = waves.unflatten(0, numbers.shape[:2]).transpose(1, 2).flatten(2)
        return torch.cat([x, waves], dim=2)


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
        n_members=None,
    ):
        linear, norm = nn.Linear, BatchNorm
        if n_members is not None:
            linear = partial(MemberLinear, n_members)
            norm = partial(MemberBatchNorm, n_members)
        sizes = [n_features, *hidden_layer_sizes]
        layers = []
        for n_in, n_out in pairwise(sizes):
            # The shift of the batch norm makes the bias of the layer redundant.
            layers.append(linear(n_in, n_out, bias=not batch_norm))
            if batch_norm:
                layers.append(norm(n_out))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)
        self.out_features = sizes[-1]
