"""What a training took, machine by machine: the minutes of a GPU are not compared with those of a CPU.

A record states ``machine_seconds``, the name of every machine (``CPU`` or a GPU's own) and the seconds that the training ran on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from numeric.baselines.plateau import images_seen

CPU = "CPU"


def machine_name(device: str) -> str:
    """``CPU``, or the name of the GPU that a torch device stands for."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else CPU


def machine_seconds(record: dict[str, Any]) -> dict[str, float]:
    """Machine -> seconds of training, in the order of the training.

    Older records do not state it.  Their phases do: each names the torch device of its schedule, and began at a count of images that
    the held-out curve gives the seconds of (between two points of the curve, and where there is none, in proportion to the images).

    Example:
        >>> from numeric.baselines.clock import machine_seconds
        >>> phases = [{"schedule": {"device": "cuda"}, "from_images": 0}, {"schedule": {"device": "cpu"}, "from_images": 900}]
        >>> machine_seconds({"phases": phases, "images": 1000, "seconds": 60.0, "held_out_curve": [{"images": 900, "seconds": 10.0}]})
        {'GPU': 10.0, 'CPU': 50.0}
    """
    if "machine_seconds" in record:
        return dict(record["machine_seconds"])
    phases = record.get("phases") or [{"schedule": record["schedule"], "from_images": 0}]
    known = [(p["images"], p["seconds"]) for p in record.get("held_out_curve", []) if "images" in p and "seconds" in p]
    images, seconds = zip((0, 0.0), *known, (images_seen(record), record["seconds"]))
    starts = [*np.interp([phase["from_images"] for phase in phases], images, seconds).tolist(), float(record["seconds"])]
    gpu = record.get("device", CPU)  # the machine of the last phase alone, or of whoever wrote the record
    spent: dict[str, float] = {}
    for phase, start, end in zip(phases, starts, starts[1:]):
        machine = CPU if phase["schedule"].get("device", "cpu") == "cpu" else gpu if gpu != CPU else "GPU"
        spent[machine] = spent.get(machine, 0.0) + end - start
    return spent


def trained_on(record: dict[str, Any]) -> str:
    """``CPU``, ``GPU`` or ``GPU, CPU``: the kinds of machine that a training ran on."""
    return ", ".join(dict.fromkeys(CPU if machine == CPU else "GPU" for machine in machine_seconds(record)))
