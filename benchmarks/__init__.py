"""Benchmarks of Callboard and of what it is compared with: `make bench` starts everything and writes the tables."""
