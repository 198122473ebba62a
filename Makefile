# sudo make run    set up what is missing, then the main experiment
# sudo make test   the same set-up, then all tests (those that need root are skipped without it, and say so)
# make test-kernel tests in a guest whose kernel has netem and Open vSwitch; regenerates that part of docs/fidelity.md
# sudo make fidelity [SHAPER=relay]   the same part for this machine's kernel, about 10 minutes
# sudo make paper  the three sweeps of the paper's figures, then docs/paper.html; stopped at any time, it goes on there
# sudo make accuracy  what is missing of docs/accuracy.md, which trains 150 small models, and of docs/lossy.md,
#                 codes over UDP on lossy links: together under 90 minutes on 2 cores; stopped at any time, it goes on there
# make lint        ruff and mypy

PYTHON ?= python3
BIN := .venv/bin
# Under sudo, what was made here belongs to the owner of the checkout afterwards, also after a failure.
GIVE_BACK := trap .ci/give-back EXIT;

.PHONY: run test test-kernel fidelity paper accuracy setup system browser lint

# The run is make's own child, without a shell between them, so that SIGTERM to make reaches it and it can clean up.
run: export PYTHONDONTWRITEBYTECODE = 1
run: setup
	@$(BIN)/python -m testbed.run topologies/star4_10mbps.yaml

# Both parts, also where the first one fails: what fails in the second is to be known as well.
test: setup browser
	@$(GIVE_BACK) code=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder -m "not alone" || code=$$?; \
	[ $$code -le 1 ] || exit $$code; \
	$(BIN)/python -m pytest -m alone || code=$$?; exit $$code

test-kernel: setup
	@$(GIVE_BACK) .ci/test-kernel

fidelity: setup
	@$(GIVE_BACK) $(BIN)/python benchmarks/fidelity.py $(if $(SHAPER),--shaper $(SHAPER)) --write docs/fidelity.md

# Sweeps that are finished have nothing to do. What failed in one, or ran on a network that was not the declared one (1, 3,
# 4), is told on the page; `testbed sweep FILE --retry` runs it again.
paper: setup
	@$(GIVE_BACK) for name in fig1 devices tokens; do code=0; \
	  $(BIN)/python -m testbed.sweep topologies/paper_$$name.yaml || code=$$?; \
	  case $$code in 0 | 1 | 3 | 4) ;; *) exit $$code ;; esac; \
	done; $(BIN)/python -m testbed.report sweeps/paper_fig1 sweeps/paper_devices sweeps/paper_tokens --out docs/paper.html

accuracy: setup
	@test $$(id -u) = 0 || { echo "make accuracy: networks are emulated after the trainings: run it with sudo"; exit 2; }
	@$(GIVE_BACK) $(BIN)/python -m benchmarks.accuracy && $(BIN)/python benchmarks/lossy.py --write docs/lossy.md

setup: system .venv/.installed

system:
	@.ci/setup-system $(PYTHON)

# For the tests of pages; without root and without it these tests are skipped, and say so.
browser: system
	@.ci/setup-system $(PYTHON) chromium:chromium

.venv/.installed: pyproject.toml | system
	@$(GIVE_BACK) .ci/setup-python $(PYTHON)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
