"""What the comparison scripts share: data, columns, measures, statistics, resuming.

The data sets are ``.npz`` files with X (float, NaN for a missing value), y (codes 0 to
C - 1) and categorical (a bool a column; such columns hold category codes).
"""

import argparse
import csv
import functools
import pathlib
import re
import time
import warnings
from contextlib import contextmanager

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata, studentized_range, wilcoxon
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from sklearn_samn import SAMNClassifier

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA_DIR = ROOT.parent / "shared" / "data"

# The published version, from the Notes of SAMNClassifier's docstring.
PAPER = {
    "n_prototypes": 1,
    "head": "distance",
    "kernel": "linear",
    "hidden_layer_sizes": (128,),
    "activation": "relu",
    "dropout": 0.0,
    "batch_norm": False,
    "memory_gate": "learned",
    "label_smoothing": 0.0,
    "max_epochs": 30,
    "lr_schedule": "constant",
    "lr": 1e-3,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "scaling": "robust",
}

MIN_CLASS_ROWS = 8
LOWER_IS_BETTER = {
    "log_loss",
    "ece",
    "brier",
    "fit_seconds",
    "predict_seconds",
    "sample_seconds",
}


# Data -------------------------------------------------------------------------------


def subsample(X, y, n_rows, seed):
    """At most n_rows rows, stratified; None for all."""
    if n_rows is None or n_rows >= len(y):
        return X, y
    # Rows of a class too rare to be stratified are as good as gone anyway.
    X, y = drop_rare_classes(X, y)
    if n_rows >= len(y):
        return X, y
    X, _, y, _ = train_test_split(
        X, y, train_size=n_rows, stratify=y, random_state=seed
    )
    return X, y


def drop_rare_classes(X, y):
    """Rows of the classes with MIN_CLASS_ROWS rows or more, recoded to 0, 1, ..."""
    keep = np.isin(y, np.flatnonzero(np.bincount(y) >= MIN_CLASS_ROWS))
    return X[keep], np.unique(y[keep], return_inverse=True)[1]


def load_set(data_dir, name, *, classes=None, max_rows=None, seed=0):
    """X, y and the mask of categorical columns; of some classes, of some rows."""
    with np.load(pathlib.Path(data_dir) / f"{name}.npz", allow_pickle=False) as data:
        X, y, categorical = data["X"], data["y"], data["categorical"]
    if classes is not None:
        chosen = np.isin(y, classes)
        X, y = X[chosen], y[chosen]
    X, y = subsample(X, y, max_rows, seed)
    return *drop_rare_classes(X, y), categorical


def split(X, y, seed, *, test_size=0.3, max_train=None):
    """X_train, X_test, y_train, y_test; stratified."""
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=test_size, stratify=y, random_state=seed
    )
    X_train, y_train = subsample(X_train, y_train, max_train, seed)
    return X_train, X_test, y_train, y_test


def as_codes(frame):
    """X and the mask of categorical columns, of which X has codes, of any frame."""
    categorical = np.array([not pd.api.types.is_numeric_dtype(d) for d in frame.dtypes])
    X = np.empty(frame.shape)
    for position, is_code in enumerate(categorical):
        column = frame.iloc[:, position]
        X[:, position] = pd.factorize(column, sort=True)[0] if is_code else column
    # factorize says -1 for a missing level.
    X[:, categorical] = np.where(X[:, categorical] < 0, np.nan, X[:, categorical])
    return {"X": X, "categorical": categorical}


