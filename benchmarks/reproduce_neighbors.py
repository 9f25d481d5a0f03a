"""The experiments of arXiv 1804.11214: the neighbour networks beside kNN and trees.

Table 2: macro F1 of the five networks, V2LS, V2VS, V2VSLS (KNNSeq2SeqClassifier), MNkNN
and MNkNN_VEC (MemNetKNNClassifier), with their defaults, beside

- the paper's benchmarks: kNN (K = 5), FFN (four layers of MLPClassifier with early
  stopping), MemN2N (MNkNN, trained on labels and read at the last hop only)
- RandomForest, HistGradientBoosting, XGBoost and LightGBM with their defaults
- V2VS with scaling="robust", which is better for its vote
- "V2VSLS, wide" with twice the units, which many rows of little noise pay for, and
  "V2VSLS, short" with 8 epochs for 20, which noise pays for; "V2VSLS, voted", of which
  the 20 nearest training rows vote as well, as they do by default where there are fewer
  rows; "V2VSLS, chosen": the default or one of these, whichever has the best corrected
  F1 on the validation rows, as the paper chooses parameters; its seconds are those of
  all four
- with --paper the published version of each network, from the Notes of its docstring
- "cross-entropy alone": the same network with each row as its own K neighbours, which
  leaves cross-entropy, of each step and of their mean, and says what real neighbours
  bring. V2VSLS without its vectors (lam = 0) is V2LS, and MNkNN_VEC is MNkNN, so this
  is the ablation of both. (A large alpha would leave the mean alone, of which a memory
  network learns badly: its hops drift apart.)

Table 3: the same networks, and kNN, with neighbours from 50 random subsets of 64 rows
(Algorithm 1, "out of core"). Seconds of the neighbour search and of the training apart;
networks that want the same exact neighbours of a split share one search. V2VS still
votes among all training rows.
Figure 1: F1 against K (--k) on the first of --sets. Figures 2, 3: the tables as bars.

80 % train, 10 % validate, 10 % test, stratified. Each model also has a corrected F1,
from the same fit: its class is the argmax of probability / prior^e, where the prior is
that of the training rows and e the best of 0, 0.25, 0.5, 0.75 and 1 on the validation
rows. This does what class weights do in training, and it helps every model alike.
Nothing else is chosen: defaults, and early stopping splits off rows of its own.

CCD is credit_default; COV covertype_397k, of whose classes the three large ones are
kept, as in the paper; NI the classes normal, dos and probe of kddcup99_10pct_5class,
the 10 percent file, in which most rows are there more than once, so also on both sides
of a split; SensIT is run where there is a sensit.npz. All columns are given as numbers,
standardised for kNN and FFN, raw for the others. One thread a model.

A row of the CSV is one set, seed, model and K. A rerun goes on where the last one
ended. Writes reproduce_neighbors.csv and .md to --out, neighbors_models.png,
neighbors_out_of_core.png and neighbors_k.png to --images.

Usage: python benchmarks/reproduce_neighbors.py [--seeds 5] [--n-jobs 2] [--paper]
       python benchmarks/reproduce_neighbors.py --sets credit_default --k 3 5 7 10
       python benchmarks/reproduce_neighbors.py --models V2LS kNN --max-train 60000
       python benchmarks/reproduce_neighbors.py --report-only
"""

import functools
import os
import pathlib
import tempfile
import time

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _common import (
    ROOT,
    load_set,
    make_parser,
    markdown,
    missing,
    read_rows,
    run_tasks,
    split,
    timed,
)
from lightgbm import LGBMClassifier
from scipy.stats import ttest_rel
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier
from sklearn_samn._neighbors import nearest_in_subsets
from sklearn_samn.modules import NeighborSequenceLoss

# File: its name in the paper, and the classes that are kept.
SETS = {
    "credit_default": ("CCD", None),
    "kddcup99_10pct_5class": ("NI", [0, 1, 2]),
    "covertype_397k": ("COV", [0, 1, 2]),
    "sensit": ("SensIT", None),
}
K = 5
EXPONENTS = (0, 0.25, 0.5, 0.75, 1)
SUBSETS = {"n_subsets": 50, "subset_size": 64}

