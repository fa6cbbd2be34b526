"""Fuzzing of everything that reads what a room controls; `make fuzz` runs it guided by coverage."""
