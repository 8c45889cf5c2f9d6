"""All tests, as a package: so that a folder here may have the name of one that it tests."""
