"""Both losses against sums written out in plain Python."""

import math

import numpy as np
import pytest
import torch

from sklearn_samn.modules import NeighborSequenceLoss, SAMNLoss
from sklearn_samn.modules.samn import SAMNOutput
from sklearn_samn.modules.sample_network import SampleOutput
from sklearn_samn.modules.seq2seq import NeighborSequence


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


def target(y, weight=None, **more):
    weight = [1.0] * len(y) if weight is None else weight
    return {"y": torch.tensor(y), "weight": double(weight), **more}


def output(logits=None, embedding=None, prototypes=None, classes=None, filled=None):
    """What a network returns; the parts a test does not look at are harmless."""
    embedding = [[0.0]] * len(logits or [0]) if embedding is None else embedding
    logits = [[0.0, 0.0]] * len(embedding) if logits is None else logits
    prototypes = [[0.0]] if prototypes is None else prototypes
    classes = list(range(len(prototypes))) if classes is None else classes
    filled = [True] * len(prototypes) if filled is None else filled
    return SAMNOutput(
        double(logits),
        double(embedding),
        double(prototypes),
        torch.tensor(classes),
        torch.tensor(filled),
    )


# ---------------------------------------------------------------------------- SAMN

LOGITS = [[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]]


def log_softmax(logits):
    total = sum(math.exp(s) for s in logits)
    return [s - math.log(total) for s in logits]


def classification(**params):
    return SAMNLoss(inter_weight=0, inner_weight=0, **params)


def test_softmax():
    loss = classification()(output(LOGITS), target([0, 2]))
    expected = -(log_softmax(LOGITS[0])[0] + log_softmax(LOGITS[1])[2]) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_label_smoothing():
    loss = classification(label_smoothing=0.3)(output(LOGITS), target([0, 2]))
    rows = []
    for logits, y in zip(LOGITS, [0, 2], strict=True):
        log_p = log_softmax(logits)
        rows.append(-0.7 * log_p[y] - 0.3 * sum(log_p) / 3)
    assert loss.item() == pytest.approx(sum(rows) / 2, rel=1e-12)


