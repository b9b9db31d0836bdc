"""Experiments, each over the small library in ``runs.py`` and ``execution.py``. None of this is in the wheel."""
