"""Designs: what a learngene's file holds, which members it makes, and where each tensor of a member comes from.

One file a design: a basis with a schedule, a pool of anchors with stitches, and nothing at all (scratch).
"""