def test_squared_hinge():
    loss = classification(loss="squared_hinge")(output(LOGITS), target([0, 2]))
    # Row 0: own 1 - 1, others 1 - 0.5 and 1 + 0.25; row 1: own 1 + 1, others 1 + 0
    # and 1 + 2.
    expected = ((0 + 0.25 + 1.5625) + (4 + 1 + 9)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_squared_hinge_does_not_reward_more_than_the_margin():
    loss = classification(loss="squared_hinge")(output([[5.0, -3.0]]), target([0]))
    assert loss.item() == 0


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_weights_multiply_the_rows(loss):
    criterion = classification(loss=loss)
    first, second = (
        criterion(output([logits]), target([y])).item()
        for logits, y in zip(LOGITS, [0, 2], strict=True)
    )
    weighted = criterion(output(LOGITS), target([0, 2], [0.5, 3]))
    # Weights have mean one over the training set, not over the batch.
    assert weighted.item() == pytest.approx((0.5 * first + 3 * second) / 2, rel=1e-12)


def part(full, **params):
    """The value of one term: the loss with it less the loss without it."""
    with_it = SAMNLoss(**{"inter_weight": 0, "inner_weight": 0, **params})
    return (with_it(*full) - classification()(*full)).item()


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize(
    "params", [{}, {"label_smoothing": 0.3}, {"loss": "squared_hinge"}]
)
def test_no_weights_are_equal_weights(params, n_members):
    known = output(LOGITS, embedding=[[1.0], [3.0]])
    if n_members > 1:
        known = known._replace(
            logits=known.logits * double([[[1.0]], [[2.0]], [[3.0]]])
        )
    equal, none = target([0, 2]), target([0, 2])
    del none["weight"]
    loss = SAMNLoss(**params)
    assert loss(known, none).item() == pytest.approx(
        loss(known, equal).item(), rel=1e-12
    )


def test_inner_term_is_the_distance_to_the_nearest_own_prototype():
    full = (
        output(
            embedding=[[1.0, 1.0], [4.0, 0.0], [0.0, 3.0]],
            prototypes=[[0.0, 0.0], [5.0, 0.0], [0.0, 2.0]],
            classes=[0, 0, 1],
        ),
        target([0, 0, 1], [1, 2, 3]),
    )
    # Squared distances 2 (to the origin, though (0, 2) of class 1 is as near), 1 (to
    # (5, 0)) and 1, over the two features, weighted.
    expected = (1 * 2 / 2 + 2 * 1 / 2 + 3 * 1 / 2) / 3
    assert part(full, inner_weight=0.4) == pytest.approx(0.4 * expected, rel=1e-12)


def test_inner_term_skips_unwritten_prototypes():
    full = (
        output(
            embedding=[[1.0], [1.0]],
            prototypes=[[1.0], [4.0], [1.0]],
            classes=[0, 0, 1],
            filled=[False, True, False],
        ),
        target([0, 1]),
    )
    # Row 0 has only the 4 of its class, row 1 has nothing and no pull.
    assert part(full, inner_weight=1) == pytest.approx(9 / 2, rel=1e-12)


def test_inner_term_of_an_unwritten_class_has_no_gradient():
    full = output(embedding=[[1.0]], prototypes=[[3.0]], classes=[1])
    full = full._replace(embedding=full.embedding.requires_grad_())
    SAMNLoss()(full, target([0])).backward()
    assert full.embedding.grad.tolist() == [[0]]


def test_inner_term_pulls_the_row_to_the_prototype():
    full = output(embedding=[[1.0, 0.0]], prototypes=[[3.0, 0.0]])
    full = full._replace(embedding=full.embedding.requires_grad_())
    SAMNLoss(inner_weight=0.5, inter_weight=0)(full, target([0])).backward()
    # 0.5 * d/dz (z - 3)^2 / 2 at z = 1
    np.testing.assert_allclose(full.embedding.grad.numpy(), [[-1, 0]], rtol=1e-12)


PROTOTYPES = {
    # Width 4: a distance of 1 in each feature is a distance of 1.
    "prototypes": [[0.0] * 4, [0.5] * 4, [2.0] * 4, [0.2, 0.2, 0.2, 0.2]],
    "classes": [0, 1, 2, 0],
}


def test_inter_term_is_the_mean_of_what_is_missing_to_the_margin():
    full = (output(**PROTOTYPES, embedding=[[0.0] * 4]), target([0]))
    # Pairs of different classes and their distances: 0-1 0.5, 0-2 2, 1-2 1.5,
    # 1-3 0.3, 2-3 1.8; the pair 0-3 is of one class. With margin 1.6 the pairs miss
    # 1.1, 0, 0.1, 1.3 and 0, and all five count.
    expected = (1.1**2 + 0.1**2 + 1.3**2) / 5
    assert part(full, inter_weight=1, margin=1.6) == pytest.approx(expected, rel=1e-9)
    assert part(full, inter_weight=0.3, margin=1.6) == pytest.approx(
        0.3 * expected, rel=1e-9
    )


def test_inter_term_skips_unwritten_prototypes():
    full = (
        output(**PROTOTYPES, embedding=[[0.0] * 4], filled=[True, False, True, True]),
        target([0]),
    )
    # Left are 0-2 and 2-3, at 2 and 1.8.
    expected = (0.5**2 + 0.7**2) / 2
    assert part(full, inter_weight=1, margin=2.5) == pytest.approx(expected, rel=1e-9)


def test_inter_term_of_a_single_class_is_zero():
    full = (output(embedding=[[0.0]], prototypes=[[0.0], [0.1]], classes=[0, 0]),)
    assert part((*full, target([0])), inter_weight=1) == 0


def test_inter_term_has_a_finite_gradient_where_prototypes_coincide():
    full = output(embedding=[[1.0]], prototypes=[[2.0], [2.0]])
    full = full._replace(prototypes=full.prototypes.requires_grad_())
    loss = SAMNLoss(inter_weight=1, inner_weight=0, margin=3)(full, target([0]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) + 9, rel=1e-5)
    assert full.prototypes.grad.isfinite().all()


def test_inter_term_keeps_no_row_for_each_pair_of_prototypes():
    """Of many classes that would be gigabytes."""
    full = output(
        embedding=[[0.0] * 50], prototypes=[[float(i)] * 50 for i in range(20)]
    )
    full = full._replace(prototypes=full.prototypes.requires_grad_())
    sizes = []

    def note(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        SAMNLoss(inter_weight=1, inner_weight=0)(full, target([0]))
    # Of 190 pairs of 50 numbers each.
    assert 0 < max(sizes) <= 20 * 50


def test_inter_term_pushes_prototypes_apart():
    full = output(embedding=[[0.0]], prototypes=[[0.0], [0.5]])
    full = full._replace(prototypes=full.prototypes.requires_grad_())
    SAMNLoss(inter_weight=1, inner_weight=0)(full, target([0])).backward()
    # (1 - D)^2 with D = p_1 - p_0 = 0.5: a step down lowers p_0 and raises p_1.
    np.testing.assert_allclose(full.prototypes.grad.numpy(), [[1], [-1]], rtol=1e-9)


def test_defaults_add_a_tenth_of_each_term():
    full = (
        output(embedding=[[1.0]], prototypes=[[0.0], [0.5]]),
        target([0]),
    )
    # Inner 1, inter (1 - 0.5)^2.
    expected = math.log(2) + 0.1 * 1 + 0.1 * 0.25
    assert SAMNLoss()(*full).item() == pytest.approx(expected, rel=1e-9)


# --------------------------------------------------------------- neighbour sequences

# Two rows, K = 2 neighbours, three classes.
PROBABILITIES = [
    [[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]],
    [[0.1, 0.6, 0.3], [0.3, 0.3, 0.4]],
]
LABELS = [[0, 1], [2, 2]]
OWN = [0, 1]
VECTORS = [[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, 0.0]]]
TRUE_VECTORS = [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 4.0]]]


