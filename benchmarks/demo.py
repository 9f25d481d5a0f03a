"""The main job on the paper's credit-default data, in one table and one picture.

30,000 clients, 23 columns, who defaults next month? Split 80/20, stratified:

(a) the three classifiers beside k nearest neighbours, an MLP and XGBoost;
(b) random forest and XGBoost after no sampler, SMOTE, ADASYN and V2VSLS;
(c) a grid search over SAMNClassifier inside a Pipeline, two processes.

Every row is one fit with the seed of the command line, scored on the 20 % that no fit
has seen. Writes demo.csv and demo.png.

Usage: python benchmarks/demo.py [--rows 30000] [--seed 0] [--out .]
"""

import argparse
import csv
import pathlib
import time

import matplotlib.pyplot as plt
import numpy as np
from imblearn.over_sampling import ADASYN, SMOTE
from imblearn.pipeline import make_pipeline as make_imblearn_pipeline
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tqdm import tqdm
from xgboost import XGBClassifier

from sklearn_samn import (
    V2VSLS,
    KNNSeq2SeqClassifier,
    MemNetKNNClassifier,
    SAMNClassifier,
)
from sklearn_samn.datasets import load_credit_default

OURS = "#c8442b"
OTHERS = "#8a95a5"


def make_encoder(data):
    """One-hot the three categorical columns, standardise the others."""
    columns = np.isin(data.feature_names, data.categorical_features)
    return make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), columns),
        (StandardScaler(), ~columns),
    )


def make_contestants(encoder, seed):
    """{(part, name): unfitted estimator}, those of this package named in OUR_NAMES."""
    classifiers = {
        "KNeighborsClassifier": KNeighborsClassifier(),
        "MLPClassifier": MLPClassifier(early_stopping=True, random_state=seed),
        "XGBoost": XGBClassifier(random_state=seed),
        "SAMNClassifier": SAMNClassifier(random_state=seed),
        "KNNSeq2SeqClassifier": KNNSeq2SeqClassifier(random_state=seed),
        "MemNetKNNClassifier": MemNetKNNClassifier(random_state=seed),
    }
    contestants = {
        ("classifier", name): make_pipeline(encoder, classifier)
        for name, classifier in classifiers.items()
    }
    samplers = {
        "no sampler": "passthrough",
        "SMOTE": SMOTE(random_state=seed),
        "ADASYN": ADASYN(random_state=seed),
        "V2VSLS": V2VSLS(random_state=seed),
    }
    forests = {
        "RandomForest": RandomForestClassifier(n_jobs=2, random_state=seed),
        "XGBoost": XGBClassifier(random_state=seed),
    }
    for sampler_name, sampler in samplers.items():
        for name, classifier in forests.items():
            contestants["sampler", f"{sampler_name} + {name}"] = make_imblearn_pipeline(
                encoder, sampler, classifier
            )
    contestants["search", "GridSearchCV(SAMNClassifier)"] = GridSearchCV(
        make_pipeline(encoder, SAMNClassifier(max_epochs=8, random_state=seed)),
        {
            "samnclassifier__class_weight": [None, "balanced"],
            "samnclassifier__n_prototypes": [1, "samples"],
        },
        scoring="f1_macro",
        cv=2,
        n_jobs=2,
    )
    return contestants


def measure(estimator, X_train, X_test, y_train, y_test):
    """Scores on the test rows, and the seconds of the fit."""
    start = time.perf_counter()
    estimator.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    probability = estimator.predict_proba(X_test)[:, 1]
    predicted = estimator.predict(X_test)
    return {
        "macro_f1": f1_score(y_test, predicted, average="macro"),
        "balanced_accuracy": balanced_accuracy_score(y_test, predicted),
        "average_precision": average_precision_score(y_test, probability),
        "fit_seconds": seconds,
    }


def is_ours(name):
    return "V2VSLS" in name or any(
        cls.__name__ in name
        for cls in (SAMNClassifier, KNNSeq2SeqClassifier, MemNetKNNClassifier)
    )


