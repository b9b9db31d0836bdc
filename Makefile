PYTHON      ?= python3
WORKERS     ?= 2
PYTEST_ARGS ?=

bin  := .venv/bin
pip  := $(bin)/python -m pip install -c constraints.txt
code := $(patsubst %/,%,$(sort $(dir $(wildcard $(addsuffix /*.py,sb3_nrl tests examples experiments)))))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test reproduce learning-bench ablation memory memory-needed spiking mujoco variance agents bench costs results docs check lint type format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/.installed  ## train NRL on a small task, in .venv
	$(bin)/python examples/demo.py

test: .venv/.installed  ## run all tests (WORKERS=2, PYTEST_ARGS=)
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

reproduce: .venv/.installed  ## train for the figures of the paper (hours): runs/reproduction (ARGS="fig1 --quick")
	$(bin)/python -m experiments.paper $(or $(ARGS),all)

learning-bench: .venv/.installed  ## train NRL, RMHL, A2C and PPO on six tasks (hours): runs/learning (ARGS=)
	$(bin)/python -m experiments.learning $(ARGS)

ablation: .venv/.installed  ## train NRL with one change at a time (hours): runs/ablation (ARGS=)
	$(bin)/python -m experiments.ablation $(ARGS)

memory: .venv/.installed  ## train recurrent networks on tasks that need memory (days): runs/memory (ARGS=)
	$(bin)/python -m experiments.memory $(ARGS)

memory-needed: .venv/.installed  ## measure which NeuroGym tasks need memory: runs/memory_needed (ARGS=)
	$(bin)/python -m experiments.memory_needed $(ARGS)

spiking: .venv/.installed  ## train spiking networks (hours): runs/spiking (ARGS=)
	$(bin)/python -m experiments.spiking $(ARGS)

mujoco: .venv/.installed  ## train on MuJoCo's tasks (a day): runs/mujoco (ARGS=)
	$(bin)/python -m experiments.mujoco $(ARGS)

variance: .venv/.installed  ## measure the noise of the estimate (minutes): runs/variance (ARGS=)
	$(bin)/python -m experiments.variance $(ARGS)

agents: .venv/.installed  ## train an agent for each entry of the configs (hours): runs/agents (ARGS=)
	$(bin)/python -m experiments.agents $(ARGS)

bench: .venv/.installed  ## measure steps per second: runs/throughput (ARGS="--against PATH")
	$(bin)/python -m experiments.throughput $(ARGS)

costs: .venv/.installed  ## measure where the time goes (minutes): runs/costs (ARGS=)
	$(bin)/python -m experiments.costs $(ARGS)

results: .venv/.installed  ## make all tables and figures again from the committed runs, without training
	$(bin)/python -m experiments.paper all --report --out results/reproduction
	$(bin)/python -m experiments.learning --report --out results/learning
	$(bin)/python -m experiments.ablation --report --out results/ablation
	$(bin)/python -m experiments.neurogym_tasks --report --out results/neurogym
	$(bin)/python -m experiments.memory --report --out results/memory
	$(bin)/python -m experiments.memory_needed --report --out results/memory_needed
	$(bin)/python -m experiments.spiking --report --out results/spiking
	$(bin)/python -m experiments.mujoco --report --out results/mujoco
	$(bin)/python -m experiments.variance --report --out results/variance
	$(bin)/python -m experiments.agents --report --out results/agents
	$(bin)/python -m experiments.throughput --report --out results/throughput
	$(bin)/python -m experiments.costs --report --out results/costs

docs: .venv/.installed  ## build the pages: docs/_build/html/index.html
	$(bin)/python -m sphinx -W --keep-going -b html docs docs/_build/html

check: lint type  ## all static checks

lint: .venv/.installed  ## ruff: rules and format; the workflow's schema
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

type: .venv/.installed  ## mypy
	$(bin)/mypy $(code)

format: .venv/.installed  ## fix lint and format with ruff
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean:  ## remove build products and caches, keep .venv
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || \
	    { echo "error: '$(PYTHON)' is not Python 3.10 to 3.13; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "error: '$(PYTHON)' cannot make a venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# neurogym is installed without its requirements: see its extra in pyproject.toml
.venv/.installed: pyproject.toml constraints.txt | $(bin)/python
	$(pip) -e '.[dev,docs,all]'
	$(pip) --no-deps neurogym
	@touch $@
