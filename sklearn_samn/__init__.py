"""Classifiers and an oversampler that learn from other samples."""

from ._knn_seq2seq import KNNSeq2SeqClassifier
from ._memnet_knn import MemNetKNNClassifier
from ._samn import SAMNClassifier
from ._v2vsls import V2VSLS

__version__ = "0.1.0"

__all__ = [
    "V2VSLS",
    "KNNSeq2SeqClassifier",
    "MemNetKNNClassifier",
    "SAMNClassifier",
]
