"""The network: frozen encoders, prompt encoder, PRIM and PDMM. Torch and nothing else: no file, no volume."""
