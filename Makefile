# make demo, make test, make bench, make gpu, make env: each builds what it needs into .venv first.
# make test: lint, types, stale tables, the quick tests. make test-all: that, then kills, fuzz, queues, command lines and
# documents that run.
FGMAE_BENCH_PYTHON ?= python3
PY := .venv/bin/python
DEMO := demo
PYTEST := $(PY) -m pytest --dist worksteal
# the tests start many processes: what is compiled once is read by all of them
unexport PYTHONDONTWRITEBYTECODE

.PHONY: env demo test test-all lint tables quick bench gpu clean-demo

env: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(FGMAE_BENCH_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(FGMAE_BENCH_PYTHON) is older than Python 3.11; set FGMAE_BENCH_PYTHON to a newer one" >&2; exit 2; }
	@echo "1/3 virtual environment: .venv"
	@test -x $(PY) || $(FGMAE_BENCH_PYTHON) -m venv .venv
# rslearn without what it asks for: Galileo and Presto are two files of it that need torch and einops alone.
	@echo "2/3 packages of constraints.txt into .venv (torch included: about 7 GB, some minutes)"
	@says=--quiet; if test -t 1; then says=; fi; \
		$(PY) -m pip install $$says --disable-pip-version-check --constraint constraints.txt --editable '.[dev,torchgeo,olmoearth,text,heads]' && \
		$(PY) -m pip install $$says --disable-pip-version-check --constraint constraints.txt --no-deps rslearn
	@touch $@
	@echo "3/3 done: .venv is ready"

demo: env
	$(PY) -m fgmae_bench.prepare synth eurosat --data_path $(DEMO)/eurosat --per_class 40
	$(PY) -m fgmae_bench.prepare synth bigearthnet --data_path $(DEMO)/bigearthnet --patches 400
	$(PY) -m fgmae_bench.suite run --max_parallel 2 experiments/demo/*.toml
	$(PY) -m fgmae_bench.report --results_dir $(DEMO)/results --experiments experiments/demo --print
	@if test -d "$(FGMAE_BENCH_REALDATA)/s1f_chips"; then \
		$(PY) -m fgmae_bench.suite run experiments/demo/genuine/*.toml --set data_path="$(FGMAE_BENCH_REALDATA)/s1f_chips" && \
		$(PY) -m fgmae_bench.report --results_dir $(DEMO)/genuine --experiments experiments/demo/genuine --separate --print; \
	else \
		echo "No genuine board: FGMAE_BENCH_REALDATA names no folder that holds s1f_chips; datasets/s1f_chips/README.md says where they come from"; \
	fi

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

tables: env
	$(PY) -m fgmae_bench.report --check
	$(PY) -m fgmae_bench.report --check --results_dir results/demo --experiments experiments/demo

quick: env
	$(PYTEST) -n 2 -m "not slow"

# at once: types and tables fill what one of the two test processes leaves idle
test: env
	@$(MAKE) --no-print-directory --jobs 3 quick lint tables

# of the files that hold such tests alone: reading all of them takes longer. Three at a time: kills and queues wait
test-all: test
	$(PYTEST) -n 3 -m slow $$(grep --files-with-matches mark.slow tests/test_*.py)

bench: env
	$(PY) experiments/speed/views.py
	$(PY) experiments/speed/cached_probe.py
	$(PY) experiments/speed/bare.py
	$(PY) experiments/speed/stream_epoch.py
	$(PY) experiments/speed/finetune_epoch.py
	$(PY) experiments/speed/segment_bank.py
	$(PY) experiments/speed/heads.py --heads linear fcn segformer segmenter
	$(PY) experiments/speed/label_mapping.py
	$(PY) experiments/speed/memory.py
	$(PY) experiments/speed/startup.py

gpu: env
	$(PY) experiments/speed/gpu.py

clean-demo:
	rm -rf $(DEMO)
