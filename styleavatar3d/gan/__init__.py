"""The 3D-aware generative adversarial network: latent -> codes -> planes -> views from any side.

Read in this order: generator.py (what a user calls); backbone.py, planes.py, renderer.py, superresolution.py (what it
is made of); discriminator.py and labels.py; then train.py, whose loop calls the two functions of steps.py.
"""
