# All commands; `make` lists them. Everything is installed into .venv.
# The Python that .venv was made with, if it is whole; else the first of these that is 3.11 to 3.14 and can make virtual
# environments. 3.11 goes first, because most tests ran on it; `make PYTHON=...` takes another one.
PYTHONS := $(if $(wildcard .venv/installed),.venv/bin/python) python3.11 python3.12 python3.13 python3.14 python3 python
PYTHON ?= $(firstword $(foreach name,$(PYTHONS),$(shell \
	$(name) -c 'import ensurepip, sys; (3, 11) <= sys.version_info[:2] <= (3, 14) and print("$(name)")' 2>/dev/null)))
BIN := .venv/bin
# Folders of tests that import torch and run neural networks.
NEURAL := flows generation recipes worker
.DEFAULT_GOAL := help


.PHONY: help install demo serve test test-quick hostile stalls fuzz install-test check docs site fix bench bench-aiperf

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: .venv/installed ## install Promptreel and its development tools into .venv

.venv/installed: pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error No Python 3.11 to 3.14 with venv was found: install one, or say where it is: make PYTHON=/path/to/python3))
	@# An environment of another Python, or one whose installation did not come to its end, is made anew.
	$(PYTHON) -m venv $$(test -e $@ && test "$$($(BIN)/python -V)" = "$$($(PYTHON) -V)" || echo --clear) .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed ## start everything, make a video from a prompt, and print where it is
	@$(BIN)/python -m promptreel.demo

serve: .venv/installed ## start the service on port 8000
	$(BIN)/promptreel serve

test: .venv/installed ## run the tests
	$(BIN)/python -m pytest

test-quick: .venv/installed ## run the tests that run no neural network and take less than a second each
	$(BIN)/python -m pytest -m 'not slow and not fuzz and not hostile' $(addprefix --ignore=tests/,$(NEURAL))

hostile: .venv/installed ## send what strangers may send, and hold its cost in memory and time to bounds
	$(BIN)/python -m pytest -n0 -m hostile tests/hostile

stalls: .venv/installed ## run the tests while their processes stand still now and then
	$(BIN)/python -m tests.stalls

fuzz: .venv/installed ## make up thousands of requests, and hold every answer to /openapi.json
	$(BIN)/python -m pytest -n0 -m fuzz

install-test: .venv/installed ## install the wheel without torch on the Pythons that are here, and use it
	$(BIN)/python -m tests.install

check: .venv/installed ## check style, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed ## write docs/api.md anew, from the code
	$(BIN)/python -m tests.rules.api_page

site: .venv/site ## build the documentation as a website, into build/site
	$(BIN)/python docs/site/pages.py build/site-pages
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs/site build/site-pages build/site

.venv/site: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	touch $@

fix: .venv/installed ## mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed ## measure the main job, requests that share the model, many models and LoRAs, the api under load, and open pages
	$(BIN)/python -m bench.main_job
	$(BIN)/python -m bench.sharing
	$(BIN)/python -m bench.models
	$(BIN)/python -m bench.loras
	$(BIN)/python -m bench.api_load
	$(BIN)/python -m bench.pages

bench-aiperf: .venv/installed .aiperf/installed ## let the public load tester aiperf ask for 20 videos, 4 at once
	$(BIN)/python -m bench.aiperf

.aiperf/installed:
	$(PYTHON) -m venv --clear .aiperf
	.aiperf/bin/python -m pip install --quiet aiperf==0.13.0
	touch $@
