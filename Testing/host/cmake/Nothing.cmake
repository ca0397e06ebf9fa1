# Extension packaging, left out.
