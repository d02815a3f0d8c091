"""Conversion of datasets between formats.

`source` finds a dataset in what a user names, `convert` reads it and writes it anew, and the targets write the labels:
`to_yolo`, `to_coco`, `to_voc`. `pixels` has the rules for numbers, `names` those for names, `image` what a target
gets of each image.
"""
