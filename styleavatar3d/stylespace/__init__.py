"""Diffusion over the generator's style codes: an embedding of a picture or a text becomes an avatar's code.

Read in this order: diffusion.py (what a user calls) with denoiser.py; pairs.py and codes.py, which make the pairs it
learns from; train.py; evaluate.py.
"""
