"""How well SAMNClassifier classifies beside the classifiers that people use.

On 38 published sets of 214 to 48,842 rows, binary and multi-class, with categories and
missing values: accuracy, macro F1, log loss (probabilities clipped at 1e-7), expected
calibration error (15 bins of the top probability), and the seconds of fit and predict
on one thread, without the preparation of the columns. Classes with fewer than 8 rows
are dropped. Each seed is a stratified 70/30 split; at most --max-train rows train.

Everybody has the library's defaults. Numbers are imputed and standardised, but left
alone for trees; categories are one-hot, but HistGradientBoostingClassifier, and
SAMNClassifier where it can, takes them as they are. SVC's probabilities are those of
CalibratedClassifierCV(SVC(), ensemble=False); its accuracy, F1 and seconds are of the
plain SVC. Beside SAMN as it comes: the paper's version, and the network without memory;
with --models "SAMN, first recipe" what its defaults began from, and with --models
KNNSeq2Seq MemNetKNN the neighbour networks.
--slow runs RealMLP and TabM of pytabkit (pip install "pytabkit[models]") instead, whose
rows are in classifiers_slow.csv.

The defaults of SAMNClassifier were chosen on CHOSEN_ON, not on HELD_OUT. Some sets of
HELD_OUT hold rows of a set of CHOSEN_ON in another form (SHARE_ROWS), so the report
also shows HELD_OUT without them. Where folders in --out hold results of the same name,
on other sets (--data-dir and --sets say which), they are pooled with HELD_OUT as well,
and so are the sets of all of them that RealMLP and TabM have run on.

A row of the CSV is one set, seed and model. A rerun goes on where the last one ended;
to measure a model anew, delete its rows. Writes classifiers.csv and classifiers.md to
--out and the figure of critical differences to --figure.

Usage: python benchmarks/bench_classifiers.py [--seeds 3] [--n-jobs 2] [--slow]
       python benchmarks/bench_classifiers.py --report-only [--models SAMN XGBoost ...]
"""

import functools
import pathlib

import numpy as np
import pandas as pd
from _common import (
    PAPER,
    ROOT,
    complete,
    count_wins,
    draw_critical_difference,
    label_scores,
    load_set,
    make_parser,
    make_realmlp,
    make_samn,
    markdown,
    missing,
    pooled,
    probability_scores,
    raw,
    read_rows,
    run_tasks,
    scaled,
    set_means,
    set_ranks,
    split,
    timed,
    unscaled,
    versus,
)
from lightgbm import LGBMClassifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from xgboost import XGBClassifier

from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier, SAMNClassifier

CHOSEN_ON = (
    "pima_diabetes vehicle segment phoneme satimage german_credit vowel ionosphere "
    "wine_quality_red waveform_5000 heart_statlog abalone_3class electricity adult "
    "car_evaluation magic_gamma glass yeast"
).split()
HELD_OUT = (
    "australian_credit banknote_authentication breast_cancer_wdbc covertype_kaggle15k "
    "credit_approval credit_default ecoli german_credit_numeric heart_cleveland letter "
    "page_blocks spambase tic_tac_toe wine_quality_white mammography us_crime "
    "seismic_bumps oil_spill satimage_4 keel_vehicle1"
).split()
SHARE_ROWS = "german_credit_numeric heart_cleveland satimage_4 keel_vehicle1".split()

OURS = ("SAMN", "SAMN, paper", "no memory")


class FirstRecipe(SAMNClassifier):
    """SAMN with a memory of samples as it was before its defaults were tuned.

    What the defaults must beat: no vote of neighbours, no blocks of attention, 40 to 25
    epochs; waves are always learned, the whole training part is read in prediction;
    all columns are scaled alike.
    """

    def _get_module_args(self, n_features, n_rows):
        return {**super()._get_module_args(n_features, n_rows), "learn_waves": True}

    def fit(self, X, y):
        large = np.clip(np.log(len(y) / 800) / np.log(5), 0, 1)
        batch_size = 2 ** int(np.log2(np.clip(len(y) / 8, 32, 128)))
        self.set_params(
            neighbor_weight=0.0,
            n_attention_blocks=0,
            memory_size=2048,
            support_size=None,
            scaling="quantile" if len(y) >= 2000 else "robust",
            label_smoothing=0.1,
            lr=3e-3 + 1e-3 * large,
            max_epochs=round(40 - 15 * large),
            batch_size=batch_size,
        )
        return super().fit(X, y)