def write_sets(doc, names, make):
    """Write what ``make(name)`` returns for each name to the folder of the command."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    for name in names:
        np.savez_compressed(folder / f"{name}.npz", **make(name))
    print(f"Wrote {len(names)} sets to {folder}.")


# Columns ----------------------------------------------------------------------------


def _one_hot():
    return make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32),
    )


def encode(X_train, X_test, categorical, numeric):
    """Both parts, categories one-hot, the other columns through ``numeric``."""
    encoder = make_column_transformer(
        (numeric, ~categorical), (_one_hot(), categorical)
    )
    return encoder.fit_transform(X_train), encoder.transform(X_test)


def scaled(X_train, X_test, categorical):
    """For distances and gradients: numbers imputed and standardised."""
    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    return encode(X_train, X_test, categorical, numeric)


def unscaled(X_train, X_test, categorical):
    """For trees, which need no scaling and take NaN in a number as it is."""
    return encode(X_train, X_test, categorical, "passthrough")


def raw(X_train, X_test, categorical):
    """For classifiers that are told which columns are categories."""
    return X_train, X_test


def make_samn(categorical, seed, **parameters):
    """An unfitted SAMNClassifier for raw columns.

    ``categorical`` is the mask of categorical columns, None where all are numbers.
    """
    if categorical is not None:
        parameters["categorical_features"] = categorical
    return SAMNClassifier(**{"device": "cpu", "random_state": seed, **parameters})


def make_realmlp(categorical, seed):
    """The default of pytabkit, an extra of the benchmarks."""
    from pytabkit import RealMLP_TD_S_Classifier

    return RealMLP_TD_S_Classifier(device="cpu", n_threads=1, random_state=seed)


# Measures ---------------------------------------------------------------------------


@contextmanager
def one_thread():
    """One thread for BLAS, OpenMP and torch; no warnings that fits do not converge."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # LightGBM names the columns of arrays itself and then misses the names.
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def warm_up():
    """The first fit of a process, which loads parts of torch, is not for the clock."""
    # As many rows as the tuning of the vote takes.
    X, y = np.random.default_rng(0).normal(size=(1000, 2)), [0, 1] * 500
    make_samn(None, 0, max_epochs=1).fit(X, y).predict(X)


def timed(function, *args):
    """What the function returns, and its seconds."""
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start


def resident_mib(field):
    """VmRSS, the resident memory now, or VmHWM, its peak since it was last reset.

    Not getrusage's ru_maxrss: that also counts the process this one was forked from.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024


def reset_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def exponent(n, figures):
    """The slope of a line through the logarithms."""
    return np.polyfit(np.log(n), np.log(figures), 1)[0]


def clip_probabilities(probability):
    """At least 1e-7 each, and the sum of a row is one again."""
    probability = np.clip(np.asarray(probability, dtype=np.float64), 1e-7, 1)
    return probability / probability.sum(1, keepdims=True)


def calibration_error(y, probability, n_bins=15):
    """Expected calibration error of the top class, over bins of equal width."""
    top = probability.max(1)
    hit = probability.argmax(1) == y
    bins = np.minimum((top * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=hit - top, minlength=n_bins)
    return np.abs(gaps).sum() / len(y)


def label_scores(y, predicted):
    return {
        "accuracy": accuracy_score(y, predicted),
        "macro_f1": f1_score(y, predicted, average="macro"),
    }


def probability_scores(y, probability):
    probability = clip_probabilities(probability)
    labels = np.arange(probability.shape[1])
    return {
        "log_loss": log_loss(y, probability, labels=labels),
        "ece": calibration_error(y, probability),
    }


# Running ----------------------------------------------------------------------------


def make_parser(doc, *, sets, seeds, max_train=30_000):
    """The options that the scripts share; no --max-train where that is None."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data-dir", type=pathlib.Path, default=DATA_DIR)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--sets", nargs="+", default=sets, metavar="SET")
    parser.add_argument("--seeds", type=int, default=seeds, help="how many")
    if max_train is not None:
        parser.add_argument("--max-train", type=int, default=max_train, metavar="ROWS")
    return parser


def read_rows(path):
    """The rows of a CSV, none where there is no file yet."""
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def append_row(path, row):
    """One more row of a CSV; the header is written with the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def missing(path, tasks, keys):
    """The tasks, dicts, whose values of ``keys`` no row of the CSV has yet."""
    done = {tuple(row[key] for key in keys) for row in read_rows(path)}
    return [task for task in tasks if tuple(task[key] for key in keys) not in done]


def _run_task(function, task):
    with one_thread():
        warm_up()
        figures = function(**task)
    rows = figures if isinstance(figures, list) else [figures]
    return [{**task, **row} for row in rows]


def run_tasks(path, tasks, function, n_jobs):
    """Append the rows of each task as it is done, so that a rerun goes on from there.

    The function returns the figures of one row, a dict, or a list of such.
    """
    if not tasks:
        return
    jobs = (joblib.delayed(_run_task)(function, task) for task in tasks)
    pool = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    for rows in tqdm(pool(jobs), total=len(tasks), unit="task"):
        for row in rows:
            append_row(path, row)


# Statistics -------------------------------------------------------------------------


def complete(rows, names):
    """Rows of the sets and seeds that every model of names in them has run on.

    The models are in the order of names.
    """
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame = frame[frame["model"].isin(names)].copy()
    order = [name for name in names if name in set(frame["model"])]
    frame["model"] = pd.Categorical(frame["model"], order)
    counts = frame.groupby(["data_set", "seed"])["model"].transform("nunique")
    return frame[counts == len(order)]


def pooled(path, names, left_out):
    """Complete rows of a CSV and of those of its name in the folders beside it.

    Of the sets that are not left out, and of the models among names that every file
    has. No rows where there are no such folders.
    """
    files = sorted(path.parent.glob(f"*/{path.name}"))
    if not files:
        return pd.DataFrame()
    tables = []
    for file in (path, *files):
        table = pd.read_csv(file).rename(columns={"sampler": "model"})
        table = table[~table["data_set"].isin(left_out)]
        name = f"{file.parent.name}/" + table["data_set"]
        tables.append(table.assign(data_set=name))
    everywhere = set.intersection(*(set(table["model"]) for table in tables))
    return complete(pd.concat(tables), [n for n in names if n in everywhere])


def set_means(frame, metric, by=("data_set",)):
    """Means over the seeds, a row a set, a column a model; complete sets only."""
    means = frame.groupby([*by, "model"], sort=False, observed=True)[metric]
    return means.mean().unstack().dropna().round(9)


def set_ranks(table, metric):
    """Ranks of the models on each set, 1 the best, ties shared."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    ranks = rankdata(sign * table.to_numpy(), axis=1)
    return pd.DataFrame(ranks, index=table.index, columns=table.columns)


