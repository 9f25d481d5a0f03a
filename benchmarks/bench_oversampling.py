"""How well classifiers do on what V2VSLS and other oversamplers make of their data.

On 46 published imbalanced sets of 177 rows and more (of at most 30,000 rows, a
stratified sample where there are more), binary and multi-class, with
categories and missing values: macro F1, balanced accuracy, G-mean, average precision
(of the minority class; of several classes the mean over one against the rest), Brier
score (half the squared distance to the truth, the usual one where there are two
classes) and seconds on one thread. Classes with fewer than 8 rows are dropped. Each
seed is a stratified 70/30 split; at most --max-train rows, a stratified sample, train.
Rows that a set holds more than once can be on both sides of a split.

Everybody has the library's defaults, and every classifier sees the same columns, those
of the training part before it is resampled: numbers imputed by the median and
standardised, which trees do not mind, categories imputed by the most frequent and
one-hot. Samplers that know no categories get just these. SMOTE is SMOTENC where there
are categories and numbers, which it gets standardised, and SMOTEN where there are
categories only. V2VSLS, where it takes categories, gets the numbers as they are: it
standardises inside. What SMOTENC, SMOTEN and V2VSLS make is encoded afterwards.
"class_weight" is class_weight="balanced", as the sample weights that it stands for, for
classifiers that take weights. A sampler that fails, or makes no rows, counts as none on
that split, and the CSV says why.

The defaults of V2VSLS were chosen on CHOSEN_ON, not on HELD_OUT. Some sets of HELD_OUT
hold rows of a set of CHOSEN_ON, with other classes (SHARE_ROWS), so the report also
shows HELD_OUT without them; the figure is of HELD_OUT. Where folders in --out hold
results of the same name, on other sets (--data-dir and --sets say which), the report
pools them with HELD_OUT as well, for the samplers that all have.

A row of the CSV is one set, seed, sampler and classifier. A rerun goes on where the
last one ended; to measure a sampler anew, delete its rows. Writes oversampling.csv and
oversampling.md to --out and the figure of critical differences to --figure. --ablations
adds V2VSLS without one of its parts each, and the paper's.

Usage: python benchmarks/bench_oversampling.py [--seeds 3] [--n-jobs 2] [--ablations]
       python benchmarks/bench_oversampling.py --report-only [--samplers SMOTE V2VSLS]
"""

import functools
import pathlib
import warnings

import numpy as np
import pandas as pd
from _common import (
    ROOT,
    complete,
    draw_critical_difference,
    load_set,
    make_parser,
    markdown,
    missing,
    pooled,
    read_rows,
    run_tasks,
    set_means,
    set_ranks,
    split,
    timed,
    versus,
)
from imblearn import FunctionSampler
from imblearn.metrics import geometric_mean_score
from imblearn.over_sampling import (
    ADASYN,
    SMOTE,
    SMOTEN,
    SMOTENC,
    SVMSMOTE,
    BorderlineSMOTE,
    KMeansSMOTE,
    RandomOverSampler,
)
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import has_fit_parameter
from xgboost import XGBClassifier

from sklearn_samn import V2VSLS

CHOSEN_ON = (
    "yeast_me2 abalone_7 oil_spill keel_vehicle1 keel_glass0 mammography wine_quality "
    "keel_ecoli3 satimage_4 pima_diabetes phoneme credit_default car_eval_34 glass "
    "yeast page_blocks"
).split()
HELD_OUT = (
    "us_crime seismic_bumps adult german_credit letter_img_z kddcup99_10pct_5class "
    "wine_quality_red keel_winequality_red_4 keel_winequality_red_8_vs_6_7 "
    "heart_cleveland_5class keel_cleveland_0_vs_4 keel_segment0 keel_vowel0 "
    "keel_kddcup_guess_passwd_vs_satan keel_kddcup_rootkit_imap_vs_back "
    "covertype_397k credit_approval ionosphere tic_tac_toe breast_cancer_wdbc spambase "
    "magic_gamma ecoli abalone car_evaluation abalone_19 keel_yeast6 keel_glass6 "
    "keel_page_blocks_1_3_vs_4 wine_quality_white"
).split()
SHARE_ROWS = (
    "ecoli abalone car_evaluation abalone_19 keel_yeast6 keel_glass6 "
    "keel_page_blocks_1_3_vs_4 wine_quality_white"
).split()
# Normal, denial of service and probe, the three classes of the paper.
CLASSES = {"kddcup99_10pct_5class": [0, 1, 2]}