def print_table(rows):
    print(
        f"\n{'':34}{'macro F1':>9}{'balanced':>10}{'average':>10}{'fit':>9}\n"
        f"{'':34}{'':>9}{'accuracy':>10}{'precision':>10}{'seconds':>9}"
    )
    part = None
    for row in rows:
        if row["part"] != part:
            part = row["part"]
            print(f"{part}")
        mark = "*" if is_ours(row["name"]) else " "
        print(
            f"{mark} {row['name']:32}{row['macro_f1']:9.3f}"
            f"{row['balanced_accuracy']:10.3f}{row['average_precision']:10.3f}"
            f"{row['fit_seconds']:9.1f}"
        )
    print("* sklearn_samn")


def draw(rows, path, n_test):
    """A dot a score, a row a contestant, a panel a metric; ours in colour."""
    metrics = {
        "macro_f1": "macro F1",
        "balanced_accuracy": "balanced accuracy",
        "average_precision": "average precision",
    }
    titles = {
        "classifier": "Classifiers",
        "sampler": "After a sampler",
        "search": "Grid search",
    }
    parts = list(titles)
    heights = [sum(row["part"] == part for row in rows) + 0.6 for part in parts]
    figure, axes = plt.subplots(
        len(parts),
        len(metrics),
        figsize=(10.5, 6.4),
        sharex="col",
        gridspec_kw={"height_ratios": heights, "hspace": 0.28, "wspace": 0.08},
    )
    for part, line in zip(parts, axes, strict=True):
        own = [row for row in rows if row["part"] == part][::-1]
        for metric, axis in zip(metrics, line, strict=True):
            best = max(row[metric] for row in own)
            for y, row in enumerate(own):
                color = OURS if is_ours(row["name"]) else OTHERS
                axis.plot(row[metric], y, "o", color=color, markersize=7)
                axis.annotate(
                    f"{row[metric]:.3f}",
                    (row[metric], y),
                    xytext=(8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=color,
                    fontweight="bold" if row[metric] == best else "normal",
                )
            axis.set_yticks(range(len(own)), [row["name"] for row in own])
            axis.set_ylim(-0.6, len(own) - 0.4)
            axis.tick_params(left=False, labelleft=metric == "macro_f1", labelsize=8.5)
            axis.grid(axis="y", color="#e6e9ee")
            axis.margins(x=0.3)
            axis.set_axisbelow(True)
            axis.spines[["top", "right", "left"]].set_visible(False)
        for label, row in zip(line[0].get_yticklabels(), own, strict=True):
            label.set_color(OURS if is_ours(row["name"]) else "#333333")
        line[0].set_title(titles[part], loc="left", fontsize=10, fontweight="bold")
    for axis, title in zip(axes[-1], metrics.values(), strict=True):
        axis.set_xlabel(title, fontsize=9.5)
    figure.suptitle(
        f"Credit default: scores on {n_test:,} held-out clients "
        "(bold: best of its group)",
        x=0.02,
        ha="left",
        fontsize=12,
    )
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()

    data = load_credit_default()
    X, y = data.data, data.target
    if args.rows < len(X):
        X, _, y, _ = train_test_split(
            X, y, train_size=args.rows, stratify=y, random_state=args.seed
        )
    split = train_test_split(X, y, test_size=0.2, stratify=y, random_state=args.seed)
    contestants = make_contestants(make_encoder(data), args.seed)
    rows = []
    with tqdm(contestants.items(), unit="fit") as bar:
        for (part, name), estimator in bar:
            bar.set_description(name)
            rows.append({"part": part, "name": name, **measure(estimator, *split)})
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "demo.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, args.out / "demo.png", len(split[1]))
    print_table(rows)
    best = contestants["search", "GridSearchCV(SAMNClassifier)"].best_params_
    print(f"The search chose {best}.")
    print(f"Wrote {args.out / 'demo.csv'} and {args.out / 'demo.png'}.")


if __name__ == "__main__":
    main()
