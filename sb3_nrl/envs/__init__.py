"""
NeuroGym's tasks as environments for Gymnasium and Stable-Baselines3: importing this registers ``neurogym/<Task>-v0``.

    gymnasium.make("neurogym/Reaching1D-v0", dt=10, timing={"reach": 3000})

Keyword arguments are those of the task, and ``trials_per_episode``. ``Reaching1D`` rewards the target that it shows.
``published_target=True`` selects NeuroGym's version, which truncates the rewarded target to whole radians.

``TASKS`` has all identifiers, and says which tasks need memory: ``TASKS["neurogym/GoNogo-v0"].needs_memory``.

Workers of ``SubprocVecEnv`` know the tasks if the process that starts them does. Any other process that has not
imported this module finds the tasks by names such as ``"sb3_nrl.envs:neurogym/Reaching1D-v0"``.
"""

try:
    from sb3_nrl.envs.registration import TASKS, UNAVAILABLE, Task, register
except ImportError as error:
    raise ImportError(
        f"sb3_nrl.envs needs NeuroGym 2.3 or later and what it imports ({error}): "
        "pip install 'sb3-nrl[neurogym]' && pip install --no-deps 'neurogym>=2.3'"
    ) from error

from sb3_nrl.envs.plotting import plot_trial
from sb3_nrl.envs.trials import NeuroGymEnv

__all__ = ["TASKS", "UNAVAILABLE", "NeuroGymEnv", "Task", "plot_trial"]

register()
