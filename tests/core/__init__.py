"""Tests of the torch-free core against independent references: formulas, torch, timm, safetensors."""
