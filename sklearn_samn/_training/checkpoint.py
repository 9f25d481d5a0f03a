"""A training that goes on after an interruption."""

import io
import os
from contextlib import suppress

import torch
from skorch.callbacks import Callback

from .net import BestWeights
from .processes import from_each, from_first, rank


class Checkpoint(Callback):
    """After each epoch all that training goes on from, in one file.

    Parameters
    ----------
    path : path
        The file. Training begins where it ends, if it is there.
    fingerprint : str
        Of what is trained; the file of another training is refused.
    rng : numpy.random.Generator
        What the batches draw from beside torch's stream.
    """

    def __init__(self, path, fingerprint, rng):
        self.path = os.fspath(path)
        self.fingerprint = fingerprint
        self.rng = rng

    def on_train_begin(self, net, **kwargs):
        """Go on from the file."""
        # Of several processes the others may have no such file, or another.
        state = from_first(self._read)
        if state is None:
            return
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        if net.schedule_ is not None:
            net.schedule_.load_state_dict(state["schedule"])
        net.history.extend(state["history"])
        for best, values in zip(_best_weights(net), state["best"], strict=True):
            vars(best).update(values)
        self.rng.bit_generator.state = state["rng"]
        torch_rng, cuda_rng = state["streams"][rank()]
        torch.set_rng_state(torch_rng)
        if cuda_rng is not None:
            torch.cuda.set_rng_state(cuda_rng, net.device)

    def _read(self):
        """What the file holds; None where there is none yet."""
        if not self.path or not os.path.isdir(os.path.dirname(self.path) or "."):
            raise ValueError(
                f"The folder of checkpoint={self.path!r} is not there; make it first."
            )
        check_writable(self.path)
        if not os.path.exists(self.path):
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=False)
            fingerprint = state["fingerprint"]
        except Exception as error:
            raise ValueError(
                f"checkpoint={self.path!r} is no checkpoint that can be read "
                f"({error}); delete the file or name another."
            ) from error
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"checkpoint={self.path!r} was written by a fit with other parameters "
                f"or other data; delete the file or name another."
            )
        return state

    def on_epoch_end(self, net, **kwargs):
        """Write the file."""
        # Dropout of unequal shares moves the streams of several processes apart.
        streams = from_each((torch.get_rng_state(), _cuda_rng_state(net.device)))
        state = {
            "fingerprint": self.fingerprint,
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "schedule": net.schedule_ and net.schedule_.state_dict(),
            "history": list(net.history),
            "best": [vars(best) for best in _best_weights(net)],
            "rng": self.rng.bit_generator.state,
            "streams": streams,
        }
        from_first(lambda: self._write(state))

    def _write(self, state):
        content = io.BytesIO()
        torch.save(state, content)
        replace_file(self.path, content.getbuffer())

    def remove(self):
        """Delete the file, once there is nothing to go on with."""
        if rank() > 0:
            return
        # Not there if the user's callback stopped the first epoch.
        with suppress(FileNotFoundError):
            os.remove(self.path)


def _cuda_rng_state(device):
    if torch.device(device).type != "cuda":
        return None
    return torch.cuda.get_rng_state(device)


def _best_weights(net):
    return [found for _, found in net.callbacks_ if isinstance(found, BestWeights)]


def check_writable(path):
    """Raise an OSError where :func:`replace_file` will not be able to write."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "ab"):
            pass
        os.remove(temporary)
    except OSError as error:
        raise OSError(f"checkpoint={path!r} cannot be written: {error}.") from error


def replace_file(path, content):
    """Replace a file at once: a reader finds the old content or the new, whole."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(temporary)
        raise OSError(
            f"{path!r} cannot be written: {error}. What was there before is intact."
        ) from error
