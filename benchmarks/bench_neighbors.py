"""What the neighbour targets of a fit cost, and how the cost grows with the rows.

The five nearest others of each training row of covertype (classes 0, 1, 2, 54 columns),
scaled as the networks see them, by

exact             neighbors="exact": what a fit calls, equal rows counted once
subsets           neighbors="subsets": Algorithm 1, 50 random subsets of 64 rows
NearestNeighbors  NearestNeighbors(n_neighbors=6).fit(X).kneighbors(X), no more
PyNNDescent       neighbors=PyNNDescent(), the adapter below: approximate
Faiss             neighbors=Faiss(), the adapter below: approximate

The last two where the package is installed: sklearn_samn[approximate] brings the first,
pip install faiss-cpu the second. They show how to give ``neighbors`` a library of one's
own.

Seconds, recall and memory on more and more rows, each in a fresh process, on --n-jobs
threads. Memory is the peak of the resident memory in the search above its level before,
when the libraries are imported and the data is loaded and scaled (Linux only). A search
of 5,000 rows goes before, its seconds are start_seconds: there numba compiles, in each
process anew, what PyNNDescent runs. Recall is the share of the found rows, for 1,000 of
the queries, that are no farther than the fifth true neighbour. The growth exponent is
the slope of a line through the logarithms.

With --f1 also what the targets of each are worth: the macro F1 of V2VSLS
(KNNSeq2SeqClassifier as it comes) trained on 30,000 rows with them, on 30,000 others,
--seeds splits.

A rerun goes on where the last one ended; to measure anew, delete the rows or the file.
Writes neighbors.csv and neighbors_f1.csv to --out.

Usage: python benchmarks/bench_neighbors.py [--sizes 10000 30000] [--searches exact]
       python benchmarks/bench_neighbors.py --f1 [--seeds 3]
"""

import argparse
import ctypes
import gc
import importlib.util
import multiprocessing
import pathlib
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
from _common import (
    DATA_DIR,
    RESULTS,
    append_row,
    exponent,
    load_set,
    markdown,
    missing,
    read_rows,
    reset_peak,
    resident_mib,
    split,
    timed,
)
from sklearn.base import BaseEstimator
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from sklearn_samn import KNNSeq2SeqClassifier
from sklearn_samn._neighbors import (
    distinct_rows,
    make_search,
    nearest_in_subsets,
    nearest_others,
)
from sklearn_samn._scaling import NumericScaler

K = 5
SIZES = [10_000, 30_000, 100_000, 363_000]
N_WARM_UP, N_RECALL = 5000, 1000
N_F1 = 30_000


class PyNNDescent(BaseEstimator):
    """Approximate neighbours by PyNNDescent, for the ``neighbors`` of an estimator.

    Parameters
    ----------
    graph_neighbors : int, default=15
        Neighbours of a row in the graph that is searched; more find more.
    n_jobs : int or None, default=None
        Threads.
    random_state : int, RandomState instance or None, default=0
        Seeds the graph.
    """

    def __init__(self, graph_neighbors=15, n_jobs=None, random_state=0):
        self.graph_neighbors = graph_neighbors
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X, y=None):
        from pynndescent import NNDescent

        self.index_ = NNDescent(
            X,
            n_neighbors=self.graph_neighbors,
            n_jobs=self.n_jobs,
            random_state=self.random_state,
        )
        self.rows_ = X
        return self

    def kneighbors(self, X, n_neighbors=5, return_distance=True):
        if n_neighbors <= self.graph_neighbors and np.array_equal(X, self.rows_):
            # The graph has the answers for its own rows.
            found, distances = self.index_.neighbor_graph
            found, distances = found[:, :n_neighbors], distances[:, :n_neighbors]
        else:
            found, distances = self.index_.query(X, k=n_neighbors)
        return (distances, found) if return_distance else found


