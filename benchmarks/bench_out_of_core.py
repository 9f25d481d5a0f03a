"""What a fit on a file larger than memory costs, and what it loses.

(a) Peak memory and speed of fit and predict on a .npy file of --rows x 100 float32, and
    on one of a quarter of the rows, fit and predict each in a fresh process, between
    them a pickle. The rows are real ones of covertype (classes 0, 1, 2; its columns,
    then a part of them again), each with its own jitter; the files are built once and
    kept in --folder. Memory is the peak of the resident memory above its level when the
    libraries are imported (Linux only), model and labels included; predicted ones are
    written into a file. Speed is in rows a second (times the epochs), and as the share
    of it that reading the file once from start to end takes, right before the fit;
    whatever the system has cached, it has cached for both.
(b) The same of V2VSLS, whose fit_resample writes the rows and those made of the rarest
    class, up to the count of the largest, into a .npy file.
(c) Macro F1 on held-out rows of covertype, by block and in memory, same parameters.

One CPU thread. A rerun measures what is not in the CSV yet; delete rows to repeat them.
Writes out_of_core.csv, out_of_core_resampling.csv and out_of_core_f1.csv to --out.

Usage: python benchmarks/bench_out_of_core.py [--rows 10000000] [--folder /big/disk]
"""

import multiprocessing
import os
import pathlib
import tempfile
from concurrent.futures import ProcessPoolExecutor

import joblib
import numpy as np
import pandas as pd
from _common import (
    append_row,
    label_scores,
    load_set,
    make_parser,
    markdown,
    missing,
    one_thread,
    read_rows,
    reset_peak,
    resident_mib,
    split,
    timed,
    warm_up,
)
from tqdm import tqdm

from sklearn_samn import V2VSLS, KNNSeq2SeqClassifier, MemNetKNNClassifier

N_COLUMNS = 100
STROKE = 100_000  # rows written or read at once
MODELS = {
    "seq2seq": KNNSeq2SeqClassifier,
    "memnet": MemNetKNNClassifier,
}


def make_model(name, epochs, **parameters):
    return MODELS[name](
        max_epochs=epochs, batch_size=1024, device="cpu", random_state=0, **parameters
    )


def build(data_dir, folder, n_rows):
    """The files of rows and labels, which get their names when they are whole."""
    paths = folder / f"rows_{n_rows}.npy", folder / f"labels_{n_rows}.npy"
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    X, y, _ = load_set(data_dir, "covertype_397k", classes=[0, 1, 2])
    X = X[:, np.arange(N_COLUMNS) % X.shape[1]].astype(np.float32)
    scale = 0.01 * X.std(axis=0)
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(X), size=n_rows)
    temporary = folder / "rows.tmp"
    rows = np.lib.format.open_memmap(
        temporary, "w+", dtype=np.float32, shape=(n_rows, N_COLUMNS)
    )
    for start in tqdm(range(0, n_rows, STROKE), desc=paths[0].name):
        real = X[chosen[start : start + STROKE]]
        jitter = rng.standard_normal(real.shape, dtype=np.float32)
        rows[start : start + STROKE] = real + scale * jitter
    rows.flush()
    np.save(paths[1], y[chosen].astype(np.int8))
    os.replace(temporary, paths[0])
    return paths


def read_through(path):
    """Read the rows of the file once."""
    buffer = bytearray(STROKE * N_COLUMNS * 4)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def peak_of(function, *args, above):
    """Seconds of a call, and the peak of the resident memory above a level."""
    reset_peak()
    _, seconds = timed(function, *args)
    return seconds, resident_mib("VmHWM") - above


