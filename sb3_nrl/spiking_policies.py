"""Policies of spiking neurons.

Shapes: B rows of a batch.
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_nrl.arrays import Array
from sb3_nrl.checks import check, is_count, is_number
from sb3_nrl.layers import Layer, Lif, SpikeEncoder, SpikeReadOut, StatefulLif
from sb3_nrl.layers.coding import Encoding, ReadOut, mean_of_ticks
from sb3_nrl.layers.spiking import lif_layers
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.recurrent_policies import RnnPolicy
from sb3_nrl.recurrent_weights import RecurrentWeightsPolicy

_MAX_SILENT = 20
"""Number of updates in a row whose noise changes hardly any spike after which there is a warning."""


class LifPolicy(RecurrentWeightsPolicy):
    """
    A :class:`~sb3_nrl.policies.NoisyPolicy` whose hidden layers are leaky integrate-and-fire neurons
    (:class:`~sb3_nrl.layers.Lif`). Each environment step is simulated in ``ticks``, from rest. The threshold is hard:
    NRL and RMHL need no derivative of it. BPTT takes a surrogate.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param ticks: Number of ticks of an environment step
    :param beta: Factor per tick on the membrane potential, in [0, 1), of all neurons or of each neuron of a layer; 0.8
        by default
    :param tau: Time constant of the membrane instead of ``beta``, which is then 1 − dt / τ
    :param dt: Duration of a tick, in the units of ``tau`` and ``tau_synapse``
    :param threshold: Threshold of all neurons, or of each neuron of a layer
    :param v_reset: Membrane potential after a spike; None: the threshold is subtracted
    :param refractory: Number of ticks after a spike in which the potential stays as it is
    :param tau_synapse: Time constant of the synaptic current (CuBa-LIF), with a factor of 1 − dt / τ per tick; None if
        synapses act in the same tick only
    :param recurrent: Whether neurons receive the spikes of their layer in the tick before
    :param encoding: What the first layer receives. ``"current"``: the observation as a constant current;
        ``"poisson"``: a spike in each tick whose probability is the size of the number, up to 1;
        ``"latency"``: one spike, the earlier the larger the number. The last two have two inputs for each number, for
        positive and negative ones
    :param read_out: What the head receives. ``"rate"``: the spikes per tick; ``"membrane"``: the potential, after the
        last tick, of leaky integrators; ``"first_spike"``: the fraction of ticks from the first spike on
    :param holds_noise: Whether noise on nodes is held over the ticks of a step. None: it is held in
        layers whose input is the same in all ticks, and drawn in each tick elsewhere
    :param spiking_critic: Whether the critic is spiking, too. Otherwise its hidden layers have ``activation_fn``
    :param spike_cost: Cost of a step per unit of firing rate: if the actor's neurons fire in a fraction r of the ticks,
        the step costs ``spike_cost`` · r. NRL estimates the gradient of this cost as that of log π, and lowers it
    :param kwargs: Further arguments of :class:`~sb3_nrl.policies.NoisyPolicy` and, if ``recurrent``, of
        :class:`~sb3_nrl.recurrent_weights.RecurrentWeightsPolicy`
    :raises ValueError: If an argument is out of range
    """

    lif_class: ClassVar[type[Lif]] = Lif

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        ticks: int = 8,
        beta: float | Sequence[float] | None = None,
        tau: float | Sequence[float] | None = None,
        dt: float = 1.0,
        threshold: float | Sequence[float] = 1.0,
        v_reset: float | None = 0.0,
        refractory: int = 0,
        tau_synapse: float | None = None,
        recurrent: bool = False,
        encoding: Encoding = "current",
        read_out: ReadOut = "rate",
        holds_noise: bool | None = None,
        spiking_critic: bool = True,
        spike_cost: float = 0.0,
        **kwargs: Any,
    ) -> None:
        check("ticks", ticks, is_count(ticks), "a whole number of ticks, at least 1")
        check("dt", dt, is_number(dt, 0), "positive and finite")
        check("beta", beta, beta is None or tau is None, "None if tau is given")
        valid = all(
            value == 0 or (is_number(value, 0) and value < 1)
            for value in np.ravel(0 if beta is None else beta).tolist()
        )
        check("beta", beta, valid, "in [0, 1): a number or a list")
        valid = tau is None or all(is_number(value, 0) and value >= dt for value in np.ravel(tau).tolist())
        check("tau", tau, valid, f"at least dt, which is {dt:g}, and finite: a number or a list")
        valid = tau_synapse is None or (is_number(tau_synapse, 0) and tau_synapse >= dt)
        check("tau_synapse", tau_synapse, valid, f"None, or at least dt, which is {dt:g}, and finite")
        check("dt", dt, dt == 1 or tau is not None or tau_synapse is not None, "1.0 without tau and tau_synapse")
        thresholds = np.ravel(threshold).tolist()
        valid = len(thresholds) > 0 and all(is_number(value, 0) for value in thresholds)
        check("threshold", threshold, valid, "positive: a number or a list")
        below = v_reset is None or (is_number(v_reset, -np.inf) and v_reset < min(thresholds))
        check("v_reset", v_reset, below, "None, or a number below the threshold")
        check("refractory", refractory, is_count(refractory, 0), "a whole number of ticks")
        check("encoding", encoding, encoding in get_args(Encoding), f"one of {get_args(Encoding)}")
        check("read_out", read_out, read_out in get_args(ReadOut), f"one of {get_args(ReadOut)}")
        check("holds_noise", holds_noise, holds_noise in (None, True, False), "None, True or False")
        for name, value in (("recurrent", recurrent), ("spiking_critic", spiking_critic)):
            check(name, value, isinstance(value, bool), "True or False")
        for name in () if recurrent else self.recurrent_arguments:
            check(name, kwargs.get(name), name not in kwargs, "given with recurrent=True only")
        critic = kwargs.get("recurrent_critic")
        check("recurrent_critic", critic, "recurrent_critic" not in kwargs, "left to spiking_critic")
        self.ticks, self.beta, self.tau, self.dt, self.threshold = ticks, beta, tau, dt, threshold
        self.v_reset, self.refractory, self.tau_synapse, self.recurrent = v_reset, refractory, tau_synapse, recurrent
        self.encoding, self.read_out, self.holds_noise = encoding, read_out, holds_noise
        self._n_silent = 0
        self.spiking_critic, self.spike_cost = spiking_critic, spike_cost
        check("spike_cost", spike_cost, spike_cost == 0 or is_number(spike_cost, 0), "0, or positive and finite")
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        check(
            "holds_noise", holds_noise, holds_noise is None or self.perturbs == "node", "None unless noise is on nodes"
        )
        check("spike_cost", spike_cost, spike_cost == 0 or self.critic is not None, "0 without a critic")
        wanted = "a list with at least one hidden layer for the actor: hidden layers have the spiking neurons"
        check("net_arch", self.net_arch, bool(lif_layers(self.actor.hidden)), wanted)

    def make_lif(self, n_inputs: int, n_neurons: int, is_input_held: bool) -> Lif:
        """
        Make a layer of spiking neurons. Its initial weights are set afterwards.

        :param n_inputs: Number of inputs I
        :param n_neurons: Number of neurons H
        :param is_input_held: Whether the input is a constant current, and not spikes
        :return: The layer
        """
        beta = (0.8 if self.beta is None else self.beta) if self.tau is None else 1 - self.dt / np.asarray(self.tau)
        for name, values in (("tau" if self.beta is None else "beta", beta), ("threshold", self.threshold)):
            wanted = f"one number, or one for each of the {n_neurons} neurons of a layer"
            check(name, getattr(self, name), np.size(values) in (1, n_neurons), wanted)
        return self.lif_class(
            n_inputs,
            n_neurons,
            self.use_bias,
            self.recurrent,
            self.ticks,
            beta,
            self.threshold,
            self.v_reset,
            self.refractory,
            None if self.tau_synapse is None else 1 - self.dt / self.tau_synapse,
            self.holds_noise,
            is_input_held,
        )

    def make_hidden_layers(self, n_inputs: int, widths: Sequence[int], is_critic: bool) -> list[Layer]:
        if not widths or (is_critic and not self.spiking_critic):
            return NoisyPolicy.make_hidden_layers(self, n_inputs, widths, is_critic)
        layers: list[Layer] = []
        is_held = self.encoding == "current"
        if not is_held:
            layers.append(SpikeEncoder(self.encoding, self.ticks))
            n_inputs *= 2
        for n_neurons in widths:
            layer = self.make_lif(n_inputs, n_neurons, is_held)
            self.initialize(layer)
            if layer.synapses.bias is not None:
                nn.init.uniform_(layer.synapses.bias, -0.5, 0.5)  # some neurons fire at rest, others do not
            layers.append(layer)
            n_inputs, is_held = n_neurons, False
        layers.append(SpikeReadOut(self.read_out, float(layer.beta.mean())))
        return layers

    def spike_rates(self) -> list[Array]:
        """Spikes per tick in the last pass, of shape (B, H) for each of the actor's layers."""
        return [mean_of_ticks(layer.spikes) for layer in lif_layers(self.actor.hidden)]

    def costs(self) -> Array | None:
        if self.spike_cost == 0:
            return None
        rates = self.spike_rates()
        return self.spike_cost / sum(rate.shape[1] for rate in rates) * sum(rate.sum(1) for rate in rates)

    def diagnostics(self, n_rows: int) -> dict[str, float]:
        rates = self.spike_rates()
        n_neurons = sum(rate.shape[1] for rate in rates)
        found = {"spike_rate": sum(float(rate.mean()) * rate.shape[1] for rate in rates) / n_neurons}
        if len(rates[0]) > n_rows:  # several copies with noise of their own
            trains = [spikes for layer in lif_layers(self.actor.hidden) for spikes in layer.spikes]
            of_copies = [spikes.reshape(-1, n_rows, spikes.shape[1]) for spikes in trains]
            n_same = sum((copies[1:] == copies[0]).all(2) * 1.0 for copies in of_copies)
            found["unchanged_spikes"] = float(((n_same == len(of_copies)) * 1.0).mean())
            self._n_silent = self._n_silent + 1 if found["unchanged_spikes"] > 0.95 else 0
            if self._n_silent == _MAX_SILENT:
                warnings.warn(
                    f"In {_MAX_SILENT} updates the noise has changed hardly any spike, so that spiking layers learn "
                    "nothing: noise_std is too small. It should have the size of the distance to the threshold, such "
                    "as 0.2.",
                    stacklevel=2,
                )
        return found

    def _get_constructor_parameters(self) -> dict[str, Any]:
        unused = ("recurrent_critic", *(() if self.recurrent else self.recurrent_arguments))
        return {name: value for name, value in super()._get_constructor_parameters().items() if name not in unused}


