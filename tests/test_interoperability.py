"""The estimators inside the tools, and with the data, of their neighbours."""

import pickle
import re
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline as make_imblearn_pipeline
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_blobs, make_classification
from sklearn.ensemble import (
    BaggingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, TrainEndCheckpoint

from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
    _base_neighbors,
    _training,
)
from sklearn_samn.modules import NeighborMemory

SAMN = SAMNClassifier(max_epochs=4, random_state=0)
SEQ2SEQ = KNNSeq2SeqClassifier(max_epochs=4, n_neighbors=3, random_state=0)
MEMNET = MemNetKNNClassifier(
    max_epochs=4, n_neighbors=3, memory_size=16, random_state=0
)
SAMPLER = V2VSLS(max_epochs=2, random_state=0)
# One copy of a row for each neighbour: what the network predicts is looked up.
VECTORS = SEQ2SEQ.__class__(max_epochs=4, output="vectors", random_state=0)

each_classifier = pytest.mark.parametrize(
    "classifier", [SAMN, SEQ2SEQ, MEMNET], ids=["samn", "seq2seq", "memnet"]
)
every_estimator = pytest.mark.parametrize(
    "estimator",
    [SAMN, SEQ2SEQ, VECTORS, MEMNET, SAMPLER],
    ids=["samn", "seq2seq", "vectors", "memnet", "v2vsls"],
)
NAMES = ["a", "b", "c", "d"]


def separable(n_samples=90, n_classes=2, seed=0):
    """Classes that a straight line tells apart."""
    centers = 8 * np.eye(4)[:n_classes]
    return make_blobs(n_samples=n_samples, centers=centers, random_state=seed)


def overlapping(n_samples=200, seed=0):
    """A minority of a fifth that overlaps with the majority."""
    return make_classification(
        n_samples=n_samples,
        n_features=4,
        n_clusters_per_class=1,
        weights=[0.8],
        class_sep=0.5,
        random_state=seed,
    )