def in_fresh_process(function, *args):
    """What a call gives in a process that does nothing else."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def measure_fit(paths, model, epochs, pickled):
    with one_thread():
        warm_up()
        _, read_seconds = timed(read_through, paths[0])
        before = resident_mib("VmRSS")
        y = np.load(paths[1])
        estimator = make_model(model, epochs)
        seconds, mib = peak_of(estimator.fit, [paths[0]], y, above=before)
    joblib.dump(estimator, pickled)
    return {
        "file_mib": paths[0].stat().st_size / 2**20,
        "read_seconds": read_seconds,
        "fit_seconds": seconds,
        "fit_mib": mib,
    }


def measure_predict(paths, pickled):
    with one_thread():
        warm_up()
        before = resident_mib("VmRSS")
        estimator = joblib.load(pickled)
        path = paths[0].parent / "predicted.npy"
        n_rows = len(np.load(paths[0], mmap_mode="r"))
        out = np.lib.format.open_memmap(path, "w+", dtype=np.int8, shape=(n_rows,))
        seconds, mib = peak_of(
            lambda: estimator.predict([paths[0]], out=out), above=before
        )
    path.unlink()
    return {"predict_seconds": seconds, "predict_mib": mib}


def run_cost(args, path):
    tasks = [
        {"n_rows": n_rows, "model": model, "epochs": args.epochs}
        for n_rows in (args.rows // 4, args.rows)
        for model in args.models
    ]
    for task in tqdm(missing(path, tasks, ("n_rows", "model", "epochs")), unit="fit"):
        paths = build(args.data_dir, args.folder, task["n_rows"])
        pickled = args.folder / "fitted.joblib"
        figures = in_fresh_process(
            measure_fit, paths, task["model"], task["epochs"], pickled
        )
        figures |= in_fresh_process(measure_predict, paths, pickled)
        append_row(path, {**task, **figures})


def print_cost(frame):
    passes = frame["n_rows"] * frame["epochs"]
    table = frame.assign(
        fit_rows_a_second=passes / frame["fit_seconds"],
        fit_share_of_reading=frame["epochs"]
        * frame["read_seconds"]
        / frame["fit_seconds"],
        predict_rows_a_second=frame["n_rows"] / frame["predict_seconds"],
        predict_share_of_reading=frame["read_seconds"] / frame["predict_seconds"],
    )
    print("\nFiles of covertype with jitter, one thread\n")
    print(markdown(table.round(3).T.astype(str)))


def measure_resampling(paths):
    with one_thread():
        warm_up()
        _, read_seconds = timed(read_through, paths[0])
        before = resident_mib("VmRSS")
        y = np.load(paths[1])
        counts = np.bincount(y)
        n_new = int(counts.max() - counts.min())
        path = paths[0].parent / "resampled.npy"
        out = np.lib.format.open_memmap(
            path, "w+", dtype=np.float32, shape=(len(y) + n_new, N_COLUMNS)
        )
        sampler = V2VSLS(sampling_strategy="minority", device="cpu", random_state=0)
        seconds, mib = peak_of(
            lambda: sampler.fit_resample([paths[0]], y, out=out), above=before
        )
    path.unlink()
    return {
        "n_new": n_new,
        "file_mib": paths[0].stat().st_size / 2**20,
        "read_seconds": read_seconds,
        "seconds": seconds,
        "mib": mib,
    }


def run_resampling(args, path):
    tasks = [{"n_rows": n_rows} for n_rows in (args.rows // 4, args.rows)]
    for task in tqdm(missing(path, tasks, ("n_rows",)), unit="resampling"):
        paths = build(args.data_dir, args.folder, task["n_rows"])
        append_row(path, {**task, **in_fresh_process(measure_resampling, paths)})


def print_resampling(frame):
    rows = frame["n_rows"] + frame["n_new"]
    table = frame.assign(rows_a_second=rows / frame["seconds"])
    print("\nV2VSLS, into a file\n")
    print(markdown(table.round(1).T.astype(str)))


def run_quality(args, path):
    X, y, _ = load_set(args.data_dir, "covertype_397k", classes=[0, 1, 2])
    tasks = [
        {"model": model, "seed": seed, "out_of_core": out_of_core}
        for model in args.models
        for seed in range(args.seeds)
        for out_of_core in (False, True)
    ]
    with one_thread():
        for task in tqdm(missing(path, tasks, ("model", "seed", "out_of_core"))):
            X_train, X_test, y_train, y_test = split(
                X, y, task["seed"], test_size=0.2, max_train=args.max_train
            )
            model = make_model(task["model"], 10, out_of_core=task["out_of_core"])
            _, seconds = timed(model.fit, X_train.astype(np.float32), y_train)
            scores = label_scores(y_test, model.predict(X_test))
            append_row(path, {**task, "n_train": len(y_train), **scores, "s": seconds})


def print_quality(frame):
    columns = ["accuracy", "macro_f1", "s"]
    means = frame.groupby(["model", "out_of_core", "n_train"])[columns].mean()
    print("\nHeld-out rows of covertype, 10 epochs\n")
    print(markdown(means.round(4).reset_index().astype(str), index=False))


def main():
    parser = make_parser(__doc__, sets=[], seeds=2, max_train=100_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--epochs", type=int, default=1, help="of the large fits")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    default = pathlib.Path(tempfile.gettempdir()) / "sklearn_samn"
    parser.add_argument("--folder", type=pathlib.Path, default=default)
    args = parser.parse_args()

    cost, quality = args.out / "out_of_core.csv", args.out / "out_of_core_f1.csv"
    resampling = args.out / "out_of_core_resampling.csv"
    run_cost(args, cost)
    print_cost(pd.DataFrame(read_rows(cost)))
    run_resampling(args, resampling)
    print_resampling(pd.DataFrame(read_rows(resampling)))
    if args.seeds:
        run_quality(args, quality)
        print_quality(pd.DataFrame(read_rows(quality)))
    print(f"Wrote {cost}, {resampling} and {quality}.")


if __name__ == "__main__":
    main()