BENCHMARKS = "kNN FFN MemN2N RandomForest HistGradientBoosting XGBoost LightGBM".split()
OURS = "V2LS V2VS V2VSLS MNkNN MNkNN_VEC".split()
OUT_OF_CORE = ", out of core"
CROSS_ENTROPY = ", cross-entropy alone"
PUBLISHED = ", paper"

# The paper's numbers: Table 2 and, for SensIT, Table 3.
IN_PAPER = {
    "kNN": {"NI": 90.54, "COV": 91.15, "SensIT": 82.56, "CCD": 63.81},
    "FFN": {"NI": 88.53, "COV": 91.83, "SensIT": 83.67, "CCD": 65.37},
    "MemN2N": {"NI": 79.36, "COV": 77.98, "SensIT": 75.17, "CCD": 61.83},
    "V2LS": {"NI": 91.28, "COV": 93.94, "SensIT": 84.93, "CCD": 68.38},
    "V2VS": {"NI": 86.18, "COV": 90.39, "SensIT": 74.84, "CCD": 64.23},
    "V2VSLS": {"NI": 92.07, "COV": 94.97, "SensIT": 86.24, "CCD": 69.87},
    "MNkNN": {"NI": 83.83, "COV": 80.12, "SensIT": 79.58, "CCD": 67.26},
    "MNkNN_VEC": {"NI": 84.59, "COV": 83.94, "SensIT": 83.41, "CCD": 68.82},
    "kNN, out of core": {"SensIT": 61.40},
    "V2LS, out of core": {"SensIT": 82.47},
    "V2VS, out of core": {"SensIT": 69.12},
    "V2VSLS, out of core": {"SensIT": 83.38},
    "MNkNN, out of core": {"SensIT": 78.80},
    "MNkNN_VEC, out of core": {"SensIT": 82.32},
}

# What the paper claims: the first is ahead of the second by more than so many points.
CLAIMS = [
    ("V2VSLS is ahead of V2LS", "V2VSLS", "V2LS", 0),
    ("MNkNN_VEC is ahead of MNkNN", "MNkNN_VEC", "MNkNN", 0),
    *((f"V2VSLS is ahead of {b}", "V2VSLS", b, 0) for b in BENCHMARKS[:3]),
    *(
        (f"{name} out of core is within 3 points", name + OUT_OF_CORE, name, -3)
        for name in OURS
        if name != "V2VS"
    ),
    *(
        (f"{name} is ahead of kNN, both out of core", name + OUT_OF_CORE, other, 0)
        for name in ("V2VSLS", "MNkNN_VEC")
        for other in ["kNN" + OUT_OF_CORE]
    ),
]
ABLATIONS = [
    ("neighbours' labels, V2LS", "V2LS", "V2LS" + CROSS_ENTROPY, 0),
    ("labels and vectors, V2VSLS", "V2VSLS", "V2LS" + CROSS_ENTROPY, 0),
    ("neighbours' labels, MNkNN", "MNkNN", "MNkNN" + CROSS_ENTROPY, 0),
    ("labels and vectors, MNkNN_VEC", "MNkNN_VEC", "MNkNN" + CROSS_ENTROPY, 0),
]
METRICS = {"f1": "F1", "f1_corrected": "corrected F1"}


# Models -----------------------------------------------------------------------------


class Clocked:
    """Takes the seconds of the neighbour search in fit; an exact one is kept on disk.

    ``neighbor_seconds_`` are those of the search, ``spent_seconds_`` those in this fit.
    """

    cache = None

    def _neighbor_indices(self, Z, search, rng):
        start = time.perf_counter()
        kept = pathlib.Path(self.cache) / f"{joblib.hash(Z)}-{self.n_neighbors}"
        if self.neighbors == "exact" and kept.exists():
            found, self.neighbor_seconds_ = joblib.load(kept)
        else:
            find = super()._neighbor_indices
            found, self.neighbor_seconds_ = timed(find, Z, search, rng)
            if self.neighbors == "exact":
                # Renamed, so that no other process reads half a file.
                joblib.dump((found, self.neighbor_seconds_), f"{kept}.{os.getpid()}")
                os.replace(f"{kept}.{os.getpid()}", kept)
        self.spent_seconds_ = time.perf_counter() - start
        return found


