# Every target does what the script of its name does; ARGS is passed on, e.g. `make test ARGS="-k actor"`.
ARGS ?=
.PHONY: help run test lint chaos bench docs lock setup clean

help:
	@echo "make run     Callboard in this terminal, with its own PostgreSQL, Valkey and broker"
	@echo "make test    the whole test suite, on real services"
	@echo "make lint    style, types, direction of imports"
	@echo "make chaos   kill, freeze and cut everything for ten minutes, then check every promise (ARGS=--plants)"
	@echo "make bench   the benchmarks"
	@echo "make docs    write the generated pages anew, and test the documentation"
	@echo "make lock    resolve the dependencies anew"
	@echo "make setup   only create .venv"
	@echo "make clean   remove .venv and everything else that was built"

run test lint chaos bench docs lock setup clean:
	@scripts/$@ $(ARGS)
