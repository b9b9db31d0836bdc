"""Principal components of activity, and the spectrum of recurrent weights.

Shapes: T steps, H hidden units of a layer, P principal components.
"""

from typing import NamedTuple

import numpy as np

from sb3_nrl.analysis.recorder import hidden_layers
from sb3_nrl.checks import check, is_count
from sb3_nrl.layers.recurrent import RecurrentDense
from sb3_nrl.three_factor import ThreeFactorAlgorithm


class PrincipalComponents(NamedTuple):
    """
    The directions in which activity varies most, the largest variance first.

    :param mean: Mean activity, shape (H,)
    :param axes: Orthonormal directions, shape (P, H)
    :param variance_ratio: Fraction of the total variance along each direction, shape (P,)
    """

    mean: np.ndarray
    axes: np.ndarray
    variance_ratio: np.ndarray

    def project(self, activity: np.ndarray) -> np.ndarray:
        """
        Coordinates of activity along the principal components.

        :param activity: Shape (..., H)
        :return: Shape (..., P)
        """
        return (activity - self.mean) @ self.axes.T

    def reconstruct(self, coordinates: np.ndarray) -> np.ndarray:
        """
        Activity at the given coordinates, which is exact if P is the rank of the activity.

        :param coordinates: Shape (..., P)
        :return: Shape (..., H)
        """
        return coordinates @ self.axes + self.mean


def pca(activity_TH: np.ndarray, n_components: int | None = None) -> PrincipalComponents:
    """
    Principal components, by singular value decomposition of the centred activity.

    :param activity_TH: Activity, shape (T, H), without NaN
    :param n_components: Number of components P, at most min(T, H), which is the default
    :return: The components. The sign of each is such that its largest entry is positive
    :raises ValueError: If an argument is out of range
    """
    activity_TH = np.asarray(activity_TH, np.float64)
    check("activity_TH.ndim", activity_TH.ndim, activity_TH.ndim == 2, "2")
    check("activity_TH", activity_TH, bool(np.isfinite(activity_TH).all()), "finite")
    most = min(activity_TH.shape)
    n_components = most if n_components is None else n_components
    check("n_components", n_components, is_count(n_components) and n_components <= most, f"a number up to {most}")
    mean = activity_TH.mean(0)
    _, singular_values, axes = np.linalg.svd(activity_TH - mean, full_matrices=False)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    axes = axes * np.where(largest < 0, -1, 1)
    variances = singular_values**2
    ratio = variances / variances.sum() if variances.sum() > 0 else np.zeros_like(variances)
    return PrincipalComponents(mean, axes[:n_components], ratio[:n_components])


def recurrent_weights(model: ThreeFactorAlgorithm, network: str = "actor", layer: int = 0) -> dict[str, np.ndarray]:
    """
    Recurrent weights of a hidden layer. Row i of a matrix has the weights to unit i.

    :param model: A model with a recurrent policy
    :param network: ``"actor"`` or ``"critic"``
    :param layer: Which hidden layer, from 0
    :return: Matrices of shape (H, H) by name: ``units``; for a GRU also ``update_gate`` and ``reset_gate``; for a
        spiking layer ``synapses``. They are copies
    :raises ValueError: If there is no such layer, or it is not recurrent
    """
    check("network", network, network in ("actor", "critic"), "'actor' or 'critic'")
    part = getattr(model.policy, network)
    hidden = [] if part is None else hidden_layers(part)
    check("layer", layer, is_count(layer, 0) and layer < len(hidden), f"one of the {network}'s {len(hidden)} layers")
    found = {
        name: module.recurrent_weight.detach().cpu().numpy().copy()
        for name, module in hidden[layer].named_modules()
        if isinstance(module, RecurrentDense) and module.recurrent_weight is not None
    }
    if not found:
        raise ValueError(
            f"Hidden layer {layer} of the {network} is not recurrent: it is a {type(hidden[layer]).__name__}. "
            'Recurrent policies are "MlpRnnPolicy", "MlpCtrnnPolicy", "MlpGruPolicy" and their "Cnn" and "MultiInput" '
            "forms, and spiking ones with recurrent=True."
        )
    return found


def spectrum(weight_HH: np.ndarray) -> np.ndarray:
    """
    Eigenvalues of recurrent weights, the largest modulus first.

    :param weight_HH: Recurrent weights, shape (H, H)
    :return: Complex eigenvalues, shape (H,)
    """
    values = np.linalg.eigvals(weight_HH).astype(complex)
    return values[np.argsort(-np.abs(values), kind="stable")]
