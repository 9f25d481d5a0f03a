"""The memory blocks: class prototypes or stored samples that outlive a batch."""

import math

import torch
from torch import nn

from .attention import TINY, squared_distances
from .embedding import at_once

# A class without any attention, or any vote, has this share of it.
FLOOR = 1e-6
# The vote of the nearest: its bandwidth as a share of their mean distance, and how much
# of it goes to the class shares of the whole memory.
BANDWIDTH, PRIOR_SHARE = 0.15, 0.05
# Distances at a time in a vote, which stay in the cache of a processor, and the fewest
# rows that are worth a call.
VOTE_DISTANCES, VOTE_BATCH = 2**19, 64
# The same for votes that leave each row out: fewer, to bound the memory of a fit.
OTHERS_DISTANCES, OTHERS_BATCH = 2**17, 16
# Entries whose norms are taken at a time.
NORMS = 1024
# A row with at least this share of an entry's weight counts as the whole entry.
ALONE = 0.999
# Temperatures of the votes that are tried.
TEMPERATURES = tuple(2 ** (i / 8) for i in range(-16, 17))


class PrototypeMemory(nn.Module):
    """Class prototypes carried from batch to batch by a gated update.

    The prototype of a class is the weighted mean P_t of its rows in the batch;
    the memory becomes M_t = (1 - g) M_{t-1} + g P_t. The past is detached and
    gradients flow through P_t. A class that is not in the batch keeps its entry, and
    an entry that was never written takes P_t as it is. With several prototypes
    a class, a row counts for the nearest one of its class.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    n_features : int
        Width h of an entry.
    n_prototypes : int, default=1
        Prototypes a class.
    gate : "learned" or float in (0, 1], default="learned"
        The share g of the batch. "learned": a sigmoid of a linear map of
        [M_{t-1}, P_t], one value a feature. A number is a fixed momentum, and 1
        means no memory: the prototypes are those of the last batch.

    Attributes
    ----------
    entries : Tensor of shape (n_classes * n_prototypes, n_features)
        The memory, class by class.
    filled : Tensor of shape (n_classes * n_prototypes,) of bool
        Entries written at least once.
    classes : Tensor of shape (n_classes * n_prototypes,)
        The class of each entry.

    Notes
    -----
    **Shape**

    - z: (n_samples, n_features), y: (n_samples,), weight: (n_samples,)
    - output: (n_classes * n_prototypes, n_features)

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import PrototypeMemory
    >>> memory = PrototypeMemory(2, n_features=1, gate=0.25)
    >>> weight = torch.ones(2)
    >>> memory(torch.tensor([[0.0], [4.0]]), torch.tensor([0, 1]), weight).tolist()
    [[0.0], [4.0]]
    >>> memory(torch.tensor([[8.0], [8.0]]), torch.tensor([1, 1]), weight).tolist()
    [[0.0], [5.0]]
    """

    def __init__(self, n_classes, n_features, *, n_prototypes=1, gate="learned"):
        super().__init__()
        n_entries = n_classes * n_prototypes
        self.n_prototypes = n_prototypes
        self.gate = nn.Linear(2 * n_features, n_features) if gate == "learned" else gate
        if gate == "learned":
            # Begin as a slow average (g = 0.12) that learning may hasten.
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, -2.0)
        self.register_buffer("entries", torch.zeros(n_entries, n_features))
        self.register_buffer("filled", torch.zeros(n_entries, dtype=torch.bool))
        self.register_buffer(
            "classes",
            torch.arange(n_classes).repeat_interleave(n_prototypes),
            persistent=False,
        )

    def forward(self, z, y, weight):
        assigned = nn.functional.one_hot(self._assign(z, y), len(self.entries))
        assigned = assigned.to(z.dtype) * weight.unsqueeze(1)
        mass = assigned.sum(0)
        present = mass > 0
        # 1 stands in for the mass of an absent class, whose mean is not used.
        means = assigned.T @ z / torch.where(present, mass, 1).unsqueeze(1)
        updated = torch.where(self.filled.unsqueeze(1), self._blend(means), means)
        updated = torch.where(present.unsqueeze(1), updated, self.entries)
        self.entries = updated.detach()
        self.filled = self.filled | present
        return updated

    def _assign(self, z, y):
        """Entry each row counts for: the nearest of its class, unwritten ones first."""
        if self.n_prototypes == 1:
            return y
        distances = squared_distances(z.detach(), self.entries)
        # Unwritten entries take the rows of their class in turn.
        n_classes = len(self.classes) // self.n_prototypes
        seen = nn.functional.one_hot(y, n_classes).cumsum(0)
        turn = (seen.gather(1, y.unsqueeze(1)).squeeze(1) - 1) % self.n_prototypes
        entry = torch.arange(len(self.entries), device=y.device) % self.n_prototypes
        in_turn = (turn.unsqueeze(1) != entry).to(z.dtype) - 2
        distances = torch.where(self.filled, distances, in_turn)
        distances = distances.masked_fill(self.classes != y.unsqueeze(1), torch.inf)
        return distances.argmin(1)

    def _blend(self, means):
        g = self.gate
        if isinstance(g, nn.Module):
            g = torch.sigmoid(g(torch.cat([self.entries, means], dim=1)))
        return (1 - g) * self.entries + g * means


