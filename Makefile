# Each target sets itself up in .venv; `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA := ../shared/data/coco
# For make accuracy: another network as image model; MORE=FOLDER with val/ and more_val/ of more estimators' results;
# KEEP=FOLDER for what was refined, from which a stopped run goes on.
IMAGE_MODEL := ../shared/weights/tinypose_256/model.xml

ADAPTERS := .venv-adapters
MUTANTS := .venv-mutants
TENSORFLOW := .venv-tensorflow
RAY := .venv-ray
DOCS := .venv-docs

.PHONY: demo test test-slow fuzz mutants browser test-browser test-adapters test-tensorflow test-ray docs check accuracy clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	mkdir -p out
	$(BIN)/posefix demo --out out/demo.png $(if $(wildcard $(DATA)/val.json),--data $(DATA))

# Less than three minutes on 2 cores, one process per core; what takes long is marked slow.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n auto

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Chromium and its driver, in which `make test` opens the HTML report; its tests skip where there are none.
browser:
	command -v chromium && command -v chromedriver || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core; } || \
	  echo 'no Chromium here: the browser tests will be skipped'

test-browser: $(STAMP)
	$(BIN)/python -m pytest -rs tests/html_report

# A million damaged inputs of every reader, array, adapter and configuration, then the properties with a hundred times as
# many examples: about an hour and a half on one core.
FUZZ_INPUTS ?= 1000000
FUZZ_SEED ?= 0
fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python tests/fuzzing.py --inputs $(FUZZ_INPUTS) --seed $(FUZZ_SEED)
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/test_properties.py

# Changed lines: each must make a test fail. About ten minutes each for tests/mutants.py and mutmut on one core; mutmut's
# own environment sees the packages of .venv.
$(MUTANTS)/.installed: $(STAMP)
	test -x $(MUTANTS)/bin/python || $(PYTHON) -m venv $(MUTANTS)
	echo "$$($(abspath $(BIN))/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" > \
	  "$$($(MUTANTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_venv.pth"
	$(MUTANTS)/bin/python -m pip install --quiet 'mutmut>=3.8,<4'
	touch $@

mutants: $(MUTANTS)/.installed
	$(BIN)/python tests/mutants.py
	rm -rf out/mutants && mkdir -p out/mutants && cp -r src tests pyproject.toml README.md out/mutants
	cp tests/mutmut.cfg out/mutants/setup.cfg
	cd out/mutants && OMP_NUM_THREADS=1 $(abspath $(MUTANTS))/bin/mutmut run && $(abspath $(MUTANTS))/bin/mutmut results

# The real packages of tests/adapters, with a CPU-only torch: about 3 GB.
$(ADAPTERS)/.installed: pyproject.toml constraints.txt $(wildcard tests/adapters/requirements*.txt)
	test -x $(ADAPTERS)/bin/python || $(PYTHON) -m venv $(ADAPTERS)
	$(ADAPTERS)/bin/python -m pip install --quiet -c constraints.txt -e . 'pytest>=8' -r tests/adapters/requirements.txt
	$(ADAPTERS)/bin/python -m pip install --quiet --no-deps -r tests/adapters/requirements-nodeps.txt
	touch $@

test-adapters: $(ADAPTERS)/.installed
	$(ADAPTERS)/bin/python -m pytest tests/adapters

# A real TensorFlow checkpoint, written, converted and compared: about 3 GB.
$(TENSORFLOW)/.installed: pyproject.toml constraints.txt
	test -x $(TENSORFLOW)/bin/python || $(PYTHON) -m venv $(TENSORFLOW)
	$(TENSORFLOW)/bin/python -m pip install --quiet -c constraints.txt -e '.[tensorflow]' 'pytest>=8'
	touch $@

test-tensorflow: $(TENSORFLOW)/.installed
	$(TENSORFLOW)/bin/python -m pytest tests/weights/test_tensorflow_checkpoint.py

# Large runs on a real Ray cluster, a real Spark (where there is Java) and a real object store, all on this machine: 2.5 GB.
$(RAY)/.installed: pyproject.toml constraints.txt tests/requirements-ray.txt
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet -c constraints.txt -e '.[ray]' 'pytest>=8' -r tests/requirements-ray.txt
	touch $@

test-ray: $(RAY)/.installed
	$(RAY)/bin/python -m pytest tests/test_distributed.py tests/test_spark.py tests/io/test_object_store.py tests/test_batch.py

# The site, from docs/ and the docstrings, into site/: about 170 MB.
$(DOCS)/.installed: docs/requirements.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet -r docs/requirements.txt
	touch $@

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

accuracy: $(STAMP)
	$(BIN)/python benchmarks/image_models.py $(DATA) --image-model $(IMAGE_MODEL) --checks --write \
		$(if $(MORE),--results $(MORE)/val --results-more $(MORE)/more_val) $(if $(KEEP),--keep $(KEEP))
	$(BIN)/python tools/describe_weights.py src/posefix/weights/pretrained tools/embedded_card.yaml
	$(BIN)/python benchmarks/accuracy.py $(DATA)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf out build dist site .pytest_cache .mypy_cache .ruff_cache
