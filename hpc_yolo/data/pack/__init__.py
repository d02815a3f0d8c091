"""Packed sets: a dataset in a few large files, so that a sample is one read from an open file.

    DIR/dataset.yaml         classes, and the index of each split: a dataset YAML like others
    DIR/train.index          of each image its shard, offset, length, CRC, size in pixels and labels
    DIR/train-00000.tar …    shards: the images as plain tar files, which any tool lists and extracts
    DIR/packed.json          every other file with its size and CRC-32; written last, so that a set with it is complete

`layout` has the names and the manifest, `arrays` the file format of an index, `index` reads it, `shard` writes a shard,
`build` makes a set, `verify` checks one. Bytes depend on the packed dataset alone: no times, owners or paths.
"""
