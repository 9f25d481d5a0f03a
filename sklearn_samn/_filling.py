"""What a trained SAMN stores: rows that matter, rows that vote, and how they do."""

import math

import numpy as np
import torch

from ._base import highest_temperature
from ._support import raise_rare_classes, sample_by_importance, sample_size
from .modules.embedding import at_once

# Rows embedded at a time when the memory is filled.
SUPPORT_BATCH = 1024
# Rows that compete for attention at a time when the support is chosen.
SUPPORT_CANDIDATES = 2048
# support_size="auto" keeps as many rows as let the shares of attention be wrong by
# SUPPORT_ERROR in expectation, at least SUPPORT_OF_CLASS per class.
SUPPORT_ERROR, SUPPORT_OF_CLASS, MAX_SUPPORT = 0.02, 128, 8192
# Weights of attention over the whole memory that are held at a time.
LOOKING_WEIGHTS = 2**16
# Keeps the division by a sum of weights finite where all are zero.
TINY = 1e-30
# Training rows whose attention tells which entries matter.
MAX_LOOKING = 1024
# Training rows from which on the vote is tuned, and by how many of them.
MIN_TUNED_ROWS, MAX_TUNING = 800, 512
# pool_size="auto" is at most MIN_POOL rows, or MAX_POOL where the share of the vote is
# above the untuned one.
MIN_POOL, MAX_POOL = 8192, 32_768


