"""Layers that can be perturbed, each defined once for NumPy and PyTorch."""

from sb3_nrl.layers.base import Layer, RankOne, RecurrentLayer
from sb3_nrl.layers.cells import Gru, LeakyRnn
from sb3_nrl.layers.coding import SpikeEncoder, SpikeReadOut
from sb3_nrl.layers.dense import Dense, GaussianHead
from sb3_nrl.layers.features import FlatFeatures
from sb3_nrl.layers.module import ForeignModule
from sb3_nrl.layers.spiking import Lif, StatefulLif

__all__ = [
    "Dense",
    "FlatFeatures",
    "ForeignModule",
    "GaussianHead",
    "Gru",
    "Layer",
    "LeakyRnn",
    "Lif",
    "RankOne",
    "RecurrentLayer",
    "SpikeEncoder",
    "SpikeReadOut",
    "StatefulLif",
]
