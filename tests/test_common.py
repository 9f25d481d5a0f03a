"""The estimator checks of scikit-learn and imbalanced-learn."""

import pytest
from imblearn.utils.estimator_checks import (
    parametrize_with_checks as parametrize_with_imblearn_checks,
)
from sklearn.utils.estimator_checks import (
    check_sample_weight_equivalence_on_dense_data,
    parametrize_with_checks,
)

from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
)

WEIGHTS = (
    "float32 mini-batches: other rows share a batch, and its normalisation and the "
    "robust scaling count a row once whatever its weight; in float64 and one batch "
    "test_sample_weight_equals_repetition passes"
)
SAMPLER = V2VSLS(max_epochs=2, random_state=0)


def expected_failed_checks(estimator):
    if isinstance(estimator, V2VSLS):
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": WEIGHTS}


@parametrize_with_checks(
    [
        SAMNClassifier(max_epochs=10),
        KNNSeq2SeqClassifier(max_epochs=10),
        KNNSeq2SeqClassifier(max_epochs=10, output="labels"),
        MemNetKNNClassifier(max_epochs=10),
        MemNetKNNClassifier(max_epochs=10, predict_vectors=False),
        SAMPLER,
    ],
    expected_failed_checks=expected_failed_checks,
)
def test_scikit_learn(estimator, check):
    check(estimator)


@parametrize_with_imblearn_checks([SAMPLER])
def test_imbalanced_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "make",
    [
        SAMNClassifier,
        lambda **params: SAMNClassifier(kernel="rbf", loss="squared_hinge", **params),
        KNNSeq2SeqClassifier,
        lambda **params: KNNSeq2SeqClassifier(output="labels", **params),
        lambda **params: KNNSeq2SeqClassifier(output="vectors", **params),
        MemNetKNNClassifier,
        lambda **params: MemNetKNNClassifier(predict_vectors=False, **params),
    ],
)
def test_sample_weight_equals_repetition(make):
    """What is expected to fail above passes without batches and batch statistics."""
    estimator = make(
        dtype="float64",
        batch_size=1000,
        dropout=0.0,
        batch_norm=False,
        scaling=None,
        max_epochs=10,
    )
    with pytest.warns(UserWarning, match="batch_size=1000 is larger"):
        check_sample_weight_equivalence_on_dense_data(
            type(estimator).__name__, estimator
        )