class Faiss(BaseEstimator):
    """Approximate neighbours by Faiss: the rows of the nearest of many cells.

    Parameters
    ----------
    probes : int, default=8
        Cells that are searched; more find more.
    n_jobs : int or None, default=None
        Threads; None is all.
    """

    def __init__(self, probes=8, n_jobs=None):
        self.probes = probes
        self.n_jobs = n_jobs

    def fit(self, X, y=None):
        import faiss

        if self.n_jobs:
            faiss.omp_set_num_threads(self.n_jobs)
        cells = int(np.sqrt(len(X)))
        flat = faiss.IndexFlatL2(X.shape[1])
        self.index_ = faiss.IndexIVFFlat(flat, X.shape[1], cells)
        self.index_.train(X)
        self.index_.add(X)
        self.index_.nprobe = self.probes
        return self

    def kneighbors(self, X, n_neighbors=5, return_distance=True):
        distances, found = self.index_.search(X, n_neighbors)
        return (np.sqrt(distances), found) if return_distance else found


def installed(package):
    return importlib.util.find_spec(package) is not None


def by_object(search, X):
    return nearest_others(search, X, np.arange(len(X)), K)


def by_subsets(X, n_jobs):
    return nearest_in_subsets(
        X,
        X,
        np.arange(len(X)),
        K,
        n_subsets=50,
        subset_size=64,
        rng=np.random.default_rng(0),
        n_jobs=n_jobs,
    )


def plain(X, n_jobs):
    search = NearestNeighbors(n_neighbors=K + 1, n_jobs=n_jobs).fit(X)
    return search.kneighbors(X)[1][:, 1:]


# Name: indices of K neighbours from distinct rows and the number of threads.
SEARCHES = {
    "exact": lambda X, n_jobs: by_object(make_search("exact", X, n_jobs), X),
    "subsets": by_subsets,
    "NearestNeighbors": plain,
}
if installed("pynndescent"):
    SEARCHES["PyNNDescent"] = lambda X, n_jobs: by_object(
        make_search(PyNNDescent(n_jobs=n_jobs), X), X
    )
if installed("faiss"):
    SEARCHES["Faiss"] = lambda X, n_jobs: by_object(
        make_search(Faiss(n_jobs=n_jobs), X), X
    )


# Name: what an estimator gets as ``neighbors``.
TARGETS = {
    "exact": "exact",
    "PyNNDescent": PyNNDescent(),
    "Faiss": Faiss(),
    "subsets": "subsets",
}


def find(search, X, y, n_jobs):
    """Distinct rows, as a fit takes them, and their neighbours among them."""
    if search == "NearestNeighbors":
        return X, SEARCHES[search](X, n_jobs)
    first, _ = distinct_rows(X, y)
    X = X[first]
    return X, SEARCHES[search](X, n_jobs)


def recall(X, found):
    """Share of the found that are no farther than the last true one, for some rows."""
    rows = np.random.default_rng(0).choice(len(X), min(N_RECALL, len(X)), replace=False)
    search = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(X)
    indices = search.kneighbors(X[rows], return_distance=False)
    # The own row is not among the first of a row with many equals.
    others = [near[near != row][:K] for row, near in zip(rows, indices, strict=True)]
    hits = [
        distances(X, row, found[row]) <= distances(X, row, true).max() + 1e-5
        for row, true in zip(rows, others, strict=True)
    ]
    return np.mean(hits)


def distances(X, row, others):
    return np.linalg.norm(X[others].astype(float) - X[row], axis=1)


def measure(data_dir, n_rows, search, n_jobs):
    """One search, in a process that does nothing else."""
    X, y, _ = load_set(data_dir, "covertype_397k", classes=[0, 1, 2], max_rows=n_rows)
    X = NumericScaler().fit_transform(X)
    with threadpool_limits(n_jobs):
        _, start_seconds = timed(find, search, X[:N_WARM_UP], y[:N_WARM_UP], n_jobs)
        gc.collect()
        # Else the search would take what loading has freed, and seem to need nothing.
        ctypes.CDLL(None).malloc_trim(0)
        reset_peak()
        before = resident_mib("VmRSS")
        (rows, found), seconds = timed(find, search, X, y, n_jobs)
        peak = resident_mib("VmHWM")
        return {
            "n_used": len(rows),
            "seconds": seconds,
            "extra_mib": peak - before,
            "data_mib": X.nbytes / 2**20,
            "recall": recall(rows, found),
            "start_seconds": start_seconds,
        }


