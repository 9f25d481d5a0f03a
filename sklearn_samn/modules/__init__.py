"""Pure torch building blocks: no scikit-learn, no skorch, no numpy."""

from .attention import SampleAttention, kernel_scores
from .embedding import FeatureExtractor
from .losses import NeighborSequenceLoss, SAMNLoss
from .memnet import MemoryNetwork
from .memory import PrototypeMemory
from .samn import SAMN
from .seq2seq import Seq2SeqNetwork

__all__ = [
    "SAMN",
    "FeatureExtractor",
    "MemoryNetwork",
    "NeighborSequenceLoss",
    "PrototypeMemory",
    "SAMNLoss",
    "SampleAttention",
    "Seq2SeqNetwork",
    "kernel_scores",
]
