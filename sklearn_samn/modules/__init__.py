"""Pure torch building blocks: no scikit-learn, no skorch, no numpy."""

from .attention import SampleAttention, kernel_scores, read_memory
from .embedding import FeatureExtractor, MemberLinear, PeriodicEmbedding
from .losses import NeighborSequenceLoss, SAMNLoss
from .memnet import MemoryNetwork
from .memory import NeighborMemory, PrototypeMemory, SampleMemory
from .samn import SAMN, SAMNOutput
from .sample_network import SampleNetwork, SampleOutput
from .seq2seq import NeighborSequence, Seq2SeqNetwork

__all__ = [
    "SAMN",
    "FeatureExtractor",
    "MemberLinear",
    "MemoryNetwork",
    "NeighborMemory",
    "NeighborSequence",
    "NeighborSequenceLoss",
    "PeriodicEmbedding",
    "PrototypeMemory",
    "SAMNLoss",
    "SAMNOutput",
    "SampleAttention",
    "SampleMemory",
    "SampleNetwork",
    "SampleOutput",
    "Seq2SeqNetwork",
    "kernel_scores",
    "read_memory",
]
