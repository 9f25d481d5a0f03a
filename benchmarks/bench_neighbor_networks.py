"""What the neighbour networks cost beside bare torch, and XGBoost and kNN beside them.

KNNSeq2SeqClassifier (V2VSLS) and MemNetKNNClassifier (MNkNN_VEC), five neighbours, a
hidden_size of 64 and of 128, on covertype (classes 0, 1, 2, 54 columns). They are
fitted with neighbors="subsets", Algorithm 1, whose targets are soon found: the exact
search would take most of a run, and bench_neighbors.py measures it.

(a) Training: seconds of an epoch, ``dur`` in ``history_``, beside a bare torch loop:
    the same module and criterion, fused AdamW, batches of 256 that index tensors in
    memory, targets found once, before. The first epoch of each warms up; the median of
    the others counts. Wanted with a hidden_size of 128: at most 1.2 times as long.
(b) Prediction: rows per second of predict_proba, the label path alone, and of
    predict_neighbors, labels and vectors, beside the bare matrix products of one pass:
    torch.mm of the shapes that the module multiplies, in batches of as many rows, and
    no more. Wanted: at most 1.5 times as long.
(c) XGBClassifier and KNeighborsClassifier with their defaults: seconds of fit, rows per
    second of predict, kNN on 5,000 rows at most. Beside them a fit of the networks with
    its search, of --epochs epochs.

Training and prediction are on the same rows: the clock does not care. One process; in
each round the models take turns, and each of them with its yardstick, so that a slow
minute of the machine weighs on both. Medians over the rounds; ratios are taken within a
round. --n-jobs are the threads of the search, of prediction, of the products, of
XGBoost and kNN; training has one, whatever is set, and so has the bare loop.

With --device cuda the networks, the bare loop and the products are on a GPU, and the
bare loop is timed again in mixed precision: bfloat16 in the forward pass, by autocast.

A rerun goes on where the last one ended; to measure anew, delete the rows or the file.
Writes neighbor_networks.csv to --out.

Usage: python benchmarks/bench_neighbor_networks.py [--rows 100000] [--rounds 3]
       python benchmarks/bench_neighbor_networks.py --device cuda --n-jobs 16
"""

import argparse
import copy
import functools
import pathlib
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import pandas as pd
import torch
from _common import (
    DATA_DIR,
    RESULTS,
    append_row,
    load_set,
    markdown,
    missing,
    one_thread,
    read_rows,
    timed,
    warm_up,
)
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from xgboost import XGBClassifier

from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier
from sklearn_samn._neighbors import nearest_in_subsets
from sklearn_samn._scaling import NumericScaler
from sklearn_samn._training import denormals_flushed

K = 5
# Rows a step; what batch_size="auto" takes of so many rows.
BATCH_SIZE = 256
# The most rows that a batch of a prediction has.
PREDICT_BATCH_SIZE = {"cpu": 2048, "cuda": 8192}
# The networks' defaults: their hidden layer, and the memories.
WIDTH, MEMORY_SIZE, N_MEMORIES = 128, 64, 4
SUBSETS = {"n_subsets": 50, "subset_size": 64}
MAX_KNN_QUERIES = 5000

NETWORKS = {
    f"{network.__name__}, h = {hidden_size}": (network, hidden_size)
    for network in (KNNSeq2SeqClassifier, MemNetKNNClassifier)
    for hidden_size in (64, 128)
}
# Name: class, and the most rows that it predicts.
PEERS = {
    "XGBClassifier": (XGBClassifier, None),
    "KNeighborsClassifier": (KNeighborsClassifier, MAX_KNN_QUERIES),
}
KEYS = "round n_rows epochs n_jobs device model".split()
FIGURES = (
    "fit_seconds epoch_seconds bare_epoch_seconds bare_mixed_epoch_seconds "
    "predict_rate proba_rate proba_products_rate neighbors_rate neighbors_products_rate"
).split()


@contextmanager
def threads(n_threads):
    """As in ``one_thread``, with more of them."""
    with one_thread(), threadpool_limits(n_threads):
        torch.set_num_threads(n_threads)
        yield


@functools.cache
def load(data_dir, n_rows):
    X, y, _ = load_set(data_dir, "covertype_397k", classes=[0, 1, 2], max_rows=n_rows)
    return X, y


# Training ---------------------------------------------------------------------------


@functools.cache
def training_tensors(data_dir, n_rows, n_jobs, device):
    """Rows as the networks see them, labels, weights and neighbours, for bare loops."""
    X, y = load(data_dir, n_rows)
    Z = NumericScaler().fit_transform(X)
    found = nearest_in_subsets(
        Z,
        Z,
        np.arange(len(Z)),
        K,
        **SUBSETS,
        rng=np.random.default_rng(0),
        n_jobs=n_jobs,
    )
    weight = np.ones(len(y), dtype=np.float32)
    return [torch.from_numpy(array).to(device) for array in (Z, y, weight, found)]


