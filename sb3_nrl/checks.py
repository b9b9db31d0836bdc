"""Bad arguments are refused by name."""

import math
from numbers import Integral, Real
from typing import Any

from sb3_nrl.noise import NOISE_DISTRIBUTIONS


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number of at least ``least``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any, above: float, at_most: float = math.inf) -> bool:
    """Whether a value is a finite number in (above, at_most]."""
    return (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and above < float(value) <= at_most
    )


def check(argument: str, value: Any, valid: bool, wanted: str) -> None:
    """
    Refuse a bad argument.

    :raises ValueError: If the value is not valid
    """
    if not valid:
        raise ValueError(f"{argument}={value!r}: must be {wanted}")


def check_noise(std: float, distribution: str, *others: str) -> None:
    """
    Check the arguments of all algorithms that add noise.

    :param others: What may stand in the place of a distribution
    """
    check("noise_std", std, is_number(std, 0), "positive and finite")
    distributions = (*NOISE_DISTRIBUTIONS, *others)
    check("noise_distribution", distribution, distribution in distributions, f"one of {distributions}")