class MemoryFiller:
    """Fills the memory and the pool of a trained network, and tunes the vote.

    Parameters
    ----------
    module : SampleNetwork
        In evaluation mode.
    dataset : BatchDataset
        Training rows, with what the memory stores of them.
    rng : numpy.random.Generator
        Draws the rows.
    support_size, pool_size : "auto", int or None
        As in the estimator.
    tune_columns, tune_share, tune_temperature : bool
        What of the vote is chosen: how the columns count, its share where there are
        enough rows, and the temperature of the probabilities.
    """

    def __init__(
        self,
        module,
        dataset,
        rng,
        *,
        support_size,
        pool_size,
        tune_columns,
        tune_share,
        tune_temperature,
    ):
        self.module = module
        self.dataset = dataset
        self.rng = rng
        self.support_size = support_size
        self.pool_size = pool_size
        self.tune_columns = tune_columns
        self.tune_share = tune_share
        self.tune_temperature = tune_temperature

    def fill(self):
        """Store rows as the network embeds them now, those that matter if not all."""
        rows = self._distinct_rows()
        n_rows, importance, classes = len(rows), None, None
        n_support, pools = self._fewest(n_rows), []
        if self.module.neighbor_weight:
            pools = pool_sizes(self.pool_size, n_rows)
        if min([n_support, *pools]) < n_rows:
            rows, moves, classes = self.influence(self.rng.permutation(rows))
            # Half is the same for all, so that no region is left empty.
            importance = moves + moves.mean() + TINY
            if self.support_size == "auto":
                wanted = sample_size(moves, importance, SUPPORT_ERROR)
                n_support = max(n_support, min(wanted, MAX_SUPPORT))

        def draw(n_samples):
            if n_samples == n_rows:
                return np.sort(rows), np.ones(n_rows)
            raised = raise_rare_classes(importance, classes, n_samples)
            drawn, weights = sample_by_importance(raised, n_samples, self.rng)
            order = np.argsort(rows[drawn])
            return rows[drawn[order]], weights[order]

        support = draw(n_support)
        # Once for each read: what is stored for it depends on the reads before.
        for _ in self.module.queries:
            self._store(*support)
        self._fill_pools(pools, n_rows, draw)

    def look(self, rows):
        """Attention of training rows, none looking at itself.

        Parameters
        ----------
        rows : Tensor of shape (n_samples,)
            Their positions in the dataset.

        Returns
        -------
        mean : ndarray of shape (n_entries,)
            Over the rows.
        spread : float
            Mean :func:`entropy`.
        """
        total = spread = 0
        for weights, n_entries in self._attention_of(rows):
            total = total + weights.sum(0)
            spread = spread + entropy(weights, n_entries).sum()
        return total.cpu().numpy() / len(rows), float(spread) / len(rows)

    def influence(self, rows):
        """The rows, class by class, how much each moves attention, and their classes.

        That is the derivative of the share of its class in the attention of a training
        row with respect to the logarithm of its weight, as a root mean square: small
        for a row that others stand in for, or that nobody looks at.
        """
        looking = torch.from_numpy(rows[:MAX_LOOKING])
        moves, classes = [], []
        parts = np.array_split(rows, math.ceil(len(rows) / SUPPORT_CANDIDATES))
        for part in parts:
            self._store(part)
            labels, total = self.module.memory.labels, 0
            for weights, _ in self._attention_of(looking):
                shares = weights @ labels
                moved = weights.mul_(1 - shares @ labels.T)
                total = total + moved.square_().sum(0)
            moves.append((total / len(looking)).sqrt().cpu().numpy().astype(float))
            classes.append(labels.argmax(1).cpu().numpy())
        # Each part was alone in the memory; among all, a row gets so much less of it.
        moves, classes = np.concatenate(moves) / len(parts), np.concatenate(classes)
        order = np.argsort(classes, kind="stable")
        return rows[order], moves[order], classes[order]

    def _distinct_rows(self):
        """Positions in the dataset, the first of each row that is there twice."""
        chunks = torch.arange(len(self.dataset)).split(SUPPORT_BATCH)
        numbers = torch.cat([self.dataset[index][0]["row"] for index in chunks])
        return np.unique(numbers.cpu().numpy(), return_index=True)[1]

    def _fewest(self, n_rows):
        """Rows of the support, the fewest where there are as many as needed."""
        if self.support_size == "auto":
            n_classes = self.module.memory.labels.shape[1]
            return min(SUPPORT_OF_CLASS * n_classes, MAX_SUPPORT, n_rows)
        return min(self.support_size or n_rows, n_rows)

    def _store(self, rows, weights=None):
        """Make the memory hold these rows of the dataset and no others."""
        wholes = None
        for start in range(0, len(rows), SUPPORT_BATCH):
            part = slice(start, start + SUPPORT_BATCH)
            stored = self.dataset[torch.from_numpy(rows[part])][0]
            z = self.module.embed(stored.pop("x")).transpose(0, 1)
            parts = z, *stored.values()
            # Written into place: parts and their whole would be there at once.
            wholes = wholes or [a.new_empty(len(rows), *a.shape[1:]) for a in parts]
            for whole, values in zip(wholes, parts, strict=True):
                whole[part] = values
        z, labels, weight, row = wholes
        if weights is not None:
            weight *= torch.as_tensor(weights).to(weight)
        self.module.memory.fill(z.transpose(0, 1), labels, weight, row)

    def _attention_of(self, rows):
        """Attention of rows of the dataset, none looking at itself, part by part.

        With it the number of entries that each of the rows could look at.
        """
        memory = self.module.memory
        for part in rows.split(looking_batch(memory.rows)):
            inputs = self.dataset[part][0]
            weights = self.module.attend(inputs["x"], memory.find(inputs["row"]))
            own = inputs["row"].unsqueeze(1) == memory.rows
            weights = weights.masked_fill(own, 0)
            shares = weights / weights.sum(1, keepdim=True).clamp_min(TINY)
            yield shares, (~own).sum(1)

    def _fill_pools(self, sizes, n_rows, draw):
        """Store rows as they came for the vote, which is tuned; more while it pays."""
        module, stored = self.module, None
        for n_pooled in sizes:
            self._fill_pool(*draw(n_pooled))
            untuned = untuned_share(n_pooled, n_rows)
            if self.tune_share:
                # Of different rows: what there was counted copies.
                module.neighbor_weight = untuned
            if n_pooled > module.n_neighbors:
                looking = self.rng.permutation(len(self.dataset))[:MAX_TUNING]
                stored = self._tuning_rows(looking)
                if n_rows >= MIN_TUNED_ROWS and self.tune_columns:
                    votes = module.scale_columns(**stored)
                    if self.tune_share:
                        module.choose_share(votes, **stored, more=untuned / 3)
            if module.neighbor_weight <= untuned:
                # Only where votes of this pool are good is a larger one worth its time.
                break
        if stored is not None and self.tune_temperature:
            module.choose_temperature(**stored, highest=highest_temperature(n_rows))

    def _fill_pool(self, rows, weights):
        """Make the pool hold these rows of the dataset."""
        pool = self.module.pool
        # The rows before are let go first, or both would be in memory at once.
        pool.entries = pool.entries[:, :0]
        stored = self.dataset[torch.from_numpy(rows)][0]
        weight = stored["weight"] * torch.as_tensor(weights).to(stored["weight"])
        rows = stored["x"].unsqueeze(0)
        pool.fill(rows, stored["labels"], weight, stored["row"])

    def _tuning_rows(self, rows):
        """Stored rows as the vote is tuned by them."""
        inputs, target = self.dataset[torch.from_numpy(rows)]
        weight = target.get("weight", torch.ones_like(inputs["weight"]))
        n_classes = inputs["labels"].shape[1]
        return {
            "x": inputs["x"],
            "labels": torch.eye(n_classes).to(weight)[target["y"]],
            "weight": weight,
            "row": inputs["row"],
            "share": weight / inputs["weight"],
        }


def pool_sizes(pool_size, n_rows):
    """Rows that vote, and how many if that vote is a good one.

    Examples
    --------
    >>> pool_sizes("auto", 10_000), pool_sizes("auto", 500), pool_sizes(None, 10_000)
    ([8192, 10000], [500], [10000])
    """
    sizes = MIN_POOL, MAX_POOL
    if pool_size != "auto":
        sizes = [pool_size or n_rows]
    return sorted({min(size, n_rows) for size in sizes})


def untuned_share(n_pooled, n_rows):
    """Share of the vote of so many of the training rows.

    Examples
    --------
    >>> untuned_share(100, 100), round(untuned_share(50, 100), 2)
    (0.3, 0.18)
    """
    # Of few of the rows that the network has learned from, the nearest are far.
    return 0.3 * (n_pooled / n_rows) ** 0.75


def looking_batch(entries):
    """Rows whose weights of these entries are held at a time."""
    return max(at_once(LOOKING_WEIGHTS, entries) // len(entries), 1)


def entropy(weights, n_entries):
    """Entropy of each row's attention, as a share of that of equal weights.

    Examples
    --------
    >>> import torch
    >>> weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    >>> entropy(weights, torch.tensor([2, 3])).tolist()
    [1.0, 0.0]
    """
    return torch.special.entr(weights).sum(1) / n_entries.clamp_min(2).log()
