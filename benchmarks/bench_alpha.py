"""Whether SAMNClassifier looks at the rows that are support vectors of an SVM.

The question of the paper: sample attention against the coefficients alpha of an SVC. On
ten sets, the whole of each (at most --max-train rows): Spearman's rank correlation of
``support_weights_``, the mean attention that training rows pay a row, with |alpha| of
SVC() summed over its binary problems (0 for a row that is no support vector); and of
the same with the share of other classes among a row's ten nearest neighbours, which
says whether the weight falls on the border or inside a class.

Writes alpha.csv to --out.

Usage: python benchmarks/bench_alpha.py [--seeds 3]
"""

import numpy as np
import pandas as pd
from _common import append_row, load_set, make_parser, make_samn, one_thread, scaled
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

SETS = (
    "pima_diabetes ionosphere heart_statlog breast_cancer_wdbc german_credit vehicle "
    "vowel segment phoneme satimage"
).split()


def mixed_share(X, y, n_neighbors=10):
    """Share of the other classes among each row's nearest neighbours."""
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(X)
    return (y[search.kneighbors(return_distance=False)] != y[:, None]).mean(1)


def measure(X, y, categorical, seed):
    """Rank correlations over the rows that SAMN stores."""
    columns, _ = scaled(X, X, categorical)
    svc = SVC().fit(columns, y)
    alpha = np.zeros(len(y))
    alpha[svc.support_] = np.abs(svc.dual_coef_).sum(0)
    model = make_samn(categorical, seed, support_size=None).fit(X, y)
    rows, weights = model.support_, model.support_weights_
    border = mixed_share(columns, y)[rows]
    return {
        "n_rows": len(rows),
        "support_vectors": (alpha > 0).mean(),
        "attention_alpha": spearmanr(weights, alpha[rows]).statistic,
        "attention_border": spearmanr(weights, border).statistic,
        "alpha_border": spearmanr(alpha[rows], border).statistic,
    }


def main():
    args = make_parser(__doc__, sets=SETS, seeds=3, max_train=5_000).parse_args()
    path = args.out / "alpha.csv"
    path.unlink(missing_ok=True)
    for name in args.sets:
        X, y, categorical = load_set(args.data_dir, name, max_rows=args.max_train)
        for seed in range(args.seeds):
            with one_thread():
                figures = measure(X, y, categorical, seed)
            append_row(path, {"data_set": name, "seed": seed, **figures})
    table = (
        pd.read_csv(path).drop(columns="seed").groupby("data_set", sort=False).mean()
    )
    table.loc["mean"] = table.mean()
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
