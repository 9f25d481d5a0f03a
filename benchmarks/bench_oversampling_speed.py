"""What V2VSLS costs beside SMOTE, SVMSMOTE and KMeansSMOTE, and how the cost grows.

(a) Seconds and memory of one fit_resample with the library's defaults on
    2,000 x 10    rows of magic_gamma, a stratified sample,
    10,000 x 20   rows of credit_default, a stratified sample, its first 20 columns,
    30,000 x 23   credit_default,
    362,744 x 54  covertype, classes 0, 1, 2; the third, 24,357 rows, is resampled up to
                  the count of the largest.
(b) The same on covertype with 2,000 rows of class 2 and more and more of classes 0 and
    1, here one class: the minority is fixed, but with the majority grow the rows to be
    made. The growth exponent is the slope of a line through the logarithms of the
    majority's rows and the seconds: 1 is linear.

All columns are given as numbers, standardised. One thread. Each call has a fresh
process, which has imported the libraries, loaded the data and called the sampler on a
few rows; memory is the peak of the resident memory in the call above its level before
(Linux only). The samplers take turns in each round (a seed, of the samples and the
samplers). A process that is not done after --timeout seconds, all that included, is
stopped, and its sampler is not tried on these data again. "V2VSLS, GPU", which is not
among the default --samplers, works on CUDA; the call on a few rows has started it.

A rerun goes on where the last one ended; to measure anew, delete the rows or the file.
Writes oversampling_speed.csv to --out.

Usage: python benchmarks/bench_oversampling_speed.py [--seeds 3] [--timeout 900]
       python benchmarks/bench_oversampling_speed.py --samplers "V2VSLS, GPU" SMOTE
       python benchmarks/bench_oversampling_speed.py --sets magic_2000 --sizes
"""

import gc
import multiprocessing
import warnings
from functools import partial

import numpy as np
import pandas as pd
from _common import (
    append_row,
    exponent,
    load_set,
    make_parser,
    markdown,
    missing,
    one_thread,
    read_rows,
    reset_peak,
    resident_mib,
    subsample,
    timed,
    warm_up,
)
from imblearn.over_sampling import SMOTE, SVMSMOTE, KMeansSMOTE
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from sklearn_samn import V2VSLS

# Name: data set, and how load_set and fit_resample are called.
SETS = {
    "magic_2000": ("magic_gamma", {"max_rows": 2000}, "auto"),
    "credit_10000": ("credit_default", {"max_rows": 10_000}, "auto"),
    "credit_30000": ("credit_default", {}, "auto"),
    "covertype_3class": ("covertype_397k", {"classes": [0, 1, 2]}, "minority"),
}
N_COLUMNS = {"credit_10000": 20}
N_MINORITY = 2000
SIZES = [10_000, 30_000, 100_000, 300_000]
GROWTH = "covertype, majority of "
ON_CPU = {
    "V2VSLS": partial(V2VSLS, device="cpu"),
    "SMOTE": SMOTE,
    "SVMSMOTE": SVMSMOTE,
    "KMeansSMOTE": KMeansSMOTE,
}
SAMPLERS = {"V2VSLS, GPU": partial(V2VSLS, device="cuda"), **ON_CPU}


def load(data_dir, name, seed):
    """X, standardised, y and the sampling strategy."""
    if name.startswith(GROWTH):
        X, y, _ = load_set(data_dir, "covertype_397k", classes=[0, 1, 2])
        rng = np.random.default_rng(seed)
        minority, majority = (
            rng.choice(np.flatnonzero(rows), n_rows, replace=False)
            for rows, n_rows in (
                (y == 2, N_MINORITY),
                (y < 2, int(name.removeprefix(GROWTH))),
            )
        )
        rows = np.sort(np.concatenate([minority, majority]))
        X, y, strategy = X[rows], (y[rows] == 2).astype(int), "auto"
    else:
        data_set, parameters, strategy = SETS[name]
        X, y, _ = load_set(data_dir, data_set, seed=seed, **parameters)
        X = X[:, : N_COLUMNS.get(name)]
    return StandardScaler().fit_transform(X), y, strategy