def imbalanced(sizes=(60, 20, 10)):
    """Rows around a center for each class; the second column holds whole numbers."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = rng.normal(size=(len(y), 4)) + 6 * np.eye(4)[y]
    X[:, 1] = np.rint(X[:, 1])
    return X, y


# --- scikit-learn's and imbalanced-learn's own tools


@each_classifier
def test_pipeline(classifier):
    X, y = separable()
    pipeline = make_pipeline(StandardScaler(), clone(classifier)).fit(X, y)
    Z = StandardScaler().fit_transform(X)
    expected = clone(classifier).fit(Z, y).predict_proba(Z)
    assert_array_equal(pipeline.predict_proba(X), expected)
    assert pipeline.score(X, y) > 0.9


@each_classifier
def test_pipeline_with_frames_between_the_steps(classifier):
    X, y = separable()
    frame = pd.DataFrame(X, columns=NAMES)
    pipeline = make_pipeline(StandardScaler(), clone(classifier))
    pipeline.set_output(transform="pandas").fit(frame, y)
    assert pipeline[-1].feature_names_in_.tolist() == NAMES
    arrays = make_pipeline(StandardScaler(), clone(classifier)).fit(X, y)
    assert_array_equal(pipeline.predict_proba(frame), arrays.predict_proba(X))


def test_imblearn_pipeline_resamples_training_folds_only(monkeypatch):
    X, y = imbalanced()
    seen = []
    fit_resample = V2VSLS.fit_resample

    def spy(self, X, y, **params):
        seen.append((X, y))
        return fit_resample(self, X, y, **params)

    monkeypatch.setattr(V2VSLS, "fit_resample", spy)
    forest = RandomForestClassifier(n_estimators=10, random_state=0)
    cv = StratifiedKFold(3)
    result = cross_validate(
        make_imblearn_pipeline(SAMPLER, forest), X, y, cv=cv, return_estimator=True
    )
    folds = list(cv.split(X, y))
    assert len(seen) == 3
    for (train, test), (X_seen, y_seen), score, fitted in zip(
        folds, seen, result["test_score"], result["estimator"], strict=True
    ):
        assert_array_equal(X_seen, X[train])
        assert_array_equal(y_seen, y[train])
        resampled = fit_resample(clone(SAMPLER), X[train], y[train])
        by_hand = clone(forest).fit(*resampled)
        assert_array_equal(
            fitted.predict_proba(X[test]), by_hand.predict_proba(X[test])
        )
        assert score == by_hand.score(X[test], y[test])


@each_classifier
def test_grid_search_with_one_and_two_jobs(classifier):
    X, y = overlapping()
    one, two = (
        GridSearchCV(
            classifier,
            {"lr": [1e-5, 1e-2]},
            cv=2,
            n_jobs=n_jobs,
            scoring="neg_log_loss",
        ).fit(X, y)
        for n_jobs in (1, 2)
    )
    for key in ("split0_test_score", "split1_test_score", "mean_test_score"):
        assert_array_equal(one.cv_results_[key], two.cv_results_[key])
    assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    # The grid matters: a learning rate that learns nothing loses.
    assert one.best_params_["lr"] == 1e-2


@each_classifier
def test_grid_search_beyond_the_arrays(classifier):
    """Tuples, strings and bools as values."""
    X, y = separable()
    grid = {
        "hidden_layer_sizes": [(8,), (16, 8)],
        "optimizer": ["adam", "sgd"],
        "batch_norm": [True, False],
    }
    search = RandomizedSearchCV(classifier, grid, n_iter=3, cv=2, random_state=0)
    search.fit(X, y)
    best = search.best_estimator_
    for name, value in search.best_params_.items():
        assert getattr(best, name) == value
    assert len(search.cv_results_["params"]) == 3
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(X, y) == accuracy_score(y, search.predict(X))


@each_classifier
@pytest.mark.parametrize("resource", ["n_samples", "max_epochs"])
def test_halving_search(classifier, resource):
    X, y = separable()
    limits = {"min_resources": 30, "max_resources": 90}
    if resource == "max_epochs":
        limits = {"min_resources": 1, "max_resources": 3}
    search = HalvingGridSearchCV(
        classifier,
        {"lr": [1e-6, 3e-3, 1e-2]},
        cv=2,
        resource=resource,
        random_state=0,
        scoring="neg_log_loss",
        **limits,
    ).fit(X, y)
    assert search.n_candidates_ == [3, 1]
    assert search.n_resources_ == list(limits.values())
    last = search.cv_results_["iter"] == 1
    assert search.cv_results_["params"][int(np.argmax(last))] == search.best_params_
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    if resource == "max_epochs":
        assert search.best_estimator_.n_iter_ == 3


@each_classifier
def test_cross_validate(classifier):
    X, y = separable()
    cv = StratifiedKFold(3)
    result = cross_validate(
        classifier,
        X,
        y,
        cv=cv,
        scoring=["accuracy", "roc_auc", "neg_log_loss"],
        return_train_score=True,
        return_estimator=True,
    )
    assert (result["test_accuracy"] > 0.9).all()
    assert (result["test_roc_auc"] > 0.9).all()
    for (train, test), fitted in zip(cv.split(X, y), result["estimator"], strict=True):
        by_hand = clone(classifier).fit(X[train], y[train])
        assert_array_equal(
            fitted.predict_proba(X[test]), by_hand.predict_proba(X[test])
        )


@each_classifier
def test_calibration(classifier):
    X, y = separable(n_classes=3)
    calibrated = CalibratedClassifierCV(classifier, cv=2).fit(X, y)
    probabilities = calibrated.predict_proba(X)
    assert_allclose(probabilities.sum(axis=1), 1)
    assert calibrated.score(X, y) > 0.9
    assert not hasattr(classifier, "classes_")
    fitted = [each.estimator for each in calibrated.calibrated_classifiers_]
    assert {type(each) for each in fitted} == {type(classifier)}


@each_classifier
def test_tuned_threshold(classifier):
    X, y = overlapping()
    tuned = TunedThresholdClassifierCV(
        classifier, scoring="balanced_accuracy", cv=2, random_state=0
    ).fit(X, y)
    share = tuned.predict_proba(X)[:, 1]
    assert_array_equal(tuned.predict(X), (share >= tuned.best_threshold_).astype(int))
    # A minority of a fifth: the threshold that balances is below a half.
    assert 0 < tuned.best_threshold_ < 0.5


def test_stacking():
    X, y = overlapping()
    names = ["samn", "seq2seq", "memnet"]
    estimators = list(zip(names, [SAMN, SEQ2SEQ, MEMNET], strict=True))
    stacked = StackingClassifier(estimators, LogisticRegression(), cv=2).fit(X, y)
    columns = [each.predict_proba(X)[:, 1] for each in stacked.estimators_]
    assert_array_equal(stacked.transform(X), np.column_stack(columns))
    expected = stacked.final_estimator_.predict_proba(np.column_stack(columns))
    assert_array_equal(stacked.predict_proba(X), expected)


@pytest.mark.parametrize("voting", ["soft", "hard"])
def test_voting(voting):
    X, y = separable(n_classes=3)
    estimators = [("samn", SAMN), ("seq2seq", SEQ2SEQ), ("memnet", MEMNET)]
    ensemble = VotingClassifier(estimators, voting=voting).fit(X, y)
    alone = [clone(each).fit(X, y) for _, each in estimators]
    if voting == "soft":
        mean = np.mean([each.predict_proba(X) for each in alone], axis=0)
        assert_allclose(ensemble.predict_proba(X), mean)
    assert ensemble.score(X, y) > 0.9


@each_classifier
def test_one_vs_rest(classifier):
    X, y = separable(n_classes=3)
    ensemble = OneVsRestClassifier(classifier).fit(X, y)
    assert len(ensemble.estimators_) == 3
    assert_allclose(ensemble.predict_proba(X).sum(axis=1), 1, atol=1e-6)
    assert ensemble.score(X, y) > 0.9


@each_classifier
def test_bagging(classifier):
    X, y = separable()
    ensemble = BaggingClassifier(
        classifier, n_estimators=3, max_features=3, random_state=0
    ).fit(X, y)
    members = zip(ensemble.estimators_, ensemble.estimators_features_, strict=True)
    each = [fitted.predict_proba(X[:, columns]) for fitted, columns in members]
    assert_allclose(ensemble.predict_proba(X), np.mean(each, axis=0), atol=1e-6)
    assert ensemble.score(X, y) > 0.9
    assert not np.array_equal(each[0], each[1])


@each_classifier
def test_permutation_importance(classifier):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3))
    y = (X[:, 1] > 0).astype(int)
    model = clone(classifier).set_params(max_epochs=10).fit(X, y)
    importance = permutation_importance(model, X, y, n_repeats=3, random_state=0)
    assert importance.importances_mean.argmax() == 1
    assert importance.importances_mean[1] > 0.2


@every_estimator
def test_clone_keeps_every_parameter(estimator):
    """Each parameter, set to another value than the default."""
    others = {
        bool: lambda value: not value,
        int: lambda value: value + 1,
        float: lambda value: value / 2 + 0.01,
        tuple: lambda value: (*value, 7),
        # clone does not validate: any string shows that it was carried over
        str: lambda value: value + "_",
        type(None): lambda value: {"lr": 0.5},
        dict: lambda value: {**value, "lr": 0.5},
    }
    params = {
        name: others[type(value)](value)
        for name, value in type(estimator)().get_params().items()
    }
    changed = type(estimator)(**params)
    assert clone(changed).get_params() == params
    assert type(estimator)().set_params(**params).get_params() == params


@each_classifier
def test_clone_fits_alike(classifier):
    X, y = overlapping()
    fitted = clone(classifier).fit(X, y)
    copy = clone(fitted)
    assert not [name for name in vars(copy) if name.endswith("_")]
    assert not hasattr(copy, "net_")
    assert_array_equal(copy.fit(X, y).predict_proba(X), fitted.predict_proba(X))


def test_clone_of_the_sampler_resamples_alike():
    X, y = imbalanced()
    sampler = clone(SAMPLER)
    X_first, y_first = sampler.fit_resample(X, y)
    X_second, y_second = clone(sampler).fit_resample(X, y)
    assert_array_equal(X_first, X_second)
    assert_array_equal(y_first, y_second)


@pytest.mark.parametrize("classifier", [SEQ2SEQ, VECTORS, MEMNET])
def test_a_search_of_the_users(classifier):
    """Any object with fit and kneighbors; the same search gives the same model."""
    X, y = separable()
    search = NearestNeighbors(algorithm="brute")
    model = clone(classifier).set_params(neighbors=search).fit(X, y)
    assert not hasattr(search, "n_features_in_")
    default = clone(classifier).fit(X, y)
    assert_array_equal(model.predict(X), default.predict(X))
    assert_allclose(model.predict_proba(X), default.predict_proba(X), atol=1e-6)


# --- metadata routing


@each_classifier
def test_metadata_routing_through_a_pipeline(classifier):
    X, y = overlapping()
    weight = np.where(y == 1, 5.0, 1.0)
    Z = StandardScaler().fit_transform(X)
    expected = clone(classifier).fit(Z, y, sample_weight=weight).predict_proba(Z)
    with config_context(enable_metadata_routing=True):
        silent = make_pipeline(StandardScaler(), clone(classifier))
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            silent.fit(X, y, sample_weight=weight)
        pipeline = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            clone(classifier).set_fit_request(sample_weight=True),
        )
        pipeline.fit(X, y, sample_weight=weight)
        assert_array_equal(pipeline.predict_proba(X), expected)
        refused = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            clone(classifier).set_fit_request(sample_weight=False),
        )
        # Nobody wants the weights any more.
        with pytest.raises(TypeError, match="sample_weight"):
            refused.fit(X, y, sample_weight=weight)


@each_classifier
def test_metadata_routing_through_cross_validate(classifier):
    X, y = overlapping()
    weight = np.where(y == 1, 5.0, 1.0)
    cv = StratifiedKFold(2)
    with config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=False)
        result = cross_validate(
            clone(classifier).set_fit_request(sample_weight=True),
            X,
            y,
            cv=cv,
            scoring=scorer,
            params={"sample_weight": weight},
            return_estimator=True,
        )
    for (train, test), fitted in zip(cv.split(X, y), result["estimator"], strict=True):
        by_hand = clone(classifier).fit(X[train], y[train], weight[train])
        assert_array_equal(
            fitted.predict_proba(X[test]), by_hand.predict_proba(X[test])
        )


def test_metadata_routing_of_partial_fit():
    with config_context(enable_metadata_routing=True):
        model = SAMNClassifier().set_partial_fit_request(
            classes=True, sample_weight="importance"
        )
        routed = model.get_metadata_routing().partial_fit.requests
    assert routed == {"classes": True, "sample_weight": "importance"}


# --- containers and dtypes


@each_classifier
def test_frames_and_their_column_names(classifier):
    X, y = separable()
    frame = pd.DataFrame(X, columns=NAMES, index=np.arange(90) * 7)
    target = pd.Series(y, index=frame.index, name="target")
    model = clone(classifier).fit(frame, target)
    assert model.feature_names_in_.tolist() == NAMES
    assert model.n_features_in_ == 4
    plain = clone(classifier).fit(X, y)
    assert not hasattr(plain, "feature_names_in_")
    assert_array_equal(model.predict_proba(frame), plain.predict_proba(X))
    with pytest.raises(ValueError, match="must be in the same order"):
        model.predict(frame[NAMES[::-1]])
    with pytest.raises(ValueError, match=r"(?s)unseen at fit time.*- e\n"):
        model.predict(frame.rename(columns={"a": "e"}))
    with pytest.raises(ValueError, match=r"(?s)yet now missing.*- d\n"):
        model.predict(frame[NAMES[:3]])


@each_classifier
def test_lists_and_dtypes_agree(classifier):
    """Whole numbers with quartiles 2, 4, 6: float32 scales them without rounding."""
    rng = np.random.default_rng(0)
    columns = [rng.permutation(np.repeat(np.arange(9), 10)) for _ in range(3)]
    X = np.column_stack(columns)
    y = (X.sum(axis=1) > 12).astype(int)
    model = clone(classifier).fit(X.astype(float), y)
    scaler = model.preprocessor_
    assert scaler.center_.tolist() == [4, 4, 4] and scaler.scale_.tolist() == [4, 4, 4]
    expected = model.predict_proba(X.astype(float))
    others = [np.asfortranarray(X), X.astype(object), np.repeat(X, 2, axis=0)[::2]]
    fitted = [X.astype(np.int8), X.astype(np.float32), X.tolist()]
    fitted += [pd.DataFrame(X.astype(np.uint8))]
    for other in [X, *others, *fitted]:
        assert_array_equal(model.predict_proba(other), expected)
    for other in fitted:
        again = clone(classifier).fit(other, y.tolist())
        assert_array_equal(again.predict_proba(other), expected)


@each_classifier
def test_float32_rows_lose_no_digits_far_from_zero(classifier):
    """Timestamps: float64 columns whose variation float32 cannot hold."""
    X, y = separable()
    expected = clone(classifier).fit(X, y).predict(X)
    shifted = X + 1.7e9
    assert_array_equal(clone(classifier).fit(shifted, y).predict(shifted), expected)


@each_classifier
@pytest.mark.parametrize(
    "labels",
    [
        pd.array([False, True], dtype="boolean"),
        pd.array([2**60, 2**60 + 1], dtype="Int64"),
    ],
    ids=["boolean", "Int64"],
)
def test_nullable_labels(classifier, labels):
    """Floats would be other labels, or one."""
    X, codes = separable()
    model = clone(classifier).fit(X, pd.Series(labels[codes]))
    assert model.classes_.tolist() == labels.tolist()
    assert model.predict(X).tolist() == labels[codes].tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda codes: polars.Series(codes),
        lambda codes: polars.Series(np.array(["no", "yes"])[codes]),
        torch.from_numpy,
    ],
    ids=["polars", "polars strings", "torch"],
)
@pytest.mark.parametrize(
    "learn",
    [
        lambda X, y: SAMNClassifier(max_epochs=2).fit(X, y),
        lambda X, y: KNNSeq2SeqClassifier(max_epochs=2, out_of_core=True).fit(X, y),
        lambda X, y: V2VSLS(max_epochs=2).fit_resample(X, y)[1],
        lambda X, y: [of_rows for _, of_rows in V2VSLS().resample_blocks(X, y)],
    ],
    ids=["in memory", "by block", "sampler", "sampler by block"],
)
def test_labels_of_other_libraries(learn, make):
    X, codes = separable()
    codes[:20] = 0
    y = make(codes)
    expected = np.unique(np.asarray(y)).tolist()
    learned = learn(X, y)
    if hasattr(learned, "classes_"):
        assert learned.classes_.tolist() == expected
    else:
        made = np.concatenate([np.asarray(part).ravel() for part in learned])
        assert np.unique(made).tolist() == expected


@each_classifier
def test_nullable_dtypes(classifier):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "whole": rng.integers(0, 9, 90),
            "real": rng.normal(size=90),
            "flag": rng.integers(0, 2, 90).astype(bool),
        }
    )
    y = (frame["whole"] > 4).astype(int)
    nullable = frame.astype({"whole": "Int64", "real": "Float64", "flag": "boolean"})
    model = clone(classifier).fit(nullable, y.astype("Int64"))
    plain = clone(classifier).fit(frame.astype(float), y)
    assert model.classes_.tolist() == [0, 1]
    expected = plain.predict_proba(frame.astype(float))
    assert_array_equal(model.predict_proba(nullable), expected)
    assert_array_equal(model.predict_proba(frame), expected)
    nullable.loc[3] = pd.NA
    missing = frame.astype(float)
    missing.loc[3] = np.nan
    model, plain = (clone(classifier).fit(X, y) for X in (nullable, missing))
    expected = plain.predict_proba(missing)
    assert_array_equal(model.predict_proba(nullable), expected)


@each_classifier
@pytest.mark.parametrize(
    ("labels", "container"),
    [
        (["no", "yes"], list),
        ([False, True], list),
        ([False, True], pd.Series),
        ([-1, 1], tuple),
        ([10**12, 10**12 + 1], pd.Series),
        ([0.0, 1.0], np.array),
        ([np.int8(3), np.int8(5)], np.array),
    ],
)
def test_labels_of_any_kind(classifier, labels, container):
    X, codes = separable()
    y = container([labels[code] for code in codes])
    model = clone(classifier).set_params(max_epochs=3).fit(X, y)
    assert model.classes_.tolist() == labels
    predicted = model.predict(X)
    assert isinstance(predicted, np.ndarray)
    assert predicted.dtype == model.classes_.dtype
    plain = clone(classifier).set_params(max_epochs=3).fit(X, codes)
    assert_array_equal(predicted, np.array(labels)[plain.predict(X)])
    assert model.score(X, y) == plain.score(X, codes) > 0.9


@each_classifier
@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_labels_of_pandas(classifier, dtype):
    X, codes = separable(n_classes=3)
    names = np.array(["virginica", "setosa", "versicolor"])
    y = pd.Series(names[codes]).astype(dtype)
    model = clone(classifier).fit(X, y)
    assert model.classes_.tolist() == sorted(names)
    assert model.score(X, y) > 0.9
    assert set(model.predict(X).tolist()) == set(names)


@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_sampler_gives_pandas_labels_back(dtype):
    X, codes = imbalanced()
    y = pd.Series(np.array(["many", "some", "few"])[codes], name="label").astype(dtype)
    _, y_new = clone(SAMPLER).fit_resample(X, y)
    assert isinstance(y_new, pd.Series)
    assert y_new.name == "label"
    assert y_new.dtype == y.dtype
    assert y_new[:90].tolist() == y.tolist()
    assert Counter(y_new) == {"many": 60, "some": 60, "few": 60}


# --- weights


@each_classifier
def test_class_weight_moves_predictions_to_the_class(classifier):
    X, y = overlapping()
    plain, balanced, minority, majority = (
        clone(classifier).set_params(class_weight=weight).fit(X, y)
        for weight in (None, "balanced", {1: 10}, {0: 10})
    )
    share = {
        name: model.predict_proba(X)[:, 1].mean()
        for name, model in [
            ("plain", plain),
            ("balanced", balanced),
            ("minority", minority),
            ("majority", majority),
        ]
    }
    assert share["majority"] < share["plain"] < share["balanced"] < share["minority"]
    assert balanced.predict(X).sum() > plain.predict(X).sum()


@each_classifier
def test_class_weight_is_sample_weight_of_the_class(classifier):
    X, y = overlapping()
    by_class = clone(classifier).set_params(class_weight={0: 1, 1: 5}).fit(X, y)
    by_row = clone(classifier).fit(X, y, sample_weight=np.where(y == 1, 5, 1))
    balanced = clone(classifier).set_params(class_weight="balanced").fit(X, y)
    share = np.bincount(y) / len(y)
    by_hand = clone(classifier).fit(X, y, sample_weight=0.5 / share[y])
    assert_array_equal(by_class.predict_proba(X), by_row.predict_proba(X))
    assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), atol=1e-6)


@each_classifier
def test_sample_weight_moves_predictions_to_the_row(classifier):
    """Half of the labels are turned round; the heavy half is believed."""
    X, y = separable(n_samples=120)
    turned = np.arange(120) % 2 == 0
    noisy = np.where(turned, 1 - y, y)
    model = clone(classifier).set_params(max_epochs=10)
    honest = clone(model).fit(X, noisy, np.where(turned, 0.05, 1))
    lying = clone(model).fit(X, noisy, np.where(turned, 1, 0.05))
    assert honest.score(X, y) > 0.9
    assert lying.score(X, y) < 0.1


@each_classifier
def test_the_scale_of_the_weights_does_not_matter(classifier):
    X, y = overlapping()
    weight = np.random.default_rng(0).integers(1, 5, len(y)).astype(float)
    once = clone(classifier).fit(X, y, weight)
    # A power of two, so that the weights of the loss are the same to the bit.
    more = clone(classifier).fit(X, y, 1024 * weight)
    assert_array_equal(once.predict_proba(X), more.predict_proba(X))


@each_classifier
def test_weight_zero_is_a_row_left_out(classifier):
    X, y = overlapping()
    rng = np.random.default_rng(0)
    out = rng.choice(len(y), 40, replace=False)
    weight = np.ones(len(y))
    weight[out] = 0
    # Rows that would be noticed if they were used.
    X_wild, y_wild = X.copy(), y.copy()
    X_wild[out] *= 100
    y_wild[out] = 1 - y_wild[out]
    model = clone(classifier).fit(X_wild, y_wild, sample_weight=weight)
    kept = weight > 0
    without = clone(classifier).fit(X[kept], y[kept])
    assert_allclose(model.predict_proba(X), without.predict_proba(X), atol=1e-6)
    if hasattr(model, "memory_indices_"):
        assert not np.isin(model.memory_indices_, out).any()


@each_classifier
def test_class_of_weight_zero_is_no_class(classifier):
    X, y = separable(n_classes=3)
    model = clone(classifier).fit(X, y, sample_weight=(y != 1).astype(float))
    assert model.classes_.tolist() == [0, 2]
    assert set(model.predict(X)) == {0, 2}
    assert model.score(X[y != 1], y[y != 1]) > 0.9


# --- early stopping, warm start, partial fit


class Snapshots(Callback):
    """The weights after each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.taken = []

    def on_epoch_end(self, net, **kwargs):
        state = net.module_.state_dict()
        self.taken.append({name: value.clone() for name, value in state.items()})