class Seq2Seq(Clocked, KNNSeq2SeqClassifier):
    pass


class MemNet(Clocked, MemNetKNNClassifier):
    pass


class NoNeighbors:
    """Each row is its own K neighbours: there is nothing to learn but its label."""

    def _neighbor_indices(self, Z, search, rng):
        return np.arange(len(Z))[:, None].repeat(self.n_neighbors, axis=1)


class PlainSeq2Seq(NoNeighbors, KNNSeq2SeqClassifier):
    pass


class PlainMemNet(NoNeighbors, MemNetKNNClassifier):
    pass


class LastHopLoss(NeighborSequenceLoss):
    def forward(self, output, target):
        last = output._replace(log_probs=output.log_probs[:, -1:])
        return super().forward(last, {**target, "labels": target["labels"][:, -1:]})


class MemN2N(PlainMemNet):
    """Memory network that says a label after its last hop."""

    def _make_criterion(self):
        return LastHopLoss()

    def _probabilities(self, x):
        return self._neighbor_sequence(x)[0][:, -1]


class SubsetKNN:
    """A vote of the K nearest rows among random subsets of the training rows."""

    def __init__(self, seed, n_neighbors):
        self.seed, self.n_neighbors = seed, n_neighbors

    def fit(self, X, y):
        self.scaler_ = StandardScaler().fit(X)
        self.rows_, self.one_hot_ = self.scaler_.transform(X), np.eye(y.max() + 1)[y]
        return self

    def predict_proba(self, X):
        rng = np.random.default_rng(self.seed)
        nowhere = np.full(len(X), -1)
        X = self.scaler_.transform(X)
        nearest = nearest_in_subsets(
            self.rows_, X, nowhere, self.n_neighbors, **SUBSETS, rng=rng
        )
        return self.one_hot_[nearest].mean(1)


def make_knn(seed, k):
    return make_pipeline(StandardScaler(), KNeighborsClassifier(k))


def make_ffn(seed, k):
    layers = MLPClassifier((128, 128, 128), early_stopping=True, random_state=seed)
    return make_pipeline(StandardScaler(), layers)


NETWORKS = {
    "V2LS": (Seq2Seq, {"output": "labels"}),
    # Its vote is by distances, which say less among ranks.
    "V2VS": (Seq2Seq, {"output": "vectors", "scaling": "robust"}),
    "V2VSLS": (Seq2Seq, {"output": "both"}),
    "MNkNN": (MemNet, {"predict_vectors": False}),
    "MNkNN_VEC": (MemNet, {"predict_vectors": True}),
    "V2LS" + CROSS_ENTROPY: (PlainSeq2Seq, {"output": "labels"}),
    "MNkNN" + CROSS_ENTROPY: (PlainMemNet, {"predict_vectors": False}),
    "MemN2N": (MemN2N, {"predict_vectors": False}),
}
# For many rows of little noise, and for few or noisy ones.
WIDE = {"hidden_layer_sizes": (256,), "hidden_size": 128, "dropout": 0.1}
SHORT = {"max_epochs": 8}
VOTED = {"neighbor_weight": 0.4}
# From the Notes of the docstrings.
PAPER_SETTING = {
    "hidden_layer_sizes": (),
    "n_frequencies": 0,
    "neighbor_weight": 0.0,
    "vector_reduction": "sum",
    "lr_schedule": "constant",
    "optimizer": "adam",
    "weight_decay": 0.0,
    "scaling": "robust",
}


def make_network(seed, k, *, name, paper=False, **changes):
    network_class, parameters = NETWORKS[name]
    if paper:
        changes = {**PAPER_SETTING, **changes}
        if issubclass(network_class, MemNetKNNClassifier):
            changes.update(n_memories=1, max_grad_norm=None)
    parameters = {**parameters, **changes}
    return network_class(n_neighbors=k, device="cpu", random_state=seed, **parameters)


def network(name, **changes):
    return functools.partial(make_network, name=name, **changes)


