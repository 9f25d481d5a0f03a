"""What the memory does for a network that is not ours: a small CNN on digits.

scikit-learn's digits, 8 x 8: the same CNN as ``feature_extractor`` of SAMNClassifier
with its stored samples, with one prototype a class, and with a linear head alone, from
100, 300 and 1,000 training images; the others are the test. Accuracy, mean and standard
deviation over the seeds. Writes digits.csv to --out.

Usage: python benchmarks/bench_digits.py [--seeds 5]
"""

import pandas as pd
import torch
from _common import append_row, make_parser, one_thread, timed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from sklearn_samn import SAMNClassifier

SIZES = (100, 300, 1000)
HEADS = {
    "stored samples": {},
    "one prototype a class": {"n_prototypes": 1, "head": "distance"},
    "linear head": {"head": "linear", "n_attention_blocks": 0},
}


def make_cnn(seed):
    """Two convolutions, 288 features."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
    )


def main():
    args = make_parser(__doc__, sets=["digits"], seeds=5).parse_args()
    path = args.out / "digits.csv"
    path.unlink(missing_ok=True)
    X, y = load_digits(return_X_y=True)
    for seed in range(args.seeds):
        for n_train in SIZES:
            X_train, X_test, y_train, y_test = train_test_split(
                X / 16, y, train_size=n_train, stratify=y, random_state=seed
            )
            for name, params in HEADS.items():
                model = SAMNClassifier(
                    feature_extractor=make_cnn(seed),
                    scaling=None,
                    device="cpu",
                    random_state=seed,
                    **params,
                )
                with one_thread():
                    _, seconds = timed(model.fit, X_train, y_train)
                row = {"n_train": n_train, "seed": seed, "head": name}
                accuracy = model.score(X_test, y_test)
                append_row(path, {**row, "accuracy": accuracy, "fit_seconds": seconds})
    table = pd.read_csv(path).groupby(["n_train", "head"], sort=False)
    print(table[["accuracy", "fit_seconds"]].agg(["mean", "std"]).round(4).to_string())


if __name__ == "__main__":
    main()
