"""The data path, from the dataset YAML to batches.

Dataset YAML (`dataset`), checked labels (`labels`), images and their augmentation (`images`, `augment`), the order of
an epoch (`sampler`), batches (`loader`), and a drawn dataset for a first run (`synth`).
"""
