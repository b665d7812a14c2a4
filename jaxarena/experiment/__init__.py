"""Layer 5: from a configuration file to a run folder with results that can be read, repeated and resumed.

Nothing is imported here: `import jaxarena` must stay light, and the modules of this package bring files,
clocks and plots with them.
"""
