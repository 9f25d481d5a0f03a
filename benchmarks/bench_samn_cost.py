"""What SAMNClassifier costs beside its peers, and how the cost grows with the rows.

(a) Seconds of fit and predict of SAMNClassifier, MLPClassifier and SVC with their
    defaults, on fourteen sets. One process, one thread; the three take turns in each
    round, so that a slow minute of the machine weighs on all, and a round (a seed) has
    its own 70/30 split. A prediction takes milliseconds: the median of five. Medians
    over the rounds; the ratios are taken within a round.
(b) Seconds of fit, memory and held-out accuracy of SAMNClassifier on more and more rows
    of covertype (classes 0, 1, 2, in double precision, as scikit-learn fetches them;
    four fifths are trained on), each size in a fresh process. Memory is the peak of the
    resident memory in fit above its level before, when the libraries are imported and
    the data is loaded (Linux only). The growth exponent is the slope of a line through
    the logarithms: 1 is linear.
(c) With --gpu each size is trained on CUDA, too, which a small fit has started before;
    with --slow RealMLP-TD-S (pytabkit) takes its turn in (a), seconds to minutes a fit.

A rerun goes on where the last one ended; to measure anew, delete the rows or the files.
Writes cost.csv and growth.csv to --out.

Usage: python benchmarks/bench_samn_cost.py [--seeds 5] [--sizes 12500] [--gpu] [--slow]
       python benchmarks/bench_samn_cost.py --seeds 0 --gpu
"""

import gc
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
from _common import (
    append_row,
    exponent,
    load_set,
    make_parser,
    make_realmlp,
    make_samn,
    markdown,
    missing,
    one_thread,
    raw,
    read_rows,
    reset_peak,
    resident_mib,
    scaled,
    split,
    timed,
    warm_up,
)
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from tqdm import tqdm

SETS = (
    "pima_diabetes vehicle german_credit vowel segment phoneme satimage spambase "
    "magic_gamma credit_default mammography page_blocks satimage_4 seismic_bumps"
).split()
SIZES = [12_500, 37_500, 125_000, 363_000]
MODELS = {
    "SAMN": (raw, make_samn),
    "MLPClassifier": (scaled, lambda c, seed: MLPClassifier(random_state=seed)),
    "SVC": (scaled, lambda c, seed: SVC(random_state=seed)),
}
SLOW = {"RealMLP": (scaled, make_realmlp)}


def measure_cost(args, data_set, seed, model):
    """Seconds of one fit and of a predict."""
    X, y, categorical = load_set(args.data_dir, data_set)
    *parts, y_train, y_test = split(X, y, seed, max_train=args.max_train)
    columns, make = {**MODELS, **SLOW}[model]
    X_train, X_test = columns(*parts, categorical)
    fitted, fit_seconds = timed(make(categorical, seed).fit, X_train, y_train)
    predictions = [timed(fitted.predict, X_test) for _ in range(5)]
    return {
        "n_train": len(y_train),
        "accuracy": (predictions[0][0] == y_test).mean(),
        "fit_seconds": fit_seconds,
        "predict_seconds": statistics.median(seconds for _, seconds in predictions),
    }


def run_cost(args, path):
    tasks = [
        {"data_set": name, "seed": seed, "model": model}
        for name in args.sets
        for seed in range(args.seeds)
        for model in (*MODELS, *(SLOW if args.slow else ()))
    ]
    tasks = missing(path, tasks, ("data_set", "seed", "model"))
    with one_thread():
        warm_up()
        for task in tqdm(tasks, unit="fit"):
            append_row(path, {**task, **measure_cost(args, **task)})


def cost_table(frame):
    """A row a set: median seconds, and the median of the ratios within a round."""
    own = frame.pivot(
        index=["data_set", "seed"],
        columns="model",
        values=["fit_seconds", "predict_seconds"],
    ).dropna(subset=[("fit_seconds", name) for name in MODELS])
    fit, predict = own["fit_seconds"], own["predict_seconds"]
    columns = {
        **{f"fit, {name}": fit[name] for name in MODELS},
        "fit, SAMN/MLP": fit["SAMN"] / fit["MLPClassifier"],
        **{f"predict, {name}": predict[name] for name in MODELS},
        "predict, SAMN/SVC": predict["SAMN"] / predict["SVC"],
    }
    if "RealMLP" in fit:
        columns["fit, RealMLP"] = fit["RealMLP"]
        columns["fit, SAMN/RealMLP"] = fit["SAMN"] / fit["RealMLP"]
    return pd.DataFrame(columns).groupby("data_set", sort=False).median()