class PlainVote(SAMNClassifier):
    """The columns of its vote count alike, for a share of 0.3."""

    def _make_filler(self, *args):
        filler = super()._make_filler(*args)
        filler.tune_columns = False
        return filler


def make_ours(estimator, categorical, seed, **params):
    return estimator(
        categorical_features=categorical, device="cpu", random_state=seed, **params
    )


def make_tabm(categorical, seed):
    from pytabkit import TabM_D_Classifier

    return TabM_D_Classifier(device="cpu", n_threads=1, random_state=seed)


NEIGHBOR_NETWORKS = {
    "KNNSeq2Seq": KNNSeq2SeqClassifier,
    "MemNetKNN": MemNetKNNClassifier,
}
# Name: (columns, unfitted classifier from the mask of categories and the seed).
MODELS = {
    "SVC": (scaled, lambda c, seed: SVC(random_state=seed)),
    "MLPClassifier": (scaled, lambda c, seed: MLPClassifier(random_state=seed)),
    "KNeighbors": (scaled, lambda c, seed: KNeighborsClassifier()),
    "RandomForest": (
        unscaled,
        lambda c, seed: RandomForestClassifier(random_state=seed),
    ),
    "HistGradientBoosting": (
        raw,
        lambda c, seed: HistGradientBoostingClassifier(
            categorical_features=c, random_state=seed
        ),
    ),
    "XGBoost": (
        unscaled,
        lambda c, seed: XGBClassifier(n_jobs=1, random_state=seed),
    ),
    "LightGBM": (
        unscaled,
        lambda c, seed: LGBMClassifier(n_jobs=1, verbose=-1, random_state=seed),
    ),
    "SAMN, paper": (raw, functools.partial(make_samn, **PAPER)),
    "no memory": (
        raw,
        functools.partial(make_samn, head="linear", n_attention_blocks=0),
    ),
    "SAMN": (raw, make_samn),
}
# Run with --models only.
VARIANTS = {
    "SAMN, first recipe": (raw, functools.partial(make_ours, FirstRecipe)),
    "SAMN, no vote": (raw, functools.partial(make_samn, neighbor_weight=0.0)),
    "SAMN, plain vote": (raw, functools.partial(make_ours, PlainVote)),
    "SAMN, no temperature": (raw, functools.partial(make_samn, temperature=1.0)),
    **{
        name + suffix: (raw, functools.partial(make_ours, network, **params))
        for name, network in NEIGHBOR_NETWORKS.items()
        for suffix, params in (("", {}), (", no vote", {"neighbor_weight": 0.0}))
    },
}
SLOW = {"RealMLP": (scaled, make_realmlp), "TabM": (scaled, make_tabm)}

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "ece": "calibration error",
    "fit_seconds": "fit s",
    "predict_seconds": "predict s",
}


def with_probabilities(model, X_train, y_train):
    """The fitted model itself, or a calibrated one where it has no probabilities."""
    if hasattr(model, "predict_proba"):
        return model
    return CalibratedClassifierCV(model, ensemble=False).fit(X_train, y_train)


def measure(data_set, seed, model, *, data_dir, max_rows, max_train):
    """One row of the CSV."""
    X, y, categorical = load_set(data_dir, data_set, max_rows=max_rows, seed=seed)
    *parts, y_train, y_test = split(X, y, seed, max_train=max_train)
    columns, make = {**MODELS, **SLOW, **VARIANTS}[model]
    X_train, X_test = columns(*parts, categorical)
    fitted, fit_seconds = timed(make(categorical, seed).fit, X_train, y_train)
    predicted, predict_seconds = timed(fitted.predict, X_test)
    probability = with_probabilities(fitted, X_train, y_train).predict_proba(X_test)
    return {
        "n_train": len(y_train),
        "n_features": X.shape[1],
        "n_classes": y.max() + 1,
        **label_scores(y_test, predicted),
        **probability_scores(y_test, probability),
        "fit_seconds": fit_seconds,
        "predict_seconds": predict_seconds,
    }


