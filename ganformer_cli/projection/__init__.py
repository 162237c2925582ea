"""Projection: latents of space w that reproduce given images."""