@every_estimator
def test_early_stopping_keeps_the_best_weights(estimator):
    X, y = separable(n_samples=200)
    snapshots = Snapshots()
    model = clone(estimator).set_params(
        max_epochs=200,
        lr_schedule="constant",
        early_stopping=True,
        n_iter_no_change=3,
        skorch_params={"callbacks": [snapshots]},
    )
    if estimator is SAMPLER:
        model.fit_resample(*imbalanced((100, 50)))
    else:
        model.fit(X, y)
    assert 4 <= model.n_iter_ < 200
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
    best = int(np.argmax(model.validation_scores_))
    assert best == model.n_iter_ - 1 - 3
    kept = model.net_.module_.state_dict()
    # The memory is filled anew by the network that is kept, and the pool beside it.
    kept = {k: v for k, v in kept.items() if not k.startswith(("memory.", "pool."))}

    def differences(epoch):
        taken = snapshots.taken[epoch]
        return [name for name, value in kept.items() if not value.equal(taken[name])]

    assert differences(best) == []
    assert differences(-1) != []


@each_classifier
def test_early_stopping_with_a_class_of_one_row(classifier):
    X, y = separable()
    y[7] = 2
    model = clone(classifier).set_params(early_stopping=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    assert len(caught) == 1
    assert caught[0].category is UserWarning
    assert "a class has a single row" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert model.n_iter_ == model.max_epochs
    assert model.validation_scores_ is None
    expected = clone(classifier).fit(X, y).predict_proba(X)
    assert_array_equal(model.predict_proba(X), expected)


def test_sampler_early_stopping_with_a_class_of_one_row():
    X, y = separable()
    y[7] = 2
    sampler = V2VSLS(
        max_epochs=2, early_stopping=True, neighbors_of="all", random_state=0
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, y_new = sampler.fit_resample(X, y)
    assert [str(w.message)[:36] for w in caught] == [
        "early_stopping needs two rows of eac"
    ]
    assert len(set(Counter(y_new.tolist()).values())) == 1
    assert sampler.validation_scores_ is None


@each_classifier
def test_early_stopping_holds_rows_out(classifier, monkeypatch):
    """A tenth of each class, one row at the least, is neither fitted nor remembered."""
    X, y = separable(n_samples=100)
    model = clone(classifier).set_params(early_stopping=True, validation_fraction=0.3)
    if hasattr(model, "memory_size"):
        model.set_params(memory_size=1000)
    sizes, train = [], _training.train

    def spy(module, criterion, dataset, *, valid, **params):
        sizes.append((len(dataset), len(valid)))
        return train(module, criterion, dataset, valid=valid, **params)

    monkeypatch.setattr(_training, "train", spy)
    model.fit(X, y)
    assert sizes == [(70, 30)]
    assert model.score(X, y) > 0.9
    if hasattr(model, "memory_size"):
        rows = getattr(model, "support_", None)
        rows = model.memory_indices_[0] if rows is None else rows
        assert rows.shape == (70,)
        assert np.bincount(y[rows]).tolist() == [35, 35]


@each_classifier
def test_logarithms_of_probabilities(classifier, monkeypatch):
    X, y = overlapping()
    model = clone(classifier).fit(X, y)
    probabilities = model.predict_proba(X)
    assert_allclose(model.predict_log_proba(X), np.log(probabilities))
    probabilities[:, 0] = 0
    monkeypatch.setattr(model, "predict_proba", lambda X: probabilities)
    assert (model.predict_log_proba(X)[:, 0] == -np.inf).all()


@each_classifier
def test_warm_start_continues(classifier):
    X, y = overlapping()
    model = clone(classifier).set_params(warm_start=True, max_epochs=3).fit(X, y)
    first = list(model.loss_curve_)
    assert model.fit(X, y) is model
    assert model.n_iter_ == 6 == len(model.loss_curve_) == len(model.history_)
    assert [record["epoch"] for record in model.history_] == [1, 2, 3, 4, 5, 6]
    assert model.loss_curve_[:3] == first
    assert model.loss_curve_[3] < first[0]
    cold = clone(classifier).set_params(max_epochs=3).fit(X, y).fit(X, y)
    assert cold.n_iter_ == 3
    assert cold.loss_curve_ == first


@each_classifier
def test_warm_start_keeps_scaling_and_classes(classifier):
    X, y = separable(n_classes=3)
    model = clone(classifier).set_params(warm_start=True).fit(X, y)
    scaler = model.preprocessor_
    center, scale = scaler.center_.copy(), scaler.scale_.copy()
    some = y != 2
    model.fit(10 * X[some], y[some])
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.preprocessor_ is scaler
    assert_array_equal(scaler.center_, center)
    assert_array_equal(scaler.scale_, scale)
    assert model.predict_proba(X).shape == (90, 3)


@each_classifier
def test_warm_start_with_something_else(classifier):
    X, y = separable()
    model = clone(classifier).set_params(warm_start=True).fit(X, y)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match="continues with the classes of the first"):
        model.fit(X, y + 1)
    sizes = model.hidden_layer_sizes
    model.set_params(hidden_layer_sizes=(5,))
    match = r"whose shape does not fit .*: hidden_layer_sizes \[.*\] then, \[5\] now\."
    with pytest.raises(ValueError, match=match):
        model.fit(X, y)
    model.set_params(hidden_layer_sizes=sizes)
    with pytest.raises(ValueError, match="X has 3 features, but"):
        model.fit(X[:, :3], y)
    assert model.n_iter_ == 4
    assert_array_equal(model.predict_proba(X), before)
    model.set_params(warm_start=False).fit(X[:, :3], y + 1)
    assert model.classes_.tolist() == [1, 2]


@each_classifier
def test_warm_start_on_a_part_of_the_weighted_classes(classifier):
    X, y = separable()
    model = clone(classifier).set_params(warm_start=True, class_weight={1: 5})
    model.fit(X, y).fit(X[y == 0], y[y == 0])
    assert model.classes_.tolist() == [0, 1]


@each_classifier
def test_warm_start_with_another_dropout(classifier):
    X, y = separable()
    model = clone(classifier).set_params(warm_start=True, dropout=0.0).fit(X, y)
    last = model.loss_curve_[-1]
    model.set_params(dropout=0.2).fit(X, y)
    # It goes on: the loss is nearer to the last than to the first.
    after = model.loss_curve_[model.max_epochs]
    assert abs(after - last) < abs(after - model.loss_curve_[0])


def test_what_auto_makes_of_a_chunk_is_not_blamed():
    X, y = separable()
    model = SAMNClassifier(max_epochs=1).fit(X, y).set_params(embedding_size=5)
    with pytest.raises(
        ValueError, match=r"parameters: embedding_size 64 then, 5 now\."
    ):
        model.partial_fit(X, y)


def test_partial_fit_learns_from_chunks():
    X, y = separable(n_samples=300, n_classes=3)
    model = SAMNClassifier(random_state=0)
    for _ in range(5):
        for start in range(0, 300, 50):
            chunk = slice(start, start + 50)
            assert model.partial_fit(X[chunk], y[chunk], classes=[0, 1, 2]) is model
    assert model.n_iter_ == 30
    assert np.mean(model.loss_curve_[-6:]) < np.mean(model.loss_curve_[:6])
    assert model.score(X, y) > 0.9


def test_partial_fit_refuses():
    X, y = separable()
    model = SAMNClassifier(random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, y)
    assert not hasattr(model, "classes_")
    with pytest.raises(ValueError, match=r"labels \[1\], which are not among"):
        model.partial_fit(X, y, classes=[0, 2])
    assert not hasattr(model, "classes_")
    model.partial_fit(X, y, classes=[0, 1])
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match=r"labels \[2\], which are not among"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="is not the same as on last call"):
        model.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="X has 3 features"):
        model.partial_fit(X[:, :3], y)
    with pytest.raises(ValueError, match="class_weight='balanced' is not supported"):
        SAMNClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])
    assert model.n_iter_ == 1
    assert_array_equal(model.predict_proba(X), before)


