"""Tests of the training against formulas, timm and plain torch, on tiny real models."""
