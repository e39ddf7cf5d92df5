# Every target sets up what it needs in .venv; a second run sets up nothing while pyproject.toml stays as it is.
# PYTHON=python3.12 chooses the interpreter that .venv is made of.

.DEFAULT_GOAL := help
.PHONY: help demo demo-photos photos-folder test test-fast docs bench soak wheels format clean

BIN := .venv/bin
# It prints the 20 slowest tests.
PYTEST = $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=20
heading = @printf '\n== %s ==\n' '$(1)'

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready-demo  ## train on a robot and in the cloud, here, in 3 minutes
	$(BIN)/python launch/demo.py

demo-photos: photos-folder .venv/ready-photos  ## teach a robot and a cloud your own folders of photos: PHOTOS=path
	$(BIN)/python launch/photos.py "$(PHOTOS)"

# Before set-up, which takes minutes.
photos-folder:
	@test -d "$(PHOTOS)" || { echo 'usage: make demo-photos PHOTOS=FOLDER, with one sub-folder of photos for each class' >&2; exit 2; }

test: .venv/ready-test  ## check everything: format, lint, types, import floors, tests
	$(call heading,format)
	$(BIN)/ruff format --check
	$(call heading,lint)
	$(BIN)/ruff check
	$(call heading,import floors)
	$(BIN)/lint-imports
	$(call heading,types; meanwhile site and links)
	$(BIN)/mypy & types=$$!; $(BIN)/python docs/site/build.py && $(BIN)/python docs/site/browse.py; site=$$?; \
		wait $$types && exit $$site
	$(call heading,tests)
	$(PYTEST)

test-fast: .venv/ready-test  ## check what needs no program, broker or browser and trains little: in 2 minutes
	$(PYTEST) -m "not slow"

docs: .venv/ready-docs  ## make the pages of results, build the site into build/site, and check its links
	$(BIN)/python benchmarks/make_results.py
	$(BIN)/python docs/site/build.py

bench: .venv/ready-test  ## measure speed, memory and accuracy
	$(BIN)/python benchmarks/run_all.py

soak: .venv/ready-test  ## kill, cut, stall and repeat, then count what was trained on; leave pages open; be hostile: an hour
	$(BIN)/python -m tests.soak
	$(BIN)/python -m tests.soak.clusters --kind nats --kills 3
	$(BIN)/python -m tests.soak.clusters --kind rabbitmq --kills 3
	$(BIN)/python -m tests.soak.cluster_chaos --kills 12
	$(BIN)/python -m tests.cloud_trainer.fuzz 100000
	$(BIN)/python -m tests.soak.open_page --hours 0.5
	$(BIN)/python -m tests.soak.hostile --seconds 600

wheels: .venv/ready-test  ## install the wheel under Python 3.10 and 3.12, and let broker, trainer and robot run there
	$(BIN)/python -m tests.soak.wheels

format: .venv/ready-test  ## format the code and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The last thing set-up does is to touch the target, so an interrupted one starts again.
.venv/ready-%: pyproject.toml launch/setup.sh
	bash launch/setup.sh $*
	@touch $@