@pytest.mark.parametrize("head", ["distance", "kernel", "linear"])
def test_partial_fit_of_a_class_that_comes_later(head):
    X, y = separable(n_samples=300, n_classes=3)
    model = SAMNClassifier(random_state=0, head=head, n_prototypes=1)
    for _ in range(3):
        model.partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
    unseen = model.predict_proba(X)[:, 2]
    if head == "linear":
        assert (model.predict(X[y < 2]) < 2).all()
    else:
        assert unseen.max() < 1e-6
        assert set(model.prototype_labels_) == {0, 1}
    for _ in range(10):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.9
    if head != "linear":
        assert set(model.prototype_labels_) == {0, 1, 2}


def test_partial_fit_of_single_rows():
    X, y = separable()
    model = SAMNClassifier(random_state=0).partial_fit(X, y, classes=[0, 1])
    for row in range(5):
        model.partial_fit(X[[row]], y[[row]])
    assert model.n_iter_ == 6
    assert np.isfinite(model.predict_proba(X)).all()


def test_partial_fit_begins_with_a_single_row():
    X, y = separable()
    model = SAMNClassifier(random_state=0).partial_fit(X[:1], y[:1], classes=[0, 1])
    assert np.isfinite(model.predict_proba(X)).all()
    assert (model.predict(X) == y[0]).all()


