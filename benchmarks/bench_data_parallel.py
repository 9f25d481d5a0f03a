"""What several processes bring to the training of the neighbour networks.

KNNSeq2SeqClassifier and MemNetKNNClassifier on --rows rows of covertype (classes 0, 1,
2), neighbors="subsets", --epochs epochs, trained by one process and by more of them,
that torchrun starts on this machine and that share the rows of each batch (gloo, one
thread each). Macro F1 on 20,000 held-out rows; seconds of the training alone, from
``history_``; and what a process sends in a step, the gradients of all parameters, four
bytes each.

A rerun goes on where the last one ended; to measure anew, delete the rows or the file.
Writes data_parallel.csv to --out.

Usage: python benchmarks/bench_data_parallel.py [--rows 100000] [--seeds 3]
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pandas as pd
import torch
from _common import (
    append_row,
    label_scores,
    load_set,
    make_parser,
    markdown,
    missing,
    read_rows,
    split,
)
from tqdm import tqdm

from sklearn_samn import KNNSeq2SeqClassifier, MemNetKNNClassifier

MODELS = {"seq2seq": KNNSeq2SeqClassifier, "memnet": MemNetKNNClassifier}
KEYS = "model n_processes batch_size seed".split()


def measure(data_dir, n_rows, epochs, *, model, batch_size, seed, **_):
    """The figures of a fit, which each process takes part in."""
    X, y, _ = load_set(data_dir, "covertype_397k", classes=[0, 1, 2])
    X, X_test, y, y_test = split(X, y, seed, test_size=20_000, max_train=n_rows)
    fitted = MODELS[model](
        neighbors="subsets",
        max_epochs=epochs,
        batch_size=batch_size,
        device="cpu",
        random_state=seed,
    ).fit(X, y)
    trained = [p for p in fitted.net_.module_.parameters() if p.requires_grad]
    return {
        "n_train": len(y),
        "epochs": epochs,
        **label_scores(y_test, fitted.predict(X_test)),
        "seconds": sum(record["dur"] for record in fitted.history_),
        "kib_a_step": sum(p.numel() for p in trained) * 4 / 1024,
    }


def worker(path):
    """What a process does that torchrun has started."""
    torch.distributed.init_process_group("gloo")
    task = json.loads(pathlib.Path(path).read_text())
    figures = measure(**task)
    if torch.distributed.get_rank() == 0:
        pathlib.Path(path).write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


def in_processes(n_processes, **task):
    """The figures of a fit by that many processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "task.json"
        path.write_text(json.dumps(task, default=str))
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc-per-node={n_processes}", __file__, "--worker", path),
            ],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return json.loads(path.read_text())


def run(args, path):
    tasks = [
        {"model": model, "n_processes": n, "batch_size": size, "seed": seed}
        for seed in range(args.seeds)
        for model in MODELS
        for size in args.batch_sizes
        for n in args.processes
    ]
    about = {"data_dir": args.data_dir, "n_rows": args.rows, "epochs": args.epochs}
    for task in tqdm(missing(path, tasks, KEYS), unit="fit"):
        append_row(path, {**task, **in_processes(**task, **about)})


def main():
    if sys.argv[1:2] == ["--worker"]:
        return worker(sys.argv[2])
    parser = make_parser(__doc__, sets=[], seeds=3, max_train=None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    args = parser.parse_args()

    path = args.out / "data_parallel.csv"
    run(args, path)
    frame = pd.DataFrame(read_rows(path))
    columns = ["macro_f1", "accuracy", "seconds", "kib_a_step"]
    table = frame.groupby(["model", "batch_size", "n_processes"], sort=False)[columns]
    print("\nMeans over the seeds\n")
    print(markdown(table.mean().round(3).reset_index(), index=False))
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