def print_cost(frame):
    table = cost_table(frame)
    print(f"\nSeconds, one thread, medians of {frame['seed'].nunique()} rounds\n")
    print(markdown(table.map("{:.4f}".format)))
    for title in table.columns[table.columns.str.contains("SAMN/")]:
        ratio = table[title].dropna()
        worst = f"worst {ratio.max():.2f} ({ratio.idxmax()})"
        print(f"{title}: median over the sets {ratio.median():.2f}, {worst}")


def measure_growth(data_dir, n_rows, device):
    """One fit on n_rows rows of covertype, in a process that does nothing else.

    The 44 columns of zeros and ones are given as the numbers they are.
    """
    X, y, _ = load_set(data_dir, "covertype_397k", classes=[0, 1, 2], max_rows=n_rows)
    X_train, X_test, y_train, y_test = split(X.astype(float), y, 0, test_size=0.2)
    model = make_samn(None, 0, device=device)
    with one_thread():
        warm_up()
        if device != "cpu":
            # The first fit there starts the device.
            model.fit(X_train[:1000], y_train[:1000])
        n_used = len(y)
        del X, y
        gc.collect()
        reset_peak()
        before = resident_mib("VmRSS")
        _, fit_seconds = timed(model.fit, X_train, y_train)
        peak = resident_mib("VmHWM")
        accuracy, predict_seconds = timed(model.score, X_test, y_test)
    return {
        "n_used": n_used,
        "n_train": len(y_train),
        "fit_seconds": fit_seconds,
        "predict_seconds": predict_seconds,
        "extra_mib": peak - before,
        "data_mib": X_train.nbytes / 2**20,
        "accuracy": accuracy,
    }


def run_growth(args, path):
    tasks = [
        {"n_rows": size, "device": device}
        for size in args.sizes
        for device in ("cpu", *(["cuda"] if args.gpu else []))
    ]
    spawn = multiprocessing.get_context("spawn")
    for task in tqdm(missing(path, tasks, ("n_rows", "device")), unit="fit"):
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            figures = pool.submit(measure_growth, args.data_dir, **task).result()
        append_row(path, {**task, **figures})


def print_growth(frame):
    print("\nSAMNClassifier on covertype, classes 0, 1, 2\n")
    print(markdown(frame.round(3).astype(str), index=False))
    cpu = frame[frame["device"] == "cpu"]
    if len(cpu) > 1:
        seconds = exponent(cpu["n_train"], cpu["fit_seconds"])
        memory = exponent(cpu["n_train"], cpu["extra_mib"].clip(lower=1))
        print(f"growth exponent: seconds {seconds:.2f}, extra memory {memory:.2f}")
    fits = frame.pivot(index="n_rows", columns="device", values="fit_seconds")
    if "cuda" in fits:
        for n_rows, ratio in (fits["cpu"] / fits["cuda"]).dropna().items():
            print(f"{n_rows} rows: {ratio:.1f} times as fast on CUDA")


def main():
    parser = make_parser(__doc__, sets=SETS, seeds=5)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, metavar="ROWS")
    parser.add_argument("--gpu", action="store_true", help="the sizes on CUDA too")
    parser.add_argument("--slow", action="store_true", help="RealMLP as well")
    args = parser.parse_args()

    cost, growth = args.out / "cost.csv", args.out / "growth.csv"
    if args.seeds:
        run_cost(args, cost)
        print_cost(pd.DataFrame(read_rows(cost)))
        print(f"Wrote {cost}.")
    if args.sizes:
        run_growth(args, growth)
        print_growth(pd.DataFrame(read_rows(growth)))
        print(f"Wrote {growth}.")


if __name__ == "__main__":
    main()
