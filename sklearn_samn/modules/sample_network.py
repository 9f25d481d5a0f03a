"""SAMN with stored samples as its memory, several networks side by side."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from .attention import memory_weights, read_memory
from .embedding import (
    FeatureExtractor,
    MemberLinear,
    MemberModules,
    at_once,
    class_probabilities,
    one_of,
    output_width,
)
from .memory import (
    ALONE,
    FLOOR,
    NeighborMemory,
    SampleMemory,
    most_likely,
    product_of_experts,
)

# The vote is left out where it could not change the class, by this margin of the
# logarithms, many times their rounding.
SURE = 1e-3
# Kernels whose scores grow with the length of the rows.
UNBOUNDED_KERNELS = ("linear", "poly")
# Powers of the sensitivity by which the columns of the vote may count.
SCALING_POWERS = (0, 1, 2)
# Weights of the vote that are tried; with what choose_share adds they end at 0.5, above
# which prediction would need the vote for nearly every row.
SHARES = tuple(i / 20 for i in range(9))
# The temperature of the class probabilities is the votes' best to VOTE_POWER times
# VOTE_FACTOR, at least LOWEST_TEMPERATURE.
VOTE_POWER, VOTE_FACTOR, LOWEST_TEMPERATURE = 2 / 3, 1 / 1.2, 0.5
# Scores of stored rows at a time in prediction, which stay in the cache of a processor,
# and the fewest rows that are worth a call.
PREDICT_SCORES, PREDICT_BATCH = 2**20, 256
# The same where the vote is tuned, fewer, for the peak of memory in a fit.
TUNING_SCORES, TUNING_BATCH = 2**17, 16


class SampleOutput(NamedTuple):
    """What :class:`SampleNetwork` returns.

    Parameters
    ----------
    logits : Tensor of shape (n_members, n_samples, n_classes)
        Class scores.
    embedding : Tensor of shape (n_members, n_samples, n_reads * embedding_size) or None
        Rows as the memory stores them; None where nothing reads a memory.
    """

    logits: Tensor
    embedding: Tensor | None


class SampleNetwork(nn.Module):
    """Feature extraction, sample attention over stored rows, two heads in one.

    A batch walks: h = g(x); in each attention block a query z = h W_q looks at the
    stored z of other rows, and what it finds, their mean and their classes, is added
    to h; the score of a class is a linear layer of h plus a learned gate times the
    logarithm of the attention that falls on the stored rows of the class. In training
    the batch is then stored; a row never sees itself.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of the data.
    memory_size : int
        Rows stored.
    n_members : int, default=1
        Networks side by side, trained on the same batches; predictions are their mean.
    n_numeric : int, default=0
        Leading columns that get a :class:`PeriodicEmbedding`.
    n_frequencies : int, default=16
        Waves a column.
    learn_waves : bool, default=True
        Whether training changes them.
    hidden_layer_sizes : sequence of int, default=(128, 128)
        Widths of the layers in front.
    activation : {"relu", "gelu", "silu", "tanh", "mish"}, default="silu"
        Their activation.
    dropout : float in [0, 1), default=0.0
        After each of them.
    batch_norm : bool, default=False
        Whether each of them normalises by the batch.
    n_attention_blocks : int, default=1
        Blocks that add to a row what it reads in the memory. With 0 the memory is read
        by the head alone.
    kernel : {"linear", "poly", "rbf", "sigmoid", "exponential"}, default="exponential"
        Of the attention scores, see :func:`kernel_scores`; "linear" and "poly" are of
        queries of unit root mean square. ``head="distance"`` makes it "rbf".
    degree : int, default=3
        Degree of "poly".
    coef0 : float, default=1.0
        Constant of "poly" and "sigmoid".
    embedding_size : int, default=64
        Width of a query and of a stored row.
    head : {"both", "distance", "kernel", "linear"}, default="both"
        The linear layer and the memory, the memory alone (by the Gaussian kernel, or
        by ``kernel``), or the linear layer alone.
    neighbor_weight : float in [0, 1), default=0.0
        In predictions, share of the vote of the stored rows that are nearest as they
        came (:class:`NeighborMemory`), in a product of experts with the network. The
        training does not know of it.
    n_neighbors : int, default=20
        Rows that vote.
    label_temperature : float above 0, default=1.0
        What the logarithms of the class probabilities are divided by; below 1 it
        sharpens.
    pool_size : int, default=0
        Rows stored as they came, of which the nearest vote. Training writes to them as
        to the memory.
    feature_extractor : Module or None, default=None
        In place of the :class:`FeatureExtractor`: from (n_samples, n_features) to
        (n_samples, any width). Each member trains a copy.

    Notes
    -----
    **Shape**

    - x: (n_samples, n_features); in training also labels: (n_samples, n_classes),
      weight and row: (n_samples,), as memory and pool store them, whose rows are named
      before the first batch by ``memory.start`` and, with a ``pool_size``,
      ``pool.start``
    - output: :class:`SampleOutput`

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import SampleNetwork
    >>> network = SampleNetwork(4, 3, memory_size=6, n_members=2)
    >>> x, labels, row = torch.randn(6, 4), torch.eye(3).repeat(2, 1), torch.arange(6)
    >>> network.memory.start(row)
    >>> network(x, labels, torch.ones(6), row).logits.shape
    torch.Size([2, 6, 3])
    >>> network.eval().probabilities(x).shape
    torch.Size([6, 3])
    """

    def __init__(
        self,
        n_features,
        n_classes,
        *,
        memory_size,
        n_members=1,
        n_numeric=0,
        n_frequencies=16,
        learn_waves=True,
        hidden_layer_sizes=(128, 128),
        activation="silu",
        dropout=0.0,
        batch_norm=False,
        n_attention_blocks=1,
        kernel="exponential",
        degree=3,
        coef0=1.0,
        embedding_size=64,
        head="both",
        neighbor_weight=0.0,
        n_neighbors=20,
        label_temperature=1.0,
        pool_size=0,
        feature_extractor=None,
    ):
        super().__init__()
        k = self.n_members = n_members
        self.head = one_of("head", head, ("both", "distance", "kernel", "linear"))
        self.neighbor_weight, self.n_neighbors = neighbor_weight, n_neighbors
        self.label_temperature = label_temperature
        self.kernel = {"kernel": kernel, "degree": degree, "coef0": coef0}
        if head == "distance":
            self.kernel["kernel"] = "rbf"
        if feature_extractor is not None:
            self.extract = MemberModules(feature_extractor, k)
            h = output_width(feature_extractor, n_features)
        else:
            self.extract = FeatureExtractor(
                n_features,
                hidden_layer_sizes,
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
                n_numeric=n_numeric,
                n_frequencies=n_frequencies,
                learn_waves=learn_waves,
                # One by itself is faster without that dimension.
                n_members=k if k > 1 else None,
            )
            h = self.extract.out_features
            if k == 1:
                self.extract = MemberModules(self.extract, k)
        z = embedding_size
        n_reads = n_attention_blocks or int(head != "linear")
        self.queries = nn.ModuleList(MemberLinear(k, h, z) for _ in range(n_reads))
        self.values = nn.ModuleList(
            MemberLinear(k, z + n_classes, h) for _ in range(n_attention_blocks)
        )
        self.temperature = nn.Parameter(torch.full((n_reads, k, 1, 1), 0.54))
        self.memory = SampleMemory(
            n_classes,
            n_reads * z,
            memory_size if n_reads else 0,
            n_members=k,
        )
        self.pool = NeighborMemory(n_classes, n_features, pool_size)
        self.linear = MemberLinear(k, h, n_classes, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_classes))
        self.gate = nn.Parameter(torch.full((k, 1, 1), -1.0))

    def set_prior(self, prior):
        """Start from the class shares (n_classes,), as Bayes' rule has it."""
        with torch.no_grad():
            self.bias.copy_(prior.log())

    def forward(self, x, labels=None, weight=None, row=None):
        seen = row is not None and len(self.queries)
        output = self._score(x, self.memory.own(row) if seen else None)
        if labels is not None:
            if output.embedding is not None:
                self.memory.write(output.embedding, labels, weight, row)
            if len(self.pool.rows):
                self.pool.write(x.unsqueeze(0), labels, weight, row)
        return output

    def _score(self, x, own=None):
        """Class scores of rows that do not see their own entry of the memory."""
        h, queries = self._walk(x, own)
        z = mass = None
        if queries:
            z = torch.cat(queries, dim=2)
            h, mass = self._read(-1, h, queries[-1], own)
        return SampleOutput(self._logits(h, mass), z)

    def probabilities(self, x):
        """Class probabilities, (n_samples, n_classes).

        The mean of the members', and with it the vote of the nearest stored rows, at
        ``label_temperature``.
        """
        probabilities = self._without_vote(x)
        if self.neighbor_weight:
            return self._with_vote(probabilities, x)
        if self.label_temperature == 1:
            return probabilities
        logs = probabilities.clamp_min(torch.finfo(x.dtype).tiny).log()
        return class_probabilities(logs / self.label_temperature)

    def most_probable(self, x):
        """The most probable class of each row, and its probability.

        The vote is taken only where it could change the class, and of rows that are too
        far out for it, whose probability is then NaN as in :meth:`probabilities`.

        Returns
        -------
        classes, probabilities : Tensor of shape (n_samples,)
            The classes, as in :meth:`probabilities`; the probabilities, too, where the
            vote is taken.
        """
        probabilities = self._without_vote(x)
        top, classes = probabilities.max(1)
        if self.neighbor_weight:
            asked = self._undecided(probabilities, classes) | self.pool.beyond(x)
            rows = asked.nonzero().squeeze(1)
            top[rows], classes[rows] = self._with_vote(
                probabilities[rows], x[rows]
            ).max(1)
        return classes, top

    def _without_vote(self, x):
        n_rows = at_once(PREDICT_SCORES, x) // max(len(self.memory.rows), 1)
        parts = x.split(max(n_rows, PREDICT_BATCH))
        return torch.cat([self._mean_of_members(part) for part in parts])

    def _mean_of_members(self, x, own=None):
        return class_probabilities(self._score(x, own).logits).mean(0)

    def _with_vote(self, probabilities, x):
        votes = self.pool(x, self.n_neighbors)
        scores = self._combine(probabilities, votes)
        return class_probabilities(scores / self.label_temperature)

    def _combine(self, probabilities, votes):
        return product_of_experts(probabilities, votes, self.neighbor_weight)

    def scale_columns(self, x, labels, weight, row, share):
        """Let each column count in the vote by a power of its :meth:`sensitivity`.

        The power is 0, 1 or 2, whichever makes the votes of the others on these stored
        rows best (cross-entropy).

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Stored rows.
        labels : Tensor of shape (n_samples, n_classes)
            One for the class of each.
        weight, row, share : Tensor of shape (n_samples,)
            Their weights; the number by which each is stored, and its share in that
            entry, see :meth:`NeighborMemory.leave_one_out`.

        Returns
        -------
        Tensor of shape (n_samples, n_classes)
            The votes of the others on them, by the scale that is chosen.
        """
        sensitivity, votes = self.sensitivity(x, labels, self.memory.find(row)), []
        for power in SCALING_POWERS:
            self.pool.scale = sensitivity**power
            votes.append(
                self.pool.leave_one_out(x, labels, row, share, self.n_neighbors)
            )
        best = most_likely([(v + FLOOR).log() for v in votes], labels, weight)
        self.pool.scale = sensitivity ** SCALING_POWERS[best]
        return votes[best]

    def choose_share(self, votes, x, labels, weight, row, share, *, more=0.1):
        """Set ``neighbor_weight`` to what would serve these stored rows best.

        That is the lowest cross-entropy with neither vote nor attention of the row
        itself, and something more.

        Parameters
        ----------
        votes : Tensor of shape (n_samples, n_classes)
            Of the others on each row.
        x, labels, weight, row, share
            As in :meth:`scale_columns`.
        more : float in [0, 0.5), default=0.1
            Added to the best share: the network has learned the labels of these rows,
            the vote of the others has not.
        """
        own = torch.where(share < ALONE, -1, self.memory.find(row))
        parts = self._tuning_parts(x, own)
        probabilities = torch.cat([self._mean_of_members(*part) for part in parts])
        # Or one row whose class has none would leave no share better than another.
        probabilities.clamp_min_(torch.finfo(x.dtype).tiny)
        logs = []
        for w in SHARES:
            self.neighbor_weight = w
            logs.append(self._combine(probabilities, votes).log_softmax(1))
        self.neighbor_weight = SHARES[most_likely(logs, labels, weight)] + more

    def choose_temperature(self, x, labels, weight, row, share, *, highest=1.4):
        """Set ``label_temperature`` by that which would serve the votes best.

        The network has learned the labels of its training rows and is sure of them; the
        votes of the others on these rows have not: how sure they should have been tells
        how noisy the classes are.

        Parameters
        ----------
        x, labels, weight, row, share
            As in :meth:`scale_columns`.
        highest : float, at least 0.5, default=1.4
            That it may be.
        """
        # Without the copies of a row among the others, and with them, and the more
        # careful of the two: copies that were made know its label, those that were
        # observed tell how noisy it is.
        ways, rows = [torch.ones_like(share)], (x, labels, weight, row)
        if (share < ALONE).any():
            ways.append(share)
        best = max(
            self.pool.best_temperature(*rows, hidden, self.n_neighbors)
            for hidden in ways
        )
        wanted = VOTE_FACTOR * best**VOTE_POWER
        self.label_temperature = min(max(wanted, LOWEST_TEMPERATURE), highest)

    def _tuning_parts(self, *tensors):
        n_rows = at_once(TUNING_SCORES, tensors[0]) // max(len(self.memory.rows), 1)
        size = max(n_rows, TUNING_BATCH)
        return zip(*(tensor.split(size) for tensor in tensors), strict=True)

    def _undecided(self, probabilities, classes):
        """Whether some vote could make another class the most probable one."""
        low, high = (self._combine(probabilities, b) for b in self.pool.bounds())
        top = classes.unsqueeze(1)
        rivals = high.scatter(1, top, -torch.inf).amax(1)
        return low.gather(1, top).squeeze(1) < rivals + SURE

    def embed(self, x, own=None):
        """Rows as the memory stores them, (n_members, n_samples, width of an entry).

        Where nothing reads a memory, the rows that the linear layer scores. ``own``
        (n_samples,) are the entries that the rows do not see on the way, -1 for none.
        """
        h, queries = self._walk(x, own)
        return torch.cat(queries, dim=2) if queries else h

    def attend(self, x, own=None):
        """How much each row looks at each entry in the last of its reads.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Rows.
        own : Tensor of shape (n_samples,) or None, default=None
            The entry that each does not see in the reads before; -1 for none.

        Returns
        -------
        Tensor of shape (n_samples, memory_size)
            Attention, mean over the members; it sums to one.
        """
        z, keys = self._last(self.embed(x, own)), self._last(self.memory.entries)
        scale, bias = self._scale(-1), self.memory.bias()
        return memory_weights(z, keys, bias, scale, **self.kernel).mean(0)

    def sensitivity(self, x, labels, own):
        """How much the class probabilities depend on each column.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Rows.
        labels : Tensor of shape (n_samples, n_classes)
            One for the class of each.
        own : Tensor of shape (n_samples,)
            The entry of the memory that each does not see, -1 for none: at no distance
            from its own, a row's derivatives would be those of rounding.

        Returns
        -------
        Tensor of shape (n_features,)
            Root mean square of the derivative of a row's cross-entropy, the vote left
            out, as a share of the largest. NaN where nothing depends on any.
        """
        parts = self._tuning_parts(x, labels, own)
        gradients = torch.cat([self._gradients(*part) for part in parts])
        # First by the largest: squares of very small ones are zero.
        squares = (gradients / gradients.abs().max()).square().mean(0)
        return (squares / squares.max()).sqrt()

    @torch.enable_grad()
    def _gradients(self, x, labels, own):
        x = x.detach().requires_grad_()
        log_probs = self._score(x, own).logits.mean(0).log_softmax(1)
        return torch.autograd.grad((labels * log_probs).sum(), x)[0]

    def stored(self):
        """The numbers of all rows that are stored, ascending."""
        rows = torch.cat([self.memory.rows, self.pool.rows]).unique()
        return rows[rows >= 0]

    def decide(self, x):
        """How much each stored row counts for each row, attention and vote together.

        Returns
        -------
        Tensor of shape (n_samples, n_stored)
            Shares that sum to one, in the order of :meth:`stored`.
        """
        rows, memory = self.stored(), self.memory.rows
        places = torch.searchsorted(rows, memory[memory >= 0])
        weights = torch.zeros(len(x), len(rows), dtype=x.dtype, device=x.device)
        weights[:, places] = self.attend(x)[:, memory >= 0]
        if self.neighbor_weight:
            votes, voters = self.pool.voters(x, self.n_neighbors)
            places = torch.searchsorted(rows, self.pool.rows[voters])
            weights *= 1 - self.neighbor_weight
            weights.scatter_add_(1, places, self.neighbor_weight * votes)
        return weights

    def labels_of(self, rows):
        """The class shares of stored rows by their numbers, (n_samples, n_classes)."""
        place = self.memory.find(rows)
        labels, pooled = self.memory.labels[place], place < 0
        labels[pooled] = self.pool.labels[self.pool.find(rows[pooled])]
        return labels

    def distances(self, x, rows):
        """Distance of each row to stored rows, as the last of the reads sees it.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Rows.
        rows : Tensor of shape (n_samples, n_entries)
            The numbers of the stored rows.

        Returns
        -------
        Tensor of shape (n_samples, n_entries)
            Means over the members.
        """
        place = self.memory.find(rows.flatten())
        keys, pooled = self._last(self.memory.entries)[:, place], place < 0
        if pooled.any():
            inputs = self.pool.entries[0, self.pool.find(rows.flatten()[pooled])]
            keys[:, pooled] = self._last(self.embed(inputs))
        z = self._last(self.embed(x)).unsqueeze(2)
        return (z - keys.unflatten(1, rows.shape)).norm(dim=3).mean(0)

    def _last(self, entries):
        """Of rows as they are stored, what the last of the reads sees."""
        return entries.chunk(len(self.queries), dim=2)[-1]

    def _scale(self, read):
        return nn.functional.softplus(self.temperature[read])

    def _walk(self, x, own=None):
        """Rows as they are before the last read, and the queries of all reads."""
        h, queries = self.extract(x.expand(self.n_members, *x.shape)), []
        for read, query in enumerate(self.queries):
            if read > 0:
                h = self._read(read - 1, h, queries[-1], own)[0]
            z = query(h)
            if self.kernel["kernel"] in UNBOUNDED_KERNELS:
                # Scores, and rows with what they read, would grow from batch to batch.
                z = rms_norm(z, z.shape[-1:])
            queries.append(z)
        return h, queries

    def _read(self, read, h, z, own):
        """Rows with what they read, and the share of attention on each class."""
        labels = self.memory.labels.expand(self.n_members, -1, -1)
        keys = self.memory.entries.chunk(len(self.queries), dim=2)[read]
        values = torch.cat([labels, keys], dim=2) if self.values else labels
        bias, scale = self.memory.bias(), self._scale(read)
        found = read_memory(z, keys, values, bias, scale, own, **self.kernel)
        mass = found[..., : labels.shape[2]]
        if self.values:
            # The rows read relative to the own: zero where they agree.
            found_rows = found[..., labels.shape[2] :] - z
            h = h + self.values[read](torch.cat([mass, found_rows], dim=2))
        return h, mass

    def _logits(self, h, mass):
        logits = self.bias
        if self.head in ("both", "linear"):
            logits = self.linear(h, logits)
        if self.head != "linear":
            logits = logits + nn.functional.softplus(self.gate) * (mass + FLOOR).log()
        return logits