CHANGES = {
    "dtype": ["float64"],
    "scaling": [None],
    "hidden_layer_sizes": [(3,)],
    "n_neighbors": [2],
    "temperature": [3.0],
    "output": ["labels", "vectors"],
    "predict_vectors": [False, True],
    "memory_size": [3],
    "head": ["linear"],
    "n_prototypes": [1],
    "neighbor_weight": [0.0],
    "n_members": [2],
}


@pytest.mark.parametrize(
    "classifier",
    [SAMN, SEQ2SEQ, VECTORS, MEMNET, clone(MEMNET).set_params(predict_vectors=False)],
    ids=["samn", "seq2seq", "vectors", "memnet", "memnet labels"],
)
def test_a_parameter_set_after_fit_waits_for_the_next(classifier):
    X, y = overlapping()
    fitted = clone(classifier).fit(X, y)
    before = fitted.get_params()
    expected = fitted.predict_proba(X)
    for name in CHANGES.keys() & before.keys():
        for value in CHANGES[name]:
            fitted.set_params(**{name: value})
            assert_array_equal(fitted.predict_proba(X), expected)
            if hasattr(fitted, "predict_neighbors"):
                fitted.predict_neighbors(X)
        fitted.set_params(**{name: before[name]})


def test_partial_fit_after_fit_goes_on():
    X, y = separable()
    model = clone(SAMN).fit(X, y)
    model.partial_fit(X, y)
    assert model.n_iter_ == 5
    assert model.score(X, y) > 0.9


class MomentsFit(Callback):
    """Fails before the first step where an optimizer was given others' moments.

    The step itself would write past the end of an array.
    """

    def on_train_begin(self, net, **kwargs):
        for parameter, state in net.optimizer_.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.ndim:
                    assert value.shape == parameter.shape, name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"weight_decay": 0.0}, {"weight_decay": 0.1}),
        ({"weight_decay": 0.1}, {"weight_decay": 0.0}),
        ({"optimizer": "adam"}, {"optimizer": "adamw"}),
        ({"optimizer": "sgd"}, {"optimizer": "adamw"}),
        ({"optimizer": "adamw"}, {"optimizer": "sgd"}),
        ({}, {"skorch_params": {"optimizer": torch.optim.NAdam}}),
        ({"skorch_params": {"optimizer": torch.optim.NAdam}}, {}),
        ({}, {"skorch_params": {"optimizer__momentum": 0.9}, "optimizer": "sgd"}),
        ({"skorch_params": {"optimizer__momentum": 0.9}, "optimizer": "sgd"}, {}),
    ],
)
def test_partial_fit_with_another_optimizer(before, after):
    X, y = separable()
    model = clone(SAMN).set_params(**before).partial_fit(X, y, classes=[0, 1])
    params = {"optimizer": "adamw", **after}
    given = params.get("skorch_params", {})
    params["skorch_params"] = {**given, "callbacks": [MomentsFit()]}
    model.set_params(**params)
    for _ in range(5):
        model.partial_fit(X, y)
    assert model.n_iter_ == 6
    assert model.score(X, y) > 0.9