def labels_by_hand(row, alpha):
    steps = PROBABILITIES[row]
    neighbors = -sum(math.log(p[c]) for p, c in zip(steps, LABELS[row], strict=True))
    own = sum(p[OWN[row]] for p in steps) / len(steps)
    return neighbors / len(steps) - alpha * math.log(own)


# Sums of squares, row by row: 1 + 4 and 0 + (9 + 16).
SQUARES = [5, 25]


def sequence(labels=True, vectors=True):
    return NeighborSequence(
        double(PROBABILITIES).log() if labels else None,
        double(VECTORS) if vectors else None,
    )


def neighbors(weight=None):
    return target(
        OWN, weight, labels=torch.tensor(LABELS), vectors=double(TRUE_VECTORS)
    )


@pytest.mark.parametrize("alpha", [0, 2.5])
def test_labels_alone(alpha):
    loss = NeighborSequenceLoss(alpha=alpha)(sequence(vectors=False), neighbors())
    expected = (labels_by_hand(0, alpha) + labels_by_hand(1, alpha)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduction, n_features", [("sum", 1), ("mean", 2)])
def test_vectors_alone_have_weight_one(reduction, n_features):
    criterion = NeighborSequenceLoss(lam=7, vector_reduction=reduction)
    loss = criterion(sequence(labels=False), neighbors())
    assert loss.item() == pytest.approx(sum(SQUARES) / 2 / n_features, rel=1e-12)


@pytest.mark.parametrize("reduction, n_features", [("sum", 1), ("mean", 2)])
def test_both(reduction, n_features):
    criterion = NeighborSequenceLoss(alpha=2.5, lam=0.3, vector_reduction=reduction)
    loss = criterion(sequence(), neighbors())
    rows = [labels_by_hand(i, 2.5) + 0.3 * SQUARES[i] / n_features for i in (0, 1)]
    assert loss.item() == pytest.approx(sum(rows) / 2, rel=1e-12)


def test_defaults():
    loss = NeighborSequenceLoss()(sequence(), neighbors())
    rows = [labels_by_hand(i, 9.5) + 0.12 * SQUARES[i] / 2 for i in (0, 1)]
    assert loss.item() == pytest.approx(sum(rows) / 2, rel=1e-12)


def test_weights_multiply_the_rows_of_a_sequence():
    criterion = NeighborSequenceLoss(alpha=2.5, lam=0.3)
    loss = criterion(sequence(), neighbors([0.5, 3]))
    rows = [labels_by_hand(i, 2.5) + 0.3 * SQUARES[i] / 2 for i in (0, 1)]
    assert loss.item() == pytest.approx((0.5 * rows[0] + 3 * rows[1]) / 2, rel=1e-12)


def test_the_own_label_is_compared_with_the_mean_distribution():
    # Each neighbour is certain, of different classes: the mean is one half each.
    logits = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]])
    where = target([1], labels=torch.tensor([[0, 1]]))
    loss = NeighborSequenceLoss(alpha=3)(
        NeighborSequence(logits.log_softmax(2), None), where
    )
    assert loss.item() == pytest.approx(3 * math.log(2), rel=1e-6)