MAX_ROWS = 30_000

METRICS = {
    "f1": "F1",
    "balanced_accuracy": "BA",
    "g_mean": "G-mean",
    "average_precision": "AP",
    "brier": "Brier",
    "sample_seconds": "sample s",
    "fit_seconds": "fit s",
}
RANKED = ("f1", "balanced_accuracy", "g_mean", "average_precision")
IN_FIGURE = ("f1", "balanced_accuracy", "g_mean")

# How many steps of make_columns come before a sampler.
IMPUTED, STANDARDIZED, ENCODED = 1, 2, 3


def make_smote(categorical, seed):
    if not categorical.any():
        return ENCODED, SMOTE(random_state=seed)
    if categorical.all():
        return IMPUTED, SMOTEN(random_state=seed)
    # A mask, which SMOTENC also takes, fails when it is an array.
    which = np.flatnonzero(categorical).tolist()
    return STANDARDIZED, SMOTENC(which, random_state=seed)


def make_v2vsls(categorical, seed, **parameters):
    sampler = V2VSLS(
        categorical_features=categorical, device="cpu", random_state=seed, **parameters
    )
    return IMPUTED, sampler


def numeric(make):
    return lambda categorical, seed: (ENCODED, make(random_state=seed))


def no_sampler(categorical, seed):
    return ENCODED, FunctionSampler()


# Name: function of the mask of categories and the seed to steps before and sampler.
SAMPLERS = {
    "none": no_sampler,
    "class_weight": no_sampler,
    "RandomOverSampler": numeric(RandomOverSampler),
    "SMOTE": make_smote,
    "BorderlineSMOTE": numeric(BorderlineSMOTE),
    "SVMSMOTE": numeric(SVMSMOTE),
    "KMeansSMOTE": numeric(KMeansSMOTE),
    "ADASYN": numeric(ADASYN),
    "V2VSLS": make_v2vsls,
}
ABLATIONS = {
    # A step of next to nothing: weights stay as drawn, batch norm sees the data.
    "no training": functools.partial(make_v2vsls, lr=1e-12, max_epochs=1),
    "no labels": functools.partial(make_v2vsls, certainty=0.0),
    "no rejection": functools.partial(make_v2vsls, rejection=0.0),
    "no residuals": functools.partial(make_v2vsls, residual_scale=0.0),
    "no ties": functools.partial(make_v2vsls, keep_ties=False),
    # The published version, from the Notes of V2VSLS' docstring.
    "paper": functools.partial(
        make_v2vsls,
        neighbors_of="all",
        residual_scale=0.0,
        rejection=0.0,
        keep_ties=False,
        stop_when_exhausted=True,
        class_weight=None,
        vector_reduction="sum",
        lr_schedule="constant",
        optimizer="adam",
        weight_decay=0.0,
        scaling="robust",
    ),
}
CLASSIFIERS = {
    "RandomForest": lambda seed: RandomForestClassifier(random_state=seed),
    "XGBoost": lambda seed: XGBClassifier(n_jobs=1, random_state=seed),
    "LightGBM": lambda seed: LGBMClassifier(n_jobs=1, verbose=-1, random_state=seed),
    "LogisticRegression": lambda seed: LogisticRegression(random_state=seed),
    "MLP": lambda seed: MLPClassifier(random_state=seed),
}


# Measuring --------------------------------------------------------------------------


def make_columns(categorical):
    """Three steps and a last one that does nothing, to be cut before any of them.

    After the first one categories come last.
    """
    last = np.sort(categorical)
    one_hot = OneHotEncoder(
        handle_unknown="ignore", sparse_output=False, dtype=np.float32
    )
    return make_pipeline(
        make_column_transformer(
            (SimpleImputer(strategy="median", keep_empty_features=True), ~categorical),
            (SimpleImputer(strategy="most_frequent"), categorical),
        ),
        make_column_transformer((StandardScaler(), ~last), ("passthrough", last)),
        make_column_transformer(("passthrough", ~last), (one_hot, last)),
        "passthrough",
    )


