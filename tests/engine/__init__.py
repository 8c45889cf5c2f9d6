"""Tests of the worker's engine: a real process, that a driver talks to as the supervisor does."""
