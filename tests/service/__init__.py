"""Tests of the service: the HTTP API, its storage and the command line, against real servers and a real Redis."""
