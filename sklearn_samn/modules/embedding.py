"""From a row of a table to the features the networks work on."""

from itertools import pairwise

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
    ):
        sizes = [n_features, *hidden_layer_sizes]
        layers = []
        for n_in, n_out in pairwise(sizes):
            # The shift of the batch norm makes the bias of the layer redundant.
            layers.append(nn.Linear(n_in, n_out, bias=not batch_norm))
            if batch_norm:
                layers.append(BatchNorm(n_out))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)
        self.out_features = sizes[-1]
