"""The service around the core: HTTP API, storage, command line."""
