"""The experiment of the SAMN paper: SAMN beside a single SVM and a single network.

Ten binary and six multi-class sets, accuracy and macro F1, means over the seeds, each a
stratified 70/30 split; classes with fewer than 8 rows are dropped.

- SVC, tuned: C and gamma from a grid, 3 folds, on at most 3,000 of the training rows
- network: the paper's layers and training without attention, memory and prototypes, its
  two hidden layers as wide as gives it about as many parameters as the paper's SAMN
- network + SVM head: the same with the squared hinge of an SVM as its loss
- SAMN, paper: the published version, and what it is without its parts, or with more
  blocks
- SAMN: SAMNClassifier as it comes

Numbers are standardised and categories one-hot, but the last takes categories as they
are where it can.

With --runtime also the seconds of fit against the rows, on covertype (classes 0, 1, 2),
one after the other on one thread.

A row of the CSV is one set, seed and model. A rerun goes on where the last one ended.
Writes reproduce_samn.csv, reproduce_samn_runtime.csv and reproduce_samn.md to --out.

Usage: python benchmarks/reproduce_samn.py [--seeds 5] [--n-jobs 2] [--runtime]
"""

import functools

import numpy as np
import pandas as pd
from _common import (
    PAPER,
    append_row,
    label_scores,
    load_set,
    make_parser,
    make_samn,
    markdown,
    missing,
    one_thread,
    raw,
    read_rows,
    run_tasks,
    scaled,
    set_means,
    set_ranks,
    split,
    subsample,
    timed,
    versus,
    warm_up,
)
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from tqdm import tqdm

from sklearn_samn.modules import SAMN

BINARY = (
    "pima_diabetes ionosphere german_credit australian_credit heart_statlog "
    "breast_cancer_wdbc spambase phoneme banknote_authentication magic_gamma"
).split()
MULTI_CLASS = "vehicle segment vowel letter satimage waveform_5000".split()

GRID = {"C": [0.1, 1, 10, 100, 1000], "gamma": ["scale", 0.001, 0.01, 0.1, 1]}
MAX_SEARCH = 3_000
RUNTIME_ROWS = [1_000, 3_000, 10_000, 30_000]


class TunedSVC:
    """SVC with the C and gamma that are best on some of the training rows."""

    def __init__(self, seed):
        self.seed = seed

    def fit(self, X, y):
        search = GridSearchCV(SVC(), GRID, cv=3, refit=False)
        search.fit(*subsample(X, y, MAX_SEARCH, self.seed))
        self.svc_ = SVC(**search.best_params_).fit(X, y)
        return self

    def predict(self, X):
        return self.svc_.predict(X)


def equal_width(n_features, n_classes):
    """Width of two hidden layers with about as many parameters as the paper's SAMN."""
    paper = SAMN(n_features, n_classes, hidden_layer_sizes=PAPER["hidden_layer_sizes"])
    target = sum(p.numel() for p in paper.parameters()) - n_classes
    # width² + (n_features + n_classes + 2) width = target
    half = (n_features + n_classes + 2) / 2
    return round(np.sqrt(half**2 + target) - half)


class Network:
    """The paper's network without sample attention, as wide as makes it comparable."""

    def __init__(self, categorical, seed, **parameters):
        self.seed, self.parameters = seed, parameters

    def fit(self, X, y):
        width = equal_width(X.shape[1], y.max() + 1)
        setting = {
            **PAPER,
            "head": "linear",
            "n_attention_blocks": 0,
            "hidden_layer_sizes": (width, width),
            **self.parameters,
        }
        self.samn_ = make_samn(None, self.seed, **setting).fit(X, y)
        return self

    def predict(self, X):
        return self.samn_.predict(X)


def paper(**changes):
    """(columns, maker) of the published version with some parameters changed."""
    setting = {**PAPER, **changes}
    return scaled, lambda categorical, seed: make_samn(None, seed, **setting)


# Name: (columns, unfitted classifier from the mask of categories and the seed).
MODELS = {
    "SVC, tuned": (scaled, lambda c, seed: TunedSVC(seed)),
    "network": (scaled, Network),
    "network + SVM head": (
        scaled,
        functools.partial(Network, loss="squared_hinge"),
    ),
    "SAMN, paper": paper(),
    "SAMN": (raw, make_samn),
    "paper, no memory": paper(memory_gate=1.0),
    "paper, no attention": paper(n_attention_blocks=0),
    "paper, no distance terms": paper(inter_weight=0.0, inner_weight=0.0),
    "paper, 2 blocks": paper(n_attention_blocks=2),
    "paper, 3 blocks": paper(n_attention_blocks=3),
}
RUNTIME_MODELS = {
    "SVC": (scaled, lambda c, seed: SVC(random_state=seed)),
    "MLPClassifier": (scaled, lambda c, seed: MLPClassifier(random_state=seed)),
    "SAMN, paper": MODELS["SAMN, paper"],
    "SAMN": MODELS["SAMN"],
}
METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}


