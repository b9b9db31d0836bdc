"""Policies whose hidden layers may have recurrent synapses."""

from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_nrl.checks import check, is_number
from sb3_nrl.layers import Layer
from sb3_nrl.layers.recurrent import RecurrentDense
from sb3_nrl.policies import NoisyPolicy


class RecurrentWeightsPolicy(NoisyPolicy):
    """
    A :class:`~sb3_nrl.policies.NoisyPolicy` whose hidden layers may have recurrent synapses.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param recurrent_gain: Initial recurrent weights are a random orthogonal matrix times this gain
    :param learn_recurrent: Whether recurrent weights learn, or stay as they are initially
    :param connectivity: Fraction of the recurrent synapses that exist, in (0, 1], chosen at random
    :param excitatory: Dale's law: the fraction of units whose recurrent synapses all excite, in (0, 1), while those of
        all others inhibit. None for units that may do both
    :param kwargs: Further arguments of :class:`~sb3_nrl.policies.NoisyPolicy`
    :raises ValueError: If an argument is out of range
    """

    recurrent_arguments: ClassVar[tuple[str, ...]] = (
        "recurrent_gain",
        "learn_recurrent",
        "connectivity",
        "excitatory",
    )

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        recurrent_gain: float = 1.0,
        learn_recurrent: bool = True,
        connectivity: float = 1.0,
        excitatory: float | None = None,
        **kwargs: Any,
    ) -> None:
        check("recurrent_gain", recurrent_gain, is_number(recurrent_gain, 0), "positive and finite")
        check("learn_recurrent", learn_recurrent, isinstance(learn_recurrent, bool), "True or False")
        check("connectivity", connectivity, is_number(connectivity, 0, 1), "in (0, 1]")
        valid = excitatory is None or (is_number(excitatory, 0) and excitatory < 1)
        check("excitatory", excitatory, valid, "None, or in (0, 1)")
        self.recurrent_gain = recurrent_gain
        self.learn_recurrent = learn_recurrent
        self.connectivity = connectivity
        self.excitatory = excitatory
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    @classmethod
    def default_n_steps(cls, n_envs: int) -> int:
        return 32

    def default_net_arch(self) -> list[int]:
        return [64]

    def initialize(self, layer: Layer) -> Layer:
        """Set the initial weights of a layer's synapses, the recurrent ones among them."""
        for part in layer.modules():
            if isinstance(part, RecurrentDense):
                nn.init.xavier_normal_(part.weight)
                part.initialize(self.recurrent_gain, self.connectivity, self.excitatory)
                if part.recurrent_weight is not None:
                    part.recurrent_weight.requires_grad_(self.learn_recurrent)
        return layer
