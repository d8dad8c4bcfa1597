.PHONY: help demo test test-gpu lint bench
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):  *## */make \1\t/p' $(MAKEFILE_LIST)

demo:  ## make the environment, then train and score speaker verification on two CPU cores
	@tools/setup_venv.sh
	@egs2/mini_espeak/spk1/run.sh
	@tools/show_results.sh egs2/mini_espeak/spk1/exp/spk_train_ecapa

test:  ## make the environment, then run all tests that need no GPU
	@tools/setup_venv.sh
	@.venv/bin/python -m pytest -m "not gpu" -n logical --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

test-gpu:  ## the tests that need an NVIDIA GPU
	@tools/setup_venv.sh
	@.venv/bin/python -m pytest -m gpu $(PYTEST_ARGS)

lint:  ## ruff over the Python, shellcheck over the shell
	@tools/setup_venv.sh
	@tools/lint.sh

bench:  ## measure us beside the peers: one table
	@tools/setup_venv.sh
	@.venv/bin/python benchmarks/run.py
