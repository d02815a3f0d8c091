"""The data path, from a dataset YAML to batches.

`dataset` reads the YAML, `formats` finds images and labels, `scan` checks them, `source` reads pixels, `augment`
changes them, `sampler` orders them, `loader` makes batches. `synth` draws a dataset, `run_inputs` keeps the inputs of a
run.
"""
