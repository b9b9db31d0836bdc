"""Callbacks for any algorithm of Stable-Baselines3."""

from collections import deque

from stable_baselines3.common.callbacks import BaseCallback


class PerformanceCallback(BaseCallback):
    """
    Logs ``rollout/performance``, the mean ``performance`` of the last trials that the environments' ``info`` tells of.

    The number of trials is the algorithm's ``stats_window_size``, as it is for ``rollout/ep_rew_mean``. Nothing is
    logged before a trial has ended, or if the environments tell of none.
    """

    def _on_training_start(self) -> None:
        self.performances: deque[float] = deque(maxlen=self.model._stats_window_size)

    def _on_step(self) -> bool:
        self.performances.extend(info["performance"] for info in self.locals["infos"] if "performance" in info)
        return True

    def _on_rollout_end(self) -> None:
        if self.performances:
            self.logger.record("rollout/performance", sum(self.performances) / len(self.performances))