def test_partial_fit_keeps_the_moments_of_the_optimizer():
    """Chunk after chunk is one training: the step counter goes on."""
    X, y = separable()
    model = SAMNClassifier(batch_size=30, random_state=0)
    for passes in (1, 2, 3):
        model.partial_fit(X, y, classes=[0, 1])
        steps = {int(state["step"]) for state in model.net_.optimizer_.state.values()}
        assert steps == {3 * passes}


def test_only_samn_has_partial_fit():
    assert not hasattr(SEQ2SEQ, "partial_fit")
    assert not hasattr(MEMNET, "partial_fit")


# --- skorch's own parameters


@every_estimator
def test_skorch_params(estimator):
    def fitted(**params):
        model = clone(estimator).set_params(max_epochs=3, skorch_params=params)
        if estimator is SAMPLER:
            model.fit_resample(*imbalanced())
            return model
        return model.fit(*separable())

    plain = fitted()
    assert fitted(max_epochs=2).n_iter_ == 2
    # An improvement by ten is never enough.
    stop = EarlyStopping("train_loss", patience=1, threshold=10, threshold_mode="abs")
    assert fitted(callbacks=[stop]).n_iter_ == 2
    assert fitted(callbacks=[("stop", stop)]).n_iter_ == 2
    for params in [
        {"optimizer": torch.optim.NAdam},
        {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9},
        {"optimizer__betas": (0.5, 0.9)},
        {"iterator_train__shuffle": False},
        {"lr": 1e-4},
    ]:
        other = fitted(**params)
        assert other.n_iter_ == 3
        assert other.loss_curve_ != plain.loss_curve_
    assert fitted(iterator_train__shuffle=True).loss_curve_ == plain.loss_curve_


# --- what the classifiers show of themselves


@pytest.mark.parametrize(
    ("classifier", "labels", "vectors"),
    [
        (SEQ2SEQ, True, True),
        (clone(SEQ2SEQ).set_params(output="labels"), True, False),
        (clone(SEQ2SEQ).set_params(output="vectors"), False, True),
        (MEMNET, True, True),
        (clone(MEMNET).set_params(predict_vectors=False), True, False),
    ],
)
def test_predict_neighbors(classifier, labels, vectors):
    X, y = separable(n_classes=3)
    X = 1000 + 50 * X
    params = {"max_epochs": 20, "neighbor_weight": 0.0}
    model = clone(classifier).set_params(**params).fit(X, y)
    probabilities, rows = model.predict_neighbors(X[:20])
    assert (probabilities is not None) is labels
    assert (rows is not None) is vectors
    if labels:
        assert probabilities.shape == (20, 3, 3)
        assert_allclose(probabilities.sum(axis=2), 1, atol=1e-5)
        mean = probabilities.mean(axis=1)
        assert_allclose(mean, model.predict_proba(X[:20]), atol=1e-5)
    if vectors:
        assert rows.shape == (20, 3, 4)
        # In the units of X: the predicted neighbours lie near rows of the same class.
        centers = np.array([X[y == code].mean(axis=0) for code in range(3)])
        distances = np.linalg.norm(rows[:, :, None] - centers, axis=3)
        assert (distances.argmin(axis=2) == y[:20, None]).mean() > 0.9


def test_vectors_vote_by_the_rows_nearest_to_each():
    X, _ = separable()
    y = np.random.default_rng(0).integers(0, 3, len(X))
    model = clone(SEQ2SEQ).set_params(output="vectors", scaling=None).fit(X, y)
    vectors = model.predict_neighbors(X[:20])[1]
    search = NearestNeighbors(n_neighbors=vectors.shape[1]).fit(X)
    nearest = [search.kneighbors(row, return_distance=False) for row in vectors]
    shares = np.eye(3)[y[np.array(nearest)]].mean(axis=(1, 2))
    assert_allclose(model.predict_proba(X[:20]), shares, atol=1e-6)


@pytest.mark.parametrize("scaling", ["robust", "quantile", None])
def test_memnet_attention_and_memories(scaling):
    X, y = separable()
    model = clone(MEMNET).set_params(n_memories=2, scaling=scaling).fit(X, y)
    weights, indices = model.attention(X[:7])
    assert weights.shape == (7, 2, 3, 16)
    assert (weights >= 0).all()
    assert_allclose(weights.sum(axis=3), 1, atol=1e-5)
    assert_array_equal(indices, model.memory_indices_)
    assert indices.shape == (2, 16)
    assert indices.min() >= 0 and indices.max() < len(X)
    assert all(len(set(memory)) == 16 for memory in indices.tolist())
    assert not np.array_equal(indices[0], indices[1])
    # The kept memory is those very rows: a row among them that changes its place in X
    # changes the index with it.
    order = np.random.default_rng(0).permutation(len(X))
    moved = clone(model).fit(X[order], y[order])
    assert_array_equal(moved.memory_indices_, indices)
    if scaling is None:
        assert_array_equal(model._memories, X[indices].astype(np.float32))
        assert_array_equal(moved._memories, X[order][indices].astype(np.float32))


def test_memnet_memory_of_all_rows():
    X, y = separable()
    model = clone(MEMNET).set_params(memory_size=1000).fit(X, y)
    assert_array_equal(model.memory_indices_, np.arange(len(X))[None])
    assert model.attention(X[:3])[0].shape == (3, 1, 3, 90)


def test_memnet_remembers_equal_rows_once():
    X, y = separable(n_samples=20)
    twice = np.repeat(np.arange(20), 2)
    model = clone(MEMNET).set_params(memory_size=1000).fit(X[twice], y[twice])
    assert_array_equal(model.memory_indices_, [np.arange(0, 40, 2)])


@every_estimator
def test_the_published_version_of_the_docstring_runs(estimator):
    kind = type(estimator)
    text = " ".join(kind.__doc__.split())
    code = re.search(rf"``({kind.__name__}\(.*?\))``", text).group(1)
    published = eval(code, {kind.__name__: kind})
    published.set_params(max_epochs=25, random_state=0)
    if kind is not V2VSLS:
        X, y = separable(n_samples=120)
        assert published.fit(X, y).score(X, y) > 0.9
        return
    X, y = imbalanced((100, 60))
    X_new, y_new = published.fit_resample(X, y)
    assert Counter(y_new.tolist()) == {0: 100, 1: 100}
    centers = np.array([X[y == code].mean(axis=0) for code in (0, 1)])
    distances = np.linalg.norm(X_new[160:, None] - centers, axis=2)
    assert (distances.argmin(axis=1) == 1).mean() > 0.9


# --- the sampler


def by_callable(y):
    return {1: 33, 2: 44}


