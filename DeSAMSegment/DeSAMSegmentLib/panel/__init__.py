"""Everything that knows Slicer: the panel's sections, the scene, the installer. Names are camelCase as in Slicer."""