class SampleMemory(nn.Module):
    """Stored samples: training rows as they were embedded when last visited.

    An entry is the detached embedding of one row, with its classes, its weight and the
    number of the row. Where there is a place for every row, each keeps its own; else a
    row that is visited takes the place of the oldest entry.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    n_features : int
        Width h of an entry.
    size : int
        Number of entries.
    n_members : int, default=1
        Networks that embed each row, see :class:`SampleNetwork`.

    Attributes
    ----------
    entries : Tensor of shape (n_members, size, n_features)
        The embeddings.
    labels : Tensor of shape (size, n_classes)
        The share of each class in an entry: one for the class of its row, or the shares
        among equal rows that are stored as one.
    log_weight : Tensor of shape (size,)
        The logarithm of the weight of its row: a row of weight 2 is read as two rows.
    rows : Tensor of shape (size,)
        The number of its row; -1 where nothing is stored.

    Notes
    -----
    **Shape**

    - z: (n_members, n_samples, n_features), labels: (n_samples, n_classes), weight and
      row: (n_samples,)

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import SampleMemory
    >>> memory = SampleMemory(n_classes=2, n_features=1, size=3)
    >>> memory.start(torch.arange(4))
    >>> for row in range(4):
    ...     at = torch.tensor([row])
    ...     labels = torch.eye(2)[at % 2]
    ...     memory.write(torch.full((1, 1, 1), row + 0.5), labels, torch.ones(1), at)
    >>> memory.rows.tolist(), memory.entries.flatten().tolist()
    ([3, 1, 2], [3.5, 1.5, 2.5])
    >>> memory.own(torch.tensor([0, 1])).tolist()
    [-1, 1]
    """

    def __init__(self, n_classes, n_features, size, *, n_members=1):
        super().__init__()
        self.register_buffer("entries", torch.zeros(n_members, size, n_features))
        self.register_buffer("labels", torch.zeros(size, n_classes))
        self.register_buffer("log_weight", torch.zeros(size))
        self.register_buffer("rows", torch.full((size,), -1))
        # The place that is written next, where not every row has its own.
        self.register_buffer("next", torch.zeros((), dtype=torch.long))
        # Where each row of the training set is stored; -1 is nowhere.
        self.register_buffer(
            "places", torch.empty(0, dtype=torch.long), persistent=False
        )
        self.first, self.own_places = 0, False

    def start(self, rows, first=0):
        """Make ready for training on rows of these numbers, from ``first`` on.

        With ``first=0`` whatever is stored is forgotten.
        """
        self.first = first
        self.places = torch.full((int(rows.max()) + 1 - first,), -1)
        if first == 0:
            self.rows.fill_(-1)
            self.next.zero_()
        self.own_places = first == 0 and len(rows) <= len(self.rows)
        if self.own_places:
            self.places[rows] = torch.arange(len(rows))
            self.next.fill_(len(rows) % len(self.rows))
        self.places = self.places.to(self.rows.device)

    def bias(self):
        """What is added to the scores of the entries, (size,).

        The logarithm of the weight; minus infinity for a place that holds nothing.
        """
        return self.log_weight.masked_fill(self.rows < 0, -torch.inf)

    def own(self, row):
        """The place of each row of a batch, (n_samples,); -1 for nowhere."""
        return self.places[row - self.first]

    @torch.no_grad()
    def write(self, z, labels, weight, row):
        """Store the rows of a batch, detached."""
        size = len(self.rows)
        # Of a batch larger than the memory the last rows stay.
        if len(row) > size and not self.own_places:
            z, labels = z[:, -size:], labels[-size:]
            weight, row = weight[-size:], row[-size:]
        place = self.own(row) if self.own_places else self._next_places(row)
        # New tensors: the gradient of the batch still needs the old ones.
        self.entries = self.entries.index_copy(1, place, z.detach())
        self.labels = self.labels.index_copy(0, place, labels)
        # The logarithm of a weight too small for the dtype stays a number.
        self.log_weight[place] = weight.clamp_min(torch.finfo(weight.dtype).tiny).log()
        # Of a row that is there twice the last stays.
        self.rows[place] = torch.where(self.own(row) == place, row, -1)

    def _next_places(self, row):
        """Where the rows are stored next; what lies there is dropped, and old ones."""
        place = (self.next + torch.arange(len(row), device=row.device)) % len(self.rows)
        self.next += len(row)
        # A mask would wait for the device. Missing ones stand for places that are
        # written right below instead.
        evicted, stale = self.rows[place], self.own(row)
        evicted = torch.where(evicted < self.first, row, evicted)
        self.places.index_fill_(0, evicted - self.first, -1)
        self.rows.index_fill_(0, torch.where(stale < 0, place, stale), -1)
        self.places[row - self.first] = place
        return place

    @torch.no_grad()
    def fill(self, z, labels, weight, row):
        """Hold these rows and no others, whatever the size before."""
        self.entries, self.labels = z.detach(), labels
        weight = weight.to(z.dtype).clamp_min(torch.finfo(z.dtype).tiny)
        self.log_weight, self.rows = weight.log(), row
        self.next.zero_()

    def find(self, row):
        """The place of each row by its number, (n_samples,); -1 for nowhere."""
        rows, order = self.rows.sort()
        place = order[torch.searchsorted(rows, row).clamp_max(len(rows) - 1)]
        return torch.where(self.rows[place] == row, place, -1)


