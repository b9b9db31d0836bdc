"""
Activity of the hidden units of a trained network in trials, as arrays and plots.

    recording = record(model, env, n_trials=200, seed=0)
    recording.actor[0]  # activity of the first hidden layer, shape (T, H)
    plot_activity(recording, by="sample_theta").savefig("activity.png")

The arrays need NumPy only. The plots need Matplotlib, ``to_dataframe`` pandas, and ``to_xarray`` xarray:
``pip install 'sb3-nrl[analysis]'``.
"""

from sb3_nrl.analysis.linear import PrincipalComponents, pca, recurrent_weights, spectrum
from sb3_nrl.analysis.plots import plot_activity, plot_recurrent_weights, plot_trajectories, plot_units
from sb3_nrl.analysis.recorder import record
from sb3_nrl.analysis.recording import Recording, condition_means, trial_labels
from sb3_nrl.analysis.spiking import Energy, energy, plot_raster

__all__ = [
    "Energy",
    "PrincipalComponents",
    "Recording",
    "condition_means",
    "energy",
    "pca",
    "plot_activity",
    "plot_raster",
    "plot_recurrent_weights",
    "plot_trajectories",
    "plot_units",
    "record",
    "recurrent_weights",
    "spectrum",
    "trial_labels",
]