# Name: unfitted model from the seed and K. K is for those in WITH_K.
MODELS = {
    "kNN": make_knn,
    "FFN": make_ffn,
    "MemN2N": network("MemN2N"),
    "RandomForest": lambda seed, k: RandomForestClassifier(random_state=seed),
    "HistGradientBoosting": lambda seed, k: HistGradientBoostingClassifier(
        random_state=seed
    ),
    "XGBoost": lambda seed, k: XGBClassifier(n_jobs=1, random_state=seed),
    "LightGBM": lambda seed, k: LGBMClassifier(n_jobs=1, verbose=-1, random_state=seed),
    **{name: network(name) for name in OURS},
    "V2VSLS, wide": network("V2VSLS", **WIDE),
    "V2VSLS, short": network("V2VSLS", **SHORT),
    "V2VSLS, voted": network("V2VSLS", **VOTED),
    "kNN" + OUT_OF_CORE: SubsetKNN,
    **{
        name + OUT_OF_CORE: network(name, neighbors="subsets", **SUBSETS)
        for name in OURS
    },
    **{n + CROSS_ENTROPY: network(n + CROSS_ENTROPY) for n in ("V2LS", "MNkNN")},
}
CANDIDATES = {
    "V2VSLS, chosen": ("V2VSLS", "V2VSLS, wide", "V2VSLS, short", "V2VSLS, voted")
}
PAPER_MODELS = {name + PUBLISHED: network(name, paper=True) for name in OURS}
WITH_K = ["kNN", *OURS]


# Measuring --------------------------------------------------------------------------


def macro_f1(y, predicted):
    return f1_score(y, predicted, average="macro")


def best_exponent(y, probability, prior):
    """The best macro F1, and the exponent of the prior; the least of equal ones."""
    scores = [macro_f1(y, (probability / prior**e).argmax(1)) for e in EXPONENTS]
    return max(scores), EXPONENTS[int(np.argmax(scores))]


def measure(data_set, seed, model, k, *, data_dir, max_train, cache):
    """One row of the CSV."""
    X, y, _ = load_set(data_dir, data_set, classes=SETS[data_set][1])
    X_train, X_rest, y_train, y_rest = split(
        X, y, seed, test_size=0.2, max_train=max_train
    )
    X_valid, X_test, y_valid, y_test = split(X_rest, y_rest, seed, test_size=0.5)
    Clocked.cache = cache
    prior = np.bincount(y_train) / len(y_train)
    fits = []
    for name in CANDIDATES.get(model, [model]):
        candidate = {**MODELS, **PAPER_MODELS}[name](seed, k)
        _, seconds = timed(candidate.fit, X_train, y_train)
        seconds -= getattr(candidate, "spent_seconds_", 0)
        probability = candidate.predict_proba(X_valid)
        fits.append((*best_exponent(y_valid, probability, prior), candidate, seconds))
    _, exponent, fitted, _ = max(fits, key=lambda fit: fit[0])
    probability, predict_seconds = timed(fitted.predict_proba, X_test)
    predicted = probability.argmax(1)
    return {
        "n_train": len(y_train),
        "f1": macro_f1(y_test, predicted),
        "f1_corrected": macro_f1(y_test, (probability / prior**exponent).argmax(1)),
        "exponent": exponent,
        "accuracy": accuracy_score(y_test, predicted),
        "neighbor_seconds": getattr(fitted, "neighbor_seconds_", None),
        "train_seconds": sum(fit[-1] for fit in fits),
        "predict_seconds": predict_seconds,
    }


def make_tasks(args, models):
    """Each set, seed and model with K = 5; other K on the first set only."""
    return [
        {"data_set": name, "seed": seed, "model": model, "k": k}
        for position, name in enumerate(args.sets)
        for seed in range(args.seeds)
        for model in models
        for k in (sorted({K, *args.k}) if position == 0 and model in WITH_K else [K])
    ]


# Report -----------------------------------------------------------------------------


def title_of(data_set):
    return SETS[data_set][0]


def mean_and_deviation(values):
    deviation = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation}"


def compare(frame, metric, ours, other):
    """Mean lead of ours in points over the seeds both have, and p of a paired t-test.

    None where there is no such seed; p is NaN where one seed, or none that differs.
    """
    table = frame.pivot(index="seed", columns="model", values=metric)
    if not {ours, other} <= set(table):
        return None
    pair = table[[ours, other]].dropna()
    if pair.empty:
        return None
    lead = pair[ours] - pair[other]
    p = ttest_rel(*pair.T.to_numpy()).pvalue if lead.std() > 0 else np.nan
    return lead.mean(), p