def call(sampler, X, y):
    """What the sampler makes of X and y and "", or X and y and why it failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return *sampler.fit_resample(X, y), ""
        except (RuntimeError, ValueError) as error:
            return X, y, " ".join(str(error).split())[:60]


def measure(data_dir, data, seed, sampler):
    """One call, in a process that does nothing else."""
    X, y, strategy = load(data_dir, data, seed)
    make = SAMPLERS[sampler]
    with one_thread():
        warm_up()
        call(make(random_state=seed), *subsample(X, y, 500, seed))
        gc.collect()
        reset_peak()
        before = resident_mib("VmRSS")
        made = make(sampling_strategy=strategy, random_state=seed)
        (_, y_new, failed), seconds = timed(call, made, X, y)
        peak = resident_mib("VmHWM")
    return {
        "n_rows": len(y),
        "n_features": X.shape[1],
        "n_minority": np.bincount(y).min(),
        "n_new": len(y_new) - len(y),
        "seconds": seconds,
        "extra_mib": peak - before,
        "data_mib": X.nbytes / 2**20,
        "failed": failed,
    }


FIELDS = "n_rows n_features n_minority n_new seconds extra_mib data_mib failed".split()


def measure_in_time(data_dir, timeout, **task):
    """The figures of a fresh process, or none and that it took too long."""
    # Leaving a pool stops its process.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return pool.apply_async(measure, (data_dir,), task).get(timeout)
        except multiprocessing.TimeoutError:
            return {**dict.fromkeys(FIELDS), "failed": f"over {timeout:g} s"}


def run(args, path):
    data = [*args.sets, *(f"{GROWTH}{size}" for size in args.sizes)]
    tasks = [
        {"data": name, "seed": seed, "sampler": sampler}
        for seed in range(args.seeds)
        for name in data
        for sampler in args.samplers
    ]
    tasks = missing(path, tasks, ("data", "seed", "sampler"))
    for task in tqdm(tasks, unit="call"):
        if (task["data"], task["sampler"]) not in too_slow(path):
            figures = measure_in_time(args.data_dir, args.timeout, **task)
            append_row(path, {**task, **figures})


def too_slow(path):
    return {
        (row["data"], row["sampler"])
        for row in read_rows(path)
        if str(row["failed"]).startswith("over ")
    }


def table_of(frame):
    """A row a data set, a column a sampler: medians of seconds and memory."""

    def cell(own):
        failed = own["failed"].dropna()
        if len(failed):
            return failed.iloc[0]
        seconds, memory = own["seconds"].median(), own["extra_mib"].median()
        return f"{seconds:.2f} s, {memory:.0f} MiB"

    cells = {
        key: cell(own) for key, own in frame.groupby(["data", "sampler"], sort=False)
    }
    table = pd.Series(cells).unstack(sort=False)[
        [name for name in SAMPLERS if name in set(frame["sampler"])]
    ]
    about = frame.groupby("data", sort=False)[["n_rows", "n_features", "n_new"]].max()
    return about.map("{:.0f}".format).join(table)


def print_growth(frame):
    """Exponents of the medians of each sampler, where two sizes or more are done."""
    own = frame[frame["data"].str.startswith(GROWTH) & frame["failed"].isna()]
    own = own.assign(n_majority=own["n_rows"] - own["n_minority"])
    medians = own.groupby(["sampler", "n_majority"], sort=True)["seconds"].median()
    for name, seconds in medians.groupby(level=0, sort=False):
        if len(seconds) > 1:
            sizes = seconds.index.get_level_values("n_majority")
            last = f"up to {sizes.max():.0f} rows of the majority"
            print(f"growth exponent, {name}: {exponent(sizes, seconds):.2f}, {last}")


def main():
    parser = make_parser(__doc__, sets=[*SETS], seeds=3, max_train=None)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, metavar="ROWS")
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, default=ON_CPU)
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS")
    args = parser.parse_args()

    path = args.out / "oversampling_speed.csv"
    run(args, path)
    frame = pd.DataFrame(read_rows(path))
    seeds = frame["seed"].nunique()
    print(f"\nSeconds and extra memory, one thread, medians of {seeds} rounds\n")
    print(markdown(table_of(frame)))
    print()
    print_growth(frame)
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
