"""The one place that knows skorch: a net, its batches, schedule, seed and device."""

from .batches import BatchDataset, BufferDataset
from .checkpoint import Checkpoint
from .determinism import denormals_flushed, one_thread, reproducible
from .device import resolve_device
from .net import Net, history_records, load_weights, weights_to_numpy, wrap
from .predict import predict_batches
from .processes import check_agreement, count_processes, in_parallel
from .training import OPTIMIZERS, train

__all__ = [
    "OPTIMIZERS",
    "BatchDataset",
    "BufferDataset",
    "Checkpoint",
    "Net",
    "check_agreement",
    "count_processes",
    "denormals_flushed",
    "history_records",
    "in_parallel",
    "load_weights",
    "one_thread",
    "predict_batches",
    "reproducible",
    "resolve_device",
    "train",
    "weights_to_numpy",
    "wrap",
]