def count_wins(table, metric):
    """Sets on which a model is best or shares the best place."""
    best = table.T.agg("min" if metric in LOWER_IS_BETTER else "max")
    return table.eq(best, axis=0).sum()


def versus(table, metric, ours):
    """Per other model: sets ours is ahead and behind on, and Wilcoxon's p."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    cells = {}
    for name in table.columns.drop(ours):
        lead = (sign * (table[ours] - table[name])).round(9)
        p = wilcoxon(lead).pvalue if lead.any() else 1.0
        cells[name] = f"{(lead > 0).sum()}:{(lead < 0).sum()} p={p:.2g}"
    return pd.Series(cells)


def critical_difference(n_models, n_sets, alpha=0.05):
    """Nemenyi's least difference of mean ranks that counts."""
    q = studentized_range.ppf(1 - alpha, n_models, np.inf) / np.sqrt(2)
    return q * np.sqrt(n_models * (n_models + 1) / (6 * n_sets))


def groups_that_do_not_differ(ranks, difference):
    """(first, last) positions in sorted ranks: the longest runs within difference."""
    groups = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + difference, "right")) - 1
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def draw_critical_difference(ranks, path, title, ours=()):
    """Mean ranks on an axis, bars join the models that Nemenyi's test cannot tell."""
    means = ranks.mean().sort_values()
    difference = critical_difference(len(means), len(ranks))
    groups = groups_that_do_not_differ(means.to_numpy(), difference)
    half = (len(means) + 1) // 2
    top = 0.35 * len(groups) + 0.5
    low, high = 1, len(means)

    figure, axis = plt.subplots(figsize=(9, 1.3 + 0.22 * len(groups) + 0.3 * half))
    axis.set(xlim=(low - 2.2, high + 2.2), ylim=(-top - 0.55 * half, 1.9))
    axis.axis("off")
    axis.hlines(0, low, high, color="black", linewidth=1)
    for tick in range(low, high + 1):
        axis.vlines(tick, 0, 0.15, color="black", linewidth=1)
        axis.text(tick, 0.25, tick, ha="center", va="bottom", fontsize=9)
    axis.hlines(1.05, low, low + difference, color="black", linewidth=2)
    axis.text(low, 1.15, f"CD = {difference:.2f}", va="bottom", fontsize=9)
    axis.text(high, 1.15, title, ha="right", va="bottom", fontsize=9)
    for k, (first, last) in enumerate(groups):
        ends = means.iloc[first] - 0.04, means.iloc[last] + 0.04
        axis.hlines(-0.35 * (k + 1), *ends, color="black", linewidth=3.5)
    for k, (name, mean) in enumerate(means.items()):
        left = k < half
        row = k if left else len(means) - 1 - k
        y, edge = -top - 0.5 * row, low - 0.1 if left else high + 0.1
        color = "#c8442b" if name in ours else "#333333"
        axis.plot([mean, mean, edge], [0, y, y], color=color, linewidth=1)
        axis.text(
            edge + (-0.08 if left else 0.08),
            y,
            f"{name}  {mean:.2f}" if left else f"{mean:.2f}  {name}",
            ha="right" if left else "left",
            va="center",
            fontsize=9,
            color=color,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


markdown = functools.partial(pd.DataFrame.to_markdown, disable_numparse=True)