def report_group(frame):
    """Means, mean ranks with wins, and SAMN against each other, as markdown."""
    tables = {metric: set_means(frame, metric) for metric in METRICS}
    means = pd.DataFrame(
        {title: tables[metric].mean() for metric, title in METRICS.items()}
    ).map("{:.4f}".format)
    ranks = pd.DataFrame(
        {
            title: set_ranks(tables[metric], metric).mean().map("{:.2f}".format)
            + count_wins(tables[metric], metric).map(" ({})".format)
            for metric, title in METRICS.items()
        }
    )
    parts = [
        "Mean over the sets:",
        markdown(means),
        "Mean rank (sets on which it is best or shares the best place):",
        markdown(ranks),
    ]
    if "SAMN" in means.index:
        against = pd.DataFrame(
            {
                title: versus(tables[metric], metric, "SAMN")
                for metric, title in METRICS.items()
            }
        )
        parts += [
            "SAMN against each: sets ahead:behind, p of Wilcoxon's signed ranks:",
            markdown(against),
        ]
    return parts


def report(frame, fresh, slow):
    """The whole report, as markdown; only sets that every model has run on."""
    accuracy = set_means(frame, "accuracy")
    groups = {
        "The sets the defaults were chosen on": CHOSEN_ON,
        "Held-out sets": HELD_OUT,
        "Held-out sets, less those that share rows with the first group": [
            name for name in HELD_OUT if name not in SHARE_ROWS
        ],
        "All sets": CHOSEN_ON + HELD_OUT,
        # Named by --sets.
        "Further sets": accuracy.index.difference(CHOSEN_ON + HELD_OUT),
    }
    seeds = frame["seed"].nunique()
    parts = ["# Classifiers, one thread each", f"Means over {seeds} stratified splits."]
    for title, names in groups.items():
        own = frame[frame["data_set"].isin(accuracy.index.intersection(names))]
        if len(own):
            parts.append(f"## {title} ({own['data_set'].nunique()})")
            parts += report_group(own)
    title = "Held-out sets and those of the folders beside"
    for more, own in (("", fresh), (", with RealMLP and TabM", slow)):
        if len(own):
            parts.append(f"## {title}{more} ({own['data_set'].nunique()})")
            parts += report_group(own)
    parts += ["## Accuracy on each set", markdown(accuracy.map("{:.3f}".format))]
    return "\n\n".join(parts) + "\n"


def main():
    parser = make_parser(__doc__, sets=CHOSEN_ON + HELD_OUT, seeds=3)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--models", nargs="+", choices=[*MODELS, *VARIANTS])
    which.add_argument("--slow", action="store_true", help="RealMLP and TabM alone")
    parser.add_argument("--max-rows-per-set", type=int, metavar="ROWS")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument(
        "--figure",
        type=pathlib.Path,
        default=ROOT / "doc" / "images" / "classifiers_cd.png",
    )
    args = parser.parse_args()

    path = args.out / "classifiers.csv"
    slow_path = args.out / "classifiers_slow.csv"
    if not args.report_only:
        models = SLOW if args.slow else args.models or MODELS
        tasks = [
            {"data_set": name, "seed": seed, "model": model}
            for name in args.sets
            for seed in range(args.seeds)
            for model in models
        ]
        function = functools.partial(
            measure,
            data_dir=args.data_dir,
            max_rows=args.max_rows_per_set,
            max_train=args.max_train,
        )
        rows_path = slow_path if args.slow else path
        tasks = missing(rows_path, tasks, ("data_set", "seed", "model"))
        run_tasks(rows_path, tasks, function, args.n_jobs)

    # With --models, one that has not run on every set costs the others none.
    chosen = args.models if args.report_only else None
    names = chosen or [*MODELS]
    frame = complete(read_rows(path), names)
    if frame.empty:
        parser.exit(message="No set has been run with every model yet: no report.\n")
    fresh, slow = pooled(path, names, CHOSEN_ON), pooled(slow_path, SLOW, CHOSEN_ON)
    if len(slow):
        slow = complete(pd.concat([fresh, slow]), [*names, *SLOW])
    text = report(frame, fresh, slow)
    print(text)
    (args.out / "classifiers.md").write_text(text)
    draw_critical_difference(
        set_ranks(set_means(frame, "accuracy"), "accuracy"),
        args.figure,
        f"Mean rank of accuracy, {frame['data_set'].nunique()} sets",
        OURS,
    )
    print(f"Wrote {path}, {path.with_suffix('.md')} and {args.figure}.")


if __name__ == "__main__":
    main()