def measure(data_set, seed, model, *, data_dir, max_train):
    """One row of the CSV."""
    X, y, categorical = load_set(data_dir, data_set)
    *parts, y_train, y_test = split(X, y, seed, max_train=max_train)
    columns, make = MODELS[model]
    X_train, X_test = columns(*parts, categorical)
    fitted, fit_seconds = timed(make(categorical, seed).fit, X_train, y_train)
    return {
        "n_train": len(y_train),
        **label_scores(y_test, fitted.predict(X_test)),
        "fit_seconds": fit_seconds,
    }


def run_runtime(data_dir, path):
    tasks = [{"n_train": n, "model": m} for n in RUNTIME_ROWS for m in RUNTIME_MODELS]
    with one_thread():
        warm_up()
        for task in tqdm(missing(path, tasks, ("n_train", "model")), unit="fit"):
            X, y, categorical = load_set(
                data_dir, "covertype_397k", classes=[0, 1, 2], max_rows=task["n_train"]
            )
            columns, make = RUNTIME_MODELS[task["model"]]
            X, _ = columns(X, X[:1], categorical)
            _, seconds = timed(make(categorical, 0).fit, X, y)
            append_row(path, {**task, "fit_seconds": seconds})


def count_ahead(table, name):
    """How often a model is ahead of the SVC, of the network, and of both at once."""
    svc = table[name] > table["SVC, tuned"]
    network = table[name] > table["network"]
    return (
        f"of the SVC on {svc.sum()}, of the network on {network.sum()}, "
        f"of both on {(svc & network).sum()}"
    )


def answers(table, title):
    """How many of the binary and of the multi-class sets ours are ahead on."""
    lines = []
    for kind, names in (("binary", BINARY), ("multi-class", MULTI_CLASS)):
        own = table.loc[table.index.intersection(names)]
        if len(own):
            lines += [
                f"- {title}, {len(own)} {kind} sets, {name} is ahead "
                f"{count_ahead(own, name)}"
                for name in ("SAMN, paper", "SAMN")
            ]
    return "\n".join(lines)


def report(frame, runtime):
    """The whole report, as markdown; only sets that every model has run on."""
    parts = [
        "# The paper's experiment",
        f"Means over {frame['seed'].nunique()} splits.",
    ]
    for metric, title in METRICS.items():
        table = set_means(frame, metric)[list(MODELS)]
        ranks = set_ranks(table, metric).mean().rename("mean rank")
        summary = pd.DataFrame([table.mean().rename("mean"), ranks])
        cells = pd.concat([table, summary]).T.map("{:.3f}".format)
        against = {
            ours: versus(table, metric, ours) for ours in ("SAMN, paper", "SAMN")
        }
        parts += [
            f"## {title}",
            markdown(cells),
            answers(table, title),
            "Sets ahead:behind, p of Wilcoxon's signed ranks:",
            markdown(pd.DataFrame(against, index=list(MODELS)).fillna("")),
        ]
    if runtime:
        table = pd.DataFrame(runtime).pivot(
            index="n_train", columns="model", values="fit_seconds"
        )
        table = table[list(RUNTIME_MODELS)].map("{:.2f}".format)
        parts += ["## Seconds of fit, covertype, one thread", markdown(table)]
    return "\n\n".join(parts) + "\n"


def main():
    parser = make_parser(__doc__, sets=BINARY + MULTI_CLASS, seeds=5)
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    parser.add_argument("--runtime", action="store_true", help="seconds against rows")
    args = parser.parse_args()

    path = args.out / "reproduce_samn.csv"
    runtime_path = args.out / "reproduce_samn_runtime.csv"
    tasks = [
        {"data_set": name, "seed": seed, "model": model}
        for name in args.sets
        for seed in range(args.seeds)
        for model in MODELS
    ]
    tasks = missing(path, tasks, ("data_set", "seed", "model"))
    function = functools.partial(
        measure, data_dir=args.data_dir, max_train=args.max_train
    )
    run_tasks(path, tasks, function, args.n_jobs)
    if args.runtime:
        run_runtime(args.data_dir, runtime_path)
    text = report(pd.DataFrame(read_rows(path)), read_rows(runtime_path))
    print(text)
    (args.out / "reproduce_samn.md").write_text(text)
    print(f"Wrote {path} and {path.with_suffix('.md')}.")


if __name__ == "__main__":
    main()
