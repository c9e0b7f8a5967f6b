"""What a user makes and holds: avatars from a prompt, a picture or a seed, and everything they can be written as.

Read in this order: pipelines.py (prompt, picture or seed to avatar), avatar.py (views, turntable, mesh, file), then
mesh.py and glb.py, pictures.py, viewer.py and page.py, and generate.py for the command line.
"""
