"""``import numeric.torchvision_fix`` makes ``import torchvision`` work, and with it packages that need it (deepinv).

One line, before the others::

    import numeric.torchvision_fix
    import deepinv

It is needed only where torchvision was built for another torch than the one beside it, as its default wheel is beside a CPU
torch (``make setup`` says so); where ``import torchvision`` works by itself it changes nothing.  Data sets, transforms and
utilities then work; torchvision's compiled operators (``nms``, ``roi_align``) are still missing and say so when called.
"""

from numeric._torchvision import import_torchvision

torchvision = import_torchvision()