def bare_batch(index, x, y, weight, found, memories):
    """Inputs of the module and target; with memories, new rows that mask their own."""
    neighbors = found[index]
    target = {
        "y": y[index],
        "weight": weight[index],
        "labels": y[neighbors],
        "vectors": x[neighbors],
    }
    if not memories:
        return {"x": x[index]}, target
    drawn = torch.randint(len(x), (MEMORY_SIZE,), device=x.device)
    masked = drawn == index.unsqueeze(1)
    return {"x": x[index], "memory": x[drawn], "masked": masked}, target


def bare_epoch(module, criterion, optimizer, tensors, memories, mixed):
    device = tensors[0].device
    for index in torch.randperm(len(tensors[0]), device=device).split(BATCH_SIZE):
        inputs, target = bare_batch(index, *tensors, memories)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext():
            loss = criterion(module(**inputs), target)
        loss.backward()
        optimizer.step()
    wait(device.type)


def wait(device):
    """Until the GPU has done what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


def bare_epoch_seconds(model, tensors, epochs, mixed=False):
    """Seconds of each epoch of a bare loop over a copy of the model's module."""
    module = copy.deepcopy(model.net_.module_).train()
    memories = isinstance(model, MemNetKNNClassifier)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    step = module, model.net_.criterion_, optimizer, tensors, memories, mixed
    # As the package trains.
    with one_thread(), denormals_flushed():
        return [timed(bare_epoch, *step)[1] for _ in range(epochs)]


# Prediction -------------------------------------------------------------------------


def products(network, n_rows, n_features, n_classes, hidden_size, vectors):
    """The products of a pass over a batch, (rows, inputs, outputs) of each."""
    count = {KNNSeq2SeqClassifier: seq2seq_products, MemNetKNNClassifier: hop_products}
    heads = [(K * n_rows, hidden_size, n_classes)]
    if vectors:
        heads.append((K * n_rows, hidden_size, hidden_size))
        heads.append((K * n_rows, hidden_size, n_features))
    return count[network](n_rows, n_features, n_classes, hidden_size, heads)


def seq2seq_products(n_rows, n_features, n_classes, hidden_size, heads):
    """Hidden layer, encoder, K steps of the decoder; but the last feed a label back."""
    # An LSTM has four gates. The context's part in them is that of every step.
    gates = 4 * hidden_size
    encoder = [(n_rows, n_features, WIDTH), (n_rows, WIDTH, gates)]
    context = [(n_rows, hidden_size, gates)]
    step = [(n_rows, n_classes + hidden_size, gates)]
    feedback = [(n_rows, hidden_size, n_classes)]
    return encoder + context + K * step + (K - 1) * feedback + heads


def hop_products(n_rows, n_features, n_classes, hidden_size, heads):
    """Hidden layer and embedding of the rows; for each memory its own, and K hops."""
    query = [(n_rows, n_features, WIDTH), (n_rows, WIDTH, hidden_size)]
    key = value = (MEMORY_SIZE, WIDTH, hidden_size)
    memory = [(MEMORY_SIZE, n_features, WIDTH), key, value]
    scores = (n_rows, hidden_size, MEMORY_SIZE)
    read = (n_rows, MEMORY_SIZE, hidden_size)
    hop = [scores, read, (n_rows, hidden_size, hidden_size)]
    return query + N_MEMORIES * (memory + K * hop + heads)


@torch.inference_mode()
def multiply(operands):
    for rows, weight in operands:
        torch.mm(rows, weight)


