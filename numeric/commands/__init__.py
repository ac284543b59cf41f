"""The command ``python -m numeric`` (``wavelet-score``): options, messages and exit codes; the work is done by the rooms below.

A module here imports no torch at its top, so that ``--help`` answers at once.
"""
