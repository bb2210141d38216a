# make run, make test and make lab install the package first, if needed. make results and make bench write the tables of
# the README. make show writes the notebooks with their figures to docs/notebooks; make site and make slides make a web
# site and slides of these.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test soak lab results bench show site slides launch

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("FuSTAL needs Python 3.10 or newer" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,dask]'
	touch $@

# Chromium for the tests in a browser. It is installed only by root; without it these tests are skipped.
.venv/browser: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'
	command -v chromium >/dev/null || { [ $$(id -u) = 0 ] && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || echo "no Chromium: no tests in a browser"
	touch $@

# PyAV and torchvision for the tests of videos; without them these tests are skipped.
.venv/video: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[video]' || echo "no tests of videos"
	touch $@

run: setup
	$(BIN)/fustal run params/demo.yaml

# Two processes with one thread each, for two cores. Runs are written to a temporary folder, never to outputs/.
test: export OMP_NUM_THREADS = 1
test: export TQDM_DISABLE = 1
test: export FUSTAL_STATIC = 1
test: setup .venv/browser .venv/video
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy --no-error-summary
	$(BIN)/python -m pytest -n 2 --dist loadfile tests fustal
	outputs=$$(mktemp -d) && trap 'rm -rf "$$outputs"' EXIT && \
	FUSTAL_OUTPUTS=$$outputs $(BIN)/python -m pytest -p tests.notebooks.compare --nbval --nbval-current-env \
		--nbval-sanitize-with tests/notebooks/sanitize.cfg docs/notebooks

# Kills every stage many times, cuts the power, fills the disk, and measures the memory for up to 20,000 videos. It takes
# half an hour on two cores. The power is cut on a file system in an image file, which needs root and loop devices.
soak: export OMP_NUM_THREADS = 1
soak: export TQDM_DISABLE = 1
soak: setup
	$(BIN)/python -m tests.soak

# Its root is the repository: the notebooks show pictures of docs.
lab: setup
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

# Runs every notebook from top to bottom, exercises included. Commit the files that it writes.
show: setup .venv/video
	$(BIN)/python -m docs.show

site: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[site]'
	$(BIN)/sphinx-build -q -W --keep-going docs outputs/site
	@echo "open outputs/site/index.html"

# Slides of docs/notebooks, for lessons. MODULES is needed only without a network: docs/open.md explains it.
slides: setup
	$(BIN)/python -m docs.slides $(if $(MODULES),--modules $(MODULES))

# Writes the address of the repository, which docs/launch.py has, into README.md and docs/open.md.
launch: setup
	$(BIN)/python -m docs.launch

# SHREC=folder holds the files of shrec22, which are not downloaded. SBHAR=folder and THUMOS=folder: recordings and
# annotations are read from these folders and not downloaded.
results: setup
	$(BIN)/fustal fetch sbhar $(if $(SBHAR),--from $(SBHAR))
	$(BIN)/fustal fetch shrec22 $(if $(SHREC),--from $(SHREC))
	$(BIN)/fustal fetch thumos14-simulated $(if $(THUMOS),--from $(THUMOS))
	$(BIN)/fustal sweep params/sweeps/results.yaml
	$(BIN)/fustal results outputs/results/shrec22-*/evaluation/metrics.json outputs/results/sbhar-*/evaluation/metrics.json \
		outputs/results/thumos14-simulated-*/evaluation/metrics.json --resample 200 --readme README.md

# Speed compared with plain implementations, and growth with size. Needs a machine on which nothing else runs.
bench: setup
	$(BIN)/python -m tests.benchmarks --readme README.md
