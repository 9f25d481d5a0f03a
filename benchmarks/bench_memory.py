"""How much memory and how many attention blocks SAMNClassifier needs.

Accuracy and log loss on six sets against the rows that prediction attends to
(``support_size``; beside it as many at random, and as many as "auto" keeps, all rows
voting), the rows that may vote (``pool_size``), the rows attended to in training
(``memory_size``) and the attention blocks (``n_attention_blocks``), each alone, the
others at their defaults.
Stratified 70/30 splits. Sets of many and of few classes, all of more rows than the
default memory holds, so that every value matters.

A rerun goes on where the last one ended. Writes memory.csv to --out and the figure to
--figure.

Usage: python benchmarks/bench_memory.py [--seeds 2] [--n-jobs 2]
"""

import functools
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _common import (
    ROOT,
    label_scores,
    load_set,
    make_parser,
    make_samn,
    missing,
    probability_scores,
    read_rows,
    run_tasks,
    split,
    timed,
)

from sklearn_samn import SAMNClassifier

SETS = "phoneme satimage letter magic_gamma electricity wine_quality_white".split()
AT_RANDOM, AUTO = "support_size, at random", "support_size, auto"
VALUES = {
    "support_size": (32, 128, 512, 2048, 8192),
    AT_RANDOM: (32, 128, 512, 2048, 8192),
    AUTO: (0,),
    "pool_size": (32, 128, 512, 2048, 8192),
    "memory_size": (128, 512, 1024, 2048, 4096),
    "n_attention_blocks": (0, 1, 2, 3, 4),
}
TITLES = {
    "support_size": "rows that prediction attends to",
    "pool_size": "rows that may vote",
    "memory_size": "rows attended to in training",
    "n_attention_blocks": "attention blocks",
}


class RandomSupport(SAMNClassifier):
    """Keeps rows for prediction whatever they matter."""

    def _make_filler(self, *args):
        filler = super()._make_filler(*args)
        influence = filler.influence

        def equal(rows):
            rows, moves, classes = influence(rows)
            return rows, np.ones(len(moves)), classes

        filler.influence = equal
        return filler


def make(categorical, seed, parameter, value):
    if parameter not in (AT_RANDOM, AUTO, "support_size"):
        return make_samn(categorical, seed, **{parameter: value})
    # All rows vote, so that the support alone differs.
    size = "auto" if parameter == AUTO else value
    model = make_samn(categorical, seed, support_size=size, pool_size=None)
    if parameter == AT_RANDOM:
        return RandomSupport(**model.get_params(deep=False))
    return model


def measure(data_set, seed, parameter, value, *, data_dir, max_train):
    """Scores and seconds of one fit with one parameter changed."""
    X, y, categorical = load_set(data_dir, data_set)
    parts = split(X, y, seed, max_train=max_train)
    X_train, X_test, y_train, y_test = parts
    model = make(categorical, seed, parameter, value)
    _, seconds = timed(model.fit, X_train, y_train)
    _, predict_seconds = timed(model.predict, X_test)
    probability = model.predict_proba(X_test)
    return {
        "n_train": len(y_train),
        "n_support": len(model.support_),
        **label_scores(y_test, probability.argmax(1)),
        **probability_scores(y_test, probability),
        "fit_seconds": seconds,
        "predict_seconds": predict_seconds,
    }


def draw(frame, path):
    """Accuracy less that of the largest value or the default, a line a set."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 6.6), sharey=True)
    for axis, (parameter, title) in zip(axes.flat, TITLES.items(), strict=True):
        values = VALUES[parameter]
        # Against the best that the panel can do, to see what a smaller value costs.
        reference = max(values) if "size" in parameter else 0
        base = accuracies(frame, parameter).loc[reference]
        draw_gaps(axis, accuracies(frame, parameter) - base)
        if parameter == "support_size":
            axis.set_prop_cycle(None)
            at_random = accuracies(frame, AT_RANDOM) - base
            draw_gaps(axis, at_random, linestyle=":", alpha=0.7)
            axis.set_prop_cycle(None)
            draw_auto(axis, frame, base)
            dotted = axis.plot([], [], "k:", alpha=0.7)
            star = axis.plot([], [], "k*")
            names = ["as many at random", 'as many as "auto" keeps']
            axis.legend(dotted + star, names, fontsize=7, frameon=False)
        axis.axhline(0, color="#8a95a5", linewidth=0.8)
        axis.set_xlabel(title)
        if "size" in parameter:
            axis.set_xscale("log", base=2)
            axis.set_xticks(values, labels=[str(value) for value in values])
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, points")
    axes[0, 0].set_ylim(bottom=max(axes[0, 0].get_ylim()[0], -12))
    axes[1, 1].legend(fontsize=7, frameon=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def accuracies(frame, parameter):
    """Percent, a row a value, a column a set."""
    part = frame[frame["parameter"] == parameter]
    return 100 * part.pivot_table(index="value", columns="data_set", values="accuracy")


def draw_gaps(axis, gaps, **style):
    for name in gaps:
        axis.plot(gaps[name], marker="o", markersize=3, label=name, **style)


def draw_auto(axis, frame, base):
    sizes = frame[frame["parameter"] == AUTO].groupby("data_set")["n_support"].mean()
    gaps = accuracies(frame, AUTO).loc[0] - base
    for name in gaps.index:
        axis.plot(sizes[name], gaps[name], "*", markersize=9)


def main():
    parser = make_parser(__doc__, sets=SETS, seeds=2, max_train=15_000)
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    figure = ROOT / "doc" / "images" / "samn_memory.png"
    parser.add_argument("--figure", type=pathlib.Path, default=figure)
    args = parser.parse_args()
    path = args.out / "memory.csv"
    tasks = [
        {"data_set": name, "seed": seed, "parameter": parameter, "value": value}
        for name in args.sets
        for seed in range(args.seeds)
        for parameter, values in VALUES.items()
        for value in values
    ]
    function = functools.partial(
        measure, data_dir=args.data_dir, max_train=args.max_train
    )
    tasks = missing(path, tasks, ("data_set", "seed", "parameter", "value"))
    run_tasks(path, tasks, function, args.n_jobs)
    frame = pd.DataFrame(read_rows(path))
    columns = ["n_support", "accuracy", "macro_f1", "log_loss", "fit_seconds"]
    columns += ["predict_seconds"]
    print(frame.groupby(["parameter", "value"])[columns].mean().round(3).to_string())
    draw(frame, args.figure)


if __name__ == "__main__":
    main()
