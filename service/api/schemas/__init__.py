"""The JSON bodies, one file a resource."""
