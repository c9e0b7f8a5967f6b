"""Diffusion over the generator's style codes: an embedding of a picture or a text becomes an avatar's code.

Read in this order: diffusion.py (what a user calls) with denoiser.py; codes.py, which makes the pairs it learns from;
train.py; evaluate.py.
"""