def measure_f1(data_dir, seed, search):
    """Macro F1 of a network trained with the targets of a search."""
    X, y, _ = load_set(
        data_dir, "covertype_397k", classes=[0, 1, 2], max_rows=2 * N_F1, seed=seed
    )
    X_train, X_test, y_train, y_test = split(X, y, seed, test_size=0.5)
    model = KNNSeq2SeqClassifier(neighbors=TARGETS[search], random_state=seed)
    model.fit(X_train, y_train)
    return {"f1": f1_score(y_test, model.predict(X_test), average="macro")}


def run_f1(args, path):
    tasks = [
        {"seed": seed, "search": search}
        for seed in range(args.seeds)
        for search in args.searches
        if search in TARGETS
    ]
    for task in tqdm(missing(path, tasks, ("seed", "search")), unit="fit"):
        append_row(path, {**task, **measure_f1(args.data_dir, **task)})


def print_f1(frame):
    """Mean and deviation over the splits, and the lead over exact targets."""
    points = 100 * frame.pivot(index="seed", columns="search", values="f1")
    lead = points.sub(points["exact"], axis=0)
    table = pd.DataFrame(
        {
            "macro F1": points.mean().map("{:.2f}".format),
            "less that of exact targets": lead.mean().map("{:+.2f}".format),
            "deviation of that": lead.std().map("{:.2f}".format),
        }
    )
    print(f"\nV2VSLS on {N_F1} rows of covertype, {len(points)} splits\n")
    print(markdown(table))


def run(args, path):
    tasks = [
        {"n_rows": size, "search": search, "n_jobs": args.n_jobs}
        for size in args.sizes
        for search in args.searches
    ]
    spawn = multiprocessing.get_context("spawn")
    tasks = missing(path, tasks, ("n_rows", "search", "n_jobs"))
    for task in tqdm(tasks, unit="search"):
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            figures = pool.submit(measure, args.data_dir, **task).result()
        append_row(path, {**task, **figures})


def print_tables(frame):
    """A row a size, a column a search; then the exponents."""
    cells = frame.apply(
        lambda row: (
            f"{row['seconds']:.2f} s, {row['extra_mib']:.0f} MiB, "
            f"recall {row['recall']:.3f}"
        ),
        axis=1,
    )
    table = frame.assign(cell=cells).pivot(
        index="n_rows", columns="search", values="cell"
    )
    order = [name for name in SEARCHES if name in table]
    print(markdown(table[order].fillna("")))
    print()
    for name in order:
        own = frame[frame["search"] == name].sort_values("n_rows")
        if len(own) > 1:
            seconds = exponent(own["n_used"], own["seconds"])
            memory = exponent(own["n_used"], own["extra_mib"].clip(lower=1))
            print(
                f"growth exponent, {name}: seconds {seconds:.2f}, memory {memory:.2f}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=pathlib.Path, default=DATA_DIR)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="ROWS")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=[*SEARCHES])
    parser.add_argument("--n-jobs", type=int, default=2, help="threads")
    parser.add_argument("--f1", action="store_true", help="what the targets are worth")
    parser.add_argument("--seeds", type=int, default=3, help="splits of --f1")
    args = parser.parse_args()

    if args.f1:
        path = args.out / "neighbors_f1.csv"
        run_f1(args, path)
        print_f1(pd.DataFrame(read_rows(path)))
        return
    path = args.out / "neighbors.csv"
    run(args, path)
    frame = pd.DataFrame(read_rows(path))
    frame = frame[frame["n_jobs"] == args.n_jobs]
    print(f"\nFive neighbours of each row of covertype, {args.n_jobs} threads\n")
    print_tables(frame)
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