class NeighborMemory(SampleMemory):
    """Stored samples as they came, of which the nearest vote.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    n_features : int
        Width of a row.
    size : int
        Number of entries.

    Attributes
    ----------
    entries : Tensor of shape (1, size, n_features)
        The rows; attributes not listed here are those of :class:`SampleMemory`.
    scale : Tensor of shape (n_features,)
        Factor of each column in the distances, one at first.

    Notes
    -----
    **Shape**

    - x: (n_samples, n_features)
    - output: (n_samples, n_classes)

    Examples
    --------
    >>> import torch
    >>> from sklearn_samn.modules import NeighborMemory
    >>> memory = NeighborMemory(n_classes=2, n_features=1, size=0)
    >>> rows, labels = torch.tensor([[[0.0], [1.0], [9.0]]]), torch.eye(2)[[0, 0, 1]]
    >>> memory.fill(rows, labels, torch.ones(3), torch.arange(3))
    >>> memory(torch.tensor([[8.0]]), n_neighbors=2).round(decimals=2)
    tensor([[0.0300, 0.9700]])
    """

    def __init__(self, n_classes, n_features, size):
        super().__init__(n_classes, n_features, size)
        self.register_buffer("scale", torch.ones(n_features))

    def fill(self, z, labels, weight, row):
        """Hold these rows and no others, all columns alike."""
        super().fill(z, labels, weight, row)
        self.scale = torch.ones_like(self.scale)

    def forward(self, x, n_neighbors=20):
        """Class shares among the stored rows that are nearest.

        A row's weight falls from that of the nearest, exponentially with the distance,
        to zero at that of the last; the scale is the mean distance, so that sparse and
        dense regions are alike. A twentieth is the share of the class in the memory.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Rows.
        n_neighbors : int, default=20
            How many vote, or all there are if fewer.

        Returns
        -------
        Tensor of shape (n_samples, n_classes)
            Shares that sum to one.
        """
        if not len(self.rows):
            raise ValueError("No rows are stored that could vote: fill the memory.")
        size = max(at_once(VOTE_DISTANCES, x) // len(self.rows), VOTE_BATCH)
        origin = self._origin()
        parts = (self._voters(part, origin, n_neighbors) for part in x.split(size))
        return self._with_prior(torch.cat([self._count(*part) for part in parts]))

    def leave_one_out(self, x, labels, row, share, n_neighbors=20):
        """The votes that there were on stored rows, had each not been stored.

        But for the prior, which is that of all.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Rows.
        labels : Tensor of shape (n_samples, n_classes)
            One for the class of each.
        row : Tensor of shape (n_samples,)
            The number by which each is stored.
        share : Tensor of shape (n_samples,)
            Its share in the weight of that entry: one, or less where equal rows are
            stored as one.
        n_neighbors : int, default=20
            How many vote; fewer than there are entries.

        Returns
        -------
        Tensor of shape (n_samples, n_classes)
            Shares that sum to one.
        """
        size = max(at_once(OTHERS_DISTANCES, x) // len(self.rows), OTHERS_BATCH)
        own, origin, votes = self.find(row), self._origin(), []
        for part in zip(*(a.split(size) for a in (x, labels, own, share)), strict=True):
            votes.append(self._count_others(*part, origin, n_neighbors))
        return self._with_prior(torch.cat(votes))

    def best_temperature(self, x, labels, weight, row, share, n_neighbors=20):
        """The temperature at which :meth:`leave_one_out` has the lowest cross-entropy.

        Parameters
        ----------
        x, labels, row, share, n_neighbors
            As in :meth:`leave_one_out`.
        weight : Tensor of shape (n_samples,)
            Of the rows in the cross-entropy.

        Returns
        -------
        float
            In [1/4, 4]; below 1 where the votes should have been more sure.
        """
        logs = self.leave_one_out(x, labels, row, share, n_neighbors).add(FLOOR).log()
        tried = ((logs / t).log_softmax(1) for t in TEMPERATURES)
        return TEMPERATURES[most_likely(tried, labels, weight)]

    def _count_others(self, x, labels, own, share, origin, n_neighbors):
        hidden = torch.where(share < ALONE, -1, own)
        nearness, places = self._voters(x, origin, n_neighbors, hidden)
        # Of an entry of several rows the others still vote.
        less = (nearness * (places == own.unsqueeze(1))).sum(1) * share
        rest = self._count(nearness, places) - less.unsqueeze(1) * labels
        rest.clamp_min_(0)
        return rest / rest.sum(1, keepdim=True)

    def _count(self, shares, places):
        return shares.unsqueeze(1).bmm(self.labels[places]).squeeze(1)

    def _with_prior(self, votes):
        return (1 - PRIOR_SHARE) * votes + PRIOR_SHARE * self._prior()

    def bounds(self):
        """The lowest and the highest share that a class can have in a vote.

        Returns
        -------
        low, high : Tensor of shape (n_classes,)
            Whatever the row.
        """
        low = PRIOR_SHARE * self._prior()
        return low, low + 1 - PRIOR_SHARE

    def voters(self, x, n_neighbors=20, own=None):
        """The stored rows that vote on each row.

        Parameters
        ----------
        x, n_neighbors
            As in :meth:`forward`.
        own : Tensor of shape (n_samples,) or None, default=None
            The entry that has no vote on each row; -1 for none.

        Returns
        -------
        shares : Tensor of shape (n_samples, n_neighbors)
            Of the vote; they sum to one.
        places : Tensor of shape (n_samples, n_neighbors)
            Where the rows are stored.
        """
        return self._voters(x, self._origin(), n_neighbors, own)

    def _origin(self):
        """The centre of the stored rows, and the squared distance of each from it.

        Distances from zero would leave no digits beside a column of years.
        """
        stored, squares = self.entries[0], self.scale.square()
        centre = stored.mean(0)
        # In parts: not a second matrix as large as the memory.
        norms = torch.cat(
            [(part - centre).square() @ squares for part in stored.split(NORMS)]
        )
        return centre, norms.masked_fill(self.rows < 0, torch.inf)

    def _voters(self, x, origin, n_neighbors, own=None):
        stored, squares = self.entries[0], self.scale.square()
        centre, norms = origin
        k = min(n_neighbors, int((self.rows >= 0).sum()) - (own is not None))
        # Squared, less the row's own norm, which does not change their order.
        distances = torch.addmm(norms, (x - centre) * squares, stored.T, alpha=-2)
        if own is not None:
            rows = (own >= 0).nonzero().squeeze(1)
            distances[rows, own[rows]] = torch.inf
        places = smallest(distances, k)
        # Anew: the squares above are small differences of large numbers.
        distances = ((x.unsqueeze(1) - stored[places]) * self.scale).norm(dim=2)
        # Relative to the heaviest of them: all may be next to nothing.
        bias = self.bias()[places]
        nearness = _nearness(distances) * (bias - bias.amax(1, keepdim=True)).exp()
        return nearness / nearness.sum(1, keepdim=True), places

    def beyond(self, x):
        """Whether a row is too far out for a distance to the stored ones to be finite.

        Returns
        -------
        Tensor of bool of shape (n_samples,)
        """
        return ~(x * self.scale).square().sum(1).isfinite()

    def _prior(self):
        weight = self.weight()
        return weight @ self.labels / weight.sum()

    def weight(self):
        """Weight of each entry, the largest being 1."""
        bias = self.bias()
        return (bias - bias.max()).exp()


def _nearness(distances):
    """Weights that fall from the nearest row of each query to zero at the last."""
    scale = BANDWIDTH * distances.mean(1, keepdim=True) + TINY
    nearness = ((distances.amin(1, keepdim=True) - distances) / scale).exp()
    # Not quite zero: where all are equally near, all have the same.
    return nearness - nearness.amin(1, keepdim=True) + 1e-6


def product_of_experts(probabilities, votes, share):
    """Logarithms of the probabilities and votes to their shares, multiplied.

    But for what is the same for all classes of a row.

    Parameters
    ----------
    probabilities, votes : Tensor of shape (n_samples, n_classes)
        Of the network and of a :class:`NeighborMemory`.
    share : float in [0, 1)
        Of the votes.

    Returns
    -------
    Tensor of shape (n_samples, n_classes)
        Whose softmax is the class probabilities.

    Examples
    --------
    >>> import torch
    >>> network, votes = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.8, 0.2]])
    >>> product_of_experts(network, votes, 0.5).softmax(1).round(decimals=2)
    tensor([[0.6700, 0.3300]])
    """
    # The floor: a class of which no row is stored stays possible.
    return (1 - share) * probabilities.log() + share * (votes + FLOOR).log()


def most_likely(log_probs, labels, weight):
    """Which of several predictions has the highest likelihood.

    Parameters
    ----------
    log_probs : iterable of Tensor of shape (n_samples, n_classes)
        The predictions.
    labels : Tensor of shape (n_samples, n_classes)
        One for the class of each row.
    weight : Tensor of shape (n_samples,)
        Of each row.

    Examples
    --------
    >>> import torch
    >>> predictions = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]]).log()
    >>> most_likely(predictions, torch.tensor([[0.0, 1.0]]), torch.ones(1))
    1
    """
    parts = [(labels * p).sum(1) for p in log_probs]
    return int((torch.stack(parts) @ weight).nan_to_num(-torch.inf).argmax())


def smallest(values, k):
    """Where the k smallest values of each row are, in any order.

    They are among the k groups with the smallest minima, which takes about half of the
    time of torch.topk over thousands of values.

    Examples
    --------
    >>> import torch
    >>> places = smallest(torch.arange(200.0).flip(0).unsqueeze(0), 2)
    >>> sorted(places[0].tolist())
    [198, 199]
    """
    n_values = values.shape[1]
    # As many groups as there are values in k of them.
    group = math.isqrt(n_values // k)
    if group < 4:
        return values.topk(k, dim=1, largest=False, sorted=False).indices
    n_groups = n_values // group
    # A group is every n-th value: minima along the rows of a matrix are faster.
    groups = values[:, : n_groups * group].unflatten(1, (group, n_groups))
    first = groups.amin(1).topk(k, dim=1, largest=False, sorted=False).indices
    members = n_groups * torch.arange(group, device=values.device)
    rest = torch.arange(n_groups * group, n_values, device=values.device)
    places = (first.unsqueeze(2) + members).flatten(1)
    places = torch.cat([places, rest.expand(len(values), -1)], dim=1)
    best = values.gather(1, places).topk(k, dim=1, largest=False, sorted=False)
    return places.gather(1, best.indices)