@pytest.mark.parametrize(
    "strategy",
    [
        "auto",
        "minority",
        "not minority",
        "not majority",
        "all",
        {1: 37},
        {1: 20, 2: 37},
        {0: 70, 1: 25, 2: 60},
        by_callable,
    ],
    ids=lambda strategy: getattr(strategy, "__name__", str(strategy)),
)
def test_counts_of_several_classes(strategy):
    X, y = imbalanced()
    sampler = clone(SAMPLER).set_params(sampling_strategy=strategy)
    X_new, y_new = sampler.fit_resample(X, y)
    oracle = RandomOverSampler(sampling_strategy=strategy, random_state=0)
    expected = Counter(oracle.fit_resample(X, y)[1].tolist())
    assert Counter(y_new.tolist()) == expected
    assert expected != Counter(y.tolist())
    n_new = sum(expected.values()) - 90
    assert_array_equal(X_new[:90], X)
    assert_array_equal(y_new[:90], y)
    assert X_new.shape == (90 + n_new, 4)
    assert sampler.parent_indices_.shape == sampler.decoder_steps_.shape == (n_new,)
    assert_array_equal(y[sampler.parent_indices_], y_new[90:])
    steps = sampler.decoder_steps_
    assert steps.min() >= 0 and steps.max() < sampler.k_neighbors


@pytest.mark.parametrize("strategy", [0.5, 0.75, 1.0, "minority", "auto", "all"])
def test_counts_of_two_classes(strategy):
    X, y = imbalanced()
    X, y = X[y != 1], np.array(["many", "none", "few"])[y[y != 1]]
    sampler = clone(SAMPLER).set_params(sampling_strategy=strategy)
    X_new, y_new = sampler.fit_resample(X, y)
    oracle = RandomOverSampler(sampling_strategy=strategy, random_state=0)
    assert Counter(y_new.tolist()) == Counter(oracle.fit_resample(X, y)[1].tolist())
    assert_array_equal(X_new[: len(X)], X)
    assert_array_equal(y_new[: len(X)], y)
    assert_array_equal(y[sampler.parent_indices_], y_new[len(X) :])


def test_every_decoder_step_is_used():
    X, y = imbalanced()
    sampler = clone(SAMPLER).set_params(sampling_strategy={2: 200}, k_neighbors=3)
    sampler.fit_resample(X, y)
    assert set(sampler.decoder_steps_.tolist()) == {0, 1, 2}


def test_synthetic_rows_are_like_their_class():
    """Whole columns stay whole, values within range, classes apart, none a copy."""
    X, y = imbalanced()
    X_new, y_new = clone(SAMPLER).set_params(max_epochs=20).fit_resample(X, y)
    synthetic, labels = X_new[90:], y_new[90:]
    assert_array_equal(synthetic[:, 1], np.rint(synthetic[:, 1]))
    assert (synthetic[:, 0] != np.rint(synthetic[:, 0])).any()
    assert (synthetic >= X.min(axis=0)).all()
    assert (synthetic <= X.max(axis=0)).all()
    centers = np.array([X[y == code].mean(axis=0) for code in range(3)])
    nearest = np.linalg.norm(synthetic[:, None] - centers, axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.9
    assert not (synthetic[:, None] == X).all(axis=2).any()


def test_frame_with_ints_and_flags():
    X, y = imbalanced()
    frame = pd.DataFrame(
        {
            "real": X[:, 0],
            "single": X[:, 2].astype(np.float32),
            "whole": X[:, 1].astype(np.int64),
            "small": X[:, 1].clip(0, 100).astype(np.uint8),
            "flag": X[:, 3] > 0,
        },
        index=np.arange(90) + 5,
    )
    target = pd.Series(y, index=frame.index, name="target")
    X_new, y_new = clone(SAMPLER).fit_resample(frame, target)
    assert_frame_equal(X_new[:90].set_axis(frame.index), frame)
    assert X_new.dtypes.tolist() == frame.dtypes.tolist()
    assert y_new.name == "target" and y_new.dtype == target.dtype
    assert len(X_new) == len(y_new) == 180
    assert X_new["whole"].between(frame["whole"].min(), frame["whole"].max()).all()


def test_lists_come_back_as_lists():
    X, y = imbalanced()
    X_new, y_new = clone(SAMPLER).fit_resample(X.tolist(), y.tolist())
    assert isinstance(X_new, list) and isinstance(y_new, list)
    assert X_new[:90] == X.tolist()
    assert y_new[:90] == y.tolist()
    assert len(X_new) == len(y_new) == 180


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "csr_array", "csc_array"])
def test_sparse_comes_back_sparse(kind):
    X, y = imbalanced()
    X[X < 0.5] = 0
    given = getattr(sparse, kind)(X)
    X_new, y_new = clone(SAMPLER).fit_resample(given, y)
    assert sparse.issparse(X_new)
    assert type(X_new) is type(given)
    assert X_new.dtype == given.dtype
    dense, y_dense = clone(SAMPLER).fit_resample(X, y)
    # CSC rows come in another memory order, which moves the last bit of a mean.
    assert_allclose(X_new.toarray(), dense, atol=1e-12)
    assert_array_equal(y_new, y_dense)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8])
def test_dtype_comes_back(dtype):
    X, y = imbalanced()
    X = (5 * X).astype(dtype)
    X_new, _ = clone(SAMPLER).fit_resample(X, y)
    assert X_new.dtype == dtype
    assert_array_equal(X_new[:90], X)
    assert (X_new[90:] >= X.min(axis=0)).all()
    assert (X_new[90:] <= X.max(axis=0)).all()


def test_one_vs_all_target_comes_back():
    X, y = imbalanced()
    one_hot = np.eye(3, dtype=int)[y]
    _, y_new = clone(SAMPLER).fit_resample(X, one_hot)
    assert y_new.shape == (180, 3)
    assert_array_equal(y_new[:90], one_hot)
    assert y_new.sum(axis=0).tolist() == [60, 60, 60]


def test_stop_when_exhausted_stays_short():
    X, y = imbalanced()
    sampler = V2VSLS(
        max_epochs=20,
        k_neighbors=2,
        sampling_strategy={2: 60},
        stop_when_exhausted=True,
        random_state=0,
    )
    with pytest.warns(UserWarning, match="Class 2 gets .* of the 50 rows asked for"):
        X_new, y_new = sampler.fit_resample(X, y)
    # Ten rows of two steps: at most 20 candidates, each used once.
    used = list(zip(sampler.parent_indices_, sampler.decoder_steps_, strict=True))
    assert 0 < len(used) <= 20
    assert len(set(used)) == len(used)
    assert len(X_new) == len(y_new) == 90 + len(used)
    assert Counter(y_new.tolist()) == {0: 60, 1: 20, 2: 10 + len(used)}
    assert_array_equal(y[sampler.parent_indices_], y_new[90:])


def test_stop_when_exhausted_without_any_candidate():
    """A class that the network takes for the other one, everywhere."""
    X, y = overlapping()
    sampler = V2VSLS(
        max_epochs=10,
        neighbors_of="all",
        class_weight={0: 1, 1: 0},
        stop_when_exhausted=True,
        random_state=0,
    )
    with pytest.warns(UserWarning, match="Class 1 gets 0 of the"):
        X_new, y_new = sampler.fit_resample(X, y)
    assert_array_equal(X_new, X)
    assert_array_equal(y_new, y)
    assert sampler.acceptance_scores_.shape == (0,)


def test_stop_when_exhausted_meets_counts_where_candidates_suffice():
    X, y = imbalanced()
    sampler = V2VSLS(
        max_epochs=20,
        k_neighbors=5,
        sampling_strategy={1: 40},
        stop_when_exhausted=True,
        random_state=0,
    )
    _, y_new = sampler.fit_resample(X, y)
    assert Counter(y_new.tolist()) == {0: 60, 1: 40, 2: 10}
    used = list(zip(sampler.parent_indices_, sampler.decoder_steps_, strict=True))
    assert len(set(used)) == 20


