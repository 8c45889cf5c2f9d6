"""Initialisers of a plain ViT of any depth: what a descendant is compared to, one file a method.

Each returns every tensor of the network by timm's names, float32, in timm's order. All but `scratch` are numpy arithmetic and
import no torch.
"""
