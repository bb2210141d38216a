# make run · make test · make lab: each sets up first, once. make results and make bench make the README's tables,
# make show the notebooks with figures in docs/notebooks, make site the web site from them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test soak lab results bench show site

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("FuSTAL needs Python 3.10 or newer" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,dask]'
	touch $@

# Chromium for the tests in a browser, where it may be installed; without it they are skipped
.venv/browser: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'
	command -v chromium >/dev/null || { [ $$(id -u) = 0 ] && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || echo "no Chromium: no tests in a browser"
	touch $@

run: setup
	$(BIN)/fustal run params/demo.yaml

# Two processes of one thread on two cores. Runs go to a temporary folder, never to outputs/.
test: export OMP_NUM_THREADS = 1
test: export TQDM_DISABLE = 1
test: export FUSTAL_STATIC = 1
test: setup .venv/browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy --no-error-summary
	$(BIN)/python -m pytest -n 2 --dist loadfile tests fustal
	outputs=$$(mktemp -d) && trap 'rm -rf "$$outputs"' EXIT && \
	FUSTAL_OUTPUTS=$$outputs $(BIN)/python -m pytest -p tests.notebooks.compare --nbval --nbval-current-env \
		--nbval-sanitize-with tests/notebooks/sanitize.cfg docs/notebooks

# Kills every stage again and again, cuts the power, fills the disk, measures memory on 20,000 videos: half an hour on two
# cores; the power is cut on a file system in an image, which needs root and loop devices
soak: export OMP_NUM_THREADS = 1
soak: export TQDM_DISABLE = 1
soak: setup
	$(BIN)/python -m tests.soak

lab: setup
	$(BIN)/jupyter lab notebooks

# Runs every notebook as a reader would; commit what it writes
show: setup
	$(BIN)/python -m docs.show

site: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[site]'
	$(BIN)/sphinx-build -q -W --keep-going docs outputs/site
	@echo "open outputs/site/index.html"

# SBHAR=folder and THUMOS=folder take recordings and annotations from there instead of downloading them
results: setup
	$(BIN)/fustal fetch sbhar $(if $(SBHAR),--from $(SBHAR))
	$(BIN)/fustal fetch thumos14-simulated $(if $(THUMOS),--from $(THUMOS))
	$(BIN)/fustal sweep params/sweeps/results.yaml
	$(BIN)/fustal results outputs/results/*/evaluation/metrics.json --readme README.md

# Speed against plain implementations, and growth with size; wants a machine with nothing else to do
bench: setup
	$(BIN)/python -m tests.benchmarks --readme README.md
