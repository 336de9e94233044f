# Thin fronts of run.py. From another folder: make -C path/to/the/book book
# Without make: python3 run.py book, and so on.
PYTHON ?= python3
COMMANDS = book test lab notebooks check data results ledger mutants benchmark handout classroom clean

.PHONY: $(COMMANDS)

$(COMMANDS):
	@$(PYTHON) run.py $@