class StatefulLifPolicy(LifPolicy, RnnPolicy):
    """
    A :class:`LifPolicy` whose neurons keep their state from step to step, so that it remembers. It is at rest when an
    episode begins. States are handed on as in the other policies with memory
    (:class:`~sb3_nrl.recurrent_policies.RnnPolicy`).
    """

    lif_class = StatefulLif


class CnnLifPolicy(LifPolicy):
    """A :class:`LifPolicy` for images. The convolutions of ``NatureCNN`` are not spiking."""

    default_features_extractor = NatureCNN


class MultiInputLifPolicy(LifPolicy):
    """A :class:`LifPolicy` for ``Dict`` observations."""

    default_features_extractor = CombinedExtractor


class CnnStatefulLifPolicy(StatefulLifPolicy):
    """A :class:`StatefulLifPolicy` for images."""

    default_features_extractor = NatureCNN


class MultiInputStatefulLifPolicy(StatefulLifPolicy):
    """A :class:`StatefulLifPolicy` for ``Dict`` observations."""

    default_features_extractor = CombinedExtractor


SPIKING_POLICIES: dict[str, type[BasePolicy]] = {
    "MlpLifPolicy": LifPolicy,
    "CnnLifPolicy": CnnLifPolicy,
    "MultiInputLifPolicy": MultiInputLifPolicy,
    "MlpStatefulLifPolicy": StatefulLifPolicy,
    "CnnStatefulLifPolicy": CnnStatefulLifPolicy,
    "MultiInputStatefulLifPolicy": MultiInputStatefulLifPolicy,
}
"""Spiking policies by the names that algorithms take."""
