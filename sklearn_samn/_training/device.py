"""Where torch computes."""

import torch


def resolve_device(device):
    """The torch device a ``device`` parameter names.

    Parameters
    ----------
    device : str
        "auto", or a torch device such as "cpu", "cuda", "cuda:1" or "mps".

    Returns
    -------
    torch.device
        "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError
        If the name is unknown or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is unknown; use 'auto', 'cpu', 'cuda', 'cuda:1' or "
            f"'mps'."
        ) from error
    if not _is_available(resolved):
        raise ValueError(
            f"device={device!r} is not available on this machine; use device='auto', "
            f"which takes a GPU where there is one, or device='cpu'."
        )
    return resolved


def _is_available(device):
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"