def format_lead(lead, p):
    return f"{lead:+.2f}" + ("" if np.isnan(p) else f" (p={p:.2g})")


def score_table(frame, models):
    """A row a model: F1 without and with the correction, and the paper's."""
    title = title_of(frame["data_set"].iloc[0])
    rows = {}
    for model in models:
        own = frame[frame["model"] == model]
        if own.empty:
            continue
        seconds = own[["neighbor_seconds", "train_seconds", "predict_seconds"]].mean()
        rows[model] = {
            "F1": mean_and_deviation(own["f1"]),
            "F1, corrected": mean_and_deviation(own["f1_corrected"]),
            "exponent": f"{own['exponent'].mean():.2f}",
            "accuracy": f"{100 * own['accuracy'].mean():.2f}",
            "the paper's F1": IN_PAPER.get(model.removesuffix(PUBLISHED), {}).get(
                title, ""
            ),
            "neighbours s": ""
            if np.isnan(seconds.iloc[0])
            else f"{seconds.iloc[0]:.1f}",
            "training s": f"{seconds.iloc[1]:.1f}",
            "predict s": f"{seconds.iloc[2]:.1f}",
            "seeds": len(own),
        }
    return markdown(pd.DataFrame(rows).T.astype(str))


def out_of_core_table(frame):
    """Table 3: full against out of core."""
    means = frame.groupby("model")[
        ["f1", "f1_corrected", "neighbor_seconds", "train_seconds", "predict_seconds"]
    ].mean()

    def seconds(model):
        row = means.loc[model]
        if model.startswith("kNN"):
            return f"{row['predict_seconds']:.1f}"
        return f"{row['neighbor_seconds']:.1f} + {row['train_seconds']:.1f}"

    rows = {
        name: {
            **{
                f"{title}, {metric}": f"{means.loc[model, column]:.2f}"
                for title, model in (("full", name), ("out", name + OUT_OF_CORE))
                for metric, column in (("F1", "f1"), ("corrected", "f1_corrected"))
            },
            "full, s": seconds(name),
            "out, s": seconds(name + OUT_OF_CORE),
        }
        for name in ("kNN", *OURS)
        if {name, name + OUT_OF_CORE} <= set(means.index)
    }
    return markdown(pd.DataFrame(rows).T)


def test_table(frame, metric):
    """Our networks against each benchmark."""
    cells = {
        benchmark: {
            name: format_lead(*found)
            for name in OURS
            if (found := compare(frame, metric, name, benchmark))
        }
        for benchmark in BENCHMARKS
    }
    table = pd.DataFrame(cells).reindex([n for n in OURS if n in set(frame["model"])])
    return markdown(table.dropna(axis=1, how="all").fillna(""))


def claim_table(frame, claims, *, verdict):
    rows = {}
    for text, ours, other, margin in claims:
        cells = {}
        for metric, title in METRICS.items():
            if found := compare(frame, metric, ours, other):
                cells[f"points of {title}"] = format_lead(*found)
                if verdict:
                    holds = "holds" if found[0] > margin else "does not hold"
                    cells[f"by {title}"] = holds
        if cells:
            rows[text] = cells
    return markdown(pd.DataFrame(rows).T)


