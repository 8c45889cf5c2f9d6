"""Tests of the images and of the compose file, without a container engine."""
