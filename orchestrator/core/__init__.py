"""Decisions as pure functions: no I/O, no clock, no logging; `now` is a parameter."""
