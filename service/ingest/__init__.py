"""Uploads becoming data sets: validated image by image, in a process of their own.

The process (`python -m service.ingest`) trusts nothing that it reads; what kills it, a decoder's crash included, refuses the
upload and harms nothing else. Torch-free.
"""