def report(frame):
    """The whole report, as markdown."""
    parts = [
        "# The neighbour networks' paper",
        "Macro F1, in points: mean ± standard deviation over the seeds. Corrected: the "
        "argmax of probability / prior^exponent, the exponent chosen on the validation "
        "rows.",
    ]
    for data_set, own in frame[frame["k"] == K].groupby("data_set", sort=False):
        rows, seeds = int(own["n_train"].max()), own["seed"].nunique()
        parts += [
            f"## {title_of(data_set)} ({data_set}, {rows:,} training rows, "
            f"seeds: {seeds})",
            score_table(own, [*MODELS, *CANDIDATES, *PAPER_MODELS]),
        ]
        if own["model"].str.endswith(OUT_OF_CORE).any():
            parts += [
                "Full against out of core; seconds of the neighbour search + of the "
                "training, of prediction for kNN:",
                out_of_core_table(own),
            ]
        if set(OURS) & set(own["model"]) and set(BENCHMARKS) & set(own["model"]):
            for metric, title in METRICS.items():
                parts += [
                    f"Ahead of the benchmarks, {title}: points, p of a paired t-test:",
                    test_table(own, metric),
                ]
        for text, claims, verdict in (
            ("The paper's orderings:", CLAIMS, True),
            ("What the neighbour terms bring over cross-entropy:", ABLATIONS, False),
        ):
            if any(compare(own, "f1", ours, other) for _, ours, other, _ in claims):
                parts += [text, claim_table(own, claims, verdict=verdict)]
    return "\n\n".join(parts) + "\n"


# Figures ----------------------------------------------------------------------------

GREY, LIGHT, BLUE, RED, BLACK = "#8a95a5", "#c9d3df", "#2f6db3", "#c8442b", "#222222"
LINES = dict(
    zip(
        WITH_K,
        (BLACK, "#8fb8de", "#7a9a52", BLUE, "#e3a08f", RED),
        strict=True,
    )
)