def attempt(sampler, X, y):
    """What the sampler makes of X and y and "", or X and y and why it failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            X_new, y_new = sampler.fit_resample(X, y)
        except (RuntimeError, ValueError) as error:
            return X, y, " ".join(str(error).split())[:60]
    return X_new, y_new, "" if len(y_new) > len(y) else "no rows made"


def resample(made, categorical, X_train, y_train, X_test):
    """Resampled X, y and X_test, encoded, the sampler's seconds and why it failed.

    ``made`` is a sampler as SAMPLERS makes them, with the steps that come before.
    """
    n_before, sampler = made
    columns = make_columns(categorical).fit(X_train)
    before, after = columns[:n_before], columns[n_before:]
    (X_new, y_new, failed), seconds = timed(
        attempt, sampler, before.transform(X_train), y_train
    )
    if isinstance(sampler, FunctionSampler):
        failed = ""
    return after.transform(X_new), y_new, columns.transform(X_test), seconds, failed


def scores(y, probability):
    predicted, truth = probability.argmax(1), np.eye(probability.shape[1])[y]
    binary, rare = probability.shape[1] == 2, np.bincount(y).argmin()
    return {
        "f1": f1_score(y, predicted, average="macro"),
        "balanced_accuracy": balanced_accuracy_score(y, predicted),
        "g_mean": geometric_mean_score(y, predicted),
        "average_precision": average_precision_score(y == rare, probability[:, rare])
        if binary
        else average_precision_score(truth, probability),
        "brier": ((probability - truth) ** 2).sum(1).mean() / 2,
    }


def measure(data_set, seed, sampler, *, data_dir, max_train):
    """The rows of the CSV, one a classifier, on the same resampled data."""
    X, y, categorical = load_set(
        data_dir,
        data_set,
        classes=CLASSES.get(data_set),
        max_rows=MAX_ROWS,
        seed=seed,
    )
    X_train, X_test, y_train, y_test = split(X, y, seed, max_train=max_train)
    made = {**SAMPLERS, **ABLATIONS}[sampler](np.sort(categorical), seed)
    X_new, y_new, X_test, sample_seconds, failed = resample(
        made, categorical, X_train, y_train, X_test
    )
    counts = np.bincount(y_train)
    rows = []
    for name, make_classifier in CLASSIFIERS.items():
        classifier, parameters = make_classifier(seed), {}
        if sampler == "class_weight":
            if not has_fit_parameter(classifier, "sample_weight"):
                continue
            parameters["sample_weight"] = compute_sample_weight("balanced", y_new)
        fit = functools.partial(classifier.fit, **parameters)
        _, fit_seconds = timed(fit, X_new, y_new)
        figures = {
            "classifier": name,
            "n_train": len(y_train),
            "n_classes": len(counts),
            "ratio": counts.max() / counts.min(),
            **scores(y_test, classifier.predict_proba(X_test)),
            "sample_seconds": sample_seconds,
            "fit_seconds": fit_seconds,
            "failed": failed,
        }
        rows.append(figures)
    return rows


# Report -----------------------------------------------------------------------------


def tables_of(frame):
    """For each metric a row a set and classifier, a column a sampler."""
    by = ("data_set", "classifier")
    return {name: set_means(frame, name, by).sort_index(axis=1) for name in METRICS}


def ranks_in_figure(tables):
    """Mean rank on each set over three metrics and the classifiers."""
    ranks = pd.concat([set_ranks(tables[metric], metric) for metric in IN_FIGURE])
    return ranks.groupby("data_set", sort=False).mean()


def means_and_ranks(frame):
    tables = tables_of(frame)
    columns = {
        title: tables[metric].mean().map("{:.4f}".format)
        for metric, title in METRICS.items()
    }
    for metric in RANKED:
        ranks = set_ranks(tables[metric], metric).mean()
        columns[METRICS[metric]] += ranks.map(" ({:.2f})".format)
    columns["rank of F1, BA, G"] = ranks_in_figure(tables).mean().map("{:.2f}".format)
    return markdown(pd.DataFrame(columns))


def against_each(frame):
    tables = tables_of(frame)
    columns = {}
    for metric in (*RANKED, "brier"):
        table = tables[metric].groupby("data_set", sort=False).mean()
        columns[METRICS[metric]] = versus(table, metric, "V2VSLS")
    return markdown(pd.DataFrame(columns))


def report_group(frame):
    parts = ["All classifiers:", means_and_ranks(frame)]
    if {"V2VSLS"} < set(frame["model"]):
        parts += [
            "V2VSLS against each: sets ahead:behind, p of Wilcoxon's signed ranks, "
            "means over the classifiers:",
            against_each(frame),
        ]
    for name, own in frame.groupby("classifier", sort=False):
        parts += [f"{name}:", means_and_ranks(own)]
    return parts


def failures(frame):
    """Splits on which a sampler failed, and what it said most often."""
    splits = frame.drop_duplicates(["data_set", "seed", "model"])
    lines = ["## Splits on which a sampler failed and counts as none"]
    for name, own in splits.groupby("model", sort=False, observed=True):
        failed = own["failed"].dropna()
        if len(failed):
            message = failed.mode()[0]
            where = ", ".join(own["data_set"][failed.index].unique())
            count = f"{len(failed)} of {len(own)}"
            lines.append(f'- {name}: {count}, such as "{message}" ({where})')
    return lines if len(lines) > 1 else [*lines, "None."]


def on_each_set(frame):
    """A table a metric, a row a set."""
    about = frame.groupby("data_set", sort=False)[["n_train", "n_classes", "ratio"]]
    about = about.mean().map("{:.4g}".format)
    parts = ["## Each set, means over the classifiers"]
    for metric in RANKED:
        table = tables_of(frame)[metric].groupby("data_set", sort=False).mean()
        table = about.join(table.map("{:.3f}".format))
        parts += [f"{METRICS[metric]}:", markdown(table)]
    return parts


def report(frame, ablations, fresh):
    """The whole report, as markdown; only sets that every sampler has run on."""
    groups = {
        "The sets the defaults were chosen on": CHOSEN_ON,
        "Held-out sets": HELD_OUT,
        "Held-out sets, less those that share rows with the first group": [
            name for name in HELD_OUT if name not in SHARE_ROWS
        ],
        "All sets": CHOSEN_ON + HELD_OUT,
        # Named by --sets.
        "Further sets": set(frame["data_set"]).difference(CHOSEN_ON, HELD_OUT),
    }
    seeds = frame["seed"].nunique()
    parts = [
        "# Oversamplers",
        f"Means over {seeds} stratified splits; in parentheses the mean rank of the "
        "samplers, 1 the best, within a set and a classifier.",
    ]
    for title, names in groups.items():
        own = frame[frame["data_set"].isin(names)]
        if len(own):
            parts.append(f"## {title} ({own['data_set'].nunique()})")
            parts += report_group(own)
    if len(fresh):
        count = fresh["data_set"].nunique()
        parts.append(f"## Held-out sets and those of the folders beside ({count})")
        parts += report_group(fresh)
    if set(ABLATIONS) & set(ablations["model"]):
        parts.append(f"## V2VSLS in parts ({ablations['data_set'].nunique()} sets)")
        parts += report_group(ablations)
    both = pd.concat([frame, ablations])
    return "\n\n".join([*parts, *failures(both), *on_each_set(frame)]) + "\n"


def main():
    parser = make_parser(__doc__, sets=CHOSEN_ON + HELD_OUT, seeds=3, max_train=3000)
    parser.add_argument("--samplers", nargs="+", choices=[*SAMPLERS, *ABLATIONS])
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    parser.add_argument("--ablations", action="store_true", help="V2VSLS in parts too")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument(
        "--figure",
        type=pathlib.Path,
        default=ROOT / "doc" / "images" / "oversampling_cd.png",
    )
    args = parser.parse_args()

    path = args.out / "oversampling.csv"
    if not args.report_only:
        samplers = args.samplers or [*SAMPLERS, *(ABLATIONS if args.ablations else ())]
        tasks = [
            {"data_set": name, "seed": seed, "sampler": sampler}
            for name in args.sets
            for seed in range(args.seeds)
            for sampler in samplers
        ]
        function = functools.partial(
            measure, data_dir=args.data_dir, max_train=args.max_train
        )
        tasks = missing(path, tasks, ("data_set", "seed", "sampler"))
        run_tasks(path, tasks, function, args.n_jobs)

    rows = [{"model": row["sampler"], **row} for row in read_rows(path)]
    chosen = args.samplers if args.report_only else None
    frame = complete(rows, chosen or [*SAMPLERS])
    if frame.empty:
        parser.exit(message="No set has been run with every sampler yet: no report.\n")
    text = report(
        frame,
        complete(rows, ["none", "V2VSLS", *ABLATIONS]),
        pooled(path, SAMPLERS, CHOSEN_ON),
    )
    print(text)
    (args.out / "oversampling.md").write_text(text)
    held_out = frame[frame["data_set"].isin(HELD_OUT)]
    if len(held_out):
        ranks = ranks_in_figure(tables_of(held_out))
        title = f"Mean rank of F1, BA and G-mean, {len(ranks)} held-out sets"
        draw_critical_difference(ranks, args.figure, title, ("V2VSLS",))
    print(f"Wrote {path}, {path.with_suffix('.md')} and {args.figure}.")


if __name__ == "__main__":
    main()
