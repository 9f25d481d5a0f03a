"""What does training through the package cost beside a bare torch loop.

One network (50 features, two hidden layers of 128, ReLU, two classes), one optimiser
(Adam, fused where that can be said), batches of 256, 50,000 made rows: seconds per
epoch (a whole ``fit`` over its epochs), rows per second of prediction, and the cost of
the import. A prediction takes milliseconds: the median of five. The contestants take
turns in each round; the medians over the rounds are printed and written to a CSV.

Usage: python benchmarks/bench_engine.py [--rows 50000] [--epochs 10] [--rounds 7]
"""

import argparse
import csv
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import skorch
import torch
from _common import RESULTS, timed
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import nn
from tqdm import tqdm

from sklearn_samn import SAMNClassifier

BATCH_SIZE = 256
LR = 1e-3


def make_module(n_features):
    """The network, as the bare loop and skorch train it."""
    return nn.Sequential(
        nn.Linear(n_features, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 2),
    )


def fit_bare(X, y, epochs):
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    module = make_module(X.shape[1])
    optimizer = torch.optim.Adam(module.parameters(), lr=LR, fused=True)
    for _ in range(epochs):
        for index in torch.randperm(len(X)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(X[index]), y[index])
            loss.backward()
            optimizer.step()
    return module.eval()


def fit_products(X, y, epochs):
    """The matrix products of the training alone: what no loop can save."""
    widths = X.shape[1], 128, 128, 2
    weights = [torch.randn(n_out, n_in).T for n_in, n_out in pairwise(widths)]
    # What comes in, and the gradient of what goes out, would be other numbers.
    rows = [torch.randn(BATCH_SIZE, width) for width in widths]
    with torch.inference_mode():
        for _ in range(epochs * -(-len(X) // BATCH_SIZE)):
            for layer, weight in enumerate(weights):
                torch.mm(rows[layer], weight)
                torch.mm(rows[layer].T, rows[layer + 1])
                if layer > 0:
                    torch.mm(rows[layer + 1], weight.T)
    return weights


def fit_ours(X, y, epochs, scaling=None):
    """The same network; like the others it takes the rows as they are."""
    return SAMNClassifier(
        hidden_layer_sizes=(128, 128),
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        n_attention_blocks=0,
        head="linear",
        label_smoothing=0.0,
        inter_weight=0.0,
        inner_weight=0.0,
        neighbor_weight=0.0,
        optimizer="adam",
        weight_decay=0.0,
        lr=LR,
        lr_schedule="constant",
        batch_size=BATCH_SIZE,
        max_epochs=epochs,
        scaling=scaling,
        device="cpu",
        random_state=0,
    ).fit(X, y)


def fit_ours_standardized(X, y, epochs):
    return fit_ours(X, y, epochs, scaling="robust")


def fit_skorch(X, y, epochs):
    """With its default split: a fifth of the rows is for validation."""
    return skorch.NeuralNetClassifier(
        make_module(X.shape[1]),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=LR,
        batch_size=BATCH_SIZE,
        max_epochs=epochs,
        verbose=0,
    ).fit(X, y)


def fit_mlp(X, y, epochs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier(
            (128, 128), batch_size=BATCH_SIZE, max_iter=epochs, tol=0, random_state=0
        ).fit(X, y)


def predict_bare(module, X):
    with torch.inference_mode():
        parts = torch.from_numpy(X).split(4096)
        return torch.cat([module(part).softmax(1) for part in parts]).numpy()


def predict_products(weights, X):
    with torch.inference_mode():
        for rows in torch.from_numpy(X).split(4096):
            for weight in weights:
                rows = torch.mm(rows, weight)


def predict_fitted(estimator, X):
    return estimator.predict_proba(X)


@contextmanager
def torch_threads(n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


ALL = torch.get_num_threads()
# Name: (fit, predict, torch threads). Ours trains on one thread, whatever is set.
CONTESTANTS = {
    "sklearn_samn": (fit_ours, predict_fitted, ALL),
    "sklearn_samn, standardising": (fit_ours_standardized, predict_fitted, ALL),
    "bare torch loop, 1 thread": (fit_bare, predict_bare, 1),
    "bare torch loop, all threads": (fit_bare, predict_bare, ALL),
    "its products alone, 1 thread": (fit_products, predict_products, 1),
    "its products alone, all threads": (fit_products, predict_products, ALL),
    "MLPClassifier": (fit_mlp, predict_fitted, 1),
    "skorch as it comes": (fit_skorch, predict_fitted, ALL),
}


def measure(n_rows, epochs, rounds):
    """Seconds per epoch and rows per second, {name: [(fit, predict), ...]}."""
    X, y = make_classification(n_rows, 50, n_informative=20, random_state=0)
    X = X.astype(np.float32)
    figures = {name: [] for name in CONTESTANTS}
    for _ in tqdm(range(rounds), unit="round"):
        for name, (fit, predict, n_threads) in CONTESTANTS.items():
            with torch_threads(n_threads):
                fitted, seconds = timed(fit, X, y, epochs)
                predictions = [timed(predict, fitted, X)[1] for _ in range(5)]
            rate = n_rows / statistics.median(predictions)
            figures[name].append((seconds / epochs, rate))
    return figures


def import_seconds(statement, rounds):
    """Median seconds a fresh interpreter takes for a statement."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", type=pathlib.Path, default=RESULTS / "engine.csv")
    args = parser.parse_args()

    figures = measure(args.rows, args.epochs, args.rounds)
    rows = []
    for name, pairs in figures.items():
        # Ratios within a round, so that a slow minute of the machine weighs on both.
        ours = figures["sklearn_samn"]
        rows.append(
            {
                "contestant": name,
                "seconds_per_epoch": statistics.median(fit for fit, _ in pairs),
                "ours_over_it": statistics.median(
                    our[0] / its[0] for our, its in zip(ours, pairs, strict=True)
                ),
                "predict_rows_per_second": statistics.median(p for _, p in pairs),
                "predict_ours_over_it": statistics.median(
                    its[1] / our[1] for our, its in zip(ours, pairs, strict=True)
                ),
            }
        )
    libraries = import_seconds("import torch, skorch, imblearn", args.rounds)
    package = import_seconds(
        "import torch, skorch, imblearn, sklearn_samn", args.rounds
    )

    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    print(f"{args.rows} rows x 50, {args.epochs} epochs, {args.rounds} rounds, medians")
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    head = ("s/epoch", "ours/it", "predict rows/s", "time ours/it")
    print(f"{'':32}{head[0]:>9}{head[1]:>9}{head[2]:>16}{head[3]:>14}")
    for name, s, ratio, speed, predict_ratio in (row.values() for row in rows):
        print(f"{name:32}{s:9.3f}{ratio:9.2f}{speed:16,.0f}{predict_ratio:14.2f}")
    print(
        f"import of torch, skorch and imblearn {libraries:.2f} s, with sklearn_samn "
        f"{package:.2f} s ({package / libraries - 1:+.0%})"
    )


if __name__ == "__main__":
    main()