def panels(frame, height):
    """A figure with an axis a data set, and pairs of axis and rows of the set."""
    groups = list(frame.groupby("data_set", sort=False))
    width = 1.2 + 3.6 * len(groups)
    figure, axes = plt.subplots(1, len(groups), figsize=(width, height), squeeze=False)
    for axis, (data_set, _) in zip(axes[0], groups, strict=True):
        axis.set_title(title_of(data_set), loc="left", fontsize=11)
        axis.set_xlabel("macro F1 (axis does not start at 0)", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.set_axisbelow(True)
        axis.grid(axis="x", color="#e6e9ee", linewidth=0.8)
    return figure, [(axis, own) for axis, (_, own) in zip(axes[0], groups, strict=True)]


def save(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def bars(axis, places, table, color, label=None, height=0.7):
    axis.barh(
        places,
        table["mean"],
        height,
        xerr=table["std"].fillna(0),
        color=color,
        label=label,
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": BLACK},
    )


def summary(frame, metric, models):
    """Mean and deviation of each of the models that have been run."""
    table = frame.groupby("model")[metric].agg(["mean", "std"])
    return table.loc[[name for name in models if name in table.index]]


def ends(table):
    """Both ends of each error bar."""
    deviation = table["std"].fillna(0)
    return [*(table["mean"] - deviation), *(table["mean"] + deviation)]


def limit(axis, values):
    """An axis that shows the differences: from a bit below the lowest value."""
    low, high = np.nanmin(values), np.nanmax(values)
    room = max(high - low, 1)
    axis.set_xlim(max(low - 0.3 * room, 0), high + 0.05 * room)


def draw_models(frame, path):
    """Figure 2: bars with deviations; ours are coloured."""
    figure, pairs = panels(frame, 4.2)
    for axis, own in pairs:
        table = summary(own, "f1", [*BENCHMARKS, *OURS])
        corrected = summary(own, "f1_corrected", table.index)["mean"]
        title = title_of(own["data_set"].iloc[0])
        paper = [IN_PAPER.get(name, {}).get(title, np.nan) for name in table.index]
        places = np.arange(len(table))[::-1]
        colors = [BLUE if name in OURS else LIGHT for name in table.index]
        bars(axis, places, table, colors)
        axis.plot(corrected, places, "D", color=RED, markersize=5, label="corrected")
        axis.plot(
            paper,
            places,
            "|",
            color=BLACK,
            markersize=13,
            mew=1.8,
            label="the paper's",
        )
        for place, value in zip(places, table["mean"], strict=True):
            axis.annotate(
                f"{value:.1f}",
                (0, place),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color="white" if colors[len(table) - 1 - place] == BLUE else BLACK,
            )
        axis.set_yticks(places, table.index)
        limit(axis, [*ends(table), *corrected, *paper])
    handles, labels = pairs[0][0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    save(figure, path)


def draw_out_of_core(frame, path):
    """Figure 3: full beside out of core."""
    full = ["kNN", *OURS]
    frame = frame[frame["model"].isin([*full, *(n + OUT_OF_CORE for n in full)])]
    ran = frame["model"].str.endswith(OUT_OF_CORE).groupby(frame["data_set"])
    frame = frame[ran.transform("any")]
    if frame.empty:
        return
    figure, pairs = panels(frame, 3.6)
    for axis, own in pairs:
        values = []
        for shift, suffix, color, label in (
            (0.19, "", BLUE, "all training rows"),
            (-0.19, OUT_OF_CORE, "#e3a08f", "50 subsets of 64 rows"),
        ):
            table = summary(own, "f1", [name + suffix for name in full])
            names = table.index.str.removesuffix(OUT_OF_CORE)
            places = np.array([len(full) - 1 - full.index(name) for name in names])
            bars(axis, places + shift, table, color, label, height=0.36)
            values += ends(table)
        axis.set_yticks(np.arange(len(full))[::-1], full)
        limit(axis, values)
    handles, labels = pairs[0][0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    save(figure, path)


def draw_k(frame, path):
    """Figure 1: F1 against K, a line a model, on the first set with several K."""
    frame = frame[frame["model"].isin(WITH_K)]
    counts = frame.groupby("data_set", sort=False)["k"].nunique()
    if not (counts > 1).any():
        return
    data_set = counts.index[counts > 1][0]
    frame = frame[frame["data_set"] == data_set]
    # A mean over other splits than its neighbour's would bend the line.
    every_k = frame.groupby("seed")["k"].nunique() == frame["k"].nunique()
    frame = frame[frame["seed"].isin(every_k.index[every_k])]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for name, own in frame.groupby("model", sort=False):
            table = own.groupby("k")[metric].agg(["mean", "std"]).fillna(0)
            low, high = table["mean"] - table["std"], table["mean"] + table["std"]
            color = LINES[name]
            axis.fill_between(table.index, low, high, color=color, alpha=0.12, lw=0)
            axis.plot(
                table["mean"], marker="o", markersize=4, color=LINES[name], label=name
            )
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("K")
        axis.set_xticks(sorted(frame["k"].unique()))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e6e9ee", linewidth=0.8)
    axes[0].set_ylabel(f"macro F1, {title_of(data_set)}")
    axes[1].legend(
        fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    figure.tight_layout()
    save(figure, path)


def main():
    parser = make_parser(__doc__, sets=None, seeds=5, max_train=None)
    parser.add_argument("--max-train", type=int, metavar="ROWS", help="default: all")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=[*MODELS, *CANDIDATES, *PAPER_MODELS],
        metavar="MODEL",
    )
    parser.add_argument(
        "--k", nargs="+", type=int, default=[], help="for the figure of F1 against K"
    )
    parser.add_argument("--paper", action="store_true", help="published versions too")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--images", type=pathlib.Path, default=ROOT / "doc" / "images")
    args = parser.parse_args()
    args.sets = args.sets or [
        name for name in SETS if (args.data_dir / f"{name}.npz").exists()
    ]

    path = args.out / "reproduce_neighbors.csv"
    if not args.report_only:
        models = args.models or [
            *MODELS,
            *CANDIDATES,
            *(PAPER_MODELS if args.paper else ()),
        ]
        tasks = make_tasks(args, models)
        tasks = missing(path, tasks, ("data_set", "seed", "model", "k"))
        with tempfile.TemporaryDirectory() as cache:
            function = functools.partial(
                measure, data_dir=args.data_dir, max_train=args.max_train, cache=cache
            )
            run_tasks(path, tasks, function, args.n_jobs)

    frame = pd.DataFrame(read_rows(path))
    frame[[*METRICS]] *= 100
    text = report(frame)
    print(text)
    (args.out / "reproduce_neighbors.md").write_text(text)
    draw_models(frame[frame["k"] == K], args.images / "neighbors_models.png")
    draw_out_of_core(frame[frame["k"] == K], args.images / "neighbors_out_of_core.png")
    draw_k(frame, args.images / "neighbors_k.png")
    print(f"Wrote {path}, {path.with_suffix('.md')} and the figures in {args.images}.")


if __name__ == "__main__":
    main()
