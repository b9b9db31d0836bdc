"""Train spiking neurons on CartPole without surrogate gradients, draw their spikes, and write a file for other tools.

python examples/spiking.py
"""

import argparse
import pathlib

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import NRL, export
from sb3_nrl.analysis import energy, plot_raster, record

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=150_000, help="environment steps to train for")
timesteps = parser.parse_args().timesteps
out = pathlib.Path("runs/spiking")
out.mkdir(parents=True, exist_ok=True)
env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
model = NRL("MlpLifPolicy", env, learning_rate=lambda remaining: 4e-3 * remaining, seed=0).learn(timesteps)

mean, std = evaluate_policy(model, env, n_eval_episodes=20)
cost = energy(model, env, n_episodes=10)
print(f"mean return of 20 episodes: {mean:.0f} ± {std:.0f}")
print(f"a decision takes {cost.spikes:.0f} spikes, which make {cost.synaptic_operations:.0f} synaptic operations;")
print(f"the same network of rate units takes {cost.rate_multiply_accumulates:.0f} multiply-accumulates")
plot_raster(record(model, env, n_trials=1, deterministic=True)).savefig(out / "raster.png", dpi=150)
export.nir(model, out / "policy.nir")
print(f"See {out / 'raster.png'} and {out / 'policy.nir'}")
