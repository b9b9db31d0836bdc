"""
Experiments: the paper's figures, how fast tasks are learned, what each part of NRL is worth, throughput.

Each is one file over the small library in ``runs.py``, and is started from the root of a clone, for example with
``python -m experiments.learning --help``. None of this is in the wheel.
"""
