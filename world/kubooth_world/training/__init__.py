"""How the world's models are trained; needs the extra `train`. Entry: `python -m kubooth_world.train`."""
