"""The data path: dataset YAML (`dataset`), checked labels (`labels`), images and their changes (`images`, `augment`),
what comes when (`sampler`), batches (`loader`), and a drawn set to begin with (`synth`)."""