def certain(size, dtype):
    """Two steps that are certain of class 0, by a gap of ``size`` in the logits."""
    logits = torch.tensor([[[size, 0.0], [size, 0.0]]], dtype=dtype)
    return logits.requires_grad_()


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_certain_and_wrong_by_hand(size):
    logits = certain(size, torch.float64)
    where = target([1], labels=torch.tensor([[1, 0]]))
    loss = NeighborSequenceLoss(alpha=3)(
        NeighborSequence(logits.log_softmax(2), None), where
    )
    loss.backward()
    # log p of class 1 is -size at both steps: (size + 0) / 2 + 3 * size. Each step has
    # half a part in the mean distribution, the first also in the neighbours.
    assert loss.item() == pytest.approx(3.5 * size, rel=1e-12)
    np.testing.assert_allclose(
        logits.grad.numpy(), [[[2.0, -2.0], [1.5, -1.5]]], rtol=1e-9
    )


def test_the_lowest_log_probabilities_give_no_nan():
    logits = certain(1e30, torch.float32)
    where = target([1], labels=torch.tensor([[1, 0]]))
    loss = NeighborSequenceLoss(alpha=3)(
        NeighborSequence(logits.log_softmax(2), None), where
    )
    loss.backward()
    assert loss.item() == pytest.approx(3.5e30, rel=1e-6)
    assert logits.grad.isfinite().all()
    assert (logits.grad.sign() == torch.tensor([1.0, -1.0])).all()


@pytest.mark.parametrize("size", [1e2, 1e30])
def test_certain_and_right_is_finite(size):
    logits = certain(size, torch.float32)
    where = target([0], labels=torch.tensor([[0, 0]]))
    loss = NeighborSequenceLoss()(NeighborSequence(logits.log_softmax(2), None), where)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_the_loss_of_several_members_is_the_mean_of_theirs(loss):
    logits = torch.stack([double(LOGITS), -double(LOGITS), double(LOGITS).flip(0)])
    rows = target([2, 0], [0.5, 2.0])
    criterion = classification(loss=loss, label_smoothing=0.1)
    each = [criterion(SampleOutput(one[None], None), rows) for one in logits]
    together = criterion(SampleOutput(logits, None), rows)
    assert float(together) == pytest.approx(float(sum(each)) / 3)
