# Two commands: 'make demo' runs the example, 'make test' runs every check. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench ratios data peers learn2learn clusters browser clean

demo: $(STAMP)
	$(BIN)/mtl demo

test: $(STAMP) check
	$(BIN)/pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCHMARKS := loop_overhead hf_trainer predict_heads memory_tasks cpu_pass groups meta kept_states passes streaming balancing sharing compare \
  scaling start_up tokenizing few_shot_setfit

# Hours on a quiet machine; with REPEATS=1 a rehearsal that measures everything once. Four need DATA=path/to/data with trec/
# and subj/ in it, one sst2/ and mr/ too; meta.py needs learn2learn. The results are appended to benchmarks/results.
bench: $(addprefix bench-,$(BENCHMARKS)) bench-time_to_metric

# One of them: make bench-balancing DATA=path/to/data.
bench-%: $(STAMP) data peers
	DATA="$(DATA)" $(BIN)/python benchmarks/$*.py $(if $(REPEATS),--repeats $(REPEATS))

# Longer trainings beside the Trainer, each until both tasks have 90 % of their test rows right.
bench-time_to_metric: $(STAMP) data peers
	DATA="$(DATA)" $(BIN)/python benchmarks/hf_trainer.py --epochs 0.5 --target 90 --memory 0 $(if $(REPEATS),--repeats $(REPEATS))

# Nothing beside a measurement, whatever -j says.
.NOTPARALLEL:

# Short versions of some of them, in eight minutes: fails on a ratio that fell by more than a quarter below the recorded one.
# Without DATA those that need none.
ratios: $(STAMP) peers
	DATA="$(DATA)" $(BIN)/python benchmarks/check_ratios.py

data:
	@test -d "$(DATA)" || { echo "Say where the data are: make $(MAKECMDGOALS) DATA=path/to/data" >&2; exit 1; }

peers: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'

$(STAMP): pyproject.toml constraints.txt scripts/install.sh
	$(PYTHON) -m venv $(VENV)
	sh scripts/install.sh $(BIN)
	touch $@

learn2learn: $(STAMP)
	sh scripts/install_learn2learn.sh $(BIN)

# What tests of grids use where it is there: Dask, Ray and the trackers. They are large, so not everybody's.
clusters: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dask,ray,tensorboard,wandb,mlflow]'

# The browser that the page is tested in.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends chromium chromium-driver fonts-dejavu-core; }

export MTL_BROWSER MTL_SCREENSHOTS

clean:
	rm -rf $(VENV) build dist *.egg-info
