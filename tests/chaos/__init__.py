"""Tests that kill, stop and cut off real processes, and compare what comes of it."""