def product_rate(model, X, n_jobs, vectors):
    """Rows per second of the bare products, a thread a batch as in prediction."""
    n_rows = min(PREDICT_BATCH_SIZE[model.device], len(X))
    sizes = X.shape[1], len(model.classes_), model.hidden_size
    shapes = products(type(model), n_rows, *sizes, vectors)
    # Weights lie as those of torch's layers do.
    draw = functools.partial(torch.randn, device=model.device)
    operands = [(draw(n, i), draw(o, i).T) for n, i, o in shapes]
    n_batches = -(-len(X) // n_rows)

    def run():
        list(pool.map(multiply, n_batches * [operands]))
        wait(model.device)

    # Else the products of a new thread are on all cores.
    pool = ThreadPoolExecutor(n_jobs, initializer=torch.set_num_threads, initargs=(1,))
    with one_thread(), pool:
        if model.device == "cuda":
            # The first product there starts the library.
            run()
        return n_batches * n_rows / timed(run)[1]


def rate(predict, X):
    """Rows per second."""
    return len(X) / timed(predict, X)[1]


# Running ----------------------------------------------------------------------------


def measure_network(data_dir, n_rows, epochs, n_jobs, device, model):
    """A fit and the bare loop, then each way to predict and its products."""
    X, y = load(data_dir, n_rows)
    tensors = training_tensors(data_dir, n_rows, n_jobs, device)
    network, hidden_size = NETWORKS[model]
    fitted = network(
        n_neighbors=K,
        hidden_size=hidden_size,
        neighbors="subsets",
        **SUBSETS,
        max_epochs=epochs,
        batch_size=BATCH_SIZE,
        device=device,
        n_jobs=n_jobs,
        random_state=0,
    )
    _, fit_seconds = timed(fitted.fit, X, y)
    seconds = [record["dur"] for record in fitted.history_]
    bare_seconds = bare_epoch_seconds(fitted, tensors, epochs)
    mixed_seconds = None
    if device == "cuda":
        seconds_of_mixed = bare_epoch_seconds(fitted, tensors, epochs, mixed=True)
        mixed_seconds = statistics.median(seconds_of_mixed[1:])
    return {
        "fit_seconds": fit_seconds,
        "epoch_seconds": statistics.median(seconds[1:]),
        "bare_epoch_seconds": statistics.median(bare_seconds[1:]),
        "bare_mixed_epoch_seconds": mixed_seconds,
        "predict_rate": rate(fitted.predict, X),
        "proba_rate": rate(fitted.predict_proba, X),
        "proba_products_rate": product_rate(fitted, X, n_jobs, vectors=False),
        "neighbors_rate": rate(fitted.predict_neighbors, X),
        "neighbors_products_rate": product_rate(fitted, X, n_jobs, vectors=True),
    }


def measure_peer(data_dir, n_rows, n_jobs, model):
    X, y = load(data_dir, n_rows)
    make, max_queries = PEERS[model]
    fitted, fit_seconds = timed(make(n_jobs=n_jobs).fit, X, y)
    return {
        "fit_seconds": fit_seconds,
        "predict_rate": rate(fitted.predict, X[:max_queries]),
    }


def measure(data_dir, *, n_rows, epochs, n_jobs, device, model, **_):
    """The figures of one row; None for those that the model has not."""
    if model in NETWORKS:
        return measure_network(data_dir, n_rows, epochs, n_jobs, device, model)
    return {
        **dict.fromkeys(FIGURES),
        **measure_peer(data_dir, n_rows, n_jobs, model),
    }


def run(args, path):
    tasks = [
        {
            "round": number,
            "n_rows": args.rows,
            "epochs": args.epochs,
            "n_jobs": args.n_jobs,
            "device": args.device,
            "model": model,
        }
        for number in range(args.rounds)
        for model in (*NETWORKS, *PEERS)
    ]
    with threads(args.n_jobs):
        warm_up()
        for task in tqdm(missing(path, tasks, KEYS), unit="model"):
            append_row(path, {**task, **measure(args.data_dir, **task)})


# Tables -----------------------------------------------------------------------------


def medians(frame, columns):
    """A row a model, medians over the rounds; title: (figures, format)."""
    table = pd.DataFrame({title: figures for title, (figures, _) in columns.items()})
    table = table.groupby(frame["model"], sort=False).median()
    return table.apply(lambda column: column.map(columns[column.name][1].format))


def training_table(frame):
    epoch, bare = frame["epoch_seconds"], frame["bare_epoch_seconds"]
    columns = {
        "an epoch, s": (epoch, "{:.3f}"),
        "bare loop, s": (bare, "{:.3f}"),
        "ratio": (epoch / bare, "{:.2f}"),
    }
    if (mixed := frame["bare_mixed_epoch_seconds"]).notna().any():
        columns["bare loop, mixed precision, s"] = mixed, "{:.3f}"
    return medians(frame, columns)


def prediction_table(frame, way):
    """Of a way to predict, "proba" or "neighbors"."""
    own, bare = frame[f"{way}_rate"], frame[f"{way}_products_rate"]
    columns = {
        "rows/s": (own, "{:,.0f}"),
        "products, rows/s": (bare, "{:,.0f}"),
        "ratio of the times": (bare / own, "{:.2f}"),
    }
    return medians(frame, columns)


def peer_table(frame):
    columns = {
        "fit, s": (frame["fit_seconds"], "{:.2f}"),
        "predict, rows/s": (frame["predict_rate"], "{:,.0f}"),
    }
    return medians(frame, columns)


def print_tables(frame):
    networks = frame[frame["model"].isin(NETWORKS)]
    print("(a) Training\n")
    print(markdown(training_table(networks)))
    print("\n(b) predict_proba, labels alone\n")
    print(markdown(prediction_table(networks, "proba")))
    print("\n(b) predict_neighbors, labels and vectors\n")
    print(markdown(prediction_table(networks, "neighbors")))
    print(f"\n(c) Peers; fits of the networks have {frame['epochs'].max()} epochs\n")
    print(markdown(peer_table(frame)))


def at_least_two(text):
    """The first epoch warms up."""
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} leaves no epoch after the first")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=pathlib.Path, default=DATA_DIR)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=at_least_two, default=3)
    parser.add_argument("--n-jobs", type=int, default=1, help="threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()

    path = args.out / "neighbor_networks.csv"
    run(args, path)
    frame = pd.DataFrame(read_rows(path))
    same = (frame["n_rows"] == args.rows) & (frame["epochs"] == args.epochs)
    same &= (frame["n_jobs"] == args.n_jobs) & (frame["device"] == args.device)
    frame = frame[same]
    rounds = frame["round"].nunique()
    about = f"{args.rows} rows of covertype, {args.device}, {args.n_jobs} threads"
    print(f"\n{about}, medians of {rounds} rounds\n")
    print_tables(frame)
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
