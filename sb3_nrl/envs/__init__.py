"""
NeuroGym's tasks as environments for Gymnasium and Stable-Baselines3: importing this registers ``neurogym/<Task>-v0``.

    gymnasium.make("neurogym/Reaching1D-v0", dt=10, timing={"reach": 3000})

Keyword arguments are those of the task, and ``trials_per_episode``. ``Reaching1D`` rewards the target that it shows.
``published_target=True`` selects NeuroGym's version, which truncates the rewarded target to whole radians.

A process that has not imported this module, such as a worker of ``SubprocVecEnv`` started by an interactive session,
finds the tasks by names such as ``"sb3_nrl.envs:neurogym/Reaching1D-v0"``.
"""

try:
    from sb3_nrl.envs.registration import TASKS, UNAVAILABLE, register
except ImportError as error:
    raise ImportError(
        f"sb3_nrl.envs needs NeuroGym 2.3 or later and what it imports ({error}): "
        "pip install 'sb3-nrl[neurogym]' && pip install --no-deps 'neurogym>=2.3'"
    ) from error

from sb3_nrl.envs.plotting import plot_trial
from sb3_nrl.envs.trials import NeuroGymEnv

__all__ = ["TASKS", "UNAVAILABLE", "NeuroGymEnv", "plot_trial"]

register()
