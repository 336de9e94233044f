# Thin fronts of run.py, for those who like make. Without make: python3 run.py book, and so on.
PYTHON ?= python3
RUN = $(PYTHON) $(dir $(abspath $(lastword $(MAKEFILE_LIST))))run.py

.PHONY: book test lab notebooks check data results ledger clean

book test lab notebooks check data results ledger clean:
	@$(RUN) $@