@pytest.mark.parametrize("size", [1, 2])
def test_class_of_one_or_two_rows(size):
    X, y = imbalanced()
    rows = np.sort(np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y)[:size]]))
    y = np.where(y == 0, 0, 1)[rows]
    with pytest.warns(
        UserWarning, match=f"Class 1 has {size} rows?, fewer than"
    ) as seen:
        X_new, y_new = clone(SAMPLER).fit_resample(X[rows], y)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert np.bincount(y_new).tolist() == [60, 60]
    assert np.isfinite(X_new).all()
    assert (X_new >= X[rows].min(axis=0)).all()
    assert (X_new <= X[rows].max(axis=0)).all()


@pytest.mark.parametrize("container", [np.array, pd.DataFrame, sparse.csr_array, list])
def test_nothing_to_do(container):
    X, y = separable()
    given = X.tolist() if container is list else container(X)
    sampler = clone(SAMPLER)
    X_new, y_new = sampler.fit_resample(given, y)
    assert type(X_new) is type(given)
    if container is list:
        assert X_new == given
    elif container is pd.DataFrame:
        assert_frame_equal(X_new, given)
    else:
        assert_array_equal(
            X_new.toarray() if sparse.issparse(X_new) else X_new,
            X,
        )
    assert_array_equal(y_new, y)
    assert sampler.parent_indices_.shape == sampler.decoder_steps_.shape == (0,)
    assert sum(sampler.sampling_strategy_.values()) == 0


def test_nothing_to_do_the_second_time():
    """What the call before learned does not pass for this one's."""
    X, y = imbalanced()
    sampler = clone(SAMPLER)
    sampler.fit_resample(X, y)
    assert sampler.n_iter_ == 2
    sampler.fit_resample(*separable())
    for name in ("net_", "n_iter_", "loss_curve_", "history_"):
        assert not hasattr(sampler, name), name


def test_the_sampler_continues_with_warm_start():
    X, y = imbalanced()
    sampler = clone(SAMPLER).set_params(warm_start=True)
    sampler.fit_resample(X, y)
    first = sampler.loss_curve_
    sampler.fit_resample(X, y)
    assert sampler.n_iter_ == 2 * len(first)
    # The second call begins where the first one ended, not at the start.
    assert sampler.loss_curve_[len(first)] < first[0]
    match = r"parameters: hidden_size \d+ then, 8 now\. .* warm_start=False"
    for wider in (sampler, pickle.loads(pickle.dumps(sampler))):
        wider.set_params(hidden_size=8)
        with pytest.raises(ValueError, match=match):
            wider.fit_resample(X, y)


def test_the_sampler_scales_unless_told_not_to():
    X, y = overlapping()
    scaled = clone(SAMPLER)
    raw = clone(SAMPLER).set_params(scaling=None)
    shift, scale = np.array([100.0]), np.array([8.0])
    moved = shift + scale * X
    expected, _ = scaled.fit_resample(X, y)
    new, _ = scaled.fit_resample(moved, y)
    assert_allclose(new, shift + scale * expected, rtol=1e-3)
    expected, _ = raw.fit_resample(X, y)
    new, _ = raw.fit_resample(moved, y)
    assert not np.allclose(new, shift + scale * expected, rtol=1e-3)


@pytest.mark.parametrize("classifier", [SEQ2SEQ, MEMNET], ids=["seq2seq", "memnet"])
def test_waves_of_neighbor_networks(classifier):
    """From 2,000 rows on, for up to 30 numbers; a network goes on as it began."""

    def waves(n_samples, n_features=4, **params):
        X = np.random.default_rng(0).normal(size=(n_samples, n_features))
        model = clone(classifier).set_params(max_epochs=1, **params)
        model.fit(X, np.arange(n_samples) % 2)
        first = model.net_.module_.extract[0]
        return model, getattr(first, "frequency", np.empty((1, 0))).shape

    assert waves(1999)[1] == (1, 0)
    assert waves(2000)[1] == (1, 4, 16)
    assert waves(2000, n_features=31)[1] == (1, 0)
    assert waves(50, n_frequencies=3)[1] == (1, 4, 3)
    assert waves(2000, n_frequencies=0)[1] == (1, 0)
    model, _ = waves(50, warm_start=True)
    X = np.random.default_rng(1).normal(size=(2000, 4))
    model.fit(X, np.arange(2000) % 2)
    assert not hasattr(model.net_.module_.extract[0], "frequency")


@each_classifier
@pytest.mark.parametrize("callback", [Checkpoint, TrainEndCheckpoint])
def test_weights_saved_by_skorch(classifier, callback, tmp_path):
    X, y = separable()
    only_if = {"monitor": None} if callback is Checkpoint else {}
    saving = callback(dirname=tmp_path, f_history=None, **only_if)
    model = clone(classifier).set_params(skorch_params={"callbacks": [saving]})
    weights = model.fit(X, y).net_.module_.state_dict()
    (file,) = tmp_path.glob("*params.pt")
    saved = torch.load(file, weights_only=True)
    assert weights.keys() == saved.keys()
    assert all("batches" not in record for record in model.history_)


@each_classifier
def test_single_precision_below_its_smallest_normal_number(classifier):
    """Prediction counts it for zero, so that training must not learn from it."""
    X, y = separable()
    tiny = (X * 1e-40).astype(np.float32)
    model = clone(classifier).fit(tiny, y)
    alike = model.predict_proba(np.zeros_like(tiny))
    assert_allclose(model.predict_proba(tiny), alike, atol=1e-6)
    assert_allclose(model.predict_proba(tiny.astype(float)), alike, atol=1e-6)


def test_votes_for_many_classes_take_no_room_of_their_own():
    X, _ = separable(n_samples=600)
    y = np.arange(600) // 2
    by_labels, by_vectors = (
        clone(SEQ2SEQ).set_params(output=output, neighbor_weight=0.0, max_epochs=1)
        for output in ("labels", "vectors")
    )
    sizes = [len(pickle.dumps(m.fit(X, y))) for m in (by_labels, by_vectors)]
    # A row of each class each would be 1.4 MB.
    assert sizes[1] < sizes[0] + 100_000
    assert by_vectors.predict_proba(X).shape == (600, 300)


def test_vectors_are_the_mean_over_the_memories():
    X, y = separable()
    X = X.astype(np.float32)
    model = clone(MEMNET).set_params(scaling=None, n_memories=3).fit(X, y)
    module, x = model.net_.module_, torch.from_numpy(X[:20])
    with torch.no_grad():
        found = [module(x, torch.from_numpy(m)).vectors for m in model._memories]
    assert len(found) == 3
    vectors = model.predict_neighbors(X[:20])[1]
    assert_allclose(vectors, torch.stack(found).mean(0), rtol=1e-4, atol=1e-5)


def test_all_rows_vote_where_fewer_differ_than_there_are_neighbours():
    X, _ = separable()
    X, y = np.repeat(X[:3], 10, axis=0), np.repeat([0, 1, 1], 10)
    model = clone(VECTORS).set_params(n_neighbors=5).fit(X, y)
    assert_allclose(model.predict_proba(X), [[1 / 3, 2 / 3]] * 30)


def test_few_rows_choose_the_temperature(monkeypatch):
    X, y = separable(300)
    n_rows, best = [], NeighborMemory.best_temperature

    def spy(self, x, *args):
        n_rows.append(len(x))
        return best(self, x, *args)

    monkeypatch.setattr(_base_neighbors, "MAX_TUNING", 100)
    monkeypatch.setattr(NeighborMemory, "best_temperature", spy)
    clone(SEQ2SEQ).fit(X, y)
    assert n_rows == [100]
