"""`hpc-yolo data check`: findings about the images and labels of a dataset, and a corrected copy of its labels.

`dataset` is the entry: one read of every image. `image` checks one image, `boxes` its boxes, `duplicates` finds equal
and similar images, `totals` counts; `kinds` has the sentence for each kind of finding, `result` the values that are
shown. `fix` writes a corrected copy. Which images are usable is decided by `data.image_checks` and the readers of
`data.formats`, as for a scan.
"""
